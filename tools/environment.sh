# Sourced by the run_*.sh scripts: makes .venv from a requirements file, once per version of that file.
requirements="$1"
stamp=".venv/installed-$requirements"
if ! { cat requirements.txt "$requirements" | cmp -s - "$stamp"; }; then
  echo "setting up .venv from $requirements"
  [[ -x .venv/bin/python ]] || "${PYTHON:-python3}" -m venv .venv
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r "$requirements"
  cat requirements.txt "$requirements" >"$stamp"
fi
