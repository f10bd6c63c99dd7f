#!/usr/bin/env bash
# Removes toolchains that GitHub's Linux runners bring and this project does not use: container images
# with a CUDA toolkit fill the disk otherwise. Refuses to run anywhere else.
#
#   tools/ci/free_disk.sh
set -euo pipefail

if [[ ${GITHUB_ACTIONS:-} != true || ${RUNNER_ENVIRONMENT:-} != github-hosted ]]; then
  echo "free_disk.sh: only for GitHub's own runners, whose disk is thrown away afterwards" >&2
  exit 1
fi
df --human-readable /
sudo rm --recursive --force \
  /opt/ghc /opt/hostedtoolcache/CodeQL /usr/local/.ghcup /usr/local/lib/android \
  /usr/local/share/boost /usr/local/share/powershell /usr/share/dotnet /usr/share/swift
df --human-readable /
