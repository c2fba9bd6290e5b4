"""Records control steps beside the loop: a log of every one, and a LeRobot dataset of the episodes.

The loop hands a step over and goes on. What cannot be handed over, because the writer is behind, is counted, never
silently lost. The log is on the disk line by line; an episode is staged when it is over, whole or not at all, so that
a crash leaves the log up to the last steps and every episode before.
"""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from real_robot.control.steps import Step
from sim.embodiments import Embodiment
from vla.data.episode import Episode
from vla.data.frame_store import allocate_frames
from vla.data.lerobot_writer import LeRobotWriter
from vla.errors import ReflexError, writing
from vla.run.jsonl import read_lines
from vla.safety.decision import Decision
from vla.safety.log import Row

DATASET = "dataset"
LOG = "control.jsonl"
LOG_IN_DATASET = f"meta/reflex_{LOG}"
"""The log of the run that made a dataset, beside its episodes."""
QUEUE_STEPS = 120
"""Steps that may wait for the writer."""
UNKNOWN = -1


@dataclass(frozen=True)
class EpisodeLabel:
    """What an episode is, beside its steps."""

    number: int
    """Counts the episodes of the run, from 0."""
    instruction: str
    policy_id: str
    seed: int = 0


@dataclass
class _Open:
    label: EpisodeLabel
    max_steps: int


@dataclass
class _Close:
    success: bool
    keep: bool


class EpisodeBuffer:
    """The steps of one episode, with room for `max_steps` of them."""

    def __init__(self, embodiment: Embodiment, label: EpisodeLabel, max_steps: int) -> None:
        self._embodiment, self.label, self._max_steps = embodiment, label, max_steps
        self._frames = allocate_frames(max_steps, embodiment.cameras)
        self._states: list[NDArray[np.float32]] = []
        self._actions: list[NDArray[np.float32]] = []
        self._costs: list[float] = []
        self._interventions: list[bool] = []
        self.left_out = 0
        """Steps before the first one that is kept."""

    def add(self, step: Step) -> None:
        """Keep a step that has a picture of every camera; `max_steps` at most.

        What comes before a person who drives from the beginning has the arm is left out: nobody acted then.
        """
        images = step.seen.images
        place = len(self._actions)
        if not place and step.source == "hand_over":
            self.left_out += 1
            return
        if place >= self._max_steps or any(name not in images for name in self._embodiment.camera_names):
            return
        for name, frames in self._frames.items():
            frames[place] = images[name]
        self._states.append(step.seen.reading.state.astype(np.float32))
        self._actions.append(step.sent.astype(np.float32))
        self._costs.append(float(step.filtered.decision is not Decision.PASS))
        self._interventions.append(step.source == "person")

    def __len__(self) -> int:
        return len(self._actions)

    def build(self, success: bool) -> Episode:
        """The episode; its cost is 1 where the filter changed the action, and its reward 1 at a success."""
        length = len(self)
        rewards = np.zeros(length, np.float32)
        rewards[-1] = float(success)
        return Episode(
            suite=self._embodiment.name,
            embodiment=self._embodiment,
            task_id=0,
            instruction=self.label.instruction,
            split="train",
            init_state_id=UNKNOWN,
            seed=self.label.seed,
            policy_id=self.label.policy_id,
            success=success,
            actions=np.stack(self._actions),
            observation_steps=np.arange(length, dtype=np.int64),
            images={name: frames[:length] for name, frames in self._frames.items()},
            states=np.stack(self._states),
            rewards=rewards,
            costs=np.array(self._costs, np.float32),
            progress=np.zeros(length, np.float32),
            interventions=np.array(self._interventions, np.bool_),
        )


class Recorder:
    """Writes in a thread of its own. Use as a context manager; leaving it finishes the dataset.

    Without a dataset only the log is written.
    """

    def __init__(
        self,
        run: Path,
        embodiment: Embodiment,
        header: Mapping[str, Any],
        dataset: bool = True,
        queue_steps: int = QUEUE_STEPS,
    ) -> None:
        """`header` is what the dataset says of its making, JSON-ready: configuration and hashes.

        Raises `ReflexError` where a dataset is there already, or pictures cannot be encoded.
        """
        self.log_path, self.dataset = run / LOG, run / DATASET
        self._embodiment, self._header = embodiment, dict(header)
        self._writer = LeRobotWriter(self.dataset, embodiment.name, embodiment, resume=True) if dataset else None
        self._queue: queue.Queue[Row | Step | _Open | _Close | None] = queue.Queue()
        self._waiting = threading.Semaphore(queue_steps)
        self._episode: EpisodeBuffer | None = None
        self._error: Exception | None = None
        self._closing = self._closed = 0
        self._kept: list[dict[str, Any]] = []
        self.dropped = 0
        """Steps that the writer was too far behind to take."""
        with writing(self.log_path):
            self._log: IO[str] = self.log_path.open("a", encoding="utf-8", buffering=1)
        self._thread = threading.Thread(target=self._serve, name="recorder", daemon=True)
        self._thread.start()

    def add_rows(self, rows: list[Row]) -> None:
        """Lines of the log that are no control step: the filter's limits, its start."""
        for row in rows:
            self._queue.put(row)

    def add(self, step: Step) -> None:
        """Hand a control step over; never waits. One that finds no room is counted in `dropped`."""
        if not self._waiting.acquire(blocking=False):
            self.dropped += 1
            return
        self._queue.put(step)

    def open_episode(self, label: EpisodeLabel, max_steps: int) -> None:
        """The steps that follow are an episode's."""
        self._queue.put(_Open(label, max_steps))

    def close_episode(self, success: bool, keep: bool = True) -> None:
        """The episode is over; it is staged in the writer's thread, unless it is not to be kept."""
        self._closing += 1
        self._queue.put(_Close(success, keep))

    @property
    def busy(self) -> bool:
        """Whether an episode that is over is not yet written."""
        return self._closed < self._closing

    @property
    def failure(self) -> str:
        """What went wrong in the writer's thread, such as a full disk; empty while all is well. Does not wait."""
        return "" if self._error is None else f"what the arm does can no longer be recorded: {self._error}"

    def check(self) -> None:
        """Raise what went wrong in the writer's thread, such as a full disk."""
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._queue.put(None)
        self._thread.join()
        try:
            with writing(self.log_path):
                self._log.close()
        except ReflexError as error:  # what found no room on the disk was tried once more
            self._error = self._error or error
        if self._writer is None:
            return
        try:
            if self._writer.num_episodes and self._error is None:
                self._writer.finalize(self._header | {"episodes": self._kept, "dropped_steps": self.dropped})
                with writing(self.dataset):
                    (self.dataset / LOG_IN_DATASET).write_bytes(self.log_path.read_bytes())
        finally:
            self._writer.close()
        if kind is None:
            self.check()

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                if self._error is None:
                    self._write(item)
            except Exception as error:  # noqa: BLE001 (raised by `check` in the thread that can act on it)
                self._error = error
            finally:
                if isinstance(item, Step):
                    self._waiting.release()
                elif isinstance(item, _Close):
                    self._closed += 1

    def _write(self, item: Row | Step | _Open | _Close) -> None:
        if isinstance(item, Step):
            number = None if self._episode is None else self._episode.label.number
            self._line(item.log_row() | {"episode": number})
            if self._episode is not None:
                self._episode.add(item)
        elif isinstance(item, _Open):
            self._line({"event": "episode", "number": item.label.number, "instruction": item.label.instruction})
            self._episode = EpisodeBuffer(self._embodiment, item.label, item.max_steps)
        elif isinstance(item, _Close):
            self._end(item)
        else:
            self._line(item)

    def _end(self, closing: _Close) -> None:
        episode, self._episode = self._episode, None
        assert episode is not None
        kept = closing.keep and len(episode) > 0
        end = {"number": episode.label.number, "success": closing.success, "kept": kept, "left_out": episode.left_out}
        self._line({"event": "episode_end", **end})
        if kept and self._writer is not None:
            self._writer.add_episode(episode.build(closing.success))
            self._kept.append({"number": episode.label.number, "success": closing.success, "steps": len(episode)})

    def _line(self, row: Row) -> None:
        with writing(self.log_path):
            self._log.write(json.dumps(row) + "\n")


def read_log(path: Path) -> list[Row]:
    """All whole lines of a control log. Raises `ReflexError` naming the file when there is none."""
    if not path.is_file():
        raise ReflexError(f"{path} is missing: only what vla deploy recorded can be replayed with its filter")
    return read_lines(path)
