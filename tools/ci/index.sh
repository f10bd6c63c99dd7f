#!/usr/bin/env bash
# Makes the pages of the index of wheels from all releases of the GitHub repository.
#
#   tools/ci/index.sh OWNER/NAME OUTPUT_FOLDER
#
# Needs gh, and GH_TOKEN with the right to read contents.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=${1:?usage: index.sh OWNER/NAME OUTPUT_FOLDER}
output=${2:?usage: index.sh OWNER/NAME OUTPUT_FOLDER}
python=${PYTHON:-python3}

releases=$(mktemp)
trap 'rm -f "$releases"' EXIT
gh api --paginate --slurp "repos/$repository/releases?per_page=100" >"$releases"
"$python" "$here/../../index/make_index.py" "$releases" "$output"
