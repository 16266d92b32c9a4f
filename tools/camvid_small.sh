#!/usr/bin/env bash
# The CamVid experiment of the README: supervised upper bound, then Base and Base + CARB on stored noisy masks.
#   bash tools/camvid_small.sh          SEEDS="0 1 2", STEPS, WARMUP and RUN can be set; finished stages are skipped
# Needs data/camvid (images, ground truth, noisy_masks, image_labels.json) and the partial ResNet-50, see the README.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/environment.sh requirements.txt
python=.venv/bin/python
seeds="${SEEDS:-0 1 2}"
run="${RUN:-runs/camvid_small}"
common=(--config configs/camvid_small.yaml --set "steps=${STEPS:-1200}" --set "warmup_steps=${WARMUP:-400}")

$python train_supervised.py "${common[@]}" --run-dir "$run/supervised"
for seed in $seeds; do
  $python train_warmup.py "${common[@]}" --set "seed=$seed" --set carb=false --run-dir "$run/base_$seed"
  $python train_carb.py "${common[@]}" --set "seed=$seed" \
    --init "$run/base_$seed/warmup.pt" --run-dir "$run/carb_$seed"
done
for folder in "$run"/*/; do
  [[ -f "$folder/last.pt" && ! -f "$folder/eval_val/metrics.json" ]] || continue
  $python eval.py --ckpt "$folder/last.pt" --split val
done
$python -m tools.seed_table "$run"
