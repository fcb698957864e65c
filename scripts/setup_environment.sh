#!/usr/bin/env bash
# Create a virtual environment and install the project with the given extras: setup_environment.sh VENV EXTRAS
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extras=$2

fail() { echo "setup: $1" >&2; exit 1; }

supported() { "$1" -c 'import sys; raise SystemExit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }

if [ ! -x "$venv/bin/python" ]; then
    chosen=""
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if command -v "$candidate" >/dev/null 2>&1 && supported "$candidate"; then chosen=$candidate; break; fi
    done
    [ -n "$chosen" ] || fail "Python 3.11, 3.12 or 3.13 is needed and none was found. Install one, or name it: make tour PYTHON=/path/to/python3.12"
    echo "Creating $venv with $("$chosen" --version)."
    "$chosen" -m venv "$venv" || fail "the virtual environment could not be made. On Debian and Ubuntu: apt install python3-venv"
fi

pip() { "$venv/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }
pinned=$(grep -E '^torch==' constraints.txt)

# torch goes first and alone, pinned: resolved together with the rest, pip may pick a newer build of several gigabytes.
if ! "$venv/bin/python" -c 'import importlib.metadata as m, sys; sys.exit(m.version("torch").split("+")[0] != sys.argv[1])' "${pinned#torch==}" 2>/dev/null; then
    echo "Installing $pinned (the largest part; a few minutes on a slow line)."
    pip "$pinned" || fail "$pinned could not be installed: see pip's message above (no network, or no build for this Python?)."
fi

# A CUDA build of torch brought its own Triton. Beside a CPU build, tests of the kernels run with this one.
if [[ ",$extras," == *,gpu,* && "$(uname -s)" == Linux ]] && ! "$venv/bin/python" -c 'import triton' 2>/dev/null; then
    pip "triton==3.6.0" || fail "triton 3.6.0 could not be installed: see pip's message above."
fi
echo "Installing trtbench-lab[$extras] with the versions of constraints.txt."
pip --constraint constraints.txt --editable ".[$extras]" || fail "the packages could not be installed: see pip's message above."
