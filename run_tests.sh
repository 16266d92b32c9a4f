#!/usr/bin/env bash
# The tests on a bare machine: environment, linter, tests, and the lines of models/ that no test ran.
# Needs Python >= 3.11 and a package index.
#   bash run_tests.sh          the everyday part
#   bash run_tests.sh --all    the everyday and the slow part
# Other arguments are passed to pytest. PYTHON names the interpreter that creates the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

source scripts/environment.sh requirements-dev.txt

.venv/bin/ruff check .
.venv/bin/ruff format --check .

selection=(-m "not slow")
if [[ "${1:-}" == "--all" ]]; then
  selection=()
  shift
fi
if [[ $# -gt 0 ]]; then
  OMP_NUM_THREADS=1 .venv/bin/python -m pytest "${selection[@]}" "$@"
  exit
fi
# Two processes on two cores, the tests of a file in one of them. Coverage: lines of models/ that no test ran.
OMP_NUM_THREADS=1 .venv/bin/python -m pytest "${selection[@]}" \
  --numprocesses auto --maxprocesses 4 --dist loadfile --cov --cov-report=term-missing:skip-covered
