#!/bin/sh
# Makes the environments of the programs that benchmarks/peers.py runs, below build/peers. Their licences (AGPL, GPL) are
# not ours: they stay out of .venv, are only run as commands, and are not shipped.
#
#   benchmarks/peers.sh        a second run only compares checksums
set -eu
cd "$(dirname "$0")/.."

make_environment() {
    folder=build/peers/$1 constraints=benchmarks/peers-$1.txt package=$2
    wanted=$(cksum < "$constraints")
    if [ "$(cat "$folder/.complete" 2>/dev/null)" = "$wanted" ]; then
        return
    fi
    echo "Installing $package into $folder (once, some minutes)"
    "$(tools/environment.sh --python)" -m venv --clear "$folder"
    "$folder/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" "$package"
    echo "$wanted" > "$folder/.complete"
}

make_environment webknossos "webknossos[all]"
make_environment igneous igneous-pipeline
