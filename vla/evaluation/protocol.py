"""The frozen description of an evaluation, hashed into every result it produces.

Two success rates may be compared only when they were measured under the same protocol: a newer MuJoCo alone moved one
LIBERO task from 98 to 12 %.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from sim.contract import Split, Suite
from vla.errors import ReflexError
from vla.policies.sampling import Sampling

__all__ = ["Protocol", "check_same"]

VERSION = 1


@dataclass(frozen=True)
class Protocol:
    """Everything that determines a result except the policy.

    How many tasks and initial states were covered is not part of it: runs of different coverage are compared on the
    episodes they share.
    """

    suite: str
    """Name of the suite."""
    facts: Mapping[str, Any]
    """What the suite reports: simulator versions, horizons, settle steps, image path, seeds of its initial states."""
    split: Split
    """Which initial states."""
    mode: Literal["greedy", "sample"]
    """Decoding: "greedy" or "sample"."""
    temperature: float | None
    """Sampling temperature; None for greedy decoding, which has none."""
    seed: int | None
    """Seed the rollouts' own seeds derive from; None for greedy decoding, which draws nothing."""

    @classmethod
    def of(cls, suite: Suite, split: Split, sampling: Sampling, seed: int) -> Protocol:
        """The protocol of an evaluation on ``suite``.

        Raises:
            ReflexError: the split is unknown, or sampling explores beyond the policy's own distribution.
        """
        if split not in ("train", "eval"):
            raise ReflexError(f"unknown split {split!r}; use train or eval")
        if sampling.explores:
            raise ReflexError(
                "an evaluation draws from the policy as it is: token_noise, chunk_correlation and flow_noise are 0"
            )
        if sampling.greedy:
            return cls(suite.name, suite.protocol(), split, "greedy", temperature=None, seed=None)
        return cls(suite.name, suite.protocol(), split, "sample", sampling.temperature, seed)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready, without the hash."""
        return {
            "version": VERSION,
            "suite": self.suite,
            "facts": dict(self.facts),
            "split": self.split,
            "mode": self.mode,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def digest(self) -> str:
        """SHA-256 (hexadecimal) of the canonical JSON: keys sorted, no spaces.  The same on every machine."""
        text = json.dumps(self.as_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode("utf-8")).hexdigest()

    def document(self) -> dict[str, Any]:
        """The content of ``protocol.json``: the description and its hash."""
        return {**self.as_dict(), "hash": self.digest()}


def check_same(first: Iterable[Mapping[str, Any]], second: Iterable[Mapping[str, Any]]) -> None:
    """Refuse to compare episode records that were measured under different protocols.

    Raises:
        ReflexError: the records carry more than one protocol hash, or none.
    """
    hashes = [{str(record.get("protocol", "none")) for record in records} for records in (first, second)]
    together = hashes[0] | hashes[1]
    if "none" in together:
        raise ReflexError("some episode records carry no protocol hash; evaluate again with vla eval to compare them")
    if len(together) > 1:
        names = " and ".join(sorted(value[:12] for value in together))
        raise ReflexError(
            f"these results were measured under different protocols ({names}); evaluate both with the same suite, "
            "simulator versions and decoding, then compare (protocol.json of each run says what differs)"
        )
