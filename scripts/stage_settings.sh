# Sourced by run.sh and run_demo.sh, which set $config, with their arguments: from these and the variables (DATA, RUN,
# SPLIT, NGPU) to $run, $split, $common, $device and $launch; makes .venv.
# beside_data=(KEY=FILE ...): keys of the config that are files in the folder that --data names.
script="$(basename "$0")"
usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$script"; }
refuse() {
  printf 'error: %s\nbash %s --help lists the options\n' "$1" "$script" >&2
  exit 2
}
overrides=()
device=()
ngpu="${NGPU:-1}" folder="${DATA:-}" run="${RUN:-}" split="${SPLIT:-}"
while (($# > 0)); do
  case "$1" in
    -h | --help)
      usage
      exit 0
      ;;
    --*=*) # --gpus=2
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    --set | --device | --gpus | --data | --out | --split)
      [[ $# -ge 2 && -n "$2" && "$2" != --* ]] || refuse "expected a value after $1, found: $*"
      ;;
    *) refuse "expected an option (--set, --gpus, --data, --out, --split, --device), found: $*" ;;
  esac
  case "$1" in
    --set)
      while [[ $# -ge 2 && "$2" != --* ]]; do # one pair or more
        overrides+=(--set "$2")
        shift
      done
      shift
      continue
      ;;
    --device) device=(--device "$2") ;;
    --gpus) ngpu="$2" ;;
    --data) folder="$2" ;;
    --out) run="$2" ;;
    --split) split="$2" ;;
  esac
  shift 2
done
run="${run/#\~\//$HOME/}" # quoted, a shell leaves it as it is
[[ -n "$config" ]] || refuse "expected a config first, e.g. bash $script configs/cityscapes.yaml"
[[ "$ngpu" =~ ^[1-9][0-9]*$ ]] || refuse "--gpus (NGPU) must be a number from 1 on, found: $ngpu"
if [[ -z "$run" ]]; then
  run="${config%.yaml}"
  [[ "$run" == configs/* ]] && run="runs/${run#configs/}" || run="runs/$(basename "$run")"
fi
if [[ -n "$folder" ]]; then # first, so that --set has the last word
  named=(--set "data_root=$folder")
  for pair in ${beside_data[@]+"${beside_data[@]}"}; do
    named+=(--set "${pair%%=*}=$folder/${pair#*=}")
  done
  overrides=("${named[@]}" ${overrides[@]+"${overrides[@]}"})
fi
# Bash 3 takes an empty array for an unset variable.
common=(--config "$config" ${overrides[@]+"${overrides[@]}"} ${device[@]+"${device[@]}"})

source scripts/environment.sh requirements.txt
python=.venv/bin/python
launch=("$python")
if ((ngpu > 1)); then
  launch=("$python" -m torch.distributed.run --standalone "--nproc_per_node=$ngpu")
fi
key() { # the value of a config key, overrides included
  "$python" -m scripts.config_key "$config" "$1" ${overrides[@]+"${overrides[@]}"}
}
if [[ -z "$split" ]]; then
  split="$(key val_split)"
fi
stage() { printf '\n== %s\n' "$*"; }
