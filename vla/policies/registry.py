"""Finds a policy by folder, run folder or name, and picks the class that reads its format."""

from __future__ import annotations

import re
from pathlib import Path

from vla.errors import ReflexError
from vla.policies.prismatic import PrismaticPolicy
from vla.policies.storage import CONFIG_FILE, INCOMPLETE
from vla.run.checkpoints import newest_checkpoint
from vla.run.files import read_json_object

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FOREIGN = (
    "published checkpoints (OpenVLA, OpenVLA-OFT and others) cannot be loaded, from a hub or from a folder; a policy "
    "is a folder that vla sft or vla train wrote"
)
SHIPPED_WEIGHTS = Path(__file__).parent / "weights"


def shipped_names() -> list[str]:
    """Names of the policies packaged with the code."""
    return sorted(path.parent.name for path in SHIPPED_WEIGHTS.glob(f"*/{CONFIG_FILE}"))


def load_policy(path_or_name: str | Path, device: str = "cpu") -> PrismaticPolicy:
    """Load a policy folder, a run folder (its last checkpoint), or a shipped policy by name.

    Raises `ReflexError` naming what was looked for and the shipped names when nothing is found.
    """
    path = Path(path_or_name)
    folder = _policy_folder(path)
    if folder is None and path.is_dir():
        last = newest_checkpoint(path / "checkpoints")
        folder = None if last is None else _policy_folder(last[1])
        if folder is None:
            raise ReflexError(
                f"{path}: holds neither {CONFIG_FILE} nor a checkpoint; give a policy folder or a run folder"
            )
    folder = folder or _policy_folder(SHIPPED_WEIGHTS / path)
    if folder is None:
        shipped = ", ".join(shipped_names()) or "none"
        raise ReflexError(
            f"no policy {str(path_or_name)!r}: not a folder, and not a shipped policy (shipped: {shipped})"
            + (f"; {FOREIGN}" if HUB_ID.fullmatch(str(path_or_name)) else "")
        )
    _refuse_foreign(folder)
    return PrismaticPolicy.from_pretrained(folder, device)


def _refuse_foreign(folder: Path) -> None:
    """Raise `ReflexError` for the checkpoint of another project, which its config.json tells by `model_type`."""
    kind = read_json_object(folder / CONFIG_FILE, INCOMPLETE).get("model_type")
    if kind is not None:
        raise ReflexError(f"{folder} is a checkpoint of model_type {kind!r}: {FOREIGN}")


def _policy_folder(path: Path) -> Path | None:
    """`path` itself or the policy that a checkpoint keeps beside the optimiser's state."""
    return next((folder for folder in (path, path / "policy") if (folder / CONFIG_FILE).is_file()), None)
