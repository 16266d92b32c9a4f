# Sourced by the run_*.sh scripts: makes .venv from a requirements file, once per version of that file.
if [[ -z "${OMP_WAIT_POLICY:-}" ]]; then # waiting threads sleep soon, see utils/threads.py
  export OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT="${GOMP_SPINCOUNT:-1000}"
fi
requirements="$1"
stamp=".venv/installed-$requirements"
installed() { [[ -x .venv/bin/python ]] && cat requirements.txt "$requirements" | cmp -s - "$stamp"; }
if ! installed; then
  # An interruption leaves a .venv with a python and without pip.
  if ! { .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    maker="${PYTHON:-python3}"
    check='import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))'
    if ! found="$("$maker" -c "$check" 2>/dev/null)"; then
      echo "error: expected Python 3.11 or newer, found: $maker ${found:-(does not run)}" >&2
      echo "PYTHON names another, e.g. PYTHON=/usr/bin/python3.12" >&2
      exit 2
    fi
    "$maker" -m venv --clear .venv
  fi
  echo "setting up .venv from $requirements: on Linux 2.7 GB to download and 5 GB of disk, most of it torch for NVIDIA GPUs"
  echo "(without such a GPU less: PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu)"
  echo "(another package index: PIP_INDEX_URL or PIP_EXTRA_INDEX_URL, variables of pip's own)"
  progress=() # pip's progress for a terminal, a short log for CI
  [[ -t 1 ]] || progress=(--quiet)
  # Bash 3 takes an empty array for an unset variable.
  .venv/bin/python -m pip install ${progress[@]+"${progress[@]}"} --disable-pip-version-check -r "$requirements"
  cat requirements.txt "$requirements" >"$stamp"
fi
