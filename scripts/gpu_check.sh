#!/usr/bin/env bash
# Tests and measurements that need a GPU, in at most 9 minutes on one H100 or H200 (docs/performance.md, One GPU).
#   bash scripts/gpu_check.sh [FOLDER]             FOLDER/summary.json, log.txt; default: the variable OUT, else runs/gpu_check
#   WHEELS=DIR bash scripts/gpu_check.sh           first installs the wheels in DIR for this check alone, without a network
#   PYTHON=python3.12 bash scripts/gpu_check.sh    another interpreter than .venv/bin/python, else python3
#   bash scripts/gpu_check.sh FOLDER --device cpu --quick    the same in miniature, without a GPU
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
limit=540 # seconds for everything
folder="${OUT:-runs/gpu_check}"
if (($# > 0)) && [[ "$1" != -* ]]; then
  folder="$1"
  shift
fi
python="${PYTHON:-}"
if [[ -z "$python" ]]; then
  python=python3
  [[ -x .venv/bin/python ]] && python=.venv/bin/python
fi
if [[ -n "${WHEELS:-}" ]]; then
  # Beside the installed packages: some systems let nobody install into their own Python.
  packages="$(mktemp -d)"
  trap 'rm -rf "$packages"' EXIT
  "$python" -m pip install --quiet --disable-pip-version-check --no-index --no-deps --target "$packages" "$WHEELS"/*.whl
  export PYTHONPATH="$packages${PYTHONPATH:+:$PYTHONPATH}"
fi
device=(--device cuda)
for word in "$@"; do
  [[ "$word" == --device* ]] && device=()
done
# Bash 3 treats an empty array as an unset variable.
"$python" -m benchmarks.gpu_check "$folder" ${device[@]+"${device[@]}"} --limit "$((limit - SECONDS))" "$@"
