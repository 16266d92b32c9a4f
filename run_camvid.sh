#!/usr/bin/env bash
# CamVid, all stages: bash run.sh configs/camvid.yaml. --help lists its options.
# The variable CONFIG names another config: configs/strong/camvid.yaml trains from stronger teachers.
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" "${CONFIG:-configs/camvid.yaml}" "$@"
