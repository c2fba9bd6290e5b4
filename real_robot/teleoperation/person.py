"""A person as the source of the action that is due: alone, or taking over from a policy and giving back.

Whoever takes over finds the arm somewhere else than where a leader arm is. Over the hand-over the distance between the
two shrinks to nothing, as smoothly as a minimum-jerk motion (Flash and Hogan 1985), whatever the leader does meanwhile;
after it the arm follows the leader itself. The action filter limits all of it as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from real_robot.control.schedulers import NO_WISH, ActionSource, Chunk, Planned, Source, UnderWay
from real_robot.teleoperation.teleoperator import Teleoperator

TAKEN_OVER = "taken_over"
"""A chunk is not used: it was decided on before, or while, a person drove."""
_PEAK = 1.875
"""Greatest velocity of a minimum-jerk motion, in its distance over its duration."""


class Hands(Protocol):
    """What the operator says beside orders (`real_robot.watchdog.guard.Guard`)."""

    person_drives: bool
    """Whether the person has taken over from the policy."""

    @property
    def presses(self) -> NDArray[np.float64]:
        """How often the keys that move each joint were pressed."""


@dataclass(frozen=True)
class HandOver:
    """The way from where the arm's commands stood to where the person's are."""

    distance: NDArray[np.float64]
    """[J] the commands less the wish, when it began."""
    began: float
    seconds: float

    @classmethod
    def between(
        cls, commanded: NDArray[np.float64], wish: NDArray[np.float64], velocity: ArrayLike, now: float
    ) -> HandOver:
        """As long as it takes for the distance [J] of no joint to shrink faster than `velocity` [J] per second."""
        distance = commanded - wish
        return cls(distance, now, float(_PEAK * np.max(np.abs(distance) / np.asarray(velocity), initial=0.0)))

    def is_over(self, now: float) -> bool:
        """Whether nothing of the distance is left."""
        return now - self.began >= self.seconds

    def left(self, now: float) -> NDArray[np.float64]:
        """[J] what is left of the distance: all of it at the beginning, nothing at the end."""
        if self.is_over(now):
            return np.zeros_like(self.distance)
        share = max(0.0, (now - self.began) / self.seconds)
        done = share**3 * (10.0 - 15.0 * share + 6.0 * share**2)
        return (1.0 - done) * self.distance


class Person:
    """Every action is the person's. See `ActionSource`."""

    problem = NO_WISH

    def __init__(
        self,
        teleoperator: Teleoperator,
        hands: Hands,
        commanded: Callable[[], NDArray[np.float64]],
        velocity: ArrayLike,
        max_action_delay: float,
        period: float,
    ) -> None:
        """`commanded` says where the commands stand [J]; `velocity` [J] per second is a hand-over's greatest; `period`
        are seconds between control steps.
        """
        self._teleoperator, self._hands, self._commanded = teleoperator, hands, commanded
        self._velocity, self._delay, self._period = np.asarray(velocity), max_action_delay, period
        self._asked = -np.inf
        self._has_it = False
        self._hand_over: HandOver | None = None
        self.source: Source = "hand_over"
        """The person, once the arm is where the person wants it."""

    @property
    def rejected(self) -> dict[str, int]:
        """Nobody is asked for chunks."""
        return {}

    def reset(self, first: int = 0) -> None:
        """The person has to take the arm again: it may have been moved."""
        self._has_it, self._hand_over = False, None

    def prepare(self) -> None:
        """See `Teleoperator.prepare`."""
        self._teleoperator.prepare()

    def add(self, chunk: Chunk, now: float) -> str | None:
        """There is no policy whose chunk it could be."""
        return TAKEN_OVER

    def under_way(self, now: float, delay: int) -> UnderWay | None:
        """A person's next actions are not known."""
        return None

    def wants(self, now: float, delay: int = 1) -> bool:
        """A person needs no chunk."""
        return False

    def due(self, now: float) -> Planned | None:
        """What the person wants, and on the way to it what is left of the hand-over added."""
        presses = self._hands.presses
        if not self._has_it:
            self._teleoperator.start(self._commanded(), presses)
            self._has_it = True
        wish = self._teleoperator.wish(presses)
        if wish is None:
            self.source = "hand_over"
            return None
        before, self._asked = self._asked, now
        # Control steps were missed: the commands stood still meanwhile, and what is left would be made up for at once.
        missed = now - before > 1.5 * self._period
        if self._hand_over is None or (missed and not self._hand_over.is_over(before)):
            self._hand_over = HandOver.between(self._commanded(), wish.positions, self._velocity, now)
        self.source = "person" if self._hand_over.is_over(now) else "hand_over"
        action = wish.positions + self._hand_over.left(now)
        return Planned(action, None, 0, wish.time, now + self._delay)

    def held(self) -> None:
        """The person takes the arm again from where it is: a leader may be moved meanwhile, and keys count no more."""
        self._has_it, self._hand_over = False, None


class TakeOver:
    """The policy's actions until a person takes over, and again when the person has given back. See `ActionSource`.

    What the policy decided on before the arm is its own again is dropped: it asks anew, and the arm holds until then.
    """

    def __init__(self, policy: ActionSource, person: Person, hands: Hands) -> None:
        self._policy, self._person, self._hands = policy, person, hands
        self._driven_by_person = False
        self._given_back = -np.inf
        self._next_chunk = 0
        self._taken = 0

    @property
    def rejected(self) -> dict[str, int]:
        """How many chunks were not used, by reason."""
        own = {TAKEN_OVER: self._taken} if self._taken else {}
        return self._policy.rejected | own

    @property
    def problem(self) -> str:
        """Why `due` gave nothing."""
        return self._person.problem if self._driven_by_person else self._policy.problem

    @property
    def source(self) -> Source:
        """Who drives."""
        return self._person.source if self._driven_by_person else self._policy.source

    def reset(self, first: int = 0) -> None:
        """An episode begins, and the policy drives."""
        self._hands.person_drives = self._driven_by_person = False
        self._given_back, self._next_chunk = -np.inf, first
        self._policy.reset(first)
        self._person.reset()

    def prepare(self) -> None:
        """The leader is read all the time, so that it is known where it is when somebody takes over."""
        self._person.prepare()
        self._policy.prepare()

    def add(self, chunk: Chunk, now: float) -> str | None:
        """Hand the chunk to the policy's strategy, unless a person drives or drove when it was observed."""
        self._next_chunk = chunk.number + 1
        if self._driven_by_person or chunk.observed < self._given_back:
            self._taken += 1
            return TAKEN_OVER
        return self._policy.add(chunk, now)

    def under_way(self, now: float, delay: int) -> UnderWay | None:
        """See `ActionSource.under_way`."""
        return self._policy.under_way(now, delay)

    def wants(self, now: float, delay: int = 1) -> bool:
        """The policy is not asked while a person drives."""
        self._look(now)
        return not self._driven_by_person and self._policy.wants(now, delay)

    def due(self, now: float) -> Planned | None:
        """The action of whoever drives."""
        self._look(now)
        return (self._person if self._driven_by_person else self._policy).due(now)

    def held(self) -> None:
        """Whoever drives is told."""
        (self._person if self._driven_by_person else self._policy).held()

    def _look(self, now: float) -> None:
        """Whether the operator has changed hands."""
        wanted = self._hands.person_drives
        if wanted == self._driven_by_person:
            return
        self._driven_by_person = wanted
        self._policy.reset(self._next_chunk)
        self._person.reset()
        if not wanted:
            self._given_back = now
