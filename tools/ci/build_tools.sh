#!/usr/bin/env bash
# Installs what a build without isolation needs into the Python that is active, torch included.
#
#   tools/ci/build_tools.sh [TORCH]     a version (2.10.0), or the newest
#
# TORCH_INDEX: where torch comes from; https://download.pytorch.org/whl/cpu has the small builds
# without CUDA, which serve to build the CUDA library too.
set -euo pipefail

python=${PYTHON:-python3}
torch=torch${1:+==$1}
"$python" -m pip install --quiet ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$torch"
"$python" -m pip install --quiet build cmake ninja 'pybind11>=2.12' 'scikit-build-core>=1.0'
