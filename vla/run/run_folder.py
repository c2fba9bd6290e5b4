"""The run folder: the one layout in which every command that trains or evaluates leaves its results.

```
config.yaml        the configuration, as resolved
protocol.json      the evaluation protocol and its hash
wandb.json         the run's id at Weights & Biases, where logger=wandb
self_test.json     what an evaluation found of its simulator before it started
metrics.jsonl      one line per step: {"step": 3, "train/loss": ..., "eval/success_rate": ...}
episodes.jsonl     one line per episode, with the step it belongs to
checkpoints/<step> whole or absent, with a manifest; `last` points at the newest
imagined/          what `vla offline` imagined, and the model that did
replay/            what `vla online` played, a file a round
tensorboard/       event files
videos/            <phase>/task<id>_init<id>_{success,failure}.mp4
summary.json       the headline numbers
report.html        everything above, readable
```

Keys that begin with ``time/`` are wall-clock measurements; everything else is reproducible, so that a run killed and
resumed has the same lines as one never killed (``comparable_metrics``).
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import weakref
from collections.abc import Callable, Container, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from vla.errors import ReflexError, writing
from vla.run.checkpoints import list_checkpoints, newest_checkpoint, remove_old, write_checkpoint
from vla.run.files import read_json_object, remove_temporaries, write_json, write_text
from vla.run.jsonl import append_lines, drop_torn_line, keep_lines, read_lines, write_lines
from vla.run.sinks import MetricSink, TensorBoardSink, WandbSink

__all__ = ["LOGGERS", "Logger", "RunFolder", "comparable_metrics", "dated_folder", "lock", "read_config", "run_name"]

Logger = Literal["tensorboard", "wandb"]
LOGGERS = get_args(Logger)
"""Where metrics can be watched; TensorBoard's event files are written in either case."""

RECORDS = ("metrics.jsonl", "episodes.jsonl", "summary.json", "report.html")
PREPARATIONS = (
    "config.yaml", "protocol.json", "self_test.json", "wandb.json", "wandb", "tensorboard", "checkpoints", "encoder",
    "imagined", "reference", "replay", "videos",
)  # fmt: skip
"""What a run writes before it has anything to show."""


def dated_folder(command: str) -> str:
    """Where a run goes when nobody says: `runs/train_2026-11-27_14-03-05`, so that none is in another's way."""
    return f"runs/{command}_{datetime.now():%Y-%m-%d_%H-%M-%S}"


def run_name(folder: Path) -> str:
    """What a run is called, and the policy that it trains: its folder's name."""
    return folder.resolve().name or "policy"


class RunFolder:
    """A run's files.  All writes are atomic or append whole lines; a context manager that closes its sinks.

    A run that fails before it has recorded a metric or an episode takes its folder back, so that the corrected command
    can have it.
    """

    def __init__(self, path: Path | str, resume: bool = False, logger: str = "tensorboard") -> None:
        """Open or create a run folder.

        Args:
            path: the folder.
            resume: continue the run it holds.
            logger: "tensorboard", or "wandb" to log to Weights & Biases too.

        Raises:
            ReflexError: the folder already holds something and ``resume`` is false, or something that is no run;
                another process has it open; it cannot be created, or the logger is unknown or cannot start.
        """
        if logger not in LOGGERS:
            raise ReflexError(f"logger={logger!r} must be one of {', '.join(LOGGERS)}")
        self.path = Path(path)
        self.metrics_path, self.episodes_path = self.path / "metrics.jsonl", self.path / "episodes.jsonl"
        self.checkpoints_path, self.videos_path = self.path / "checkpoints", self.path / "videos"
        self._sinks: list[MetricSink] = [TensorBoardSink(self.path / "tensorboard")]
        if self.path.exists() and not self.path.is_dir():
            raise ReflexError(f"{self.path} is a file; choose another output folder")
        found = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set()
        self._is_new = not found
        if found and not found & {*RECORDS, *PREPARATIONS}:
            raise ReflexError(f"{self.path} holds something else than a run; choose another output folder")
        if found and not resume:
            raise ReflexError(
                f"{self.path} already holds a run; continue it with resume=true, choose another output folder, "
                "or delete it"
            )
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._unlock = weakref.finalize(self, os.close, lock(self.path))
        if resume:
            remove_temporaries(self.path)
            remove_temporaries(self.checkpoints_path)
            drop_torn_line(self.metrics_path)
            drop_torn_line(self.episodes_path)
        if logger == "wandb":
            try:
                self._sinks.append(WandbSink(self.path))
            except ReflexError:
                self._unlock()
                self._take_back()
                raise

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml``, and show it in every sink."""
        plain = json.loads(json.dumps(dict(config), default=str))  # tuples become lists, paths become text
        write_text(self.path / "config.yaml", yaml.safe_dump(plain, sort_keys=False, allow_unicode=True))
        for sink in self._sinks:
            sink.configure(plain)

    def read_config(self) -> dict[str, Any]:
        """Read ``config.yaml``; empty when there is none.  Raises ``ReflexError`` when it is not a YAML mapping."""
        return read_config(self.path)

    def write_protocol(self, protocol: Mapping[str, Any]) -> None:
        """Write ``protocol.json``.

        Raises:
            ReflexError: the folder already holds a different protocol, so its results and new ones cannot be compared.
        """
        path = self.path / "protocol.json"
        plain = json.loads(json.dumps(dict(protocol)))
        if path.exists():
            existing = read_json_object(path)
            changed = sorted(key for key in {*existing, *plain} if existing.get(key) != plain.get(key))
            if changed:
                raise ReflexError(
                    f"{path} records another evaluation protocol (differs in {', '.join(changed)}), so new results "
                    "could not be compared with those already there; resume with the settings it was started with, "
                    "or use a new output folder"
                )
            return
        write_json(path, plain)

    def append_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one line to ``metrics.jsonl`` and to every sink.  Non-finite values are written as ``null``."""
        values = {key: float(value) for key, value in metrics.items()}
        append_lines(self.metrics_path, [{"step": int(step), **values}])
        for sink in self._sinks:
            sink.log(int(step), values)

    def append_episodes(self, records: Iterable[Mapping[str, Any]], step: int | None = None) -> None:
        """Append lines to ``episodes.jsonl``.

        Args:
            records: JSON-ready episode records.
            step: the step they belong to; may be left out when every record already has a ``step``.

        Raises:
            ValueError: a record has no step, so that ``truncate_after`` could not place it.
        """
        lines = [dict(record) if step is None else {"step": int(step), **record} for record in records]
        if any("step" not in line for line in lines):
            raise ValueError("an episode record needs a step: append_episodes(records, step=...)")
        append_lines(self.episodes_path, lines)

    def read_metrics(self) -> list[dict[str, Any]]:
        """All complete lines of ``metrics.jsonl``."""
        return read_lines(self.metrics_path)

    def read_episodes(self) -> list[dict[str, Any]]:
        """All complete lines of ``episodes.jsonl``."""
        return read_lines(self.episodes_path)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write ``summary.json``."""
        write_json(self.path / "summary.json", dict(summary))

    def read_summary(self) -> dict[str, Any]:
        """Read ``summary.json``; empty when there is none."""
        path = self.path / "summary.json"
        return read_json_object(path) if path.exists() else {}

    def save_checkpoint(self, step: int, writer: Callable[[Path], None], keep: int | None = None) -> Path:
        """Write ``checkpoints/<step>`` through ``writer(temporary_folder)``, publish it, and move ``last`` to it.

        Args:
            step: the step after which the state was taken.
            writer: fills the folder it is given.
            keep: delete all but this many newest checkpoints afterwards; None keeps all.

        Raises:
            ReflexError: the disk is full or not writable; earlier checkpoints are unchanged.
        """
        path = write_checkpoint(self.checkpoints_path, int(step), writer)
        if keep is not None:
            remove_old(self.checkpoints_path, keep)
        return path

    def last_checkpoint(self) -> tuple[int, Path] | None:
        """The newest whole checkpoint as ``(step, folder)``, or None.  Incomplete and damaged ones are skipped."""
        return newest_checkpoint(self.checkpoints_path)

    def restart_point(self, settings: Mapping[str, Any], may_change: Container[str]) -> Path | None:
        """The checkpoint to continue from, or None where there is none.

        Raises `ReflexError` when a setting that is not in `may_change` differs from that which the run began with.
        """
        before = self.read_config()
        if not before:
            return None
        changed = sorted(
            name for name, value in settings.items() if name not in may_change and before.get(name) != value
        )
        if changed:
            raise ReflexError(
                f"{self.path} was started with other settings ({', '.join(changed)}), and continuing would mix two "
                "runs; use the settings in its config.yaml, or a new output folder"
            )
        last = self.last_checkpoint()
        return None if last is None else last[1]

    def truncate_after(self, step: int) -> None:
        """Drop metrics and episodes past ``step``, atomically; -1 drops all (a resume without any checkpoint)."""
        keep_lines(self.episodes_path, lambda record: int(record.get("step", 0)) <= step)
        self.truncate_metrics_after(step)

    def truncate_metrics_after(self, step: int) -> None:
        """Drop metrics past ``step``, atomically, and keep every episode."""
        keep_lines(self.metrics_path, lambda record: int(record.get("step", 0)) <= step)
        for sink in self._sinks:
            sink.restart_after(step)

    def replace_episodes(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Rewrite ``episodes.jsonl``, atomically; each record needs a ``step``."""
        write_lines(self.episodes_path, [dict(record) for record in records])

    def close(self) -> None:
        """Flush and close TensorBoard and W&B, and let another process have the folder."""
        for sink in self._sinks:
            sink.close()
        self._unlock()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close()
        if kind is not None and issubclass(kind, Exception):  # an interrupted run is there to be continued
            self._take_back()

    def _take_back(self) -> None:
        """Remove what this run wrote into a folder that was new, unless something is recorded in it."""
        recorded = any((self.path / name).exists() for name in RECORDS)
        if not self._is_new or recorded or any(step for step, _ in list_checkpoints(self.checkpoints_path)):
            return
        remove_temporaries(self.path)
        for name in PREPARATIONS:
            entry = self.path / name
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                entry.unlink(missing_ok=True)
        if not any(self.path.iterdir()):
            self.path.rmdir()


def lock(path: Path) -> int:
    """Lock a folder or a file until the returned descriptor is closed. Raises `ReflexError` where another has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ReflexError(
            f"another process is writing into {path}; wait for it, end it, or choose another output folder"
        ) from error
    return descriptor


def read_config(run: Path) -> dict[str, Any]:
    """Read a run folder's ``config.yaml`` without touching the folder; empty when there is none.

    Raises:
        ReflexError: it is not a YAML mapping.
    """
    path = run / "config.yaml"
    if not path.exists():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ReflexError(f"{path} is not valid YAML; restore it ({' '.join(str(error).split())})") from error
    if not isinstance(config, dict):
        raise ReflexError(f"{path} is not a mapping of settings; restore it")
    return config


def comparable_metrics(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Metric lines without their wall-clock keys (``time/...``): what two runs of one seed must agree on."""
    return [{key: value for key, value in record.items() if not key.startswith("time/")} for record in records]
