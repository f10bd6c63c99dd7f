#!/usr/bin/env bash
# The test-suite on the CPU, built against and run under one version of torch, in the Python that is
# active.
#
#   tools/ci/test.sh [TORCH] [-- PYTEST_ARGUMENT...]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-python3}
torch=""
if [[ $# -gt 0 && $1 != -- ]]; then
  torch=$1
  shift
fi
if [[ ${1:-} == -- ]]; then shift; fi

tools/ci/build_tools.sh "$torch"
FUSED_SSIM_CUDA=OFF "$python" -m pip install --no-build-isolation '.[test]'
"$python" -m fused_ssim info
"$python" -m pytest --device cpu "$@"
