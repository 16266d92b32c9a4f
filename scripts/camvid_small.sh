#!/usr/bin/env bash
# The CamVid experiment of docs/experiments.md: Base and Base + CARB on stored noisy masks, and full supervision.
#   bash scripts/camvid_small.sh --seeds 0 --set steps=2000 warmup_steps=1400
# Takes every option of experiments/ablation.py; the variable RUN names the output folder (runs/camvid_small).
# Needs data/camvid (images, ground truth, noisy_masks, image_labels.json) and the partial ResNet-50.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh requirements.txt
exec .venv/bin/python -m experiments.ablation experiments/suites/camvid_ablation.yaml --out "${RUN:-runs/camvid_small}" "$@"
