"""The settings of `vla label`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from vla.errors import ReflexError
from vla.offline.labels.backend import Decoding
from vla.offline.labels.budget import Budget
from vla.offline.labels.endpoint import EndpointSettings
from vla.offline.labels.oracle import OracleSettings
from vla.run.run_folder import dated_folder
from vla.run.settings import Checks

BackendName = Literal["endpoint", "local", "oracle", "recorded"]
Selection = Literal["uniform", "disagreement", "diverse"]


@dataclass(frozen=True)
class ActiveSettings:
    """How pairs are chosen where selection is not uniform."""

    scorer: str | None = None
    """What scores pictures: the folder of a reward model that looks at pictures (vla reward), whose members score; or
    package.module:function of (frames uint8 [N, H, W, 3], instruction) -> [members, N]."""
    candidates: int = 10
    """Pairs that are drawn for each one that is asked."""
    uniform_share: float = 0.3
    """Share of the pairs that are kept as drawn, for an audit that is of all pairs."""
    encoder: str = "pixels"
    """selection=diverse: encoder whose embeddings are to differ: "pixels", a folder, or a hub id."""

    def __post_init__(self) -> None:
        check = Checks(self, "active.")
        check.at_least(1, "candidates")
        check.within(0, 1, "uniform_share")


@dataclass(frozen=True)
class LabelConfig:
    """Which pairs of a dataset are compared, by whom, and what it may cost."""

    dataset: str
    """LeRobot dataset to label: a folder or a hub id."""
    goal: str | None = None
    """What is wanted, for all chosen episodes, e.g. goal='open the drawer'; null takes each episode's task sentence."""
    output: str = field(default_factory=partial(dated_folder, "label"))
    """Folder for pairs, pictures, the cache of answers and the labels. The same command again goes on."""
    pairs: int = 2000
    """Pairs to label."""
    backend: BackendName = "endpoint"
    """Who answers: endpoint (any OpenAI-compatible chat endpoint), local (a checkpoint in this process), oracle (the
    simulator's true progress with errors, for experiments), or recorded (the cache, and nobody else)."""
    model: str | None = None
    """Model of the endpoint, folder or hub id of a local one; recorded: the model as the cache's lines name it."""
    accept_model: str | None = None
    """Another name under which the endpoint may answer, such as the dated one of the model that was asked for."""
    prompt: str = "two_stage_v1"
    """two_stage_v1 (an analysis, then one word about it), one_call_v1 (a JSON object), or a folder with your own."""
    tasks: list[int] | None = None
    """Task numbers of the dataset; null labels all."""
    camera: str | None = None
    """Camera whose pictures are compared; null for the dataset's first."""
    picture_size: int = 448
    """Pixels of the longer side that a picture may have; larger ones are made smaller."""
    both_orders: float = 0.1
    """Share of the pairs that are asked in both orders: 1 for audits, 0 is cheapest."""
    checks: int = 20
    """Pairs of each kind that check the labeller without any truth: start and end of a success, end of a success and of
    a failure, a picture and itself. They are asked in both orders, and are no labels to learn from."""
    selection: Selection = "uniform"
    """uniform (as RL-VLM-F), disagreement (of active.scorer's members), or diverse (that, then far apart)."""
    active: ActiveSettings = field(default_factory=ActiveSettings)
    """Selection other than uniform."""
    endpoint: EndpointSettings = field(default_factory=EndpointSettings)
    """How the endpoint is reached and spared."""
    decoding: Decoding = field(default_factory=Decoding)
    """How replies are drawn."""
    budget: Budget = field(default_factory=Budget)
    """What it may cost."""
    oracle: OracleSettings = field(default_factory=OracleSettings)
    """How the simulator's order is spoilt."""
    cache: str | None = None
    """File with the answers; null for calls.jsonl in the output folder. Several runs may share it, one at a time."""
    seed: int = 0
    """Seed of the choice of pairs, of orders and of the oracle's errors."""
    device: str = "auto"
    """Where a local model computes: auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.at_least(1, "pairs")
        check.at_least(0, "checks")
        check.at_least(28, "picture_size", reason="models cut pictures into squares of 28 pixels")
        check.within(0, 1, "both_orders")
        if self.goal is not None and not self.goal.strip():
            raise ReflexError("goal is empty; say what is wanted, or leave it out for the dataset's task sentences")
        if self.backend != "oracle" and not self.model:
            raise ReflexError(f"model is {self.model!r}; backend={self.backend} needs the name of a model")
        if self.selection != "uniform" and self.active.scorer is None:
            raise ReflexError(f"selection={self.selection} needs active.scorer, the folder of a reward model")
