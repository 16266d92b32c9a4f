#!/usr/bin/env bash
# WildDash2, all stages: bash run.sh configs/wilddash2.yaml. --help lists its options.
# The variable CONFIG names another config: configs/strong/wilddash2.yaml trains from stronger teachers.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "${CONFIG:-configs/wilddash2.yaml}" "$@"
