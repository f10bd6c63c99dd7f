#!/usr/bin/env bash
# cibuildwheel runs this once in each container, before the wheels of all interpreters.
#
# It fetches the torch to build against, of which only headers and libtorch are used: they do not
# depend on the Python that runs, so one serves all. Environment, from sets.py: FUSED_SSIM_LIBTORCH,
# FUSED_SSIM_LIBTORCH_VERSION, and CUDAHOSTCXX and CXX where they are to be made; and FUSED_SSIM_LIBTORCH_PIP, more arguments for pip.
set -euo pipefail

python=python3
for candidate in /opt/python/cp313-cp313/bin/python /opt/python/cp311-cp311/bin/python; do
  if [[ -x $candidate ]]; then # the container's own python3 may be too old for any torch
    python=$candidate
  fi
done
if [[ ! -d $FUSED_SSIM_LIBTORCH/torch ]]; then
  # shellcheck disable=SC2086
  "$python" -m pip install --quiet --no-deps --target "$FUSED_SSIM_LIBTORCH" \
    ${FUSED_SSIM_LIBTORCH_PIP:-} "torch==$FUSED_SSIM_LIBTORCH_VERSION"
fi

# nvcc 11.8 takes GCC up to 11, the CPU kernels need 12: sets.py names the compiler of each.
if [[ -n ${CUDAHOSTCXX:-} && ! -x $CUDAHOSTCXX ]]; then
  toolset=/opt/rh/gcc-toolset
  if command -v dnf >/dev/null; then
    dnf install --quiet --assumeyes gcc-toolset-{11,12}-gcc-c++
    ln -s $toolset-11/root/usr/bin/g++ "$CUDAHOSTCXX"
    ln -s $toolset-12/root/usr/bin/g++ "$CXX"
  else
    ln -s "$(command -v g++-11)" "$CUDAHOSTCXX"
    ln -s "$(command -v g++)" "$CXX"
  fi
fi

# But for _C the libraries are the same for every interpreter: with ccache they are compiled once.
# CMake is told to use it (sets.py), so where it cannot be had something must stand in its place.
if [[ $(uname) == Linux ]] && ! command -v ccache >/dev/null; then
  if ! { dnf install --quiet --assumeyes epel-release && dnf install --quiet --assumeyes ccache; }; then
    echo "no ccache here: the libraries are compiled for each interpreter"
    printf '#!/bin/sh\nexec "$@"\n' >/usr/local/bin/ccache
    chmod +x /usr/local/bin/ccache
  fi
fi
