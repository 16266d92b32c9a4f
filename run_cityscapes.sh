#!/usr/bin/env bash
# Cityscapes, all stages in sequence: image-level labels, CLIP pseudo-masks, warm-up, CARB, evaluation.
# tools/run_stages.sh lists the variables (NGPU, DATA, RUN, CONFIG) and what is skipped when done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
source tools/run_stages.sh cityscapes "$@"
