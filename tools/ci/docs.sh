#!/usr/bin/env bash
# Builds the site of docs/ into a folder, runs the examples for it, and takes every warning for an error:
# links and references that lead nowhere, pages that no other page lists, an example that fails.
#
#   tools/ci/docs.sh [OUTPUT_FOLDER]     OUTPUT_FOLDER: build/docs
#
# The Python that is active needs the package with its extra `docs`. Takes about a minute.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

output=${1:-build/docs}
# The examples are small. Threads that wait for one another would only slow them down on a busy machine.
OMP_NUM_THREADS=1 "${PYTHON:-python3}" -m sphinx --builder html --doctree-dir build/doctrees \
  --fail-on-warning --keep-going --fresh-env --quiet docs "$output"
echo "written: $output/index.html"
