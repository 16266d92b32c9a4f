#!/usr/bin/env bash
# The whole method in minutes on 2 CPU cores, without downloading data or weights: synthetic street scenes replace
# Cityscapes, and the miniature CLIP in demo/weights replaces OpenAI's; the scripts are the real ones. It ends with
# a table and an image. Finished stages are skipped; after an interruption, run the same command again to resume.
#
#   bash run_demo.sh
#   SEED=1 bash run_demo.sh --out runs/demo_1 --set views=local lr=0.05
#   SEEDS=3 bash run_demo.sh      seeds 0, 1, 2 in runs/demo_seeds; ends with their mean and spread
#
# --out RUN_DIR         folder of the results (runs/demo): one for each choice of settings
# --data DIR            folder of the scenes (data/demo)
# --gpus N              processes (1)
# --split NAME          split to evaluate (val)
# --set KEY=VALUE ...   keys of the config to replace
# --device NAME         cpu, cuda or mps (default: cuda where there is one)
#
# Variables: SCENES, SCENE_SEED  number of scenes and their seed ("train=30 val=100", 2026)
#            SEED                seed of the training
#            STEPS, WARMUP       steps in total, and steps before CARB (four fifths of STEPS)
#            CONFIG              config file (demo/config.yaml)
#            RUN, DATA, NGPU and SPLIT do the same as the options
# Relative paths start at this script's folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

chosen=()
number() { # refuses a variable that holds no number
  [[ "${!1}" =~ ^[1-9][0-9]*$ ]] || { echo "error: $1 must be a number, found: ${!1}" >&2 && exit 2; }
}
if [[ -n "${STEPS:-}" ]]; then
  number STEPS
  chosen+=(--set "steps=$STEPS" --set "warmup_steps=${WARMUP:-$((STEPS * 4 / 5))}")
elif [[ -n "${WARMUP:-}" ]]; then
  chosen+=(--set "warmup_steps=$WARMUP")
fi
[[ -z "${SEED:-}" ]] || chosen+=(--set "seed=$SEED")
[[ -z "${DEVICE:-}" ]] || chosen+=(--device "$DEVICE")
if [[ -n "${SEEDS:-}" ]]; then
  number SEEDS
  RUN="${RUN:-runs/demo_seeds}"
fi
[[ -n "${CONFIG:-}" ]] || RUN="${RUN:-runs/demo}"
config="${CONFIG:-demo/config.yaml}"
beside_data=(image_labels=image_labels.json pseudo_masks=clip_masks clip_text=clip_text.pt)
source scripts/stage_settings.sh ${chosen[@]+"${chosen[@]}"} "$@"

if [[ -n "${SEEDS:-}" ]]; then
  runs=()
  for ((seed = 0; seed < SEEDS; seed++)); do
    one="$run/seed_$seed"
    if [[ ! -d "$one" && -d "$run/seed_0" ]]; then # the pseudo-masks are the same for all seeds
      mkdir -p "$one" && cp -Rp "$run/seed_0/masks_$split" "$one"
    fi
    SEEDS="" SEED="$seed" bash run_demo.sh "$@" --out "$one"
    runs+=("$one")
  done
  stage "mean over the seeds"
  exec "$python" -m demo.report "${runs[@]}" --split "$split"
fi
# In separate assignments: only there does a failing command stop the script.
data="$(key data_root)"
views="$(key views)"
carb="$(key carb)"
masks="$run/masks_$split"
echo "With the default settings the demo takes about 4 minutes on two idle cores (longer on busy ones), 1 GB of memory and 30 MB of disk."
mkdir -p "$run"

# A stage's seconds count only if it wrote something: a finished stage just checks its files.
timed="" written="" began=0
lap() {
  if [[ -n "$timed" && -n "$(find "$written" -newer "$run/.began" -print -quit 2>/dev/null)" ]]; then
    printf '%s\t%s\n' "$timed" "$((SECONDS - began))" >>"$run/seconds.tsv"
  fi
  timed=""
}
begin() { # heading, what it writes
  lap
  stage "$1"
  timed="${1#* }" written="$2" began=$SECONDS
  touch "$run/.began"
}
finish() {
  local status=$?
  lap
  if ((status != 0)); then
    echo "run_demo.sh stopped; run the same command again to resume" >&2
    echo "other settings need another --out, other scenes another --data" >&2
  fi
}
trap finish EXIT

begin "1 scenes" "$data/images"
read -ra counts <<<"${SCENES:-train=30 val=100}"
"$python" -m demo.make_scenes --root "$data" --count "${counts[@]}" --seed "${SCENE_SEED:-2026}"

begin "2 pseudo-masks" "$masks"
score=(--score)
if [[ -f "$masks/score.json" && -z "$(find "$masks" -name '*.png' -newer "$masks/score.json")" ]]; then
  score=()
fi
# Of the held-out scenes, for the score. Training with views: dual makes masks of its own at every step.
"${launch[@]}" gen_clip_masks.py "${common[@]}" --split "$split" --out "$masks" ${score[@]+"${score[@]}"}
if [[ "$views" != dual ]]; then
  begin "2 pseudo-masks to train on" "$(key pseudo_masks)"
  "${launch[@]}" gen_clip_masks.py "${common[@]}"
fi

begin "3 warm-up" "$run/warmup/metrics.jsonl"
"${launch[@]}" train_warmup.py "${common[@]}" --run-dir "$run/warmup"
trained=(warmup)
if [[ "$carb" == true ]]; then
  begin "4 CARB" "$run/carb/metrics.jsonl"
  "${launch[@]}" train_carb.py "${common[@]}" --init "$run/warmup/last.pt" --run-dir "$run/carb"
  trained+=(carb)
fi

for network in "${trained[@]}"; do
  result="$run/$network/eval_$split/metrics.json"
  begin "5 evaluation of $network" "$result"
  if [[ "$result" -nt "$run/$network/last.pt" ]]; then
    echo "$result exists already"
  else
    "${launch[@]}" eval.py --ckpt "$run/$network/last.pt" --split "$split" --save-predictions \
      --set "data_root=$data" ${device[@]+"${device[@]}"}
  fi
done

lap
stage "6 report"
"$python" -m demo.report "$run" --split "$split"
printf 'To put all figures on one page: %s -m pip install matplotlib && %s report.py %q --make\n' "$python" "$python" "$run"
