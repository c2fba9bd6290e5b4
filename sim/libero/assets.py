"""Which of LIBERO's meshes and textures are the official ones: pictures of others cannot be compared with published."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

MANIFEST = Path(__file__).with_name("official_assets.json")
"""Path below the assets folder -> SHA-1 of the file in the public LIBERO repository, as git computes it."""


@cache
def describe_assets(folder: Path) -> dict[str, Any]:
    """JSON-ready: {"official": true}, or how many files differ and a digest of what stands in for them.

    Reads every file that scenes refer to, about 140 MB; a folder is read once in a process.
    """
    official = json.loads(MANIFEST.read_text(encoding="utf-8"))["files"]
    found = {name: blob_digest(folder / name) for name in official}
    differing = sorted(name for name in official if found[name] != official[name])
    if not differing:
        return {"official": True}
    text = "".join(f"{name} {found[name]}\n" for name in differing)
    return {
        "official": False,
        "differing": len(differing),
        "first": differing[0],
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def blob_digest(path: Path) -> str | None:
    """SHA-1 of a file's content as git names it; None when there is no such file."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    digest = hashlib.sha1(f"blob {len(content)}\0".encode(), usedforsecurity=False)
    digest.update(content)
    return digest.hexdigest()
