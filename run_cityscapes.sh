#!/usr/bin/env bash
# Cityscapes, all stages: bash run.sh configs/cityscapes.yaml. --help lists its options.
# The variable CONFIG names another config: configs/strong/cityscapes.yaml trains from stronger teachers.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "${CONFIG:-configs/cityscapes.yaml}" "$@"
