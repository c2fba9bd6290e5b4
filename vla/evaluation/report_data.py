"""What a report shows, read from a run folder.  No markup here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.errors import ReflexError
from vla.evaluation.results import EvaluationResult, TaskResult, compare, evaluations, tabulate
from vla.evaluation.statistics import PairedDifference, wilson_interval
from vla.evaluation.videos import Video, find_videos
from vla.run.files import read_json
from vla.run.jsonl import read_lines
from vla.run.run_folder import read_config

__all__ = ["Arm", "RunData", "Series", "load_run", "order_phases"]

NAMES = {
    "sft": "Fine-tuned",
    "srpo": "SRPO",
    "grpo": "GRPO",
    "ppo": "PPO",
    "base": "Pretrained",
    "eval": "Evaluated",
    "start": "Start",
}


@dataclass(frozen=True)
class Arm:
    """One policy's headline number."""

    name: str
    success_rate: float
    low: float
    high: float
    episodes: int


@dataclass(frozen=True)
class Series:
    """One metric over the run; values that were not finite are left out."""

    key: str
    steps: list[int]
    values: list[float]


@dataclass(frozen=True)
class Part:
    """A part of a run's time."""

    name: str
    seconds: float
    """In all."""
    times: int
    """How often it was done."""


PARTS = {
    "time/rollout_seconds": "Rollouts",
    "time/encode_seconds": "Reward: encoding rollouts",
    "time/score_seconds": "Reward: scoring",
    "time/update_seconds": "Update",
    "time/evaluation_seconds": "Evaluation",
}
"""Metrics that hold seconds of a part. What an iteration took beside the first four is "Other"."""


@dataclass(frozen=True)
class RunData:
    """Everything the report needs."""

    name: str
    config: dict[str, Any]
    protocol: dict[str, Any]
    summary: dict[str, Any]
    arms: list[Arm]
    curve: list[dict[str, Any]]
    """Metric lines that hold an evaluation, by step."""
    telemetry: list[Series]
    profile: list[Part]
    """Where the time of training went; empty for a run that trained nothing."""
    first_tasks: list[TaskResult]
    last_tasks: list[TaskResult]
    """Empty when the run evaluated one policy only."""
    difference: PairedDifference | None
    """Last minus first policy, on the initial states both were evaluated on."""
    phases: list[str]
    videos: list[Video]


def load_run(path: Path) -> RunData:
    """Read a run folder.

    Raises:
        ReflexError: the folder is missing, is not a run folder, or one of its files is damaged.
    """
    if not path.is_dir():
        raise ReflexError(
            f"there is no run folder {path}: it is not a folder; give the one that a command such as vla train wrote"
        )
    metrics, episodes = read_lines(path / "metrics.jsonl"), read_lines(path / "episodes.jsonl")
    summary = _mapping(path / "summary.json")
    if not (metrics or episodes or summary):
        raise ReflexError(f"{path} holds no run: metrics.jsonl, episodes.jsonl and summary.json are missing or empty")
    curve = sorted((line for line in metrics if "eval/success_rate" in line), key=lambda line: int(line["step"]))
    evaluated = evaluations(episodes)
    first = evaluated[0] if evaluated else []
    last = evaluated[-1] if len(evaluated) > 1 else []
    videos = find_videos(path / "videos")
    return RunData(
        name=path.resolve().name,
        config=read_config(path),
        protocol=_mapping(path / "protocol.json"),
        summary=summary,
        arms=_arms(summary, curve, EvaluationResult(first, "")),
        curve=curve,
        telemetry=_telemetry(metrics),
        profile=profile(metrics),
        first_tasks=tabulate(first),
        last_tasks=tabulate(last),
        difference=compare(first, last),
        phases=order_phases({video.phase for video in videos}),
        videos=videos,
    )


def order_phases(names: set[str]) -> list[str]:
    """Phases in the order of training: pretrained, fine-tuned, then by the numbers in their names, then by name."""
    known = ["base", "sft", "start", "first", "initial"]

    def key(name: str) -> tuple[int, int, str]:
        rank = known.index(name) if name in known else len(known)
        digits = re.findall(r"\d+", name)
        return rank, int(digits[-1]) if digits else 0, name

    return sorted(names, key=key)


def arm_name(key: str) -> str:
    """The name of a policy as shown."""
    return NAMES.get(key, key.replace("_", " ").capitalize())


def _arms(summary: Mapping[str, Any], curve: Sequence[Mapping[str, Any]], first: EvaluationResult) -> list[Arm]:
    """The policies a run compares, first to last: of its summary, else of its evaluations, else of its episodes."""
    ends = summary if isinstance(summary.get("success_rate"), int | float) else None
    found = [
        _arm(arm_name(key), value)
        for key, value in summary.items()
        if isinstance(value, dict) and isinstance(value.get("success_rate"), int | float)
    ]
    if found:
        if len(found) == 1 and ends is not None:  # a trainer's summary: where it began, and where it ended
            reward = {"srpo": "srpo", "binary": "grpo"}.get(str(summary.get("reward")), "trained")
            found.append(_arm(arm_name(reward), ends))
        return found
    if ends is not None and len(curve) < 2:
        return [_arm(str(summary.get("policy", "Policy")), ends)]
    if curve:
        lines = [curve[0], curve[-1]] if len(curve) > 1 else [curve[0]]
        return [
            _arm(f"Iteration {line['step']}", {key.removeprefix("eval/"): value for key, value in line.items()})
            for line in lines
        ]
    return [_arm("Policy", first.summary())] if first.episodes else []


def _arm(name: str, values: Mapping[str, Any]) -> Arm:
    values = {key: value for key, value in values.items() if value is not None}
    # The summary of fine-tuning counts its demonstrations as "episodes".
    rate, episodes = float(values["success_rate"]), int(values.get("eval_episodes", values.get("episodes", 0)))
    low, high = wilson_interval(round(rate * episodes), episodes)
    return Arm(name, rate, float(values.get("wilson_low", low)), float(values.get("wilson_high", high)), episodes)


def profile(metrics: Sequence[Mapping[str, Any]]) -> list[Part]:
    """Seconds of each of `PARTS` over a run's metric lines, and of what is left of its iterations."""
    iterations = [line for line in metrics if "time/iteration_seconds" in line]
    if not iterations:
        return []
    found = {key: [float(line[key]) for line in metrics if line.get(key) is not None] for key in PARTS}
    parts = [Part(PARTS[key], sum(values), len(values)) for key, values in found.items() if values]
    inside = sum(sum(values) for key, values in found.items() if key != "time/evaluation_seconds")
    other = sum(float(line["time/iteration_seconds"]) for line in iterations) - inside
    return [*parts, Part("Other", max(other, 0.0), len(iterations))]


def _telemetry(metrics: Sequence[Mapping[str, Any]]) -> list[Series]:
    """Every other metric that has more than one value, in the order in which the run first wrote them."""
    columns: dict[str, Series] = {}
    for line in metrics:
        for key, value in line.items():
            if key == "step" or key in PARTS or key.startswith("eval/") or not isinstance(value, int | float):
                continue
            series = columns.setdefault(key, Series(key, [], []))
            series.steps.append(int(line["step"]))
            series.values.append(float(value))
    shown = [series for series in columns.values() if len(series.values) > 1]
    return sorted(shown, key=lambda series: series.key.startswith("time/"))  # stable: how long things took comes last


def _mapping(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ReflexError(f"{path} does not hold a JSON object; delete it or restore it")
    return content
