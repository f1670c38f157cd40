#!/usr/bin/env bash
# Makes the environment if it is missing and runs the main job; arguments are passed on as Hydra overrides:
#   bash scripts/quickstart.sh data.label_noise=0.5
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
python scripts/train.py "$@"
