#!/usr/bin/env bash
# Builds the wheels of one set for this machine's platform with cibuildwheel, and checks them.
#
#   tools/wheels/build.sh SET [OUTPUT_FOLDER]     OUTPUT_FOLDER: dist/SET
#
# sets.toml says what the sets are, [tool.cibuildwheel] in pyproject.toml what they have in common. A
# CIBW_* variable that is set already stands. Needs cibuildwheel, and a container engine on Linux.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
wheels=${1:?usage: build.sh SET [OUTPUT_FOLDER]}
output=${2:-$here/../../dist/$wheels}
python=${PYTHON:-python3}

variables=$("$python" "$here/sets.py" environment "$wheels")
while IFS='=' read -r name value; do
  if [[ -z ${!name:-} ]]; then
    export "$name=$value"
  fi
done <<<"$variables"

cd "$here/../.."
"$python" -m cibuildwheel --output-dir "$output" .
