"""The pairs of a run: to learn from, and to check the labeller by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.errors import ReflexError
from vla.offline.labels.files import AskedPair, Kind
from vla.offline.labels.selection import (
    MomentPair,
    choose,
    disagreement,
    identical_pairs,
    outcome_pairs,
    start_end_pairs,
    uniform_pairs,
)
from vla.offline.labels.settings import LabelConfig
from vla.offline.labels.source import Source, each_episode
from vla.offline.preferences import Moment, Pair
from vla.rewards.models.model import FittedReward, load_reward_model
from vla.run.devices import resolve_device
from vla.run.plugins import load_object
from vla.run.seeding import derive_seed

Scorer = Callable[[NDArray[np.uint8], str], Any]
"""(frames [N, H, W, 3], instruction) -> scores [members, N]."""


def choose_pairs(config: LabelConfig, source: Source) -> list[AskedPair]:
    """The pairs that a configuration asks for; they depend on the dataset and the seed alone.

    Raises:
        ReflexError: the dataset has none, or the scorer cannot be used.
    """
    generator = np.random.default_rng(derive_seed("pairs", config.seed))
    if config.selection == "uniform":
        drawn = uniform_pairs(source.lengths, source.groups, config.pairs, generator)
        chosen: list[tuple[MomentPair, Kind]] = [(pair, "uniform") for pair in drawn]
    else:
        drawn = uniform_pairs(source.lengths, source.groups, config.pairs * config.active.candidates, generator)
        chosen = _active(config, source, drawn)
    if not chosen:
        raise ReflexError(
            f"{source.dataset.root} has no two moments to compare: {len(source.lengths)} episodes of "
            f"{sum(source.lengths)} frames; choose another dataset or other tasks"
        )
    both = generator.random(len(chosen)) < config.both_orders
    asked = [_asked(source, pair, kind, bool(twice)) for (pair, kind), twice in zip(chosen, both, strict=True)]
    return asked + [_asked(source, pair, kind, True) for pair, kind in _checks(config, source)]


def _asked(source: Source, pair: MomentPair, kind: Kind, both_orders: bool) -> AskedPair:
    goal = source.goals[pair[0].episode]
    return AskedPair(Pair(*source.pair(pair), goal), kind, both_orders)


def _checks(config: LabelConfig, source: Source) -> list[tuple[MomentPair, Kind]]:
    """Pairs of which is known what to say without any truth."""
    generator = np.random.default_rng(derive_seed("checks", config.seed))
    lengths, groups, successes = source.lengths, source.groups, source.successes
    made: list[tuple[Kind, list[MomentPair]]] = [
        ("start_end", start_end_pairs(lengths, successes, config.checks, generator)),
        ("outcome", outcome_pairs(lengths, groups, successes, config.checks, generator)),
        ("identical", identical_pairs(lengths, config.checks, generator)),
    ]
    return [(pair, kind) for kind, pairs in made for pair in pairs]


def _active(config: LabelConfig, source: Source, drawn: Sequence[MomentPair]) -> list[tuple[MomentPair, Kind]]:
    """The candidates that a scorer's members are most at odds about, beside a share kept as drawn."""
    if not drawn:
        return []
    row_of = {moment: row for row, moment in enumerate(sorted({moment for pair in drawn for moment in pair}))}
    scores, embeddings = _score(config, source, row_of)
    first, second = (np.array([row_of[pair[side]] for pair in drawn]) for side in (0, 1))
    of_pairs = None if embeddings is None else np.concatenate([embeddings[first], embeddings[second]], axis=1)
    hopes = disagreement(scores, first, second)
    kept, best = choose(hopes, config.pairs, config.active.uniform_share, of_pairs)
    return [(drawn[number], "uniform") for number in kept] + [(drawn[number], "selected") for number in best]


def _scorer(name: str, device: str) -> Scorer:
    """The members of a reward model in a folder, or a function of the user's own."""
    if ":" in name and not Path(name).is_dir():
        scorer: Scorer = load_object(name, {}, "active.scorer")
        return scorer
    model = load_reward_model(name, device)
    assert isinstance(model, FittedReward)  # what every folder holds
    return model.score_members


def _score(
    config: LabelConfig, source: Source, row_of: dict[Moment, int]
) -> tuple[NDArray[np.float64], NDArray[np.float32] | None]:
    """(scores [M, N], embeddings [N, D] where they are to differ) of moments, episode by episode."""
    scorer = _scorer(str(config.active.scorer), config.device)
    encoder = None
    if config.selection == "diverse":
        from world_models.encoders import load_encoder

        encoder = load_encoder(config.active.encoder, str(resolve_device(config.device)))
    position_of = {source.number(position): position for position in range(len(source.indices))}
    frames: dict[int, list[int]] = {}
    for moment in row_of:
        frames.setdefault(source.number(moment.episode), []).append(moment.frame)
    scores: dict[int, NDArray[np.float64]] = {}
    embeddings: dict[int, NDArray[np.float32]] = {}
    for number, pictures in each_episode(source, frames, config.picture_size):
        position = position_of[number]
        given = np.asarray(scorer(pictures, source.goals[position]), dtype=np.float64)
        if given.ndim != 2 or given.shape[1] != len(pictures) or len(given) < 2 or not np.isfinite(given).all():
            raise ReflexError(
                f"active.scorer={config.active.scorer} gave {list(given.shape)} for {len(pictures)} pictures; it must "
                "give finite scores [members, pictures] of two members or more"
            )
        rows = [row_of[Moment(position, frame)] for frame in sorted(frames[number])]
        scores |= dict(zip(rows, given.T, strict=True))
        if encoder is not None:
            embeddings |= dict(zip(rows, encoder.encode([picture[None] for picture in pictures]), strict=True))
    order = range(len(row_of))
    return np.stack([scores[row] for row in order], axis=1), (
        np.stack([embeddings[row] for row in order]) if encoder is not None else None
    )
