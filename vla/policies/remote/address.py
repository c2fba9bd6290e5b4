"""Where a served policy is and how to use it: `ws://host:port?keys=libero&execute_steps=5`, checked."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints
from urllib.parse import parse_qsl, urlsplit

from vla.errors import ReflexError
from vla.run.settings import Checks, strip_optional

SCHEMES = ("ws://", "wss://")
DEFAULT_PORT = 8000
"""openpi's."""


@dataclass(frozen=True)
class RemoteSettings:
    """How to use a policy behind a websocket: what stands behind the `?` of its address."""

    keys: Literal["libero", "droid", "aloha"] | None = None
    """Names of the parts of an observation, for a server of openpi's, which does not say what it takes; null for one of
    ours, which does."""
    chunk_horizon: int | None = None
    """Actions in a chunk of the server's; null for what it says, or the preset's."""
    execute_steps: int | None = None
    """How many of them are executed before the next decision; null for what the server says, or the preset's."""
    name: str | None = None
    """What episodes and reports call the policy; null for what the server says, or openpi_ and the preset."""
    timeout_s: float = 30.0
    """Seconds to wait for an answer."""
    connect_timeout_s: float = 10.0
    """Seconds to wait for a connection and the server's first frame."""
    patience_s: float = 30.0
    """Seconds, from the first failure on, in which a request is tried again; 0 tries once."""
    connections: int = 8
    """Requests under way at the same time, each on a connection of its own."""
    max_message_megabytes: float = 64.0
    """Largest answer that is read."""
    token_file: str | None = None
    """File with the token that the server asks for, on one line."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.literals()
        check.at_least(1, "chunk_horizon", "execute_steps")
        check.within(1, 64, "connections")
        check.positive("timeout_s", "connect_timeout_s", "max_message_megabytes")
        check.within(0, 86400, "patience_s")
        if self.chunk_horizon and self.execute_steps and self.execute_steps > self.chunk_horizon:
            raise ReflexError(f"execute_steps is {self.execute_steps}, more than chunk_horizon={self.chunk_horizon}")
        if self.name is not None and not self.name.strip():
            raise ReflexError("name is empty; give the policy a name or leave name out")

    def token(self) -> str | None:
        """The token of `token_file`; None without one. Raises `ReflexError` when it cannot be read or is empty."""
        return None if self.token_file is None else read_token(self.token_file)


@dataclass(frozen=True)
class RemoteAddress:
    """A server and how to use it."""

    uri: str
    """Without what stands behind the `?`."""
    settings: RemoteSettings


def is_address(name: object) -> bool:
    """Whether a policy's name is the address of a server."""
    return str(name).startswith(SCHEMES)


def parse_address(text: str) -> RemoteAddress:
    """The parts of an address; the port is openpi's 8000 where none is given.

    Raises `ReflexError` naming an unknown or garbled setting, or what is wrong with the address.
    """
    try:
        parts = urlsplit(text)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ReflexError(f"policy={text}: {error}; an address reads ws://host:port") from error
    if not is_address(text) or not host:
        raise ReflexError(f"policy={text} is no address; one reads ws://host:port, or wss:// behind TLS")
    if parts.username is not None or parts.fragment:
        raise ReflexError(f"the address of {host} takes no user, password or #; a token goes into token_file=...")
    port = port or (443 if parts.scheme == "wss" else DEFAULT_PORT)
    shown = f"[{host}]" if ":" in host else host
    try:
        settings = _settings(parts.query)
    except ReflexError as error:
        raise ReflexError(f"policy={parts.scheme}://{shown}:{port}: {error}") from error
    return RemoteAddress(f"{parts.scheme}://{shown}:{port}{parts.path.rstrip('/')}", settings)


def read_token(file: str) -> str:
    """The token in a file. Raises `ReflexError` when it cannot be read, is empty or is no single line of ASCII."""
    try:
        token = Path(file).expanduser().read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise ReflexError(f"token_file={file} cannot be read: {error}") from error
    return check_token(token, f"token_file={file}")


def check_token(token: str, setting: str) -> str:
    """The token. Raises `ReflexError` naming the `setting` unless it is one word that a header can carry."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ReflexError(f"{setting}: a token is one word of printable ASCII characters, without spaces")
    return token


def _settings(query: str) -> RemoteSettings:
    hints = get_type_hints(RemoteSettings)
    given: dict[str, Any] = {}
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query), max_num_fields=50)
    except ValueError as error:
        raise ReflexError(f"what stands behind the ? reads name=value&name=value: {error}") from error
    for key, value in pairs:
        if key == "token":
            raise ReflexError(
                "token= would be written into the run's files; put it into a file and give token_file=FILE"
            )
        if key not in hints:
            nearest = difflib.get_close_matches(key, hints, n=1)
            hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
            known = ", ".join(field.name for field in fields(RemoteSettings))
            raise ReflexError(f"there is no setting {key!r}{hint}; an address takes {known}")
        if key in given:
            raise ReflexError(f"{key} is given twice")
        given[key] = _value(key, value, strip_optional(hints[key])[0])
    return RemoteSettings(**given)


def _value(key: str, text: str, kind: Any) -> Any:
    if kind not in (int, float):
        return text
    try:
        return kind(text)
    except ValueError as error:
        wanted = "a whole number" if kind is int else "a number"
        raise ReflexError(f"{key} is {text!r}; it must be {wanted}") from error
