# Sourced by tools/run_stages.sh and run_demo.sh with the config's name and the arguments: from these and the
# variables (CONFIG, RUN, DATA, SPLIT, NGPU) to $config, $run, $split, $common and $launch; makes .venv.
name="$1"
shift
overrides=()
device=()
while (($# > 0)); do
  if [[ $# -ge 2 && "$1" == --set ]]; then
    overrides+=(--set "$2")
  elif [[ $# -ge 2 && "$1" == --device ]]; then
    device=(--device "$2")
  else
    echo "error: expected --set KEY=VALUE or --device cpu|cuda, found: $*" >&2
    echo "the top of $(basename "$0") says which variables there are" >&2
    exit 2
  fi
  shift 2
done
config="${CONFIG:-configs/$name.yaml}"
run="${config%.yaml}"
[[ "$run" == configs/* ]] && run="${run#configs/}" || run="$(basename "$run")"
run="${RUN:-runs/$run}"
ngpu="${NGPU:-1}"
split="${SPLIT:-val}"
if [[ -n "${DATA:-}" ]]; then
  overrides+=(--set "data_root=$DATA")
fi
# Bash 3 takes an empty array for an unset variable.
common=(--config "$config" ${overrides[@]+"${overrides[@]}"} ${device[@]+"${device[@]}"})

source tools/environment.sh requirements.txt
python=.venv/bin/python
launch=("$python")
if ((ngpu > 1)); then
  launch=("$python" -m torch.distributed.run --standalone "--nproc_per_node=$ngpu")
fi
key() { # the value of a config key, overrides included
  "$python" -m tools.config_key "$config" "$1" ${overrides[@]+"${overrides[@]}"}
}
stage() { printf '\n== %s\n' "$*"; }
