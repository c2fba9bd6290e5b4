"""Groups that go on from somewhere along a demonstration: where the policy failed last, more often.

What comes late in a task is learnt only after what comes before it, unless some rollouts begin there. Start states
along demonstrations, drawn by how badly the policy does there: SkillMimic-V2's adaptive sampling (arXiv 2505.02094).
Not compared on tasks yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rl.config import TrainConfig
from vla.rl.method import Variant
from vla.rl.parts import TrainingParts
from vla.rl.sampling import GroupRequest, Start, stream_generator
from vla.run.settings import Checks

SHARPNESS = 5.0
"""A start's weight is exp(-SHARPNESS * success): that of one always mastered is 1/148 of one never."""

SHARES = (0.2, 0.4, 0.6, 0.8)
"""How far along a demonstration starts are."""


@dataclass(frozen=True)
class Lead:
    """A demonstration's beginning."""

    task_id: int
    init_state_id: int
    actions: tuple[tuple[float, ...], ...]

    @property
    def start(self) -> Start:
        """Where it leads to."""
        return self.task_id, self.init_state_id, len(self.actions)


class DemonstrationStarts(Variant):
    """Moves a share of the groups."""

    @dataclass(frozen=True)
    class Settings:
        """Of `algo.variants=[demonstration_starts]`."""

        share: float = 0.25
        """Share of groups that go on from along a demonstration; the others start where evaluations do."""

        def __post_init__(self) -> None:
            Checks(self).within(0.0, 0.9, "share")

    @classmethod
    def check_run(cls, run: TrainConfig) -> None:
        """There must be demonstrations."""
        if run.demonstrations is None:
            raise ReflexError(
                "algo.variants has demonstration_starts, but there is no demonstration to go on from; name a dataset "
                "of vla collect with demonstrations"
            )

    def __init__(self, settings: Settings, parts: TrainingParts) -> None:
        super().__init__(settings, parts)
        self._leads = leads_of(parts.demonstrations)

    def choose(
        self,
        requests: Sequence[GroupRequest],
        success_rates: Mapping[Start, float],
        iteration: int,
        sampling_round: int,
    ) -> list[GroupRequest]:
        """See `with_demonstration_starts`."""
        return with_demonstration_starts(
            requests,
            self._leads,
            self.settings.share,
            success_rates,
            seed=self.parts.seed,
            iteration=iteration,
            sampling_round=sampling_round,
        )


def leads_of(demonstrations: Mapping[int, Sequence[Episode]]) -> list[Lead]:
    """Starts along each task's demonstrations.

    Raises `ReflexError` for a demonstration that does not say which training state it began from, as `vla collect`'s
    do: nothing can be gone on from there.
    """
    leads = []
    for task, episodes in sorted(demonstrations.items()):
        for episode in episodes:
            if episode.init_state_id < 0 or episode.split != "train":
                raise ReflexError(
                    f"demonstration_starts needs demonstrations from known training states; one of task {task} "
                    f"is from {episode.split} state {episode.init_state_id}. Record some with vla collect"
                )
            actions = tuple(tuple(float(value) for value in action) for action in episode.actions)
            for share in SHARES:
                leads.append(Lead(task, episode.init_state_id, actions[: int(share * len(actions))]))
    return [lead for lead in leads if lead.actions]


def with_demonstration_starts(
    requests: Sequence[GroupRequest],
    leads: Sequence[Lead],
    share: float,
    success_rates: Mapping[Start, float],
    *,
    seed: int,
    iteration: int,
    sampling_round: int,
) -> list[GroupRequest]:
    """The groups, of which the last `share` (rounded) go on from demonstrations instead; seeds stay as they are.

    Args:
        requests: groups from initial states.
        leads: where demonstrations lead to; drawn with replacement when fewer than wanted.
        share: in [0, 1].
        success_rates: of each start's newest group, as far as there was one.
        seed, iteration, sampling_round: determine the draw.
    """
    count = round(share * len(requests)) if leads else 0
    if count == 0:
        return list(requests)
    rates = np.array([success_rates.get(lead.start, 0.0) for lead in leads])
    weights = np.exp(-SHARPNESS * rates)
    generator = stream_generator("leads", seed, iteration, sampling_round)
    drawn = generator.choice(len(leads), count, replace=count > len(leads), p=weights / weights.sum())
    kept = len(requests) - count
    moved = [
        replace(request, task_id=lead.task_id, init_state_id=lead.init_state_id, lead=lead.actions)
        for request, lead in zip(requests[kept:], [leads[index] for index in drawn.tolist()], strict=True)
    ]
    return [*requests[:kept], *moved]
