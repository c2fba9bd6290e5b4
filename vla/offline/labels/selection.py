"""Which pairs are worth a question. Pure functions of lengths, scores and embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vla.offline.preferences import Moment

MomentPair = tuple[Moment, Moment]

TRIES = 20
"""Draws for each pair that is wanted, before there are held to be no more."""


def uniform_pairs(
    lengths: ArrayLike, groups: ArrayLike, count: int, generator: np.random.Generator
) -> list[MomentPair]:
    """Pairs of moments as RL-VLM-F draws them: an episode, another of its group, and a random moment in each.

    Both episodes may be the same; a moment is not compared with itself, and no two moments are compared twice.

    Args:
        lengths: [E] frames of each episode.
        groups: [E] only episodes of one group (task) are compared.
        count: pairs wanted; fewer come where there are no more.
        generator: of all draws.
    """
    frames, group = np.asarray(lengths, dtype=np.int64), np.asarray(groups)
    members = {value: np.flatnonzero(group == value) for value in np.unique(group)}
    seen: set[frozenset[Moment]] = set()
    pairs: list[MomentPair] = []
    for _ in range(TRIES * count if len(frames) else 0):
        if len(pairs) == count:
            break
        one = int(generator.integers(len(frames)))
        other = int(generator.choice(members[group[one]]))
        pair = (
            Moment(one, int(generator.integers(frames[one]))),
            Moment(other, int(generator.integers(frames[other]))),
        )
        if pair[0] != pair[1] and frozenset(pair) not in seen:
            seen.add(frozenset(pair))
            pairs.append(pair)
    return pairs


def disagreement(scores: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """[P] how far an ensemble is at odds over each pair: deviation over members of P(second better).

    P = sigmoid(score of the second - score of the first), as in PEBBLE (arXiv 2106.05091).

    Args:
        scores: [M, N] of M members for N moments.
        first: [P] numbers of the pairs' first moments.
        second: [P] of their second ones.
    """
    given = np.asarray(scores, dtype=np.float64)
    difference = given[:, np.asarray(second)] - given[:, np.asarray(first)]
    probability = 0.5 * (1.0 + np.tanh(difference / 2))  # the sigmoid, without overflow
    return np.asarray(probability.std(axis=0), dtype=np.float64)


def k_centre(embeddings: ArrayLike, count: int, start: int = 0) -> NDArray[np.int64]:
    """Numbers of `count` rows that cover the rest: greedy farthest-first (Gonzalez 1985; Sener & Savarese 2018).

    Each next row is the one whose nearest chosen row is farthest away; of equals the first.

    Args:
        embeddings: [N, D].
        count: at most N.
        start: the row to begin with.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    chosen = [start] if count > 0 else []
    distance = ((rows - rows[start]) ** 2).sum(axis=1) if count > 0 else np.empty(0)
    while len(chosen) < min(count, len(rows)):
        distance[chosen[-1]] = -1.0
        following = int(distance.argmax())
        chosen.append(following)
        distance = np.minimum(distance, ((rows - rows[following]) ** 2).sum(axis=1))
        distance[chosen] = -1.0
    return np.array(chosen, dtype=np.int64)


def choose(
    values: ArrayLike,
    count: int,
    uniform_share: float,
    embeddings: ArrayLike | None = None,
    spread: int = 4,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which candidate pairs to ask: (those kept as drawn, those chosen by value), of `count` together.

    The first `uniform_share` of `count` candidates are kept as they were drawn, so that an audit of them is of all
    pairs. The rest are the candidates of the highest values; with `embeddings`, k-centre among the `spread` times as
    many highest ones, so that they differ.

    Args:
        values: [P] how much is hoped for from each candidate; in the order in which they were drawn.
        count: pairs wanted.
        uniform_share: in [0, 1].
        embeddings: [P, D] of the candidates.
        spread: how many more than wanted k-centre chooses from.
    """
    hopes = np.asarray(values, dtype=np.float64)
    count = min(count, len(hopes))
    kept = np.arange(round(uniform_share * count))
    wanted = count - len(kept)
    best = len(kept) + np.argsort(-hopes[len(kept) :], kind="stable")
    if embeddings is None or wanted == 0:
        return kept, best[:wanted]
    pool = best[: spread * wanted]
    return kept, pool[k_centre(np.asarray(embeddings)[pool], wanted)]


def start_end_pairs(
    lengths: Sequence[int], successes: Sequence[bool], count: int, generator: np.random.Generator
) -> list[MomentPair]:
    """First and last frame of successful episodes, in either order: the last is nearer to the goal, no truth needed."""
    able = [episode for episode, success in enumerate(successes) if success and lengths[episode] > 1]
    chosen = generator.permutation(able)[:count]
    pairs = [(Moment(int(episode), 0), Moment(int(episode), lengths[episode] - 1)) for episode in chosen]
    return [pair if generator.random() < 0.5 else pair[::-1] for pair in pairs]


def outcome_pairs(
    lengths: Sequence[int],
    groups: Sequence[int],
    successes: Sequence[bool],
    count: int,
    generator: np.random.Generator,
) -> list[MomentPair]:
    """Last frames of a success and a failure of one group, in either order: the success's is nearer to the goal."""
    good = [episode for episode, success in enumerate(successes) if success]
    bad_of: dict[int, list[int]] = {}
    for episode, success in enumerate(successes):
        if not success:
            bad_of.setdefault(groups[episode], []).append(episode)
    able = [episode for episode in good if groups[episode] in bad_of]
    pairs: list[MomentPair] = []
    for episode in generator.permutation(able)[:count]:
        other = int(generator.choice(bad_of[groups[episode]]))
        pair = (Moment(int(episode), lengths[episode] - 1), Moment(other, lengths[other] - 1))
        pairs.append(pair if generator.random() < 0.5 else pair[::-1])
    return pairs


def identical_pairs(lengths: Sequence[int], count: int, generator: np.random.Generator) -> list[MomentPair]:
    """Moments with themselves: neither is nearer."""
    moments: dict[Moment, None] = {}
    for _ in range(TRIES * count if len(lengths) else 0):
        if len(moments) == count:
            break
        episode = int(generator.integers(len(lengths)))
        moments[Moment(episode, int(generator.integers(lengths[episode])))] = None
    return [(moment, moment) for moment in moments]
