"""Configuration of the RL trainer. Values are checked when a configuration is built; a bad one names its field."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from vla.errors import ReflexError


class ConfigError(ReflexError):
    """A configuration value that cannot work."""


@dataclass
class AlgoConfig:
    """GRPO and SRPO. Defaults suit a small policy; docs/train.md has the published values for 7B policies."""

    reward: Literal["binary", "srpo", "siirl", "calibrated"] = "srpo"
    """1 for success, and for a failure: "binary" 0 (GRPO), "srpo" by its rank in nearness to the batch's successes,
    "calibrated" by how much of the way to them it came, "siirl" as that public code has it, to compare with."""
    alpha: float = 0.8
    """What a failure is worth at most under "srpo" and "calibrated", in [0, 1]; 0 is the binary reward."""
    metric: Literal["euclidean", "cosine"] = "euclidean"
    """Distance between embeddings under "srpo": "euclidean" (the paper) or "cosine"."""
    pay_failures: Literal["always", "without_success"] = "always"
    """Which failures get what the reward gives them: all of them (the paper), or those of a group in which no rollout
    succeeded. Where one did, success tells rollouts apart, and the others get 0. Groups without a success then come on
    top of `groups_per_iteration`: GRPO, and what its replaced groups can teach."""
    reference_scope: Literal["task", "group", "batch"] = "task"
    """Whose successes a failure is compared with, and with whose failures it is ranked: its task's in the batch (the
    paper), its own group's, or all of the batch whatever the task, for comparison."""
    success_bank: int = 0
    """Successes of each task that are kept as references for later iterations, at most; 0 for none, as published."""
    success_age: int = 20
    """Iterations for which they are kept."""
    frame_stride: int | None = None
    """Control steps between the extra frames rendered for the reward; null uses the frames of the decisions."""
    reward_frames: int = 16
    """Evenly spaced frames of a rollout that its embedding sees, at most."""
    group_size: int = 8
    """Rollouts from each initial state; their rewards are compared with one another."""
    groups_per_iteration: int = 48
    """Groups with different rewards that an update wants; under "critic", groups."""
    sampling: Literal["uncertain", "even", "gate"] = "uncertain"
    """Which training initial states: "uncertain" draws those more often whose last group had successes and failures,
    "even" takes all tasks alike, "gate" those alike that succeed in 5 to 75 % of their rollouts."""
    demonstration_starts: float = 0.0
    """Share of groups that go on from somewhere along a demonstration (`demonstrations`), from where the policy failed
    last more often; the share below 1 starts where evaluations do."""
    replay: int = 0
    """Successes of each task that are kept to be learnt from again (WebRL): an update adds to its decisions those of
    one of them that the policy has become less likely to make; 0 for none."""
    max_sampling_rounds: int = 2
    """Rounds of rollouts per iteration: after the first, groups without reward spread are replaced until this many."""
    temperature: float = 0.5
    """Sampling temperature of the rollouts, and of the log-probabilities in the update."""
    token_noise: float = 8.0
    """Standard deviation, in bins, of noise that sampling adds to every token; it steadies the gradient."""
    chunk_correlation: float = 0.5
    """Correlation, in [0, 1), of an action dimension's samples over the steps of a chunk: whole chunks are explored."""
    freeze_vision: bool = True
    """Keep the vision towers and projector as they are: the update then reads each picture once, not every epoch."""
    clip_low: float = 0.2
    """The ratio's lower clip bound is 1 - clip_low."""
    clip_high: float = 0.28
    """The ratio's upper clip bound is 1 + clip_high; higher than clip_low lets unlikely good tokens grow."""
    dual_clip: float | None = None
    """Bound on the ratio of tokens with negative advantage (> 1); null for none."""
    kl_coefficient: float = 0.0
    """Weight of the KL penalty to the policy that training started from."""
    kl_demonstrations: int | None = None
    """Demonstrations that policy was fine-tuned on, by which the weight is divided; null for not at all."""
    entropy_coefficient: float = 0.0
    """Weight of the entropy bonus."""
    learning_rate: float = 5e-4
    """AdamW's highest learning rate."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    warmup_iterations: int = 2
    """Iterations over which the learning rate rises linearly from 1/warmup_iterations of its value; 0 for none."""
    constant_iterations: int | None = 10
    """Iterations after which the learning rate falls with the square root of their number; null for a constant one."""
    max_gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    average_decay: float = 0.8
    """Decay of the average of the weights over iterations, which is what is evaluated and kept; 0 for none."""
    update_epochs: int = 2
    """Passes over an iteration's decisions."""
    minibatch_size: int = 256
    """Decisions per optimiser step."""
    micro_batch_size: int | None = None
    """Decisions per forward pass (gradients accumulate to a minibatch); null for the whole minibatch."""
    max_samples_per_update: int | None = None
    """Most decisions an update uses, drawn at random among those with an advantage; null for all."""
    advantage: Literal["grpo", "lite_ppo", "rloo", "raft", "pacs", "critic"] = "grpo"
    """A rollout's reward less its group's mean, divided by the group's deviation ("grpo") or the batch's ("lite_ppo"),
    or less the mean of the group's others and divided by nothing ("rloo"); 1 for the group's best and 0 for the others
    ("raft"); what is left of the outcome after the likelihood's forecast of it ("pacs"). "critic" tells decisions of a
    rollout apart: how much better it looked after each than before, to a small network that learns from the iterations
    before. Then every group teaches, and none is replaced."""
    pacs_beta: float = 1.0
    """Under "pacs", logits of success per unit of the mean log-ratio to the starting policy."""
    step_credit: Literal["none", "shared", "progress", "implicit"] = "none"
    """What decisions of a rollout get beside its advantage, without a critic. "shared": what several rollouts of a
    group did alike gets the mean of theirs (SALT). "progress": more where one came nearer to the task's successes.
    "implicit": more where one is likelier to a copy of the policy that learns to tell success from failure (OPRL)."""
    step_tolerance: float = 0.3
    """Under "shared", how far apart two states may be that count as one, in deviations of the policy's features."""
    step_weight: float = 0.5
    """Under "progress" and "implicit", what a decision's own part counts beside its rollout's advantage."""
    implicit_beta: float = 0.05
    """Under "implicit", reward of a decision per unit of its tokens' summed log-ratios."""
    likely_success_bonus: float = 0.0
    """Added to the reward of successes that the averaged policy finds likely beside the group's others (GRPO-CARE)."""
    likely_success_margin: float = 0.0
    """How much less likely (in probability of a token) than the mean of the group's successes they may be."""
    critic_decay: float = 0.9
    """Under "critic", how much of what happened later a decision is credited with: 0 none, 1 all."""
    critic_window: int = 8
    """Iterations whose rollouts the critic learns from."""
    difficulty_weight: bool = False
    """Weigh groups by 4 p (1 - p), p their share of successes; groups of failures only then teach nothing."""
    negative_weight: float = 0.3
    """Multiplies negative advantages; 1 is GRPO as published, less keeps a small policy from flattening out."""
    minimum_deviation: float = 0.2
    """A group's rewards are divided by their deviation, or by this where it is less; 0 is GRPO as published. Failures
    that differ a little under "srpo" then count for less than a success among failures does."""
    aggregation: Literal["token", "episode"] = "episode"
    """"token": each token counts the same. "episode": each episode does, so that long failures do not outweigh."""
    target_kl: float | None = 0.2
    """Stop an update when the mean KL per token to the sampling policy passes this; null for never."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ConfigError`."""
        _one_of("algo.reward", self.reward, ("binary", "srpo", "siirl", "calibrated"))
        _one_of("algo.advantage", self.advantage, ("grpo", "lite_ppo", "rloo", "raft", "pacs", "critic"))
        _one_of("algo.step_credit", self.step_credit, ("none", "shared", "progress", "implicit"))
        _one_of("algo.metric", self.metric, ("euclidean", "cosine"))
        _one_of("algo.pay_failures", self.pay_failures, ("always", "without_success"))
        _one_of("algo.reference_scope", self.reference_scope, ("task", "group", "batch"))
        if self.success_bank and self.reference_scope != "task":
            raise ConfigError(f"algo.reference_scope is {self.reference_scope!r}; a success bank is kept by task")
        _one_of("algo.sampling", self.sampling, ("uncertain", "even", "gate"))
        _one_of("algo.aggregation", self.aggregation, ("token", "episode"))
        _within("algo.alpha", self.alpha, 0.0, 1.0, "so that no failure is worth more than a success")
        _within("algo.demonstration_starts", self.demonstration_starts, 0.0, 0.9)
        _within("algo.average_decay", self.average_decay, 0.0, 0.999)
        _within("algo.chunk_correlation", self.chunk_correlation, 0.0, 0.99)
        _within("algo.critic_decay", self.critic_decay, 0.0, 1.0)
        _at_least("algo.critic_window", self.critic_window, 1)
        _at_least("algo.success_bank", self.success_bank, 0)
        _at_least("algo.replay", self.replay, 0)
        _at_least("algo.success_age", self.success_age, 1)
        _within("algo.clip_low", self.clip_low, 0.0, 1.0)
        _within("algo.negative_weight", self.negative_weight, 0.0, 1.0)
        _at_least("algo.group_size", self.group_size, 2, "advantages compare the rollouts of a group")
        for name in ("groups_per_iteration", "max_sampling_rounds", "update_epochs", "minibatch_size"):
            _at_least(f"algo.{name}", getattr(self, name), 1)
        _at_least("algo.reward_frames", self.reward_frames, 2)
        _at_least("algo.warmup_iterations", self.warmup_iterations, 0)
        self._check_credit()
        for name in (
            "frame_stride",
            "micro_batch_size",
            "max_samples_per_update",
            "constant_iterations",
            "kl_demonstrations",
        ):
            if getattr(self, name) is not None:
                _at_least(f"algo.{name}", getattr(self, name), 1)
        for name in ("temperature", "learning_rate", "max_gradient_norm", "clip_high", "pacs_beta", "implicit_beta"):
            _positive(f"algo.{name}", getattr(self, name))
        for name in ("kl_coefficient", "entropy_coefficient", "weight_decay", "token_noise", "minimum_deviation"):
            _at_least(f"algo.{name}", getattr(self, name), 0)
        if self.target_kl is not None:
            _positive("algo.target_kl", self.target_kl)
        if self.dual_clip is not None and not self.dual_clip > 1.0 + self.clip_high:
            raise ConfigError(
                f"algo.dual_clip is {self.dual_clip}; it must exceed 1 + clip_high ({1 + self.clip_high:g}), or be null"
            )

    def _check_credit(self) -> None:
        for name in ("step_tolerance", "step_weight", "likely_success_bonus", "likely_success_margin"):
            _at_least(f"algo.{name}", getattr(self, name), 0)
        if self.advantage != "critic":
            return
        if self.step_credit != "none":
            raise ConfigError(
                f"algo.step_credit is {self.step_credit!r}, but the critic tells decisions apart already; set it to "
                "none, or algo.advantage to another"
            )
        if self.likely_success_bonus:
            raise ConfigError(
                f"algo.likely_success_bonus is {self.likely_success_bonus}, but the critic forecasts rewards from 0 to "
                "1; set it to 0, or algo.advantage to another"
            )

    @property
    def kl_weight(self) -> float:
        """Of the KL penalty.

        Less, the more demonstrations the policy it pulls to has seen (demonstration-regularised RL, arXiv 2310.17303).
        """
        return self.kl_coefficient / (self.kl_demonstrations or 1)


@dataclass
class TrainConfig:
    """One reinforcement-learning run."""

    suite: str = "tabletop"
    """Which suite of tasks, e.g. "tabletop" or "libero_spatial"."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""
    tasks: list[int] | None = None
    """Tasks to train on; null for all of the suite."""
    policy: str = "reflex-tiny"
    """Policy to start from: a folder, or a shipped name. Normally a fine-tuned one."""
    output: str = "runs/train"
    """Run folder to write."""
    algo: AlgoConfig = field(default_factory=AlgoConfig)
    """The algorithm."""
    encoder: str = "jepa"
    """Encoder of the rewards for failures: "jepa" (a small one trained on first rollouts), "policy" (what the starting
    policy makes of what it sees), "proprioception" (where the arm went), "pixels", a folder, or a hub id;
    "true_progress" is what the simulator knows and no camera does: what a perfect encoder would be worth."""
    encoder_episodes_per_task: int = 16
    """Rollouts per task that the "jepa" encoder is trained on."""
    encoder_steps: int = 600
    """Gradient steps of the "jepa" encoder's training."""
    demonstrations: str | None = None
    """LeRobot dataset for "srpo": its episodes stand in for a task's successes while a batch has none, and the "jepa"
    encoder is trained on them as well; null for none."""
    iterations: int = 100
    """Updates to make at most."""
    max_minutes: float | None = None
    """Stop after the iteration during which this much time is used up, counted over resumes; null for no limit."""
    target_success: float | None = None
    """Stop when held-out success reaches this share; null to train on."""
    evaluate_every: int = 10
    """Iterations between evaluations; the start and the end are always evaluated. 0 for never."""
    evaluation_episodes_per_task: int = 20
    """Held-out initial states of each task in an evaluation."""
    videos_per_task: int = 1
    """Held-out rollouts of each task that are filmed for the report, before and after; 0 for none."""
    checkpoint_every: int = 5
    """Iterations between checkpoints; the last iteration always gets one."""
    keep_checkpoints: int | None = None
    """Delete all but this many newest checkpoints; null keeps all."""
    seed: int = 0
    """Seed of everything random."""
    num_workers: int | None = None
    """Simulator processes; null for one per available core, 0 to simulate in this process."""
    num_slots: int = 32
    """Environments stepped together; the policy's batch size during rollouts."""
    max_frame_gigabytes: float = 8.0
    """Refuse a run whose frames could take more memory than this in one iteration."""
    device: str = "auto"
    """Torch device of policy and encoder: "auto", "cpu", "cuda" or "cuda:<n>"."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of rollouts and updates: "auto" is bfloat16 where the hardware has it. Evaluations are in float32."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core."""
    resume: bool = False
    """Continue the run in `output` from its last checkpoint (from the start if it has none)."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ConfigError`."""
        for name in ("suite", "policy", "output", "encoder", "device"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is empty; give it a value")
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) != len(self.tasks)):
            raise ConfigError(f"tasks is {self.tasks}; list each task once, or use null for all")
        for name in ("iterations", "evaluation_episodes_per_task", "checkpoint_every", "num_slots"):
            _at_least(name, getattr(self, name), 1)
        if self.num_workers is not None:
            _at_least("num_workers", self.num_workers, 0)
        for name in ("encoder_episodes_per_task", "encoder_steps"):
            _at_least(name, getattr(self, name), 1)
        _one_of("precision", self.precision, ("auto", "float32", "bfloat16"))
        _at_least("evaluate_every", self.evaluate_every, 0)
        _at_least("videos_per_task", self.videos_per_task, 0)
        _at_least("seed", self.seed, 0)
        for name in ("image_size", "threads", "keep_checkpoints"):
            if getattr(self, name) is not None:
                _at_least(name, getattr(self, name), 1)
        if self.max_minutes is not None:
            _positive("max_minutes", self.max_minutes)
        _positive("max_frame_gigabytes", self.max_frame_gigabytes)
        self._check_references()
        if self.target_success is not None:
            _within("target_success", self.target_success, 0.0, 1.0)
            if self.evaluate_every == 0:
                raise ConfigError("target_success needs evaluations; set evaluate_every to 1 or more")

    def _check_references(self) -> None:
        if self.algo.demonstration_starts and self.demonstrations is None:
            raise ConfigError(
                f"algo.demonstration_starts is {self.algo.demonstration_starts}, but there is no demonstration to go "
                "on from; name a dataset of vla collect with demonstrations"
            )
        if self.demonstrations is not None and self.algo.reference_scope != "task":
            raise ConfigError(
                f"algo.reference_scope is {self.algo.reference_scope!r}, but demonstrations stand in for a task's "
                'successes; set one of them back ("task", or null)'
            )


RESUME_MAY_CHANGE = frozenset(
    {
        "output",
        "iterations",
        "max_minutes",
        "target_success",
        "keep_checkpoints",
        "videos_per_task",
        "num_workers",
        "max_frame_gigabytes",
        "device",
        "threads",
        "resume",
    }
)
"""Fields of `TrainConfig` that a resumed run may set anew; any other change would make two runs of one."""


def _one_of(name: str, value: str, allowed: Collection[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} is {value!r}; it must be one of {', '.join(sorted(allowed))}")


def _within(name: str, value: float, low: float, high: float, reason: str = "") -> None:
    if not low <= value <= high:
        raise ConfigError(f"{name} is {value}; it must lie in [{low:g}, {high:g}]" + (f", {reason}" if reason else ""))


def _at_least(name: str, value: float, low: int, reason: str = "") -> None:
    if not value >= low:
        raise ConfigError(f"{name} is {value}; it must be at least {low}" + (f": {reason}" if reason else ""))


def _positive(name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ConfigError(f"{name} is {value}; it must be a positive number")
