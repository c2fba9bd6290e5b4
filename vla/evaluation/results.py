"""What an evaluation found: records, success rates with intervals, per task and overall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vla.errors import ReflexError
from vla.evaluation.protocol import check_same
from vla.evaluation.statistics import PairedDifference, paired_bootstrap, wilson_interval
from vla.run.jsonl import read_lines

__all__ = ["EvaluationResult", "TaskResult", "compare", "compare_tasks", "evaluated_episodes", "tabulate"]


@dataclass(frozen=True)
class TaskResult:
    """Success of one task."""

    task_id: int
    instruction: str
    successes: int
    episodes: int
    wilson_low: float
    wilson_high: float

    @property
    def success_rate(self) -> float:
        """Share of episodes that succeeded; 0 when there were none."""
        return self.successes / self.episodes if self.episodes else 0.0


@dataclass(frozen=True)
class EvaluationResult:
    """Success over all episodes of an evaluation."""

    records: list[dict[str, Any]]
    """One per episode, ordered by task and initial state."""
    protocol_hash: str
    """Of the protocol they were measured under."""
    per_task: list[TaskResult] = field(init=False)
    """Ordered by task."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "per_task", tabulate(self.records))

    @property
    def episodes(self) -> int:
        """Episodes evaluated."""
        return len(self.records)

    @property
    def successes(self) -> int:
        """Episodes that succeeded."""
        return sum(bool(record["success"]) for record in self.records)

    @property
    def success_rate(self) -> float:
        """Share of episodes that succeeded; 0 when there were none."""
        return self.successes / self.episodes if self.episodes else 0.0

    @property
    def wilson_low(self) -> float:
        """Lower end of the 95 % Wilson interval."""
        return wilson_interval(self.successes, self.episodes)[0]

    @property
    def wilson_high(self) -> float:
        """Upper end of the 95 % Wilson interval."""
        return wilson_interval(self.successes, self.episodes)[1]

    def summary(self) -> dict[str, float | int]:
        """``success_rate``, ``episodes``, ``wilson_low`` and ``wilson_high``."""
        return {
            "success_rate": self.success_rate,
            "episodes": self.episodes,
            "wilson_low": self.wilson_low,
            "wilson_high": self.wilson_high,
        }

    def metrics(self) -> dict[str, float]:
        """The same under the keys of ``metrics.jsonl``, with ``eval/task_<id>`` for every task."""
        overall = {f"eval/{key}": float(value) for key, value in self.summary().items()}
        return overall | {f"eval/task_{task.task_id}": task.success_rate for task in self.per_task}


def tabulate(records: Sequence[Mapping[str, Any]]) -> list[TaskResult]:
    """Success per task, with 95 % Wilson intervals, ordered by task."""
    table: list[TaskResult] = []
    for task_id in sorted({int(record["task_id"]) for record in records}):
        of_task = [record for record in records if int(record["task_id"]) == task_id]
        successes = sum(bool(record["success"]) for record in of_task)
        low, high = wilson_interval(successes, len(of_task))
        instruction = str(of_task[0].get("instruction", f"task {task_id}"))
        table.append(TaskResult(task_id, instruction, successes, len(of_task), low, high))
    return table


def compare(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]], seed: int = 0
) -> PairedDifference | None:
    """Second minus first over the (task, initial state) pairs that both evaluated, or None when they share none.

    Raises:
        ReflexError: the two were measured under different protocols.
    """
    before = {(record["task_id"], record["init_state_id"]): bool(record["success"]) for record in first}
    after = {(record["task_id"], record["init_state_id"]): bool(record["success"]) for record in second}
    shared = sorted(before.keys() & after.keys())
    if not shared:
        return None
    check_same(first, second)
    return paired_bootstrap([before[key] for key in shared], [after[key] for key in shared], seed=seed)


def compare_tasks(
    first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]
) -> dict[int, PairedDifference]:
    """`compare` for each task of which both evaluated some initial state."""
    found = {}
    for task in sorted({int(record["task_id"]) for record in first}):
        before, after = ([record for record in half if int(record["task_id"]) == task] for half in (first, second))
        difference = compare(before, after)
        if difference is not None:
            found[task] = difference
    return found


def evaluated_episodes(run: Path) -> list[dict[str, Any]]:
    """The records of an evaluation's run folder; of a training run's, those of its last evaluation.

    Raises:
        ReflexError: there are none.
    """
    records = read_lines(run / "episodes.jsonl")
    if any("reward" in record for record in records):  # a training run: its own rollouts are no evaluation
        records = [record for record in records if record["split"] == "eval"]
    if not records:
        raise ReflexError(f"{run} holds no evaluated episodes; it must be the output folder of vla eval or vla train")
    last = max(int(record["step"]) for record in records)
    return [record for record in records if int(record["step"]) == last]
