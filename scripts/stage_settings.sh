# Sourced by run.sh and run_demo.sh, which set $config and pass their arguments. Sets $run, $split, $common, $device
# and $launch from these and from the variables DATA, RUN, SPLIT and NGPU; makes .venv.
# beside_data=(KEY=FILE ...): config keys whose files are in the folder that --data names.
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
run="${run/#\~\//$HOME/}" # the shell does not expand a quoted ~
[[ -n "$config" ]] || refuse "expected a config as the first argument, e.g. bash $script configs/cityscapes.yaml"
[[ "$ngpu" =~ ^[1-9][0-9]*$ ]] || refuse "--gpus (NGPU) must be a number from 1 on, found: $ngpu"
if [[ -z "$run" ]]; then
  run="${config%.yaml}"
  [[ "$run" == configs/* ]] && run="runs/${run#configs/}" || run="runs/$(basename "$run")"
fi
if [[ -n "$folder" ]]; then # first: a later --set wins
  named=(--set "data_root=$folder")
  for pair in ${beside_data[@]+"${beside_data[@]}"}; do
    named+=(--set "${pair%%=*}=$folder/${pair#*=}")
  done
  overrides=("${named[@]}" ${overrides[@]+"${overrides[@]}"})
fi
# Bash 3 treats an empty array as an unset variable.
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
