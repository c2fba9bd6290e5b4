"""What estimators and variants may be made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.policies.protocol import TrainablePolicy
from vla.rl.config import AlgoConfig
from vla.rl.method import AdvantageEstimator, Variant, estimator_class, variant_class
from vla.run.plugins import settings_of


def _no_policy(*_: str) -> TrainablePolicy:
    raise ReflexError("this method needs the policy that training started from, and was given none")


@dataclass(frozen=True)
class TrainingParts:
    """A run, as far as methods see it."""

    algo: AlgoConfig
    policy: TrainablePolicy
    """In training."""
    horizons: Mapping[int, int] = field(default_factory=dict)
    """Control steps of each task's episodes."""
    seed: int = 0
    averaged: Callable[[], AbstractContextManager[None]] = nullcontext
    """The policy in training has its averaged weights meanwhile."""
    start: str = ""
    """The policy that training started from, as `trainable` takes it."""
    trainable: Callable[[str], TrainablePolicy] = _no_policy
    """Loads a policy to be trained, from a folder or by name."""
    reference: Callable[[], TrainablePolicy] = _no_policy
    """The policy that training started from, frozen."""
    demonstrations: Mapping[int, Sequence[Episode]] = field(default_factory=dict)
    """By task."""


def make_estimator(parts: TrainingParts) -> AdvantageEstimator:
    """What `algo.advantage` names. Raises `ReflexError` when it, or one of its settings, is wrong."""
    name, algo = parts.algo.advantage, parts.algo
    cls = estimator_class(name)
    return cls(settings_of(cls, name, algo.settings), parts)


def make_variants(parts: TrainingParts) -> list[Variant]:
    """What `algo.variants` names, in that order. Raises `ReflexError` when one, or one of its settings, is wrong."""
    classes = {name: variant_class(name) for name in parts.algo.variants}
    return [cls(settings_of(cls, name, parts.algo.settings), parts) for name, cls in classes.items()]
