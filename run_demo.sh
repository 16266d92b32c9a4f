#!/usr/bin/env bash
# The whole method in minutes on 2 CPU cores, without data or weights to fetch: synthetic street scenes for
# Cityscapes, the miniature CLIP of models/miniature for OpenAI's; the scripts are the real ones. It ends with a
# table and a picture. Finished stages are skipped and an interrupted one goes on when it is started again.
#   bash run_demo.sh          SEED=1 RUN=runs/demo_1 bash run_demo.sh --set views=local
# RUN     folder of the results (runs/demo): one for each choice of settings
# DATA    folder of the scenes (data/demo)      SCENES, SCENE_SEED  how many and which ("train=30 val=100", 2026)
# SEED    of training                           STEPS, WARMUP  in all, and before CARB (four fifths)
# DEVICE  cpu or cuda (cuda where there is one) NGPU  processes (1)        CONFIG  (configs/demo.yaml)
# Paths are seen from this folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

chosen=()
if [[ -n "${DATA:-}" ]]; then
  chosen+=(--set "image_labels=$DATA/image_labels.json" --set "pseudo_masks=$DATA/clip_masks")
  chosen+=(--set "clip_text=$DATA/clip_text.pt")
fi
if [[ -n "${STEPS:-}" ]]; then
  [[ "$STEPS" =~ ^[1-9][0-9]*$ ]] || { echo "error: STEPS must be a number, found: $STEPS" >&2 && exit 2; }
  chosen+=(--set "steps=$STEPS" --set "warmup_steps=${WARMUP:-$((STEPS * 4 / 5))}")
elif [[ -n "${WARMUP:-}" ]]; then
  chosen+=(--set "warmup_steps=$WARMUP")
fi
[[ -z "${SEED:-}" ]] || chosen+=(--set "seed=$SEED")
[[ -z "${DEVICE:-}" ]] || chosen+=(--device "$DEVICE")
source tools/stage_settings.sh demo ${chosen[@]+"${chosen[@]}"} "$@"
# In assignments of their own: only there does a failing command stop the script.
data="$(key data_root)"
views="$(key views)"
carb="$(key carb)"
masks="$run/masks_$split"
mkdir -p "$run"

# A stage's seconds count when it wrote something: finished ones only look.
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
    echo "run_demo.sh stopped; after an interruption the same command goes on" >&2
    echo "other settings want another RUN, other scenes another DATA" >&2
  fi
}
trap finish EXIT

begin "1 scenes" "$data/images"
read -ra counts <<<"${SCENES:-train=30 val=100}"
"$python" prepare_data.py synthetic --root "$data" --count "${counts[@]}" --seed "${SCENE_SEED:-2026}"

begin "2 pseudo-masks" "$masks"
score=(--score)
if [[ -f "$masks/score.json" && -z "$(find "$masks" -name '*.png' -newer "$masks/score.json")" ]]; then
  score=()
fi
# Of the held-out scenes, for their score. Training with views: dual makes its own at every step.
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
    echo "$result is there"
  else
    "${launch[@]}" eval.py --ckpt "$run/$network/last.pt" --split "$split" --save-predictions \
      --set "data_root=$data" ${device[@]+"${device[@]}"}
  fi
done

lap
stage "6 report"
"$python" -m tools.demo_report "$run" --split "$split"
printf 'All figures on one page: %s -m pip install matplotlib && %s report.py %q --make\n' "$python" "$python" "$run"
