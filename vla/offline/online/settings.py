"""Settings of `vla online`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from vla.errors import ReflexError
from vla.run.run_folder import Logger, dated_folder
from vla.run.settings import Checks

RESUME_MAY_CHANGE = frozenset(
    {"output", "resume", "device", "threads", "logger", "keep_checkpoints", "num_workers", "compiled", "episodes",
     "target_success", "success_window", "success_levels"}
)  # fmt: skip
"""Fields that a resumed run may set anew; any other change would make two runs of one."""


@dataclass(kw_only=True)
class OnlineConfig:
    """Go on from `vla offline` in a suite."""

    start: str
    """Run folder of `vla offline`, with critics: of any algorithm but bc. Whatever is not set here is as it was
    there."""
    suite: str
    """Suite to play in: of the robot that the logs are of."""
    output: str = field(default_factory=partial(dated_folder, "online"))
    """Run folder to write; it has the date where none is given."""
    logs: str | None = None
    """The dataset that `start` learnt from, where it is elsewhere by now; null where it was."""
    reward_model: str | None = None
    """Folder of the model that the logs were relabelled with, where it is elsewhere by now; null where it was."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the algorithm, by its name, where they are to be other than in `start`, e.g. settings.iql.temperature=10."""
    tasks: list[int] | None = None
    """Task ids to play; null takes those of `start`, or all of the suite."""
    episodes: int = 600
    """Training rollouts to play. A finished run takes more with `resume=true`."""
    episodes_per_round: int = 20
    """Training rollouts between updates."""
    updates_per_step: float = 0.25
    """Gradient updates for each control step that was played."""
    logged_share: float = 0.5
    """Share of every batch that is from the logs; the rest is from all that was played."""
    exploration_noise: float = 0.12
    """Mean deviation of the actions in training rollouts, at the scale of [-1, 1]. The policy's own would be too wide
    after offline RL, which learns that of the data's actions or none, and too narrow once it learns from its own."""
    success_window: int = 50
    """Training rollouts whose success rate the summary's `episodes_to` goes by."""
    success_levels: list[float] = field(default_factory=lambda: [0.5, 0.8, 0.9])
    """Success rates of which the summary says after how many training rollouts they were reached."""
    target_success: float | None = None
    """Stop when held-out success reaches this share; null to go on."""
    evaluate_every: int = 5
    """Rounds between evaluations; the start and the end are always evaluated. 0 for never."""
    evaluation_episodes_per_task: int = 20
    """Held-out initial states of each task in an evaluation."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core, 0 to simulate in this process."""
    keep_checkpoints: int | None = 2
    """There is a checkpoint after every round: delete all but this many newest ones; null keeps all."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the products of hidden layers: "auto" is bfloat16 where the hardware multiplies it."""
    compiled: bool | None = None
    """Compile the update; null where it paid in `start` and there is a C++ compiler."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core. Another number rounds sums otherwise."""
    seed: int = 0
    """Determines initial states, the sampling of actions and batches."""
    logger: Logger = "tensorboard"
    """Where metrics are shown beside `metrics.jsonl`: "tensorboard", or "wandb" as well (the extra `wandb`)."""
    resume: bool = False
    """Continue the run in `output` from its last checkpoint."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        check = Checks(self)
        check.shared()
        check.at_least(1, "episodes", "episodes_per_round", "success_window")
        check.positive("updates_per_step", "exploration_noise")
        check.within(0, 1, "logged_share", "target_success")
        if not all(0 < level <= 1 for level in self.success_levels):
            raise ReflexError(f"success_levels is {self.success_levels}; they must be shares above 0, up to 1")
        if self.target_success is not None and self.evaluate_every == 0:
            raise ReflexError("target_success needs evaluations; set evaluate_every to 1 or more")
