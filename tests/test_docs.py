"""The documentation: links lead somewhere, every page is in the index, and the commands shown are understood."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from scripts import api_page
from vla.cli import _load
from vla.commands import CONFIGURED, PLAIN
from vla.conf.compose import compose_config

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def shell_lines(text: str) -> list[str]:
    """Lines of shell blocks, those that a backslash joins as one."""
    blocks = re.findall(r"```(?:sh|bash|console)\n(.*?)```", text, re.DOTALL)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def commands(text: str) -> list[str]:
    """Lines of shell blocks, and inline code, that run `vla`, without placeholders."""
    inline = re.findall(r"`(vla [^`\n]+)`", text)
    found = [line.removeprefix("$ ").strip() for line in [*shell_lines(text), *inline]]
    return [line for line in found if line.startswith("vla ") and "..." not in line and "COMMAND" not in line]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_shown_are_understood(page: Path) -> None:
    for line in commands(page.read_text(encoding="utf-8")):
        words = shlex.split(line, comments=True)[1:]
        command = " ".join(words[:2]) if " ".join(words[:2]) in CONFIGURED else words[0]
        assert command in {*CONFIGURED, *PLAIN, "--help", "--version"}, line
        if command in CONFIGURED:
            overrides = [word for word in words[len(command.split()) :] if not word.startswith("-")]
            config_class: Any = _load(CONFIGURED[command].config)
            compose_config(command, config_class, overrides)


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    missing = [
        page.name for page in (ROOT / "docs").glob("*.md") if page.name != "README.md" and page.name not in index
    ]
    assert missing == []


def test_the_readme_shows_commands_at_all() -> None:
    shown = {line.split()[1] for line in commands((ROOT / "README.md").read_text(encoding="utf-8"))}
    assert {"collect", "sft", "train", "eval", "report"} <= shown


def test_examples_of_the_help_pages_are_understood() -> None:
    for name, entry in CONFIGURED.items():
        words = shlex.split(entry.example)
        start = ["vla", *name.split()]
        assert words[: len(start)] == start
        config_class: Any = _load(entry.config)
        compose_config(name, config_class, words[len(start) :])


def test_the_page_of_the_python_interface_is_that_of_its_docstrings() -> None:
    written = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    assert written == api_page.page(), "python -m scripts.api_page > docs/api.md"
