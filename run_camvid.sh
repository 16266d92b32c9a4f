#!/usr/bin/env bash
# CamVid, all stages: bash run.sh configs/camvid.yaml. --help lists its options.
# The variable CONFIG names another config.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "${CONFIG:-configs/camvid.yaml}" "$@"
