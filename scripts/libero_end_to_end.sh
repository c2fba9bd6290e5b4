#!/usr/bin/env bash
# The whole path on one real LIBERO scene: demonstrations, two iterations of SRPO with a SIGKILL and a resume between
# them, and an evaluation on official initial states. Needs `make libero` and LIBERO_ASSETS; takes some minutes on 2 cores.
#   bash scripts/libero_end_to_end.sh runs/libero_end_to_end
set -euo pipefail
cd "$(dirname "$0")/.."
: "${LIBERO_ASSETS:?set it to the folder that holds the assets of LIBERO (docs/libero.md)}"
export MUJOCO_GL="${MUJOCO_GL:-egl}" LP_NUM_THREADS="${LP_NUM_THREADS:-0}"
output="${1:?usage: libero_end_to_end.sh OUTPUT_FOLDER}"
vla="${VLA:-.venv/bin/vla}"

show() { echo "+ vla $*"; }
run() { show "$@"; "$vla" "$@"; }

mkdir -p "$output"
run collect suite=libero_spatial "tasks=[0]" policy=expert episodes_per_task=2 output="$output/demonstrations"

train=(train algo=srpo suite=libero_spatial "tasks=[0]" policy=reflex-tiny output="$output/srpo" iterations=2
  demonstrations="$output/demonstrations" encoder=pixels algo.group_size=4 algo.groups_per_iteration=2
  algo.max_sampling_rounds=1 num_slots=8 checkpoint_every=1 evaluate_every=2 evaluation_episodes_per_task=2
  videos_per_task=0)
show "${train[@]}"
"$vla" "${train[@]}" &
process=$!
# the first iteration's checkpoint is whole: kill in the middle of the second
until [ -d "$output/srpo/checkpoints/1" ]; do
  kill -0 "$process" 2>/dev/null || { echo "training ended before it could be killed" >&2; exit 1; }
  sleep 1
done
sleep 5
kill -9 "$process"
wait "$process" 2>/dev/null || echo "killed with SIGKILL (status $?) during iteration 2"
run "${train[@]}" resume=true
echo "steps in metrics.jsonl: $(grep -o '"step": [0-9]*' "$output/srpo/metrics.jsonl" | tr '\n' ' ')"
run eval policy="$output/srpo" suite=libero_spatial "tasks=[0]" episodes_per_task=4 output="$output/eval"
