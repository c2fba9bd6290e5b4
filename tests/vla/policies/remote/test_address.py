"""An address says where a policy is and how to use it; what is wrong with one is said before anything connects."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla.errors import ReflexError
from vla.policies.remote.address import RemoteSettings, is_address, parse_address


def test_an_address_with_settings() -> None:
    parsed = parse_address("ws://robot.local:9000?keys=libero&execute_steps=5&timeout_s=2.5&name=pi05")
    assert parsed.uri == "ws://robot.local:9000"
    assert parsed.settings == RemoteSettings(keys="libero", execute_steps=5, timeout_s=2.5, name="pi05")


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("ws://localhost", "ws://localhost:8000"),
        ("ws://[::1]:9", "ws://[::1]:9"),
        ("wss://host", "wss://host:443"),
        ("ws://host:1/policy/", "ws://host:1/policy"),
    ],
)
def test_ports_and_paths(text: str, uri: str) -> None:
    assert parse_address(text).uri == uri


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ws://", "no address"),
        ("ws://host:port", "an address reads ws://host:port"),
        ("ws://host:99999", "an address reads"),
        ("ws://user:word@host", "takes no user"),
        ("ws://host?key=libero", r"'key' \(did you mean 'keys'\?\)"),
        ("ws://host?keys=rlds", "keys is 'rlds'; it must be one of libero, droid, aloha"),
        ("ws://host?execute_steps=two", "execute_steps is 'two'; it must be a whole number"),
        ("ws://host?execute_steps=0", "execute_steps is 0"),
        ("ws://host?timeout_s=nan", "timeout_s is nan"),
        ("ws://host?timeout_s=inf", "timeout_s is inf"),
        ("ws://host?patience_s=inf", "patience_s is inf"),
        ("ws://host?connections=1000", "connections is 1000"),
        ("ws://host?chunk_horizon=4&execute_steps=5", "more than chunk_horizon=4"),
        ("ws://host?keys=libero&keys=droid", "keys is given twice"),
        ("ws://host?keys", "name=value"),
        ("ws://host?name=", "name is empty"),
        ("ws://host?token=secret", "put it into a file"),
    ],
)
def test_wrong_addresses_are_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        parse_address(text)


def test_a_refused_token_is_not_shown() -> None:
    with pytest.raises(ReflexError) as failure:
        parse_address("ws://host?token=secret-word")
    assert "secret-word" not in str(failure.value)


def test_only_websockets_are_addresses() -> None:
    assert is_address("ws://host") and is_address("wss://host")
    assert not is_address("http://host") and not is_address("runs/ws") and not is_address(Path("ws://host"))


def test_a_token_is_read_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("abc-123\n")
    assert RemoteSettings(token_file=str(file)).token() == "abc-123"
    assert RemoteSettings().token() is None
    for content in ("", "two words", "a\nb", "ä"):
        file.write_text(content)
        with pytest.raises(ReflexError, match="one word"):
            RemoteSettings(token_file=str(file)).token()
    with pytest.raises(ReflexError, match="cannot be read"):
        RemoteSettings(token_file=str(tmp_path / "none")).token()
