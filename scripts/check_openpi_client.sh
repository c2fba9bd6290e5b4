#!/usr/bin/env bash
# Asks a policy served here with openpi's own client, as it is on PyPI, in an environment of its own. Prints a JSON
# result; exit status 1 on a difference from the policy in process.
#
#   scripts/check_openpi_client.sh [policy] [environment]
#
# The environment (default: $OPENPI_VENV, or reflex-openpi under $TMPDIR) is created once and reused.
# PYTHON is the interpreter with this project installed (default: .venv/bin/python).
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
policy=${1:-reflex-tiny}
environment=${2:-${OPENPI_VENV:-${TMPDIR:-/tmp}/reflex-openpi}}
python=${PYTHON:-$root/.venv/bin/python}
[ -x "$python" ] || python=$(command -v python3)

if [ ! -e "$environment/ready" ]; then
    echo "creating $environment" >&2
    "$python" -m venv "$environment" >&2
    install=("$environment/bin/pip" install --quiet --disable-pip-version-check)
    # openpi-client 0.1.2 pins numpy below 2 and forgets typing_extensions; it runs with numpy 2.
    "${install[@]}" --no-deps "openpi-client==0.1.2" >&2
    "${install[@]}" dm-tree msgpack "numpy>=2" pillow typing_extensions websockets >&2
    touch "$environment/ready"
fi

work=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
export PYTHONPATH=$root
head -c 24 /dev/urandom | base64 | tr -d '/+=\n' >"$work/token"
"$python" -m vla serve policy="$policy" threads=1 port=0 token_file="$work/token" 2>"$work/log" &
server=$!
for _ in $(seq 600); do
    address=$(sed -n 's/^serving .* at \(ws:\/\/[^ ]*\).*/\1/p' "$work/log")
    [ -n "$address" ] && break
    kill -0 "$server" 2>/dev/null || { cat "$work/log" >&2; exit 1; }
    sleep 0.1
done
[ -n "$address" ] || { echo "the server did not start" >&2; exit 1; }

"$python" "$root/scripts/check_openpi_client.py" expected "$policy" "$work/expected.npz" >&2
PYTHONPATH='' "$environment/bin/python" "$root/scripts/check_openpi_client.py" ask "$address" "$work"
