#!/usr/bin/env bash
# Checks that finished wheels of a set are what the set promises.
#
#   tools/wheels/check.sh SET WHEEL...
#
# Needs twine, check-wheel-contents, auditwheel, readelf and nm. Variables for check.py:
# FUSED_SSIM_PLATFORM_TAG, for wheels that were not built in the image of the table.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
if [[ $# -lt 2 ]]; then
  echo "usage: check.sh SET WHEEL..." >&2
  exit 2
fi

"$python" -m twine check --strict "${@:2}"
# W004: a name in lib/ or include/ is no Python module. W009: the wheel has one package at its top.
"$python" -m check_wheel_contents "${@:2}"
"$python" "$here/check.py" "$@"
