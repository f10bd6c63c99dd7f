#!/usr/bin/env bash
# On a machine with a GPU and the CUDA toolkit: build, the test-suite on the GPU, the kernels under
# compute-sanitizer, the benchmark.
#
#   tools/ci/gpu.sh OUTPUT_FOLDER [STEP...]
#
# STEP: build, spills, harness, tests, sanitizer, benchmark; without any, all of them.
# OUTPUT_FOLDER keeps the environment, the harness and the benchmark's results. The steps `build`,
# `spills` and `harness` need no GPU. TORCH_CUDA_ARCH_LIST: what to compile for; by default, this
# machine's GPUs. PYTHON: python3.
set -euo pipefail

output=${1:?usage: gpu.sh OUTPUT_FOLDER [STEP...]}
shift
mkdir -p "$output"
output=$(cd "$output" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
steps=("$@")
if [[ ${#steps[@]} -eq 0 ]]; then
  steps=(build spills harness tests sanitizer benchmark)
fi

if [[ -z ${TORCH_CUDA_ARCH_LIST:-} ]]; then
  TORCH_CUDA_ARCH_LIST=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | sort -u |
    paste -sd ' ')
fi
export TORCH_CUDA_ARCH_LIST
first=${TORCH_CUDA_ARCH_LIST%%[ ;]*}  # the harness is for one
architecture=sm_$(tr -cd '0-9' <<<"${first%+PTX}")

build() {
  "${PYTHON:-python3}" -m venv "$output/env"
  PYTHON=$output/env/bin/python tools/ci/build_tools.sh
  PATH=$output/env/bin:$PATH FUSED_SSIM_CUDA=ON \
    "$output/env/bin/pip" install --no-build-isolation '.[test,bench]'
  (cd "$output" && env/bin/python -m fused_ssim info)
}

spills() {
  tools/ci/spills.sh
}

harness() {
  nvcc -std=c++17 -O3 "-arch=$architecture" -Iinclude -Isrc \
    "-DFUSED_SSIM_CUDA_ARCHITECTURES=\"$architecture\"" \
    -o "$output/harness" tests/cuda_harness/harness.cu src/cuda/*.cu
}

tests() {
  (cd "$output" && env/bin/python -m fused_ssim info) | tee "$output/info.txt"
  if ! grep -q '^verdict .*this build serves' "$output/info.txt" ||
    ! grep -q '^backends here *cpu, cuda$' "$output/info.txt"; then
    echo "gpu.sh: this build does not serve this machine's GPU" >&2
    exit 1
  fi
  "$output/harness" test
  "$output/env/bin/python" -m pytest --device cuda "$root/tests"
}

sanitizer() {
  for tool in memcheck racecheck initcheck synccheck; do
    printf '=== compute-sanitizer %s\n' "$tool"
    compute-sanitizer --tool "$tool" --error-exitcode 1 "$output/harness" small
  done
}

benchmark() {
  "$output/env/bin/python" benchmarks/bench.py --device cuda --out "$output/benchmark" --name table
  "$output/env/bin/python" benchmarks/bench.py --device cuda --out "$output/benchmark" --name sweep \
    --preset sweep --kinds inference training --no-memory
}

for step in "${steps[@]}"; do
  case $step in
    build | spills | harness | tests | sanitizer | benchmark) ;;
    *)
      echo "gpu.sh: expected build, spills, harness, tests, sanitizer or benchmark, got '$step'" >&2
      exit 2
      ;;
  esac
done
for step in "${steps[@]}"; do
  printf '\n=== %s\n' "$step"
  "$step"
done
