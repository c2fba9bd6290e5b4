"""What a server says of itself in the first frame of a connection: openpi's metadata, filled in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sim.embodiments import Embodiment
from vla.data.feature_map import FeatureMap
from vla.errors import ReflexError
from vla.policies.protocol import PolicySpec

PROTOCOL = "reflex-openpi"
PROTOCOL_VERSION = 1
Precision = Literal["float32", "bfloat16", "auto"]
MOST_STEPS = 10_000
"""Of a chunk; a number beyond that is a mistake."""


@dataclass(frozen=True)
class Announcement:
    """A served policy: what it sees, what it emits, and which one it is."""

    policy_id: str
    policy_sha256: str
    """`vla.policies.fingerprint.policy_fingerprint` of the policy that is served."""
    embodiment: Embodiment
    feature_map: FeatureMap
    """What the server also takes as names of the policy's cameras, beside its own."""
    uses_state: bool
    chunk_horizon: int
    execute_steps: int
    precision: Precision
    """What it computes in; float32 is what `vla eval` computes in."""
    max_batch: int
    """Observations that one request may hold, each with a leading axis, as `ObservationBatch` has it."""
    max_message_bytes: int

    @property
    def fingerprint(self) -> str:
        """What tells a policy's results from another's: its hash, and where it does not compute in float32, in what."""
        if self.precision == "float32":
            return self.policy_sha256
        return hashlib.sha256(f"{self.policy_sha256} {self.precision}".encode()).hexdigest()

    @property
    def protocol_hash(self) -> str:
        """SHA-256 of all that gives a request and its answer their meaning: the weights are not part of it."""
        fixed = {
            "protocol": PROTOCOL,
            "protocol_version": PROTOCOL_VERSION,
            "embodiment": self.embodiment.to_dict(),
            "feature_map": self.feature_map.to_dict(),
            "uses_state": self.uses_state,
            "chunk_horizon": self.chunk_horizon,
            "execute_steps": self.execute_steps,
            "precision": self.precision,
            "decoding": "greedy",
        }
        return hashlib.sha256(json.dumps(fixed, sort_keys=True).encode("utf-8")).hexdigest()

    @property
    def spec(self) -> PolicySpec:
        """What a policy made of this needs to see and emits. Its decisions are not scored again."""
        return PolicySpec(
            embodiment=self.embodiment,
            uses_state=self.uses_state,
            chunk_horizon=self.chunk_horizon,
            execute_steps=self.execute_steps,
            unit_steps=(),
        )

    def to_metadata(self) -> dict[str, Any]:
        """The first frame's content."""
        action = self.embodiment.action
        return {
            "protocol": PROTOCOL,
            "protocol_version": PROTOCOL_VERSION,
            "protocol_hash": self.protocol_hash,
            "policy_id": self.policy_id,
            "policy_sha256": self.policy_sha256,
            "embodiment": self.embodiment.to_dict(),
            "feature_map": self.feature_map.to_dict(),
            "action_low": list(action.low),
            "action_high": list(action.high),
            "uses_state": self.uses_state,
            "chunk_horizon": self.chunk_horizon,
            "execute_steps": self.execute_steps,
            "precision": self.precision,
            "max_batch": self.max_batch,
            "max_message_bytes": self.max_message_bytes,
        }

    @classmethod
    def from_metadata(cls, values: Mapping[str, Any], server: str) -> Announcement:
        """Inverse of `to_metadata`. Raises `ReflexError` naming the `server` for another version, or garbled values."""
        version = values.get("protocol_version")
        if version != PROTOCOL_VERSION:
            raise ReflexError(
                f"{server} speaks version {version} of this protocol and this client version {PROTOCOL_VERSION}; "
                "install the same release of reflex-vla on both sides"
            )
        try:
            read = cls(
                policy_id=_text(values, "policy_id"),
                policy_sha256=_text(values, "policy_sha256"),
                embodiment=Embodiment.from_dict(values["embodiment"]),
                feature_map=FeatureMap.from_dict(values["feature_map"]),
                uses_state=bool(values["uses_state"]),
                chunk_horizon=_count(values, "chunk_horizon", MOST_STEPS),
                execute_steps=_count(values, "execute_steps", MOST_STEPS),
                precision=_precision(values["precision"]),
                max_batch=_count(values, "max_batch", MOST_STEPS),
                max_message_bytes=_count(values, "max_message_bytes"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ReflexError(f"{server} describes its policy wrongly: {error}") from error
        if read.execute_steps > read.chunk_horizon:
            raise ReflexError(f"{server} describes its policy wrongly: it executes more steps than a chunk has")
        return read


def is_ours(metadata: Mapping[str, Any]) -> bool:
    """Whether a first frame is one of `Announcement`'s."""
    return metadata.get("protocol") == PROTOCOL


def _text(values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str) or not 0 < len(value) <= 200:
        raise ValueError(f"{key} must be text of 1 to 200 characters")
    return value


def _precision(value: Any) -> Precision:
    if value not in get_args(Precision):
        raise ValueError(f"precision must be one of {', '.join(get_args(Precision))}")
    known: Precision = value
    return known


def _count(values: Mapping[str, Any], key: str, most: int | None = None) -> int:
    value = values[key]
    if type(value) is not int or value < 1 or (most is not None and value > most):
        raise ValueError(f"{key} must be a whole number of at least 1" + (f" and at most {most}" if most else ""))
    return value
