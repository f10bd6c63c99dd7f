#!/usr/bin/env bash
# Builds the tests of the C++ API and the examples as a user's projects, and runs them on the CPU:
#
#   1. against the fused_ssim of the Python that is active (an installed wheel), torch elsewhere
#   2. against a prefix of `cmake --install`, torch elsewhere: the examples
#   3. against a prefix that holds torch too, as conda's does: the examples
#
#   tools/ci/cpp_api.sh LIBTORCH BUILD
#     LIBTORCH  folder with include/, lib/ and share/cmake/Torch of a torch without CUDA (2.10 or
#               newer, any version): an unpacked libtorch, or the package folder of a torch for
#               the CPU
#     BUILD     a build folder of this repository with the libraries for torch, as build/dev is
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

libtorch=$(realpath "${1:?usage: cpp_api.sh LIBTORCH BUILD}")
build=$(realpath "${2:?usage: cpp_api.sh LIBTORCH BUILD}")
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

configure_and_build() { # SOURCE BUILD PREFIXES [OPTION...]
  local source=$1 folder=$2 prefixes=$3
  shift 3
  cmake -G Ninja -S "$source" -B "$folder" -DCMAKE_BUILD_TYPE=Release \
    "-DCMAKE_PREFIX_PATH=$prefixes" "$@" >"$folder.log" 2>&1 || { cat "$folder.log"; return 1; }
  cmake --build "$folder" --parallel "$(nproc)"
}

echo "--- 1. an installed wheel: tests and examples"
installed=$(cd "$scratch" && python -m fused_ssim --cmake-dir)
python tests/cpp_api/make_reference.py "$scratch/reference.pt"
configure_and_build tests/cpp_api "$scratch/tests" "$installed;$libtorch" \
  "-DFUSED_SSIM_REFERENCE=$scratch/reference.pt"
ctest --test-dir "$scratch/tests" --output-on-failure
configure_and_build examples/cpp "$scratch/examples" "$installed;$libtorch"
python - "$scratch/photo.ppm" <<'PY'
import sys
import skimage.data
from PIL import Image
Image.fromarray(skimage.data.astronaut()).resize((128, 96)).save(sys.argv[1])
PY
"$scratch/examples/fit" "$scratch/photo.ppm" "$scratch/fitted.ppm" 60
"$scratch/examples/compare" "$scratch/photo.ppm" "$scratch/photo.ppm" "$scratch/map.ppm" |
  tee "$scratch/same.txt"
grep --quiet '^SSIM 1\.000000 ' "$scratch/same.txt"
"$scratch/examples/compare" "$scratch/photo.ppm" "$scratch/fitted.ppm" | tee "$scratch/fitted.txt"
# The C++ program measures what Python measures, and the fit came close.
python - "$scratch" <<'PY'
import sys
from pathlib import Path
import numpy
import torch
from PIL import Image
import fused_ssim

folder = Path(sys.argv[1])
x, y = (
    torch.from_numpy(numpy.array(Image.open(folder / name))).permute(2, 0, 1)[None] / 255
    for name in ("photo.ppm", "fitted.ppm")
)
value = fused_ssim.fused_ssim(x, y).item()
printed = float((folder / "fitted.txt").read_text().split()[1])
assert abs(value - printed) < 2e-6, (value, printed)
assert value > 0.8, value
PY

echo "--- 2. a prefix of its own"
cmake --install "$build" --strip --prefix "$scratch/prefix" >"$scratch/install.log"
configure_and_build examples/cpp "$scratch/apart" "$scratch/prefix;$libtorch"
"$scratch/apart/fit" "$scratch/photo.ppm" "$scratch/fitted.ppm" 2
"$scratch/apart/compare" "$scratch/photo.ppm" "$scratch/fitted.ppm"

echo "--- 3. one prefix with torch, moved after it was made"
mkdir "$scratch/made"
for folder in include lib share; do
  cp --recursive --symbolic-link "$libtorch/$folder" "$scratch/made/$folder"
done
cmake --install "$build" --strip --prefix "$scratch/made" >"$scratch/install.log"
mv "$scratch/made" "$scratch/moved"
configure_and_build examples/cpp "$scratch/together" "$scratch/moved"
"$scratch/together/fit" "$scratch/photo.ppm" "$scratch/fitted.ppm" 2

echo "--- no file that is installed names a folder of this machine"
for tree in "$installed" "$scratch/prefix"; do
  found=$(grep --recursive --files-with-matches --exclude='*.pyc' --binary-files=text \
    --fixed-strings -e "$PWD" -e "$libtorch" -e "$scratch" -e "$build" "$tree" || true)
  if [[ -n $found ]]; then
    printf 'names a folder of this machine: %s\n' "$found"
    exit 1
  fi
done
