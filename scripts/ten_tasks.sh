#!/usr/bin/env bash
# The full recipe: three slow demonstrations of each of the ten tabletop tasks, fine-tuning, then reinforcement learning
# with held-out evaluations of 500 episodes. Run again after an interruption, it continues; GRPO starts from the same
# fine-tuned policy when it is given the same folder.
#   bash scripts/ten_tasks.sh srpo runs/ten_tasks [MINUTES]
set -euo pipefail
cd "$(dirname "$0")/.."
algorithm="${1:?usage: ten_tasks.sh srpo|grpo FOLDER [MINUTES]}" folder="${2:?usage: ten_tasks.sh srpo|grpo FOLDER [MINUTES]}"
minutes="${3:-140}"
export MUJOCO_GL="${MUJOCO_GL:-egl}" LP_NUM_THREADS="${LP_NUM_THREADS:-0}"
vla="${VLA:-.venv/bin/vla}"

if [ ! -d "$folder/demonstrations" ]; then
  "$vla" collect suite=tabletop episodes_per_task=3 pace=0.5 output="$folder/demonstrations"
fi
if [ ! -f "$folder/fine_tuning/summary.json" ]; then
  rm -rf "$folder/fine_tuning"
  "$vla" sft dataset="$folder/demonstrations" policy=reflex-tiny output="$folder/fine_tuning" steps=60 batch_size=32 \
    learning_rate=2e-4 warmup_steps=10 \
    augmentation.shift_pixels=0 augmentation.brightness=0.08 augmentation.contrast=0.1 augmentation.colour=0.05
fi
resume=false
if [ -d "$folder/$algorithm" ]; then resume=true; fi
"$vla" train algo="$algorithm" suite=tabletop policy="$folder/fine_tuning" demonstrations="$folder/demonstrations" \
  output="$folder/$algorithm" resume="$resume" algo.groups_per_iteration=40 iterations=100000 max_minutes="$minutes" \
  evaluate_every=10 evaluation_episodes_per_task=50 keep_checkpoints=2
