# Sourced by run_cityscapes.sh, run_camvid.sh and run_wilddash2.sh: all stages of one data set, in order.
# A stage that is done is skipped (every script sees that for itself and says so); an interrupted one goes on.
#   NGPU=4 DATA=/data/cityscapes RUN=runs/mine bash run_cityscapes.sh --set precision=bf16
# NGPU  processes, one per GPU (default 1)        DATA  the data set (default: data_root of the config)
# RUN   folder for the checkpoints                SPLIT split to evaluate (default val)
# CONFIG another config, e.g. configs/official/cityscapes.yaml       Other arguments go to every stage.
name="$1"
shift
config="${CONFIG:-configs/$name.yaml}"
run="${RUN:-runs/$name}"
ngpu="${NGPU:-1}"
overrides=("$@")
if [[ -n "${DATA:-}" ]]; then
  data="$DATA"
  overrides+=(--set "data_root=$DATA")
else
  data="data/$name"
fi

source tools/environment.sh requirements.txt
python=.venv/bin/python
launch=("$python")
if ((ngpu > 1)); then
  launch=("$python" -m torch.distributed.run --standalone "--nproc_per_node=$ngpu")
fi
key() { # the value of a config key, overrides included
  "$python" -m utils.config "$config" "$1" ${overrides[@]+"${overrides[@]}"}
}

stage() { printf '\n== %s\n' "$*"; }

stage "1 image-level labels"
labels="$(key image_labels)"
if [[ -f "$labels" ]]; then
  echo "$labels is there"
else
  "$python" prepare_data.py "$name" --root "$data" --class-file "$(key class_file)" --out "$labels"
fi

views="$(key views)"
if [[ "$views" != dual ]]; then
  stage "2 CLIP pseudo-masks"
  "${launch[@]}" gen_clip_masks.py --config "$config" ${overrides[@]+"${overrides[@]}"}
else
  stage "2 CLIP pseudo-masks: made at every step (views: dual)"
fi

stage "3 warm-up"
"${launch[@]}" train_warmup.py --config "$config" --run-dir "$run/warmup" ${overrides[@]+"${overrides[@]}"}
final="$run/warmup"
if [[ "$(key carb)" == True ]]; then
  stage "4 CARB"
  "${launch[@]}" train_carb.py --config "$config" --init "$run/warmup/last.pt" --run-dir "$run/carb" \
    ${overrides[@]+"${overrides[@]}"}
  final="$run/carb"
fi

stage "5 evaluation"
split="${SPLIT:-val}"
if [[ "$final/eval_$split/metrics.json" -nt "$final/last.pt" ]]; then
  echo "$final/eval_$split/metrics.json is there"
else
  "${launch[@]}" eval.py --ckpt "$final/last.pt" --split "$split" --save-vis
fi
