#!/usr/bin/env bash
# Compiles the CPU kernels, their C interface and the C++ tests for another platform with the clang, linker
# and C libraries of the package ziglang (PyPI), and runs the tests where an emulator is installed. Needs
# cmake and ninja.
#
#   tools/ci/cross.sh aarch64-linux|aarch64-macos|x86_64-windows [BUILD_FOLDER]
#
# Emulators, packages of Debian: qemu-user and libc6-arm64-cross for aarch64-linux, wine64 for
# x86_64-windows. There is none for aarch64-macos.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

target=${1:?usage: cross.sh aarch64-linux|aarch64-macos|x86_64-windows [BUILD_FOLDER]}
folder=${2:-build/$target}
emulator=()
# The oldest glibc and macOS that the wheels serve.
case $target in
  aarch64-linux)
    system=(Linux aarch64) triple=aarch64-linux-gnu.2.28
    if type qemu-aarch64 >/dev/null 2>&1; then emulator=(qemu-aarch64 -L /usr/aarch64-linux-gnu); fi
    ;;
  aarch64-macos) system=(Darwin arm64) triple=aarch64-macos.11.0 ;;
  x86_64-windows)
    system=(Windows AMD64) triple=x86_64-windows-gnu
    for wine in wine64 /usr/lib/wine/wine64; do
      if type "$wine" >/dev/null 2>&1; then emulator=("$wine"); fi
    done
    ;;
  *)
    echo "cross.sh: unknown target $target, expected aarch64-linux, aarch64-macos or x86_64-windows" >&2
    exit 2
    ;;
esac

# CMake wants programs, not command lines. (rc: of resources, which it asks for on Windows.)
mkdir -p "$folder/zig"
for tool in c++ ar ranlib rc; do
  arguments=$tool
  if [[ $tool == c* ]]; then arguments+=" -target $triple"; fi
  printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$(type -P python3)" "$arguments" >"$folder/zig/$tool"
  chmod +x "$folder/zig/$tool"
done
zig=$(realpath "$folder/zig")

# Windows looks for a program's libraries beside it, so both go to bin/.
cmake -G Ninja -S . -B "$folder" -DCMAKE_BUILD_TYPE=Release \
  -DCMAKE_SYSTEM_NAME="${system[0]}" -DCMAKE_SYSTEM_PROCESSOR="${system[1]}" \
  -DCMAKE_CXX_COMPILER="$zig/c++" -DCMAKE_RC_COMPILER="$zig/rc" -DCMAKE_AR="$zig/ar" \
  -DCMAKE_RANLIB="$zig/ranlib" \
  -DCMAKE_CROSSCOMPILING_EMULATOR="$(IFS=';'; echo "${emulator[*]}")" \
  -DCMAKE_RUNTIME_OUTPUT_DIRECTORY="$(realpath "$folder")/bin" \
  -DFUSED_SSIM_CUDA=OFF -DFUSED_SSIM_TORCH=OFF -DFUSED_SSIM_TESTS=ON -DFUSED_SSIM_WERROR=ON
cmake --build "$folder" --parallel "$(nproc)"
if [[ ${#emulator[@]} -gt 0 ]]; then
  ctest --test-dir "$folder" --output-on-failure --no-tests=error --parallel "$(nproc)"
else
  echo "cross.sh: compiled and linked for $target; no emulator here, so no test ran"
fi
