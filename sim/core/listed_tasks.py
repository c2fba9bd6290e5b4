"""What suites do alike whose tasks are known by their place in a list."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

from sim.contract import Split, Suite


class NamedTask(Protocol):
    """A task as a suite lists it."""

    @property
    def name(self) -> str: ...

    @property
    def instruction(self) -> str: ...


class ListedTasks(Suite):
    """A suite whose tasks are known by their place in a list, each with as many initial states."""

    _tasks: Sequence[NamedTask]
    _states_per_split: int

    @abstractmethod
    def _task(self, task_id: int) -> NamedTask:
        """The task of that number. Raises `EnvironmentRequestError` naming the known ones."""

    @property
    def task_ids(self) -> tuple[int, ...]:
        """Task numbers in the list's order."""
        return tuple(range(len(self._tasks)))

    def task_name(self, task_id: int) -> str:
        """Short name of a task."""
        return self._task(task_id).name

    def instruction(self, task_id: int) -> str:
        """Its language instruction."""
        return self._task(task_id).instruction

    def num_init_states(self, task_id: int, split: Split) -> int:
        """As many in either split."""
        self._task(task_id)
        return self._states_per_split
