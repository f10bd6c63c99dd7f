#!/usr/bin/env bash
# Proves that one binary serves many versions of torch: builds a wheel against one of them, and for
# each other version makes a new environment with that torch and the wheel and passes the tests there.
#
#   tools/check_torch_versions.sh                          build 2.14.1; run 2.10.0, 2.13.0+cpu, 2.14.1
#   BUILD=2.14.1 tools/check_torch_versions.sh 2.12.0      versions of your own
#
# Environment: PYTHON (python3), BUILD (the torch to build against), FUSED_SSIM_CUDA (OFF),
# PYTEST_ARGUMENTS (none), WORK (a temporary folder, removed at the end; one that you name is kept).
# The tests run from the unpacked sdist, so nothing but the wheel can answer to `import fused_ssim`.
set -euo pipefail

python=${PYTHON:-python3}
build=${BUILD:-2.14.1}
versions=("$@")
if [[ ${#versions[@]} -eq 0 ]]; then
  versions=(2.10.0 2.13.0+cpu 2.14.1)
fi
export FUSED_SSIM_CUDA=${FUSED_SSIM_CUDA:-OFF}
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -n ${WORK:-} ]]; then
  mkdir -p "$WORK"
  work=$(cd "$WORK" && pwd)
else
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
fi

echo "=== build against torch $build"
"$python" -m venv "$work/build-env"
"$work/build-env/bin/pip" install --quiet build cmake ninja pybind11 scikit-build-core "torch==$build"
rm -rf "$work/dist" "$work/tree"
mkdir "$work/tree"
PATH=$work/build-env/bin:$PATH python -m build --no-isolation --outdir "$work/dist" "$root"
wheel=$(echo "$work"/dist/*.whl)
tar --extract --file "$work"/dist/*.tar.gz --directory "$work/tree" --strip-components 1

results=()
failed=0
for version in "${versions[@]}"; do
  echo "=== run under torch $version"
  env=$work/env-$version
  "$python" -m venv "$env"
  "$env/bin/pip" install --quiet "torch==$version" "fused-ssim[test] @ file://$wheel"
  # test_wheel.py builds a wheel of its own, against the torch that is to be run here.
  # shellcheck disable=SC2086
  if (
    cd "$work/tree"
    PATH=$env/bin:$PATH python -m fused_ssim info
    PATH=$env/bin:$PATH python -m pytest --ignore tests/test_wheel.py ${PYTEST_ARGUMENTS:-}
  ); then
    results+=("torch $version: passed")
  else
    results+=("torch $version: FAILED")
    failed=1
  fi
done

echo "=== built against torch $build"
printf '%s\n' "${results[@]}"
exit $failed
