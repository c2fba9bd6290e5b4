"""What a folder of labels holds, and how it is read.

```
settings.json   how it was made: settings, prompt and its hash, model
pairs.jsonl     the pairs, chosen once
moments.jsonl   which picture belongs to which moment;  pictures/  PNG files, as the model saw them
calls.jsonl     the cache: each call, before and after
labels.jsonl    one line a pair that was asked: status, answer, and what each order gave
summary.json    counts, cost, position bias, consistency
audit.json      what `vla audit labels` found
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from vla.errors import ReflexError
from vla.offline.preferences import Answer, Moment, Pair, Preference, Status
from vla.run.files import file_sha256, read_json_object
from vla.run.jsonl import read_lines

SETTINGS = "settings.json"
PAIRS = "pairs.jsonl"
CALLS = "calls.jsonl"
LABELS = "labels.jsonl"
MOMENTS = "moments.jsonl"
PICTURES = "pictures"
SUMMARY = "summary.json"
AUDIT = "audit.json"

Kind = Literal["uniform", "selected", "start_end", "outcome", "identical"]
"""How a pair came about; the last three are checks."""
CHECKS: tuple[Kind, ...] = ("start_end", "outcome", "identical")


@dataclass(frozen=True)
class AskedPair:
    """A pair that is to be labelled."""

    pair: Pair
    kind: Kind
    both_orders: bool

    def row(self) -> dict[str, Any]:
        """Its line of `pairs.jsonl`."""
        return {**pair_row(self.pair), "kind": self.kind, "both_orders": self.both_orders}

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> AskedPair:
        """The other way."""
        return AskedPair(pair_from_row(row), row["kind"], row["both_orders"])


def pair_row(pair: Pair) -> dict[str, Any]:
    """A pair, JSON-ready."""
    return {
        "first": [pair.first.episode, pair.first.frame],
        "second": [pair.second.episode, pair.second.frame],
        "goal": pair.goal,
    }


def pair_from_row(row: Mapping[str, Any]) -> Pair:
    """The other way."""
    return Pair(Moment(*row["first"]), Moment(*row["second"]), row["goal"])


@dataclass(frozen=True)
class Label:
    """A pair and what came of it."""

    preference: Preference
    kind: Kind
    orders: tuple[Mapping[str, Any], ...] = ()
    """What each order gave: `swapped`, `status`, `answer` and `probability_second` (of the pair as it stands)."""

    def row(self) -> dict[str, Any]:
        """Its line of `labels.jsonl`."""
        said = self.preference
        return {
            **pair_row(said.pair),
            "kind": self.kind,
            "status": said.status,
            "answer": said.answer,
            "probability_second": said.probability_second,
            "consistent": said.consistent,
            "orders": list(self.orders),
        }

    @staticmethod
    def from_row(row: Mapping[str, Any]) -> Label:
        """The other way."""
        answer = None if row["answer"] is None else Answer(row["answer"])
        preference = Preference(
            pair_from_row(row), Status(row["status"]), answer, row["probability_second"], row["consistent"]
        )
        if row["kind"] not in get_args(Kind):
            raise ValueError(f"kind {row['kind']!r}")
        return Label(preference, row["kind"], tuple(row["orders"]))


@dataclass(frozen=True)
class Labels:
    """A folder of labels."""

    folder: Path
    dataset: str
    """What was labelled."""
    prompt: str
    """Name of the prompt and the beginning of its hash; "oracle" of the oracle's."""
    model: str
    labels: tuple[Label, ...]
    sha256: str
    """Of `labels.jsonl`: what a reward model says that it was fitted to."""

    @property
    def preferences(self) -> list[Preference]:
        """To learn from: all but the checks."""
        return [label.preference for label in self.labels if label.kind not in CHECKS]

    def checks(self, kind: Kind) -> list[Preference]:
        """Those of one kind of check."""
        return [label.preference for label in self.labels if label.kind == kind]


def read_labels(folder: str | Path, prompt: str | None = None) -> Labels:
    """Read what `vla label` wrote.

    Args:
        folder: its output.
        prompt: the version that they must be of, e.g. `two_stage_v1 (3f2a91c04b7d)`; None takes any.

    Raises:
        ReflexError: there are none, they are of another prompt version, or the files are damaged.
    """
    root = Path(folder)
    settings = read_json_object(root / SETTINGS, "give the output folder of vla label")
    path = root / LABELS
    if not path.is_file():
        raise ReflexError(f"{path} is missing; vla label has not ended there: run it again with output={root}")
    found = settings.get("prompt_version")
    if prompt is not None and found != prompt:
        raise ReflexError(
            f"{root} has labels of prompt {found}, not of {prompt}; label anew into another folder, or use these as "
            "what they are"
        )
    labels = []
    for number, row in enumerate(read_lines(path), start=1):
        try:
            labels.append(Label.from_row(row))
        except (KeyError, TypeError, ValueError) as error:
            raise ReflexError(f"line {number} of {path} is no label ({error}); run vla label again") from error
    return Labels(
        root,
        str(settings["dataset"]),
        str(found),
        str(settings["model_identity"]),
        tuple(labels),
        file_sha256(path).hex(),
    )
