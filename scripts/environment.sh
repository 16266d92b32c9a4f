# Sourced by the run_*.sh scripts: makes .venv from a requirements file, once per version of that file.
if [[ -z "${OMP_WAIT_POLICY:-}" ]]; then # waiting threads sleep soon, see utils/threads.py
  export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
fi
requirements="$1"
stamp=".venv/installed-$requirements"
installed() { [[ -x .venv/bin/python ]] && cat requirements.txt "$requirements" | cmp -s - "$stamp"; }
if ! installed; then
  # An interrupted installation leaves a .venv that has python but no pip.
  if ! { .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    base_python="${PYTHON:-python3}"
    check='import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))'
    if ! found="$("$base_python" -c "$check" 2>/dev/null)"; then
      echo "error: expected Python 3.11 or newer, found: $base_python ${found:-(does not run)}" >&2
      echo "name another interpreter with the variable PYTHON, e.g. PYTHON=/usr/bin/python3.12" >&2
      exit 2
    fi
    "$base_python" -m venv --clear .venv
  fi
  echo "setting up .venv from $requirements: on Linux up to 2.7 GB to download and 5 GB of disk, mostly torch for NVIDIA GPUs"
  echo "(smaller without a GPU: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu)"
  echo "(another package index: pip reads the variables PIP_INDEX_URL and PIP_EXTRA_INDEX_URL)"
  progress=() # pip's progress bar in a terminal, a short log in CI
  [[ -t 1 ]] || progress=(--quiet)
  # Bash 3 treats an empty array as an unset variable.
  .venv/bin/python -m pip install ${progress[@]+"${progress[@]}"} --disable-pip-version-check -r "$requirements"
  cat requirements.txt "$requirements" >"$stamp"
fi
