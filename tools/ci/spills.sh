#!/usr/bin/env bash
# Compiles the kernels that tools/check_spills.py watches, for the architectures that it names, and
# checks what ptxas says of them. Needs nvcc, no GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
targets=()
architectures=$(PYTHONPATH=tools python3 -c 'import check_spills as c; print(*c.ARCHITECTURES)')
for architecture in $architectures; do
  targets+=("-gencode=arch=compute_${architecture#sm_},code=$architecture")
done
running=()
for kernel in march_standard tile_standard; do
  nvcc -std=c++17 -O3 -c -Iinclude -Isrc -Xptxas=-v "${targets[@]}" \
    -o "$scratch/$kernel.o" "src/cuda/$kernel.cu" >"$scratch/$kernel.log" 2>&1 &
  running+=($!)
done
for compiler in "${running[@]}"; do
  wait "$compiler" || { cat "$scratch"/*.log; exit 1; }
done
cat "$scratch"/*.log >"$scratch/all.txt"
python3 tools/check_spills.py "$scratch/all.txt"
