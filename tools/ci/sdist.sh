#!/usr/bin/env bash
# Makes the source distribution and checks its metadata.
#
#   tools/ci/sdist.sh [OUTPUT_FOLDER]     OUTPUT_FOLDER: dist
#
# The Python that is active needs build, scikit-build-core and twine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${PYTHON:-python3}
output=${1:-dist}
"$python" -m build --sdist --no-isolation --skip-dependency-check --outdir "$output" .
"$python" -m twine check --strict "$output"/*.tar.gz
