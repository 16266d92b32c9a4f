#!/usr/bin/env bash
# Table 1 of the paper on the demo's scenes: makes .venv and the scenes, then trains all rows of
# demo/suites/demo_ablation.yaml with three seeds and prints the tables. Run it again to resume.
#   bash scripts/demo_ablation.sh --jobs 2 --rows Base "Base + CARB"
#   SUITE=demo_patch_size bash scripts/demo_ablation.sh         or demo_resize_ratio: the sweeps of Fig. 6
#   SUITE=demo_readouts bash scripts/demo_ablation.sh           or demo_teachers: stronger teachers
# Takes every option of experiments/ablation.py; the variable RUN names the output folder (runs/<suite>).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh requirements.txt
# The same scenes as run_demo.sh makes (a test compares).
.venv/bin/python -m demo.make_scenes --root data/demo --count train=30 val=100 --seed 2026
suite="${SUITE:-demo_ablation}"
exec .venv/bin/python -m experiments.ablation "demo/suites/$suite.yaml" --out "${RUN:-runs/$suite}" "$@"
