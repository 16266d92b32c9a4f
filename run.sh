#!/usr/bin/env bash
# All stages of one data set, in order: image-level labels, CLIP pseudo-masks, warm-up, CARB, evaluation.
# Every script reports and skips what is finished; after an interruption, run the same command again to resume.
#
#   bash run.sh configs/mine.yaml
#   bash run.sh configs/cityscapes.yaml --gpus 4 --data /data/cityscapes --out runs/try --set precision=bf16 seed=1
#
# --gpus N              processes, one for each GPU (default 1)
# --data DIR            the data set (default: data_root of the config)
# --out RUN_DIR         folder of the checkpoints and results (default: runs/<name of the config>)
# --split NAME          split to evaluate (default: val_split of the config)
# --set KEY=VALUE ...   keys of the config to replace; evaluation reads the config that was trained
# --device NAME         cpu, cuda or mps (default: cuda where there is one)
#
# The variables NGPU, DATA, RUN and SPLIT do the same as the first four. Relative paths start at this script's folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
config=""
if [[ $# -gt 0 && "$1" != -* ]]; then
  config="$1"
  shift
fi
source scripts/stage_settings.sh "$@"
stopped() {
  local status=$?
  ((status == 0)) && return
  echo "run.sh stopped; run the same command again to resume" >&2
  [[ ! -d "$run" ]] || echo "other settings or data need another --out (or remove $run)" >&2
}
trap stopped EXIT
# In separate assignments: only there does a failing command stop the script.
dataset="$(key dataset)"
data="$(key data_root)"
class_file="$(key class_file)"
labels="$(key image_labels)"
views="$(key views)"
carb="$(key carb)"

stage "1 image-level labels"
if [[ -f "$labels" ]]; then
  echo "$labels exists already"
else
  "$python" prepare_data.py "$dataset" --root "$data" --class-file "$class_file" --out "$labels"
fi

stage "2 CLIP pseudo-masks"
if [[ "$views" != dual ]]; then
  "${launch[@]}" gen_clip_masks.py "${common[@]}"
else
  echo "made during training (views: dual); to look at them first:"
  printf '   '
  printf ' %q' "$python" gen_clip_masks.py "${common[@]}" --save-vis
  printf '\n'
fi

stage "3 warm-up"
"${launch[@]}" train_warmup.py "${common[@]}" --run-dir "$run/warmup"
final="$run/warmup"
if [[ "$carb" == true ]]; then
  stage "4 CARB"
  "${launch[@]}" train_carb.py "${common[@]}" --init "$run/warmup/last.pt" --run-dir "$run/carb"
  final="$run/carb"
fi

stage "5 evaluation"
if [[ "$final/eval_$split/metrics.json" -nt "$final/last.pt" ]]; then
  echo "$final/eval_$split/metrics.json exists already"
else
  "${launch[@]}" eval.py --ckpt "$final/last.pt" --split "$split" --save-vis ${device[@]+"${device[@]}"}
fi
