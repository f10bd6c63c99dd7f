#!/usr/bin/env bash
# Builds the image of docker/Dockerfile, or with a folder as the second argument the wheel alone.
#
#   tools/ci/docker.sh CUDA_VERSION [OUTPUT_FOLDER]     CUDA_VERSION: 12.8.1, 13.0.1
#
# TORCH_CUDA_ARCH_LIST: what to compile for ("8.6 9.0+PTX"); by default all that the toolkit's set has.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cuda=${1:?usage: docker.sh CUDA_VERSION [OUTPUT_FOLDER]}
arguments=(--build-arg "CUDA=$cuda" --build-arg "TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-}")
if [[ -n ${2:-} ]]; then
  arguments+=(--target wheel --output "type=local,dest=$2")
else
  arguments+=(--tag "fused-ssim:cuda$cuda")
fi
docker build --file docker/Dockerfile "${arguments[@]}" .
