#!/usr/bin/env bash
# Connects the `lerobot` package's own SO-101, over Feetech's SDK, to the emulated one, reads, moves and calibrates it.
# Prints a JSON result; exit status 1 when a check failed.
#
#   scripts/check_lerobot_bus.sh [environment]
#
# The environment is that of scripts/check_lerobot.sh, which creates it; Feetech's SDK is added to it here.
# PYTHON is the interpreter with this project installed (default: .venv/bin/python).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
environment=${1:-${LEROBOT_VENV:-${TMPDIR:-/tmp}/reflex-lerobot}}
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)
if [ ! -e "$environment/ready" ]; then
    echo "there is no lerobot in $environment; scripts/check_lerobot.sh creates it" >&2
    exit 2
fi
"$environment/bin/pip" install --quiet --disable-pip-version-check --no-deps "pyserial>=3.5" "feetech-servo-sdk==1.0.0" >&2

commit=$(git -C "$root" rev-parse --short HEAD 2>/dev/null || echo unknown)
work=$(mktemp -d)
PYTHONPATH=$root "$python" -m vla robot emulate robot=so101 task=1 calibration="$work/emulated.json" >"$work/said" &
emulator=$!
trap 'kill $emulator 2>/dev/null || true; wait $emulator || true; rm -rf "$work"' EXIT
for _ in $(seq 300); do
    grep -q "^status" "$work/said" && break
    kill -0 $emulator
    sleep 0.1
done
said() { sed -n "s/^$1: //p" "$work/said"; }
HF_HUB_OFFLINE=1 "$environment/bin/python" "$root/scripts/check_lerobot_bus.py" \
    "$(said port)" "$work/emulated.json" "$(said status)" "$commit"
