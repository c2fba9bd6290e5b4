"""What an override that names no setting is answered with: former names, and names that other software has.

A setting that is renamed gets a row in `FORMER_SETTINGS`, a renamed choice one in `FORMER_CHOICES`; nothing else is to
be done. A row is for every command that has the new name.
"""

from __future__ import annotations

from collections.abc import Collection

FORMER_SETTINGS: dict[str, str] = {
    "algo.alpha": "algo.settings.srpo.alpha",
    "algo.chunk_correlation": "algo.sampling.chunk_correlation",
    "algo.critic_decay": "algo.settings.critic.decay",
    "algo.critic_window": "algo.settings.critic.window",
    "algo.implicit_beta": "algo.settings.oprl.beta",
    "algo.likely_success_margin": "algo.settings.grpo_care.margin",
    "algo.metric": "algo.settings.srpo.metric",
    "algo.minimum_deviation": "algo.settings.group_mean.minimum_deviation",
    "algo.pacs_beta": "algo.settings.pacs.beta",
    "algo.step_tolerance": "algo.settings.salt.tolerance",
    "algo.step_weight": "algo.settings.step_progress.weight",
    "algo.success_age": "algo.settings.success_bank.age",
    "algo.temperature": "algo.sampling.temperature",
    "algo.token_noise": "algo.sampling.token_noise",
    "eval_episodes_per_task": "evaluation_episodes_per_task",
    "eval_every": "evaluate_every",
    "eval_split": "evaluation_split",
    "eval_suite": "evaluation_suite",
    "torch_threads": "threads",
}
"""Former name of a setting -> its name now."""

FORMER_METHODS: dict[str, str] = {
    "algo.demonstration_starts": (
        "algo.variants=[demonstration_starts] algo.settings.demonstration_starts.share={value}"
    ),
    "algo.difficulty_weight": "algo.variants=[difficulty_weight]",
    "algo.kl_demonstrations": (
        "algo.variants=[demonstration_regularisation] algo.settings.demonstration_regularisation.demonstrations={value}"
    ),
    "algo.likely_success_bonus": "algo.variants=[grpo_care] algo.settings.grpo_care.bonus={value}",
    "algo.pay_failures": "algo.reward=without_success",
    "algo.reference_scope": "algo.reward=reference_scope algo.settings.reference_scope.scope={value}",
    "algo.replay": "algo.variants=[webrl_replay] algo.settings.webrl_replay.capacity={value}",
    "algo.step_credit": "algo.variants=[salt] for shared, [step_progress] for progress, [oprl] for implicit",
    "algo.success_bank": "algo.reward=success_bank algo.settings.success_bank.capacity={value}",
}
"""Former setting of what is a reward or a variant by name now -> what to write."""

FORMER_CHOICES: dict[str, dict[str, str]] = {
    "algo.advantage": {"grpo": "group_mean"},
    "algo.sampling": {
        "even": "algo.initial_states=even",
        "gate": "algo.variants=[webrl_gate] algo.initial_states=even",
        "uncertain": "algo.initial_states=uncertain",
    },
}
"""Setting -> former name of one of its choices -> its name now, or what to write instead."""

_EPISODES = ("episodes_per_task", "demonstrations_per_task", "play_episodes", "evaluation_episodes_per_task")
_STEPS = ("steps", "fine_tune_steps", "imitation.steps", "iterations", "max_minutes", "train_minutes")
_ENVIRONMENTS = ("num_slots", "num_workers")

OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "batch_size": ("algo.minibatch_size", "num_slots"),
    "benchmark": ("suite",),
    "bs": ("batch_size", "algo.minibatch_size"),
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
    "eval_episodes": ("evaluation_episodes_per_task", "episodes_per_task"),
    "exp_name": ("output",),
    "experiment_name": ("output",),
    "gpu": ("device",),
    "grad_clip": ("gradient_clip", "algo.max_gradient_norm"),
    "grad_norm": ("gradient_clip", "algo.max_gradient_norm"),
    "init_states": ("episodes_per_task", "evaluation_episodes_per_task"),
    "iters": ("iterations", "steps"),
    "kl_coef": ("algo.kl_coefficient",),
    "log_dir": ("output",),
    "lr": ("learning_rate", "algo.learning_rate", "imitation.learning_rate"),
    "max_epochs": ("steps", "fine_tune_steps", "imitation.steps", "iterations"),
    "max_grad_norm": ("gradient_clip", "algo.max_gradient_norm"),
    "max_iterations": ("iterations", "steps"),
    "max_steps": _STEPS,
    "mini_batch_size": ("algo.minibatch_size", "batch_size"),
    "model": ("policy",),
    "model_path": ("policy",),
    "n_envs": _ENVIRONMENTS,
    "n_episodes": _EPISODES,
    "n_eval_episodes": ("evaluation_episodes_per_task", "episodes_per_task"),
    "num_envs": _ENVIRONMENTS,
    "num_episodes": _EPISODES,
    "num_epochs": ("steps", "fine_tune_steps", "imitation.steps", "iterations", "algo.update_epochs"),
    "num_processes": ("num_workers",),
    "num_rollouts": ("episodes_per_task", "rollouts", "algo.groups_per_iteration"),
    "num_steps": _STEPS,
    "num_train_epochs": ("steps", "fine_tune_steps", "imitation.steps", "iterations"),
    "num_trials_per_task": ("episodes_per_task", "evaluation_episodes_per_task"),
    "out": ("output",),
    "output_dir": ("output",),
    "per_device_train_batch_size": ("batch_size", "algo.micro_batch_size"),
    "pretrained_checkpoint": ("policy",),
    "pretrained_path": ("policy",),
    "random_seed": ("seed",),
    "repo_id": ("dataset", "demonstrations"),
    "resume_from_checkpoint": ("resume",),
    "save_dir": ("output",),
    "save_freq": ("checkpoint_every",),
    "save_steps": ("checkpoint_every",),
    "task": ("tasks",),
    "task_id": ("tasks",),
    "task_ids": ("tasks",),
    "task_suite_name": ("suite",),
    "temperature": ("algo.sampling.temperature", "sampling.temperature"),
    "total_steps": _STEPS,
    "total_timesteps": ("iterations", "max_minutes", "train_minutes"),
    "train_steps": _STEPS,
    "report_to": ("logger",),
    "run_name": ("output",),
    "use_wandb": ("logger",),
    "wandb": ("logger",),
    "warmup": ("warmup_steps", "algo.warmup_iterations"),
    "workers": ("num_workers",),
}
"""What a setting is called elsewhere -> ours that do it, the nearest first."""


_OF_PARTS = ("algo.settings.", "settings.")
"""How the names of settings begin that belong to a reward, an advantage, a variant or an offline algorithm."""


def explain_setting(name: str, value: str, known: Collection[str]) -> str | None:
    """What to write instead of `name`=`value` in a command whose settings are `known`; None where nothing is."""
    now = FORMER_SETTINGS.get(name)
    if now is not None and (now in known or (now.startswith("algo.settings.") and "algo.settings" in known)):
        return f"{name} is now {now}: write {now}={value}"
    if name in FORMER_METHODS and "algo.settings" in known:
        return f"{name} is gone: write {FORMER_METHODS[name].format(value=value)}"
    if name.startswith(_OF_PARTS):
        return None  # what a part can be told is known once the part is
    leaf = name.rpartition(".")[2]  # `algo.lr` is meant as `lr` is
    ours = [setting for setting in OTHER_NAMES.get(leaf, ()) if setting in known]
    return f"{name} is called {' or '.join(ours[:2])} here" if ours else None


def explain_choice(name: str, value: str) -> str | None:
    """What to write instead of a former choice `value` of a setting; None where it is none."""
    now = FORMER_CHOICES.get(name, {}).get(value)
    if now is None:
        return None
    return f"{name}={value} is now {now if '=' in now else f'{name}={now}'}"
