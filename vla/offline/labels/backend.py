"""What answers a call: a vision-language model behind an endpoint or in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from vla.offline.labels.answers import Alternatives
from vla.offline.preferences import Status
from vla.run.settings import Checks


@dataclass(frozen=True)
class Decoding:
    """How a model's replies are drawn. A part of every answer's key: another value asks everything anew."""

    temperature: float | None = 0.0
    """Temperature of an endpoint's sampling; null leaves it to the endpoint (some models refuse to be told)."""
    reply_tokens: int = 600
    """Tokens that a reply may have."""
    structured: bool = True
    """Ask an endpoint to keep to the prompt's JSON schema, where it has one; some servers do not know how."""
    log_probabilities: bool = False
    """Ask for the log-probabilities of the answer, for a probability beside it and the audit's calibration."""
    extra_body: dict[str, Any] = field(default_factory=dict)
    """More fields of an endpoint's request, e.g. decoding.extra_body.reasoning_effort=low."""

    def __post_init__(self) -> None:
        check = Checks(self, "decoding.")
        check.at_least(0, "temperature")
        check.at_least(8, "reply_tokens")


@dataclass(frozen=True)
class Reply:
    """A model's reply to one call."""

    text: str
    model: str
    """Who says to have answered."""
    input_tokens: int | None = None
    """None where the model does not count."""
    output_tokens: int | None = None
    refused: bool = False
    """The endpoint marked it as a refusal."""
    tokens: tuple[tuple[str, Alternatives], ...] = ()
    """Each token with the alternatives in its place, where log-probabilities were asked for."""


class CallFailedError(Exception):
    """No reply came of a call."""

    def __init__(
        self,
        status: Status,
        detail: str,
        *,
        again: bool,
        wait: float | None = None,
        perhaps_paid: bool = False,
        hopeless: bool = False,
    ) -> None:
        """`again`: another attempt may succeed, after `wait` seconds if given, during which nobody should call.

        `perhaps_paid`: the model may have answered, so the call is counted as if it had. `hopeless`: no other call can
        succeed either (no such model, wrong key, no money left).
        """
        super().__init__(detail)
        self.status, self.detail = status, detail
        self.again, self.wait, self.perhaps_paid, self.hopeless = again, wait, perhaps_paid, hopeless


class Backend(Protocol):
    """One call after another, perhaps from several threads."""

    @property
    def model(self) -> str:
        """Which model is asked: what its answers are filed under."""

    @property
    def concurrency(self) -> int:
        """Calls at a time."""

    def call(self, parts: Sequence[str | Path], schema: Mapping[str, Any] | None, decoding: Decoding) -> Reply:
        """Ask once.

        Args:
            parts: the message in order: text, and the PNG files of pictures.
            schema: what the reply should keep to, if anything.
            decoding: how it is drawn.

        Raises:
            CallFailedError: no reply came.
        """
