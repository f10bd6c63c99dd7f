#!/usr/bin/env bash
# Output fused-ssim: the Python package into $PREFIX, over the libraries of libfused_ssim that are
# there. rattler-build calls it in $SRC_DIR.
#
# Environment: PREFIX, SRC_DIR, PYTHON, and as conda's activation sets it CMAKE_ARGS.
set -euo pipefail

export CMAKE_PREFIX_PATH="$PREFIX"
# src/python is a CMake project of its own, which looks for the libraries instead of building them.
"$PYTHON" -m pip install "$SRC_DIR" -vv --no-deps --no-build-isolation \
  --config-settings=cmake.source-dir=src/python

# `_C` finds the libraries beside itself, as in a wheel; here they are links, so that there is but one
# of each for C++ and Python.
package=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')/fused_ssim
for library in "$PREFIX"/lib/libfused_ssim*.so; do
  ln --symbolic --relative --force "$library" "$package/"
done
