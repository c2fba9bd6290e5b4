"""What a deployment shows: a line that is kept up to date while the arm moves, and tables at the end."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from real_robot.control.steps import EpisodeResult, Step
from real_robot.control.timing import latency_rows

REFRESH_PER_SECOND = 4.0


class LiveLine:
    """One line on a terminal; nothing elsewhere, where lines of a log would only hide what matters."""

    def __init__(self, console: Console, frequency: float) -> None:
        self._frequency = frequency
        self._step: Step | None = None
        self._age = 0.0
        self._missed = 0
        self._decisions: deque[str] = deque(maxlen=round(frequency))
        self._live = Live(
            get_renderable=self._line,
            console=console,
            refresh_per_second=REFRESH_PER_SECOND,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        ) if console.is_terminal else None  # fmt: skip

    def show(self, step: Step) -> None:
        """What the next refresh is about; costs the control loop nothing."""
        self._step = step
        self._missed += step.tick.missed
        self._decisions.append(str(step.filtered.decision))

    def _line(self) -> Text:
        step = self._step
        if step is None:
            return Text("waiting for the first step; space stops, q ends the episode, s marks success", "dim")
        shares = {name: self._decisions.count(name) for name in dict.fromkeys(self._decisions)}
        style = "bold red" if step.problem else "green"
        source = "" if step.source == "policy" else f" ({step.source})"
        return Text.assemble(
            (f"{step.tick.number / self._frequency:6.1f} s  ", "bold"),
            (f"{(step.problem or 'moving') + source:<24}", style),
            f"last second: {', '.join(f'{count} {name}' for name, count in shares.items())}   ",
            f"missed {self._missed}   ",
            ("space: stop  q: end  s: success  Tab: take over", "dim"),
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()


def show_result(console: Console, folder: Path, summary: dict[str, Any], latency: dict[str, Any]) -> None:
    """Latencies, and what came of the episodes."""
    table = Table("stage", "count", "p50", "p95", "p99", "worst", title="milliseconds")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in latency_rows(latency):
        table.add_row(*row)
    console.print(table)
    decisions = ", ".join(f"{count} {name}" for name, count in summary["decisions"].items())
    console.print(
        f"{summary['successes']} of {summary['episodes']} episodes succeeded; {summary['control_steps']} control "
        f"steps, {summary['missed_steps']} missed; the filter: {decisions or 'nothing'}; {folder}"
    )


def describe(result: EpisodeResult) -> str:
    """An episode in one line."""
    parts = [str(result.ending), f"{result.steps} control steps", f"{result.missed} missed"]
    parts += [f"{count} {name.replace('_', ' ')}" for name, count in result.problems.items()]
    parts += [f"{count} chunks {name.replace('_', ' ')}" for name, count in result.rejected.items()]
    return ", ".join([*parts, result.detail] if result.detail else parts)
