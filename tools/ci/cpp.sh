#!/usr/bin/env bash
# Configures, builds and tests one CMake preset. Needs cmake and ninja, and torch and pybind11 in the
# Python that is active for presets other than asan (tools/ci/build_tools.sh).
#
#   tools/ci/cpp.sh PRESET [CMAKE_OPTION...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

preset=${1:?usage: cpp.sh PRESET [CMAKE_OPTION...]}
cmake --preset "$@"
cmake --build --preset "$preset" --parallel "$(nproc)"
ctest --preset "$preset" --parallel "$(nproc)"
