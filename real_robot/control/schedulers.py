"""Which action of which chunk is due: four strategies, without clocks, threads or robots of their own.

A policy decides on a chunk: H actions, the first for the moment of the observation, one a control period. Deciding
takes time, in which the arm moves on. A strategy says when to ask for the next chunk, and which action is due now.

| strategy | asks | meanwhile | its first action |
| --- | --- | --- | --- |
| sync | when `execute_steps` actions are done | the arm holds | the chunk's first |
| ensemble | at every step | goes on | the one that is due by then, averaged with those of older chunks |
| async | `execute_steps` on, or before the chunk ends | goes on | the one that is due by then, blended in |
| rtc | the same | goes on | the same without a blend: the policy made the chunk continue what was under way |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

Strategy = Literal["sync", "ensemble", "async", "rtc"]
STRATEGIES = get_args(Strategy)
NO_ACTION = "no_action"
"""Nothing is due: the policy has not decided yet."""
NO_WISH = "teleoperator_silent"
"""Nothing is due: the leader arm, or what else a person has, does not say where it is."""

Source = Literal["policy", "hand_over", "person"]
"""Who drives: the policy, a person, or neither, while a person takes the arm (`real_robot.teleoperation.person`)."""


@dataclass(frozen=True)
class Timing:
    """What all strategies need to know of time."""

    frequency: float
    """Control steps a second, of the policy and the arm alike."""
    execute_steps: int
    """Actions of a chunk to execute before the next decision."""
    max_chunk_age: float
    """Seconds after its observation at which a chunk comes too late to be used."""
    max_action_delay: float
    """Seconds after the moment that an action was meant for at which it has expired."""


@dataclass(frozen=True)
class Chunk:
    """One decision of a policy."""

    number: int
    """Counts the requests of an episode, from 0."""
    observed: float
    """When what it was decided from was observed: monotonic seconds."""
    actions: NDArray[np.float64]
    """[H, A] the first for the moment of the observation, then one a control period."""


@dataclass(frozen=True)
class Planned:
    """An action that is due."""

    action: NDArray[np.float64]
    """[A] in the embodiment's units."""
    chunk: int | None
    """Number of the newest chunk that it comes from; None for a person's, who decides on one action at a time."""
    index: int
    """Its place in that chunk."""
    observed: float
    """When what that chunk was decided from was observed."""
    deadline: float
    """When it has expired: later it must not be sent."""


@dataclass(frozen=True)
class UnderWay:
    """What a policy needs to make its next chunk continue what the arm is doing (real-time chunking)."""

    actions: NDArray[np.float64]
    """[R, A] the actions not yet due, the first for the moment of the new observation."""
    delay: int
    """How many of them will be executed before the new chunk is there."""


class ActionSource(Protocol):
    """Where the control loop takes the action from that is due. Times are monotonic seconds of control steps."""

    @property
    def rejected(self) -> dict[str, int]:
        """How many chunks were not used, by reason."""

    @property
    def problem(self) -> str:
        """Why `due` gave nothing, as a code."""

    @property
    def source(self) -> Source:
        """Who drives in this control step, whether or not `due` gave something."""

    def reset(self, first: int = 0) -> None:
        """An episode begins, with chunk number `first`."""

    def prepare(self) -> None:
        """A control step begins: what takes a moment may start now. It never waits."""

    def add(self, chunk: Chunk, now: float) -> str | None:
        """Take a policy's chunk that has arrived; returns the reason when it is not used."""

    def under_way(self, now: float, delay: int) -> UnderWay | None:
        """What the policy's next chunk is to continue, for a policy that can; None where there is nothing."""

    def wants(self, now: float, delay: int = 1) -> bool:
        """Whether to ask the policy for a chunk."""

    def due(self, now: float) -> Planned | None:
        """The action for the control step at `now`, asked for once; None where there is none, and the arm holds."""

    def held(self) -> None:
        """The arm holds in this control step, whatever was due."""


class Scheduler(ABC):
    """A strategy; see `ActionSource`. Times are monotonic seconds of control steps; it never looks at a clock."""

    problem = NO_ACTION
    source: Source = "policy"

    def __init__(self, timing: Timing) -> None:
        self.timing = timing
        self._newest = -1
        self._rejected: dict[str, int] = {}

    @property
    def rejected(self) -> dict[str, int]:
        """How many chunks were not used, by reason: "late", "out_of_order", "not_finite"."""
        return dict(self._rejected)

    def prepare(self) -> None:  # noqa: B027 (a strategy computes; nothing takes a moment)
        """Nothing takes a moment here."""

    def held(self) -> None:  # noqa: B027 (nor does it matter)
        """A chunk goes on with time, whether the arm followed or not."""

    def add(self, chunk: Chunk, now: float) -> str | None:
        """Take a chunk that has arrived; returns the reason when it is not used."""
        reason = self._refusal(chunk, now)
        if reason is not None:
            self._rejected[reason] = self._rejected.get(reason, 0) + 1
            return reason
        self._newest = chunk.number
        self._take(chunk, now)
        return None

    def _refusal(self, chunk: Chunk, now: float) -> str | None:
        if chunk.number <= self._newest:
            return "out_of_order"
        if not np.isfinite(chunk.actions).all():
            return "not_finite"  # mixed with others it would spoil them too
        if now - chunk.observed > self.timing.max_chunk_age or self._starts_at(chunk, now) >= len(chunk.actions):
            return "late"
        return None

    def _starts_at(self, chunk: Chunk, now: float) -> int:
        """Place of a chunk's action that is due now."""
        return elapsed_steps(chunk.observed, now, self.timing.frequency)

    def under_way(self, now: float, delay: int) -> UnderWay | None:
        """What the next chunk is to continue, for a policy that can; None where there is nothing."""
        return None

    @abstractmethod
    def wants(self, now: float, delay: int = 1) -> bool:
        """Whether to ask for a chunk from an observation of now. The caller asks for one at a time.

        `delay` is in how many control steps it is expected to be there.
        """

    @abstractmethod
    def due(self, now: float) -> Planned | None:
        """The action for the control step at `now`, asked for once; None where there is none, and the arm holds."""

    @abstractmethod
    def _take(self, chunk: Chunk, now: float) -> None:
        """Use a chunk from now on."""

    def reset(self, first: int = 0) -> None:
        """Forget all chunks: the next episode begins with chunk number `first`. What was rejected stays counted."""
        self._newest = first - 1


def elapsed_steps(since: float, now: float, frequency: float) -> int:
    """Whole control periods between two moments of control steps, rounded: such moments lie about a period apart."""
    return round((now - since) * frequency)


class Synchronous(Scheduler):
    """Execute `execute_steps` actions, then ask, and hold until the answer is there: openpi's ActionChunkBroker."""

    def __init__(self, timing: Timing) -> None:
        super().__init__(timing)
        self._chunk: Chunk | None = None
        self._place = 0
        self._began: float | None = None

    def reset(self, first: int = 0) -> None:
        super().reset(first)
        self._chunk, self._place, self._began = None, 0, None

    def wants(self, now: float, delay: int = 1) -> bool:
        return self._chunk is None or self._place >= self._usable(self._chunk)

    def _usable(self, chunk: Chunk) -> int:
        return min(self.timing.execute_steps, len(chunk.actions))

    def _starts_at(self, chunk: Chunk, now: float) -> int:
        return 0  # the arm has held since the observation

    def _take(self, chunk: Chunk, now: float) -> None:
        self._chunk, self._place, self._began = chunk, 0, None

    def due(self, now: float) -> Planned | None:
        chunk = self._chunk
        if chunk is None or self._place >= self._usable(chunk):
            return None
        if self._began is None:
            self._began = now
        place, self._place = self._place, self._place + 1
        meant_for = self._began + place / self.timing.frequency
        deadline = meant_for + self.timing.max_action_delay
        return Planned(chunk.actions[place], chunk.number, place, chunk.observed, deadline)


class Ensemble(Scheduler):
    """Average what all chunks say of now, older ones with more weight: ACT (arXiv 2304.13705), section IV.

    The weight of the i-th oldest is exp(-`decay` i); ACT's code has decay 0.01.
    """

    def __init__(self, timing: Timing, decay: float = 0.01) -> None:
        super().__init__(timing)
        self.decay = decay
        self._chunks: list[Chunk] = []

    def reset(self, first: int = 0) -> None:
        super().reset(first)
        self._chunks = []

    def wants(self, now: float, delay: int = 1) -> bool:
        return True

    def _take(self, chunk: Chunk, now: float) -> None:
        self._chunks.append(chunk)

    def due(self, now: float) -> Planned | None:
        places = [self._starts_at(chunk, now) for chunk in self._chunks]
        live = [(chunk, at) for chunk, at in zip(self._chunks, places, strict=True) if at < len(chunk.actions)]
        self._chunks = [chunk for chunk, _ in live]
        if not live:
            return None
        weights = ensemble_weights(len(live), self.decay)
        action = weights @ np.stack([chunk.actions[at] for chunk, at in live])
        chunk, place = live[-1]
        return _planned(chunk, place, action, self.timing)


def ensemble_weights(count: int, decay: float) -> NDArray[np.float64]:
    """[count] weights of predictions, oldest first, that sum to 1: w_i proportional to exp(-decay i)."""
    weights = np.exp(-decay * np.arange(count))
    normalised: NDArray[np.float64] = weights / weights.sum()
    return normalised


class Asynchronous(Scheduler):
    """Decide while executing; a new chunk begins at the action that the elapsed time has come to.

    Over its first `blend_steps` steps the new chunk's share grows linearly, as long as the one before still has
    actions: at step j (from 0) it is (j + 1) / (blend_steps + 1).
    """

    def __init__(self, timing: Timing, blend_steps: int = 3) -> None:
        super().__init__(timing)
        self.blend_steps = blend_steps
        self._chunk: Chunk | None = None
        self._before: Chunk | None = None
        self._since = 0.0

    def reset(self, first: int = 0) -> None:
        super().reset(first)
        self._chunk = self._before = None

    def wants(self, now: float, delay: int = 1) -> bool:
        chunk = self._chunk
        if chunk is None:
            return True
        # In time for the answer to be there when the chunk's last action is done: the arm would hold until then.
        return self._starts_at(chunk, now) >= min(self.timing.execute_steps, len(chunk.actions) - delay)

    def _take(self, chunk: Chunk, now: float) -> None:
        self._before, self._chunk, self._since = self._chunk, chunk, now

    def due(self, now: float) -> Planned | None:
        chunk = self._chunk
        if chunk is None:
            return None
        place = self._starts_at(chunk, now)
        if place >= len(chunk.actions):
            return None
        action = chunk.actions[place]
        step = elapsed_steps(self._since, now, self.timing.frequency)
        if self._before is not None and step < self.blend_steps:
            old = self._starts_at(self._before, now)
            if old < len(self._before.actions):
                share = (step + 1) / (self.blend_steps + 1)
                action = share * action + (1.0 - share) * self._before.actions[old]
        return _planned(chunk, place, action, self.timing)


class RealTime(Asynchronous):
    """Real-time chunking (arXiv 2506.07339): the policy makes each chunk continue the one under way; no blend."""

    def __init__(self, timing: Timing) -> None:
        super().__init__(timing, blend_steps=0)

    def under_way(self, now: float, delay: int) -> UnderWay | None:
        chunk = self._chunk
        if chunk is None:
            return None
        rest = chunk.actions[self._starts_at(chunk, now) :]
        return UnderWay(rest, min(delay, len(rest))) if len(rest) else None


def _planned(chunk: Chunk, place: int, action: NDArray[np.float64], timing: Timing) -> Planned:
    meant_for = chunk.observed + place / timing.frequency
    return Planned(action, chunk.number, place, chunk.observed, meant_for + timing.max_action_delay)


def make_scheduler(strategy: Strategy, timing: Timing, blend_steps: int, ensemble_decay: float) -> Scheduler:
    """The scheduler of a strategy; `blend_steps` is for async, `ensemble_decay` for ensemble."""
    if strategy == "sync":
        return Synchronous(timing)
    if strategy == "ensemble":
        return Ensemble(timing, ensemble_decay)
    return RealTime(timing) if strategy == "rtc" else Asynchronous(timing, blend_steps)


class DelayForecast:
    """How many control steps the next decision will take: the most that the last ten took (arXiv 2506.07339)."""

    def __init__(self, frequency: float, remembered: int = 10) -> None:
        self._frequency, self._remembered = frequency, remembered
        self._delays: list[int] = []

    def add(self, seconds: float) -> None:
        """Note how long a decision took, from its observation to its first use."""
        self._delays = [*self._delays, math.ceil(seconds * self._frequency - 1e-9)][-self._remembered :]

    @property
    def steps(self) -> int:
        """The forecast; 1 before anything is known."""
        return max(self._delays, default=1)
