"""Configuration of the RL trainer. Values are checked when a configuration is built; a bad one names its field."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

from vla.errors import ReflexError
from vla.policies.sampling import Sampling
from vla.rewards.reward import SHIPPED, Reward, WrappedReward, reward_class
from vla.rl.method import ESTIMATORS, Method, estimator_class, variant_class
from vla.run.plugins import Part, settings_key, settings_of, shipped_classes
from vla.run.run_folder import Logger, dated_folder
from vla.run.settings import Checks


@dataclass
class AlgoConfig:
    """GRPO and SRPO. Defaults suit a small policy; docs/train.md has the published values for 7B policies."""

    reward: str = "srpo"
    """1 for success, and for a failure: "binary" 0 (GRPO), "srpo" by its rank in nearness to the batch's successes.
    Others are in `vla/rewards/variants/`; one of your own is package.module:Class."""
    advantage: str = "group_mean"
    """How a rollout's or a decision's advantage is estimated: "group_mean" is its reward less its group's mean over the
    group's deviation; "critic" tells decisions apart, by a small network that learns from the iterations before, and
    then every group is trained on. Others are in `vla/rl/variants/`; one of your own is package.module:Class."""
    variants: list[str] = field(default_factory=list)
    """Published methods to add, from `vla/rl/variants/` or package.module:Class of your own."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of the reward, the advantage and the variants, by name, e.g. algo.settings.srpo.alpha=0.5."""
    frame_stride: int | None = None
    """Control steps between the extra frames rendered for the reward; null uses the frames of the decisions."""
    reward_frames: int = 16
    """Evenly spaced frames of a rollout that its embedding sees, at most."""
    group_size: int = 8
    """Rollouts from each initial state; their rewards are compared with one another."""
    groups_per_iteration: int = 48
    """Groups with different rewards that an update wants; under "critic", groups."""
    initial_states: Literal["uncertain", "even"] = "uncertain"
    """Which training initial states: "uncertain" draws those more often whose last group had successes and failures,
    "even" takes all tasks alike."""
    max_sampling_rounds: int = 2
    """Rounds of rollouts per iteration: after the first, groups without reward spread are replaced until this many."""
    sampling: Sampling = field(default_factory=Sampling)
    """How rollouts are sampled; the temperature must be above 0."""
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
    negative_weight: float = 0.3
    """Multiplies negative advantages; 1 is GRPO as published, less keeps a small policy from flattening out."""
    aggregation: Literal["token", "episode"] = "episode"
    """"token": each token counts the same. "episode": each episode does, so that long failures do not outweigh."""
    target_kl: float | None = 0.2
    """When an update's mean KL per token to the sampling policy passes this, its last step is taken back, the update
    ends, and the learning rate is halved from then on; null for never."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError`."""
        check = Checks(self, "algo.")
        check.literals()
        check.within(0.0, 0.999, "average_decay")
        check.within(0.0, 1.0, "clip_low", "negative_weight")
        check.at_least(2, "group_size", reason="advantages compare the rollouts of a group")
        check.at_least(2, "reward_frames")
        check.at_least(1, "groups_per_iteration", "max_sampling_rounds", "update_epochs", "minibatch_size")
        check.at_least(1, "frame_stride", "micro_batch_size", "max_samples_per_update", "constant_iterations")
        check.at_least(0, "warmup_iterations", "kl_coefficient", "entropy_coefficient", "weight_decay")
        check.positive("learning_rate", "max_gradient_norm", "clip_high", "target_kl")
        if self.dual_clip is not None and not self.dual_clip > 1.0 + self.clip_high:
            raise ReflexError(
                f"algo.dual_clip is {self.dual_clip}; it must exceed 1 + clip_high ({1 + self.clip_high:g}), or be null"
            )
        if self.sampling.greedy:
            raise ReflexError(
                "algo.sampling.temperature is 0, which is greedy: the rollouts of a group would all be the same; "
                "set it to a number above 0"
            )
        self._check_methods()

    @staticmethod
    def settings_classes() -> dict[str, type[Any]]:
        """What `settings` may hold of what ships here: each `Settings` by name, where there is something to set."""
        shipped = shipped_classes(Reward, SHIPPED) | shipped_classes(Method, ESTIMATORS)
        return {name: cls.Settings for name, cls in shipped.items() if fields(cls.Settings)}

    def classes(self) -> dict[str, type[Part]]:
        """The reward, what it is made of, the advantage and the variants, by name. Raises `ReflexError` for no such."""
        rewards: dict[str, type[Any]] = {}
        name = self.reward
        while name not in rewards:
            rewards[name] = reward_class(name)
            made = settings_of(rewards[name], name, self.settings)
            if isinstance(made, WrappedReward.Settings):
                name = made.reward
                if name in rewards:
                    raise ReflexError(f"algo.settings: the reward {name} is made of itself")
        variants = {variant: variant_class(variant) for variant in self.variants}
        return {**rewards, self.advantage: estimator_class(self.advantage), **variants}

    def _check_methods(self) -> None:
        """Everything named exists and goes together, and every setting belongs to something named and fits it."""
        if len(set(self.variants)) != len(self.variants):
            raise ReflexError(f"algo.variants is {self.variants}; name each once")
        classes = self.classes()
        for name, cls in classes.items():
            settings_of(cls, name, self.settings)
            cls.check_algorithm(self)
        unused = sorted(set(self.settings) - {settings_key(name) for name in classes})
        if unused:
            raise ReflexError(
                f"algo.settings.{unused[0]} has no use: none of algo.reward={self.reward}, "
                f"algo.advantage={self.advantage} and algo.variants={self.variants} is called {unused[0]}"
            )


@dataclass
class TrainConfig:
    """One reinforcement-learning run."""

    suite: str = "tabletop"
    """Which suite: tabletop, libero_spatial, _object, _goal, _10 or _90 (with _512, _fast and _plain behind it),
    robosuite, metaworld, so101, or package.module:Class of your own."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""
    tasks: list[int] | None = None
    """Tasks to train on; null for all of the suite."""
    policy: str = "reflex-tiny"
    """Policy to start from: a folder, or a shipped name. Normally a fine-tuned one."""
    feature_map: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the suite calls the policy's cameras, where names do not say, e.g. feature_map.cameras.wrist_image=hand."""
    output: str = field(default_factory=partial(dated_folder, "train"))
    """Run folder to write; it has the date where none is given."""
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
    num_slots: int | None = None
    """Environments stepped together, the policy's batch size during rollouts; null for 32, or 8 where pictures are of
    more than 128 px."""
    max_frame_gigabytes: float = 8.0
    """Refuse a run whose frames could take more memory than this in one iteration."""
    device: str = "auto"
    """Torch device of policy and encoder: "auto", "cpu", "cuda" or "cuda:<n>"."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic of rollouts and updates: "auto" is bfloat16 where the hardware has it. Evaluations are in float32."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core."""
    logger: Logger = "tensorboard"
    """Where metrics are shown beside `metrics.jsonl`: "tensorboard", or "wandb" as well (the extra `wandb`)."""
    resume: bool = False
    """Continue the run in `output` from its last checkpoint (from the start if it has none)."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError`."""
        check = Checks(self)
        check.shared()
        check.at_least(1, "iterations", "encoder_episodes_per_task", "encoder_steps")
        check.positive("max_minutes", "max_frame_gigabytes")
        check.within(0.0, 1.0, "target_success")
        for name in ("suite", "policy", "output", "encoder", "device"):
            if not getattr(self, name):
                raise ReflexError(f"{name} is empty; give it a value")
        if self.target_success is not None and self.evaluate_every == 0:
            raise ReflexError("target_success needs evaluations; set evaluate_every to 1 or more")
        for cls in self.algo.classes().values():
            cls.check_run(self)


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
        "logger",
        "resume",
    }
)
"""Fields of `TrainConfig` that a resumed run may set anew; any other change would make two runs of one."""
