#!/usr/bin/env bash
# Cityscapes, all stages: bash run.sh configs/cityscapes.yaml. --help lists its options.
# The variable CONFIG names another config.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "${CONFIG:-configs/cityscapes.yaml}" "$@"
