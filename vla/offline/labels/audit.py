"""`vla audit labels`: how often labels are right, where the truth is known, and what can be checked where it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vla.data.lerobot_dataset import LeRobotDataset
from vla.errors import ReflexError
from vla.offline.labels.files import AUDIT, CHECKS, Labels, read_labels
from vla.offline.labels.joining import counts, order_effects, share
from vla.offline.labels.measures import accuracy, by_difference, calibration, check_rates, kappa
from vla.offline.labels.oracle import progress_at, true_answer
from vla.offline.labels.source import read_progress
from vla.offline.preferences import Answer, Preference, Status
from vla.run.files import read_json_object, write_json
from vla.run.settings import Checks

REMEDY = "run vla audit labels"


@dataclass(frozen=True)
class AuditLabelsConfig:
    """Which labels to audit, and what they must reach."""

    labels: str
    """Folder that vla label wrote; audit.json is written into it."""
    truth: str | None = None
    """LeRobot dataset with true progress; null for the one that was labelled."""
    gate: float = 0.75
    """Accuracy that labels must have before a dataset is relabelled with a reward that was learnt from them."""
    gate_difference: float = 0.2
    """The gate is about pairs whose true progress differs by more than this."""
    edges: list[float] = field(default_factory=lambda: [0.0, 0.05, 0.1, 0.2, 0.5, 1.0])
    """Edges of the bins of |difference in true progress|."""
    tie_margin: float = 0.02
    """Difference up to which a tie is the right answer, for kappa."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.within(0, 1, "gate", "gate_difference", "tie_margin")
        if len(self.edges) < 2 or any(high <= low for low, high in zip(self.edges, self.edges[1:], strict=False)):
            raise ReflexError(f"edges is {self.edges}; it must be two numbers or more that increase, such as [0,0.2,1]")


@dataclass(frozen=True)
class Gate:
    """Whether labels are good enough to learn a reward from."""

    passed: bool | None
    """None: unknown, since no pair's true progress is known."""
    accuracy: float | None
    """Of pairs that differ by more than `difference`."""
    low: float
    """Lower end of its 95 % Wilson interval."""
    high: float
    pairs: int
    """Pairs it is measured on."""
    threshold: float
    difference: float
    labels_sha256: str
    """Of the `labels.jsonl` that was audited."""

    @property
    def reason(self) -> str:
        """In words, for a message."""
        if self.passed is None or self.accuracy is None:
            return f"accuracy is unknown: no answered pair is known to differ by more than {self.difference}"
        return (
            f"accuracy is {self.accuracy:.1%} ({self.low:.1%} to {self.high:.1%}, {self.pairs} pairs that differ by "
            f"more than {self.difference}); the gate is {self.threshold:.1%}"
        )


def read_gate(labels: Labels) -> Gate:
    """The gate of a folder of labels, as its audit left it.

    Raises:
        ReflexError: they were not audited, or are others by now.
    """
    path = labels.folder / AUDIT
    found = read_json_object(path, REMEDY)
    try:
        gate = Gate(**found["gate"])
    except (KeyError, TypeError) as error:
        raise ReflexError(f"{path} has no gate ({error}); {REMEDY}") from error
    if gate.labels_sha256 != labels.sha256:
        raise ReflexError(f"{path} is of other labels than {labels.folder} holds now; {REMEDY}")
    return gate


def audit_labels(config: AuditLabelsConfig) -> None:
    """Audit a folder of labels: print what was found, and write `audit.json` into it.

    Raises:
        ReflexError: there are no labels, or the dataset is another one.
    """
    labels = read_labels(config.labels)
    if not any(label.preference.answer for label in labels.labels):
        raise ReflexError(f"{labels.folder} has no pair with an answer; there is nothing to audit")
    dataset = LeRobotDataset(config.truth or labels.dataset)
    truth = _against_truth(config, labels, dataset)
    gate = _gate(config, labels, truth)
    document = {
        "settings": asdict(config),
        "dataset": labels.dataset,
        "prompt": labels.prompt,
        "model": labels.model,
        "counts": counts([label for label in labels.labels if label.kind not in CHECKS]),
        "orders": order_effects(labels.labels),
        "checks": _checks(labels, dataset),
        "truth": None if truth is None else truth.document,
        "gate": asdict(gate),
    }
    write_json(labels.folder / AUDIT, document)
    _show(document, gate)


@dataclass(frozen=True)
class Truth:
    """Labels beside true progress."""

    answers: list[Answer]
    differences: list[float]
    """True progress of the second less that of the first."""
    document: dict[str, Any]


def _against_truth(config: AuditLabelsConfig, labels: Labels, dataset: LeRobotDataset) -> Truth | None:
    """All measures that need true progress; of the pairs drawn uniformly, and of those that a selection chose.

    The latter are harder than others, so what is true of all pairs can be had from uniform ones only.
    """
    said = [label for label in labels.labels if label.kind not in CHECKS and label.preference.status is Status.OK]
    moments = [moment for label in said for moment in (label.preference.pair.first, label.preference.pair.second)]
    progress = read_progress(dataset, (moment.episode for moment in moments))
    if progress is None:
        return None
    found: dict[str, dict[str, Any]] = {}
    results: dict[str, tuple[list[Answer], list[float]]] = {}
    for name, kinds in (("uniform", ("uniform",)), ("selected", ("selected",))):
        some = [label.preference for label in said if label.kind in kinds]
        if some:
            results[name] = _differences(some, progress)
            found[name] = _measures(config, some, *results[name])
    answers, differences = results.get("uniform") or results.get("selected") or ([], [])
    return Truth(answers, differences, found)


def _differences(preferences: Sequence[Preference], progress: Mapping[int, Any]) -> tuple[list[Answer], list[float]]:
    answers, differences = [], []
    for preference in preferences:
        first, second = (
            progress_at(progress[moment.episode], moment.frame)
            for moment in (preference.pair.first, preference.pair.second)
        )
        assert preference.answer is not None  # status is OK
        answers.append(preference.answer)
        differences.append(second - first)
    return answers, differences


def _measures(
    config: AuditLabelsConfig, preferences: Sequence[Preference], answers: list[Answer], differences: list[float]
) -> dict[str, Any]:
    within = [preference.pair.first.episode == preference.pair.second.episode for preference in preferences]
    gap = np.array(differences)
    true = [true_answer(0.0, float(difference), config.tie_margin) for difference in gap]
    scored = [number for number, one in enumerate(preferences) if one.probability_second is not None]
    beyond = np.flatnonzero(np.abs(gap) > config.gate_difference)
    return {
        "pairs": len(answers),
        "accuracy": accuracy(answers, gap),
        "accuracy_beyond_gate_difference": accuracy([answers[number] for number in beyond], gap[beyond]),
        "by_difference": by_difference(answers, gap, config.edges),
        "same_episode": accuracy([answers[n] for n in np.flatnonzero(within)], gap[within]),
        "two_episodes": accuracy([answers[n] for n in np.flatnonzero(~np.array(within))], gap[~np.array(within)]),
        "ties": share(sum(answer is Answer.TIE for answer in answers), len(answers)),
        "kappa": kappa(answers, true),
        "calibration": calibration([preferences[n].probability_second or 0.0 for n in scored], gap[scored])
        if scored
        else None,
    }


def _gate(config: AuditLabelsConfig, labels: Labels, truth: Truth | None) -> Gate:
    """Of the uniform pairs where there are any, else of the selected ones."""
    answers, differences = ([], []) if truth is None else (truth.answers, truth.differences)
    gap = np.array(differences)
    beyond = np.flatnonzero(np.abs(gap) > config.gate_difference)
    found = accuracy([answers[number] for number in beyond], gap[beyond])
    passed = None if found["share"] is None else bool(found["share"] >= config.gate)
    interval = found["share"], found["low"], found["high"], found["of"]
    return Gate(passed, *interval, config.gate, config.gate_difference, labels.sha256)


def _checks(labels: Labels, dataset: LeRobotDataset) -> dict[str, Any]:
    """The checks that need no true progress; outcomes are the dataset's own."""
    found: dict[str, Any] = {}
    for kind in CHECKS:
        answered = [one for one in labels.checks(kind) if one.status is Status.OK]
        if kind == "start_end":
            better = [one.pair.second.frame > one.pair.first.frame for one in answered]
        elif kind == "outcome":
            index_of = {number: index for index, number in enumerate(dataset.episode_numbers)}
            better = [dataset.episode(index_of[one.pair.second.episode], cameras=[]).success for one in answered]
        else:
            better = [False] * len(answered)
        found[kind] = check_rates(kind, answered, better)
    return found


def _show(document: Mapping[str, Any], gate: Gate) -> None:
    console = Console()
    if not console.is_terminal:
        console.width = 120
    for name, measures in (document["truth"] or {}).items():
        table = Table("|difference|", "pairs", "accuracy", "ties", title=f"{measures['pairs']} {name} pairs")
        for row in measures["by_difference"]:
            bounds = f"{row['low']:g} to {row['high']:g}"
            table.add_row(bounds, str(row["pairs"]), _interval(row["accuracy"]), _interval(row["ties"]))
        table.add_row("all", str(measures["pairs"]), _interval(measures["accuracy"]), _interval(measures["ties"]))
        console.print(table)
        error = (measures["calibration"] or {}).get("expected_error")
        console.print(f"kappa {_number(measures['kappa'])}, calibration error {_number(error)}", highlight=False)
    table = Table("check", "right", title="without any truth")
    table.add_row("the end of a success is better than its start", _interval(document["checks"]["start_end"]))
    table.add_row("the end of a success is better than that of a failure", _interval(document["checks"]["outcome"]))
    table.add_row("a picture ties with itself", _interval(document["checks"]["identical"]))
    table.add_row("both orders are answered alike", _interval(document["orders"]["consistent"]))
    table.add_row("the picture shown first is named (a half is unbiased)", _interval(document["orders"]["first_shown"]))
    console.print(table)
    word = {True: "passed", False: "failed", None: "unknown"}[gate.passed]
    console.print(f"gate {word}: {gate.reason}", highlight=False)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(found: Mapping[str, Any]) -> str:
    if found["share"] is None:
        return "-"
    return f"{found['share']:.1%} ({found['low']:.1%} to {found['high']:.1%}, {found['of']})"
