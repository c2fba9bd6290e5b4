"""Prompts by name and version: text files, one for each call, whose hash is a part of every answer's key.

A prompt is a folder. `answer.txt` asks for the answer; `analysis.txt`, if there, is asked before it, and its reply
takes the place of `{analysis}` (the two stages of RL-VLM-F, arXiv 2402.03681). `answer.schema.json`, if there, is the
JSON schema that an endpoint is asked to keep to. `{image_1}`, `{image_2}` and `{goal}` are filled in.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla.errors import ReflexError
from vla.run.files import read_json_object

FOLDER = Path(__file__).with_name("prompts")
"""Those that ship with Reflex."""
IMAGES = ("image_1", "image_2")
STAGES = ("analysis", "answer")
"""In the order in which they are asked."""

_PLACEHOLDER = re.compile(r"\{(image_1|image_2|goal|analysis)\}")


@dataclass(frozen=True)
class Stage:
    """One call of a prompt."""

    name: str
    """analysis or answer."""
    text: str
    """With placeholders."""
    schema: Mapping[str, Any] | None = None
    """What the reply is asked to keep to."""

    def parts(self, goal: str, analysis: str = "") -> list[str | int]:
        """The message in order: pieces of text, and 0 or 1 where the first or the second picture goes."""
        filled: list[str | int] = []
        text = ""
        for number, piece in enumerate(_PLACEHOLDER.split(self.text)):
            if number % 2 == 0:  # between placeholders
                text += piece
            elif piece in IMAGES:
                filled += [text.strip(), IMAGES.index(piece)]
                text = ""
            else:
                text += goal if piece == "goal" else analysis
        return [part for part in (*filled, text.strip()) if part != ""]


@dataclass(frozen=True)
class Prompt:
    """A prompt of one or two calls."""

    name: str
    stages: tuple[Stage, ...]
    sha256: str
    """Of its files: a changed word is another prompt."""

    @property
    def version(self) -> str:
        """Name and the beginning of the hash, e.g. `two_stage_v1 (3f2a91c04b7d)`."""
        return f"{self.name} ({self.sha256[:12]})"


def shipped_prompts() -> list[str]:
    """Names of those that ship with Reflex."""
    return sorted(folder.name for folder in FOLDER.iterdir() if (folder / "answer.txt").is_file())


def load_prompt(name: str) -> Prompt:
    """The prompt of that name, or of that folder.

    Raises:
        ReflexError: there is none, or its files lack what a prompt needs.
    """
    folder = FOLDER / name if name in shipped_prompts() else Path(name)
    if not (folder / "answer.txt").is_file():
        known = ", ".join(shipped_prompts())
        raise ReflexError(f"prompt is {name!r}; it must be one of {known}, or a folder that holds answer.txt")
    stages, digest = [], hashlib.sha256()
    for stage in STAGES:
        path = folder / f"{stage}.txt"
        if not path.is_file():
            continue
        text, schema = path.read_text(encoding="utf-8"), folder / f"{stage}.schema.json"
        found = read_json_object(schema) if schema.is_file() else None
        stages.append(Stage(stage, text, found))
        digest.update(json.dumps([stage, text, found], sort_keys=True).encode())
    _check(folder, stages)
    return Prompt(folder.name, tuple(stages), digest.hexdigest())


def _check(folder: Path, stages: list[Stage]) -> None:
    """The first call shows both pictures, some call the goal, and what was analysed is used."""
    found = [set(_PLACEHOLDER.findall(stage.text)) for stage in stages]
    lacking = [name for name in IMAGES if name not in found[0]]
    lacking += [] if "goal" in set.union(*found) else ["goal"]
    lacking += ["analysis"] if len(stages) > 1 and "analysis" not in found[1] else []
    if lacking:
        raise ReflexError(f"the prompt in {folder} has no {{{lacking[0]}}}; its text must say where that goes")
