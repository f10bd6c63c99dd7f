#!/usr/bin/env bash
# Makes the GitHub release of a tag: notes from the changelog, all wheels and the sdist.
#
#   tools/ci/release.sh TAG FOLDER     FOLDER: the finished wheels and the sdist
#
# Needs gh, and GH_TOKEN with the right to write contents. The release stays a draft until all files
# are there, so a failure leaves nothing half-published.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
tag=${1:?usage: release.sh TAG FOLDER}
folder=${2:?usage: release.sh TAG FOLDER}
python=${PYTHON:-python3}

notes=$(mktemp)
trap 'rm -f "$notes"' EXIT
"$python" "$here/check_release.py" "$tag" >"$notes"
gh release create "$tag" --draft --verify-tag --title "$tag" --notes-file "$notes"
gh release upload "$tag" "$folder"/*.whl "$folder"/*.tar.gz
gh release edit "$tag" --draft=false
