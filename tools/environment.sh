#!/bin/sh
# Makes .venv with a Python of this machine and installs Voxelworks into it, with the tested versions of constraints.txt.
#
#   tools/environment.sh           what users need
#   tools/environment.sh test      ... and what the tests need
#   tools/environment.sh dev       ... and what `make check` needs
#   tools/environment.sh --python  only prints the Python that it would take
#
# PYTHON=/path/to/python3.12 chooses the Python that .venv is made with. A second run only compares a checksum.
set -eu
cd "$(dirname "$0")/.."

extra=${1:-}
venv=.venv

main() {
    stamp=$venv/.voxelworks-installed
    wanted=$(fingerprint)
    if [ -f "$stamp" ] && [ "$(sed -n 1p "$stamp")" != "$wanted" ]; then
        rm "$stamp"
    fi
    if [ -f "$stamp" ] && includes "$(sed -n 2p "$stamp")"; then
        return
    fi
    runs_here || make_environment
    echo "Installing Voxelworks into $venv (once, some minutes)"
    if [ -n "$extra" ]; then package=".[$extra]"; else package=.; fi
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable "$package"
    printf '%s\n%s\n' "$wanted" "$extra" > "$stamp"
}

# What an installation depends on. The place is part of it: an environment does not survive being moved or copied.
fingerprint() {
    { pwd; cat pyproject.toml constraints.txt; } | cksum
}

# Whether an installation of the given extra holds all that is wanted now: dev > test > none.
includes() {
    case "$extra" in
        "") true ;;
        test) [ "$1" = test ] || [ "$1" = dev ] ;;
        *) [ "$1" = "$extra" ] ;;
    esac
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

has_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

runs_here() {
    [ -x "$venv/bin/python" ] && is_supported "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 &&
        grep -qF "$(pwd -P)/$venv" "$venv/bin/activate"
}

make_environment() {
    python=$(find_python)
    echo "Making $venv with $python ($("$python" --version 2>&1))"
    "$python" -m venv --clear "$venv"
}

# Prints the first Python that really runs, has a supported version and can make environments. Every folder of PATH is
# looked at, because a launcher of a version manager may stand before a Python that works, and itself run nothing.
find_python() {
    without_venv=
    IFS='
'
    for candidate in $(candidates); do
        is_supported "$candidate" || continue
        if has_venv "$candidate"; then
            echo "$candidate"
            return
        fi
        without_venv=${without_venv:-$candidate}
    done
    if [ -z "$without_venv" ]; then
        fail "Voxelworks needs Python 3.11, 3.12 or 3.13, but finds none that runs ${PYTHON:+as }${PYTHON:-in PATH}: install one, or name it with PYTHON=/path/to/python3.12."
    fi
    version=$("$without_venv" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ -f /etc/debian_version ]; then
        fail "$without_venv cannot make virtual environments: run \`apt-get install python$version-venv\` as root, then try again."
    fi
    fail "$without_venv cannot make virtual environments: install the package of your system with venv and ensurepip for Python $version, then try again."
}

candidates() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" || true
        return
    fi
    for name in python3.13 python3.12 python3.11 python3 python; do
        echo "$PATH" | tr : '\n' | while IFS= read -r folder; do
            if [ -x "$folder/$name" ] && [ ! -d "$folder/$name" ]; then echo "$folder/$name"; fi
        done
    done
}

fail() {
    echo "error: $1" >&2
    exit 1
}

if [ "$extra" = --python ]; then find_python; else main; fi
