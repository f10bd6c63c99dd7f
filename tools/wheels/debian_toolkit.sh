#!/usr/bin/env bash
# Unpacks a CUDA toolkit that Debian packages (12.4 in trixie, 11.8 in bookworm) into a folder, without
# installing it: compiler, headers and runtime, laid out as NVIDIA's own installer does.
#
#   tools/wheels/debian_toolkit.sh FOLDER [12.4|11.8]
#
# Needs apt and dpkg, on any Debian or Ubuntu, and a network or a mirror. Environment: MIRROR. nvcc 12.4
# takes GCC up to 13, nvcc 11.8 up to 11.
set -euo pipefail

usage="usage: debian_toolkit.sh FOLDER [12.4|11.8]"
target=$(realpath -m "${1:?$usage}")
case ${2:-12.4} in
  12.4) suite=trixie runtime=libcudart12 ;;
  11.8) suite=bookworm runtime=libcudart11.0 ;;
  *) echo "$usage" >&2; exit 2 ;;
esac
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"

# A list of sources of its own: this machine's packages stay as they are.
key=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$key] ${MIRROR:-http://deb.debian.org/debian} $suite main non-free" \
  >sources.list
mkdir -p lists/partial cache/archives/partial usr
apt=(apt-get -o "Dir::Etc::sourcelist=$scratch/sources.list" -o Dir::Etc::sourceparts=/dev/null
  -o "Dir::State::lists=$scratch/lists" -o "Dir::Cache=$scratch/cache" -o APT::Sandbox::User=root)
"${apt[@]}" --quiet update
"${apt[@]}" --quiet download nvidia-cuda-toolkit nvidia-cuda-dev "$runtime" libnvvm4 libcu++-dev \
  libcub-dev libthrust-dev
for package in *.deb; do
  # nvidia-cuda-dev holds gigabytes of libraries that nothing here uses.
  dpkg --fsys-tarfile "$package" |
    tar --extract --exclude='*cublas*' --exclude='*cufft*' --exclude='*curand*' \
      --exclude='*cusolver*' --exclude='*cusparse*' --exclude='*npp*' --exclude='*nvjpeg*' \
      --exclude='*nvrtc*static*'
done

own=usr/lib/nvidia-cuda-toolkit
libraries=usr/lib/$(dpkg-architecture --query DEB_HOST_MULTIARCH 2>/dev/null || echo "$(uname -m)-linux-gnu")
mkdir -p "$target"/{bin,lib64/stubs,nvvm/bin,nvvm/lib64}
cp -a usr/bin/{bin2c,cudafe++,cuobjdump,fatbinary,nvdisasm,nvlink,ptxas,__nvcc_device_query} "$target/bin"
cp -a "$own/bin/nvcc" "$target/bin"
cp -aL "$own/bin/crt" "$target/bin"
cp -a "$own/bin/cicc" "$target/nvvm/bin"
cp -aL "$own/libdevice" "$target/nvvm"
cp -a "$libraries"/libnvvm.so* "$target/nvvm/lib64"
cp -a usr/include "$target"
cp -a "$libraries"/{libcudart*,libcudadevrt.a,libculibos.a} "$target/lib64"
cp -a "$libraries"/stubs/. "$target/lib64/stubs"
ln -sfn lib64 "$target/lib"

# Debian's nvcc.profile has the paths of its own layout.
cat >"$target/bin/nvcc.profile" <<'PROFILE'
TOP = $(_HERE_)/..
CICC_PATH = $(TOP)/nvvm/bin
NVVMIR_LIBRARY_DIR = $(TOP)/nvvm/libdevice
LD_LIBRARY_PATH += $(TOP)/lib:
PATH += $(CICC_PATH):$(_HERE_):
INCLUDES += "-I$(TOP)/include" $(_SPACE_)
LIBRARIES =+ $(_SPACE_) "-L$(TOP)/lib64/stubs" "-L$(TOP)/lib64"
PROFILE

"$target/bin/nvcc" --version
