#!/usr/bin/env bash
# Makes the environment if it is missing and runs linters, type checks, doctests and tests; arguments go to pytest.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
ruff check .
ruff format --check .
mypy
python -m pytest "$@"
