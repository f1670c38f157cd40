# Makes the environment `.venv` beside this repository's files if it is missing or out of date, and enters it.
# Sourced by quickstart.sh and check.sh; needs bash and Python 3.10 or later, nothing else.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$root"
export PYTHONUTF8=1

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3 python python3.13 python3.12 python3.11 python3.10; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "Expected Python 3.10 or later, but found none; install it or set PYTHON to its path." >&2
    return 1
}

# The stamp is written last, so that an installation that broke off is made again.
wanted="$(cat pyproject.toml constraints.txt | cksum)"
if [ "$(cat .venv/.installed 2>/dev/null)" != "$wanted" ]; then
    python="$(find_python)"
    echo "Making the environment .venv with $("$python" --version); its packages are downloaded once ..."
    "$python" -m venv --clear .venv
    if ! log="$(.venv/bin/python -m pip install --disable-pip-version-check \
        --constraint constraints.txt --editable '.[experiments,dev]' 2>&1)"; then
        echo "$log" >&2
        echo "Expected to install the packages of constraints.txt, but pip failed (see above)." >&2
        exit 1
    fi
    echo "$wanted" >.venv/.installed
fi
export PATH="$root/.venv/bin:$PATH"
