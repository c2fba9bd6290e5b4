"""The parts of an evaluation that ran as shards, joined into the evaluation they are parts of."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vla.errors import ReflexError, writing
from vla.evaluation.results import EvaluationResult, episode_key
from vla.evaluation.runner import finish, without_step
from vla.run.files import read_json
from vla.run.jsonl import read_lines
from vla.run.run_folder import RunFolder, read_config


def merge(parts: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write a run folder equal to that of one evaluation of all the parts' episodes; returns its summary.

    Raises:
        ReflexError: a part is missing or unfinished, they evaluated different policies or ran under different
            protocols, an episode is in two of them with different outcomes, or `output` already holds something.
    """
    first = parts[0]
    protocol, config = _protocol(first), read_config(first)
    for part in parts[1:]:
        if _protocol(part)["hash"] != protocol["hash"]:
            raise ReflexError(f"{first} and {part} ran under different protocols; see protocol.json in each")
        if read_config(part).get("policy_sha256") != config.get("policy_sha256"):
            raise ReflexError(f"{first} and {part} evaluated policies with different weights")
    episodes = _episodes(parts)
    with RunFolder(output) as run:
        run.write_protocol(protocol)
        run.write_config({**config, "output": str(output), "shard": None})
        run.append_episodes(episodes)
        for part in parts:
            if (part / "videos").is_dir():
                with writing(run.videos_path):
                    shutil.copytree(part / "videos", run.videos_path, dirs_exist_ok=True)
        result = EvaluationResult([without_step(line) for line in episodes], protocol["hash"])
        return finish(run, result, read_json(first / "summary.json")["policy"])


def _protocol(part: Path) -> dict[str, Any]:
    for name in ("protocol.json", "summary.json"):
        if not (part / name).is_file():
            raise ReflexError(
                f"{part} holds no finished evaluation ({name} is missing); finish it with vla eval ... resume=true"
            )
    return dict(read_json(part / "protocol.json"))


def _episodes(parts: Sequence[Path]) -> list[dict[str, Any]]:
    """Lines of all parts, by task and initial state, each once."""
    lines: dict[tuple[int, int], dict[str, Any]] = {}
    for part in parts:
        for line in read_lines(part / "episodes.jsonl"):
            key = episode_key(line)
            if lines.setdefault(key, line) != line:
                raise ReflexError(
                    f"task {key[0]}, initial state {key[1]} is in two of the runs with different outcomes ({part} is "
                    "the second); merge the shards of one evaluation"
                )
    return [lines[key] for key in sorted(lines)]
