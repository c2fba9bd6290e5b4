"""What an override that names no setting is answered with: former names, and names that other software has.

A setting that is renamed gets a row in `FORMER_SETTINGS`, a renamed choice one in `FORMER_CHOICES`; nothing else is to
be done. A row is for every command that has the new name.
"""

from __future__ import annotations

from collections.abc import Collection

FORMER_SETTINGS: dict[str, str] = {
    "eval_episodes_per_task": "evaluation_episodes_per_task",
    "eval_every": "evaluate_every",
    "eval_split": "evaluation_split",
    "eval_suite": "evaluation_suite",
    "torch_threads": "threads",
}
"""Former name of a setting -> its name now."""

FORMER_CHOICES: dict[str, dict[str, str]] = {}
"""Setting -> former name of one of its choices -> its name now, such as {"algo.reward": {"sparse": "binary"}}."""

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "batch_size": ("algo.minibatch_size", "num_slots"),
    "benchmark": ("suite",),
    "checkpoint": ("policy",),
    "checkpoint_dir": ("output",),
    "checkpoint_path": ("policy",),
    "clip_range": ("algo.clip_low", "algo.clip_high"),
    "data": ("dataset", "demonstrations"),
    "dataset_path": ("dataset", "demonstrations"),
    "env": ("suite",),
    "env_name": ("suite",),
    "epochs": ("steps", "fine_tune_steps", "imitation.steps", "iterations", "algo.update_epochs"),
    "eval_freq": ("evaluate_every",),
    "gpu": ("device",),
    "grad_clip": ("gradient_clip", "algo.max_gradient_norm"),
    "kl_coef": ("algo.kl_coefficient",),
    "lr": ("learning_rate", "algo.learning_rate", "imitation.learning_rate"),
    "max_steps": ("steps", "fine_tune_steps", "imitation.steps", "iterations", "max_minutes", "train_minutes"),
    "model": ("policy",),
    "n_envs": ("num_slots", "num_workers"),
    "num_envs": ("num_slots", "num_workers"),
    "num_episodes": ("episodes_per_task", "demonstrations_per_task", "play_episodes", "evaluation_episodes_per_task"),
    "num_trials_per_task": ("episodes_per_task", "evaluation_episodes_per_task"),
    "out": ("output",),
    "output_dir": ("output",),
    "pretrained_checkpoint": ("policy",),
    "save_dir": ("output",),
    "save_freq": ("checkpoint_every",),
    "task": ("tasks",),
    "task_suite_name": ("suite",),
    "total_timesteps": ("iterations", "max_minutes", "train_minutes"),
    "workers": ("num_workers",),
}
"""What a setting is called elsewhere -> ours that do it, the nearest first."""


def explain_setting(name: str, value: str, known: Collection[str]) -> str | None:
    """What to write instead of `name`=`value` in a command whose settings are `known`; None where nothing is."""
    now = FORMER_SETTINGS.get(name)
    if now in known:
        return f"{name} is now {now}: write {now}={value}"
    leaf = name.rpartition(".")[2]  # `algo.lr` is meant as `lr` is
    ours = [setting for setting in OTHER_NAMES.get(leaf, ()) if setting in known]
    return f"{name} is called {' or '.join(ours[:2])} here" if ours else None


def explain_choice(name: str, value: str) -> str | None:
    """What to write instead of a former choice `value` of a setting; None where it is none."""
    now = FORMER_CHOICES.get(name, {}).get(value)
    return None if now is None else f"{name}={value} is now {name}={now}"
