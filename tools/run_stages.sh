# Sourced by run_cityscapes.sh, run_camvid.sh and run_wilddash2.sh: all stages of one data set, in order.
# A stage that is done is skipped (every script sees that for itself and says so); an interrupted one goes on.
#   NGPU=4 DATA=/data/cityscapes RUN=runs/mine bash run_cityscapes.sh --set precision=bf16 --set seed=1
# NGPU  processes, one per GPU (default 1)        DATA  the data set (default: data_root of the config)
# RUN   folder for the checkpoints (default runs/<config>)   SPLIT split to evaluate (default val)
# CONFIG another config, e.g. configs/official/cityscapes.yaml
# --set KEY=VALUE (any number) goes to pseudo-masks and training; evaluation reads the trained config.
# --device cpu|cuda goes to all of these.
source tools/stage_settings.sh "$@"
# In assignments of their own: only there does a failing command stop the script.
dataset="$(key dataset)"
data="$(key data_root)"
class_file="$(key class_file)"
labels="$(key image_labels)"
views="$(key views)"
carb="$(key carb)"

stage "1 image-level labels"
if [[ -f "$labels" ]]; then
  echo "$labels is there"
else
  "$python" prepare_data.py "$dataset" --root "$data" --class-file "$class_file" --out "$labels"
fi

if [[ "$views" != dual ]]; then
  stage "2 CLIP pseudo-masks"
  "${launch[@]}" gen_clip_masks.py "${common[@]}"
else
  stage "2 CLIP pseudo-masks: made at every step (views: dual)"
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
  echo "$final/eval_$split/metrics.json is there"
else
  "${launch[@]}" eval.py --ckpt "$final/last.pt" --split "$split" --save-vis ${device[@]+"${device[@]}"}
fi
