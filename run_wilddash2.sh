#!/usr/bin/env bash
# WildDash2, all stages: bash run.sh configs/wilddash2.yaml. --help lists its options.
# The variable CONFIG names another config.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "${CONFIG:-configs/wilddash2.yaml}" "$@"
