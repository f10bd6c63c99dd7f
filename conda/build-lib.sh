#!/usr/bin/env bash
# Output libfused_ssim: libraries, headers and CMake package into $PREFIX. rattler-build calls it in
# $SRC_DIR; any prefix with a libtorch will do.
#
# Environment: PREFIX, SRC_DIR, and as conda's activation sets them CMAKE_ARGS, CPU_COUNT,
# cuda_compiler_version ("None" for a build without CUDA), CF_TORCH_CUDA_ARCH_LIST.
set -euo pipefail

cuda=ON
if [[ ${cuda_compiler_version:-None} == None ]]; then
  cuda=OFF
fi
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
# CMAKE_ARGS is a list of options in one variable. lib: GNUInstallDirs says lib64 on some systems.
# shellcheck disable=SC2086
cmake -G Ninja -S "$SRC_DIR" -B "$build" \
  -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$PREFIX" -DCMAKE_INSTALL_LIBDIR=lib \
  -DCMAKE_PREFIX_PATH="$PREFIX" -DFUSED_SSIM_CUDA="$cuda" -DFUSED_SSIM_PYTHON=OFF \
  ${CMAKE_ARGS:-}
cmake --build "$build" --parallel "${CPU_COUNT:-$(nproc)}"
cmake --install "$build"
