#!/usr/bin/env bash
# Installs a source distribution as users do: with pip's build isolation and without, each into a new
# environment, and computes an SSIM and its gradient there. The CUDA library is built where nvcc is
# found, so a machine with nvcc and one without make four cases.
#
#   tools/wheels/check_sdist.sh SDIST
#
# Environment: PYTHON (python3), FUSED_SSIM_CUDA (AUTO), TORCH_CUDA_ARCH_LIST (all that nvcc's default
# names, which takes long), PIP_CONSTRAINT (which torch).
set -euo pipefail

sdist=$(realpath "${1:?usage: check_sdist.sh SDIST}")
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export FUSED_SSIM_CUDA=${FUSED_SSIM_CUDA:-AUTO}
# Old and new versions of pip read the constraints of an isolated build from different variables.
if [[ -n ${PIP_CONSTRAINT:-} ]]; then
  export PIP_BUILD_CONSTRAINT=$PIP_CONSTRAINT
fi
cd "$work"

for isolation in with without; do
  echo "=== $isolation build isolation"
  env=$work/$isolation
  "$python" -m venv "$env"
  options=()
  if [[ $isolation == without ]]; then
    "$env/bin/pip" install --quiet torch cmake ninja 'pybind11>=2.12' 'scikit-build-core>=1.0'
    options=(--no-build-isolation)
  fi
  PATH=$env/bin:$PATH "$env/bin/pip" install --quiet "${options[@]}" "$sdist"
  "$env/bin/python" - <<'PY'
import torch

import fused_ssim

image = torch.rand(1, 3, 32, 48, requires_grad=True)
value = fused_ssim.fused_ssim(image, torch.rand(1, 3, 32, 48))
value.backward()
assert 0 < value.item() < 1, value
assert image.grad.abs().sum() > 0
print(fused_ssim.build_info())
PY
  rm -rf "$env"
done
