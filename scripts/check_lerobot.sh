#!/usr/bin/env bash
# Reads a dataset with the `lerobot` package of PyPI, in an environment of its own, and compares every frame, state,
# task and episode boundary with what this project's reader sees. Prints a JSON result; exit status 1 on a difference.
#
#   scripts/check_lerobot.sh <dataset> [environment]
#   scripts/check_lerobot.sh --robots [environment]
#
# The second form records datasets of four kinds of robots with lerobot, and compares those and what this project's
# writer makes of them.
#
# The environment (default: $LEROBOT_VENV, or reflex-lerobot under $TMPDIR) is created once and reused.
# PYTHON is the interpreter with this project installed (default: .venv/bin/python).
set -euo pipefail

if [ $# -lt 1 ] || { [ ! -d "$1" ] && [ "$1" != --robots ]; }; then
    echo "usage: scripts/check_lerobot.sh <dataset folder>|--robots [environment folder]" >&2
    exit 2
fi
root=$(cd "$(dirname "$0")/.." && pwd)
environment=${2:-${LEROBOT_VENV:-${TMPDIR:-/tmp}/reflex-lerobot}}
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)

if [ ! -e "$environment/ready" ]; then
    echo "creating $environment" >&2
    "$python" -m venv "$environment" >&2
    install=("$environment/bin/pip" install --quiet --disable-pip-version-check)
    # lerobot 0.4.4 asks for torchvision and for a torch below 2.11, which no CPU build of torchvision here matches. Its
    # dataset code needs neither, so it goes in without its dependencies and with those that this code imports.
    "${install[@]}" "torch==2.13.0" >&2
    "${install[@]}" "accelerate<2" "datasets>=4,<5" "huggingface-hub>=0.34.2,<0.36" "av>=15,<16" "draccus==0.10.0" "packaging<26" \
        "deepdiff<9" "einops<0.9" "jsonlines<5" "numpy<2.3" "setuptools<81" pandas pillow termcolor tqdm >&2
    "${install[@]}" --no-deps "lerobot==0.4.4" >&2
    touch "$environment/ready"
fi

commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
here() { PYTHONPATH=$root "$python" "$root/scripts/check_lerobot.py" "$@" >&2; }
# A cache of its own: the datasets package would otherwise keep tables of earlier versions of the same folder.
lerobot() {
    HF_DATASETS_CACHE="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_LEROBOT_HOME="$work/lerobot" SVT_LOG=1 \
        "$environment/bin/python" "$root/scripts/check_lerobot.py" "$@"
}

if [ "$1" != --robots ]; then
    dataset=$(cd "$1" && pwd)
    here dump "$dataset" "$work/dump"
    lerobot compare "$dataset" "$work/dump" "$commit"
    exit
fi

mkdir "$work/recorded" "$work/written" "$work/results"
lerobot record "$work/recorded" >&2
for dataset in "$work"/recorded/*; do
    name=$(basename "$dataset")
    here dump "$dataset" "$work/dump/$name"
    lerobot compare "$dataset" "$work/dump/$name" "$commit" >"$work/results/${name}_recorded_by_lerobot.json" || true
    here rewrite "$dataset" "$work/written/$name"
    here dump "$work/written/$name" "$work/dump/written_$name"
    lerobot compare "$work/written/$name" "$work/dump/written_$name" "$commit" >"$work/results/${name}_written_here.json" || true
done
lerobot collect "$work/results" "$commit"
