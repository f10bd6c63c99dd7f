#!/usr/bin/env bash
# Makes a container image in which cibuildwheel can run where no registry of images can be reached: a
# Debian system with GCC 12, CPython interpreters of this machine, auditwheel and patchelf. Wheels made
# in it are as good as any for proving the procedure, but need that Debian's glibc: the manylinux_2_28
# that is promised comes from the public images in sets.toml.
#
#   tools/wheels/local_image.sh IMAGE ROOT_FOLDER PYTHON_PREFIX...
#
#   IMAGE          its name, as in localhost/fused-ssim-wheels
#   ROOT_FOLDER    where the file system is made; an existing one is used again
#   PYTHON_PREFIX  installations of CPython, each to be found at the same path in the container;
#                  one of them 3.9, by which cibuildwheel 4 looks around in a container
#
# Needs root, debootstrap, podman, a network or a mirror for apt and pip. Environment: SUITE (bookworm),
# MIRROR, PIP_CERT (a bundle of certificates that the container is to trust).
#
# A CUDA toolkit is mounted, not copied. With podman and runc, where crun or networks of containers
# do not work:
#
#   export CIBW_CONTAINER_ENGINE='podman; create_args: --runtime runc --network host
#     --ulimit nofile=4096:4096 --volume /usr/local/cuda:/usr/local/cuda:ro'
#   CIBW_MANYLINUX_X86_64_IMAGE=localhost/fused-ssim-wheels tools/wheels/build.sh cu130
set -euo pipefail

if [[ $# -lt 3 ]]; then
  sed -n '2,/^set/{/^set/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
  exit 2
fi
image=$1
root=$2
shift 2

if [[ ! -e $root/etc/debian_version ]]; then
  packages=binutils,ca-certificates,ccache,file,g++,g++-11,git,libbz2-1.0,libffi8,liblzma5
  packages+=,libreadline8,libsqlite3-0,libssl3,make,xz-utils,zlib1g
  debootstrap --variant=minbase --include="$packages" "${SUITE:-bookworm}" "$root" \
    "${MIRROR:-http://deb.debian.org/debian}"
fi

# Interpreters, without the packages that this machine has in them.
mkdir -p "$root/opt/python"
for prefix in "$@"; do
  tag=$("$prefix/bin/python3" -c 'import sys; print("cp%d%d" % sys.version_info[:2])')
  mkdir -p "$root$prefix"
  tar --create --directory "$prefix" --exclude='__pycache__' --exclude='*.a' \
    --exclude='lib/python3*/test' --exclude='lib/python3*/site-packages/*' . |
    tar --extract --directory "$root$prefix"
  ln -sfn "$prefix" "$root/opt/python/$tag-$tag"
  ln -sf python3 "$root$prefix/bin/python"
done

# What the public images have, and cibuildwheel expects.
printf '#!/bin/sh\nexit 0\n' >"$root/usr/local/bin/manylinux-interpreters"
chmod +x "$root/usr/local/bin/manylinux-interpreters"
if [[ -n ${PIP_CERT:-} ]]; then
  cp "$PIP_CERT" "$root/etc/ssl/certs/ca-certificates.crt"
fi
cp /etc/resolv.conf "$root/etc/resolv.conf"
for python in "$root"/opt/python/*/bin/python3; do
  chroot "$root" "${python#"$root"}" -m ensurepip --upgrade >/dev/null
  chroot "$root" "${python#"$root"}" -m pip install --quiet --upgrade pip
  newest=${python#"$root"}
done
chroot "$root" "$newest" -m venv /opt/wheel-tools
chroot "$root" /opt/wheel-tools/bin/pip install --quiet auditwheel build 'patchelf>=0.14.5'
for tool in auditwheel patchelf; do
  ln -sfn "/opt/wheel-tools/bin/$tool" "$root/usr/local/bin/$tool"
done

tar --create --directory "$root" --one-file-system . | podman import --quiet - "$image"
