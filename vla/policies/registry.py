"""Finds a policy by folder, run folder or name, and picks the class that reads its format.

The class is that of the `family` which a folder's config.json names: one of `FAMILIES`, an entry point in the group
`reflex.plugins`, or package.module:Class of a user's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from vla.errors import ReflexError, require_module
from vla.policies.protocol import Policy, TrainablePolicy
from vla.policies.remote.address import is_address
from vla.policies.storage import CONFIG_FILE, read_config
from vla.run.checkpoints import newest_checkpoint
from vla.run.plugins import load_object

FAMILIES = {
    "prismatic": "vla.policies.prismatic:PrismaticPolicy",
    "tiny": "vla.policies.tiny:TinyPolicy",
    "flow": "vla.policies.flow.policy:FlowPolicy",
    "gaussian": "vla.policies.gaussian:GaussianPolicy",
}
"""Family -> where its class is; a class is imported when a folder asks for it."""

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FOREIGN = (
    "published checkpoints (OpenVLA, OpenVLA-OFT and others) cannot be loaded, from a hub or from a folder; a policy "
    "is a folder that vla sft or vla train wrote"
)
SHIPPED_WEIGHTS = Path(__file__).parent / "weights"


def shipped_names() -> list[str]:
    """Names of the policies packaged with the code."""
    return sorted(path.parent.name for path in SHIPPED_WEIGHTS.glob(f"*/{CONFIG_FILE}"))


def load_policy(path_or_name: str | Path, device: str = "cpu") -> TrainablePolicy:
    """Load a policy folder, a run folder (its last checkpoint), a shipped policy by name, or one that is served.

    One behind a websocket (`ws://host:port`, `vla.policies.remote`) decides, and raises `ReflexError` when it is asked
    to learn. Raises `ReflexError` naming what was looked for and the shipped names when nothing is found.
    """
    if is_address(path_or_name):
        return cast(TrainablePolicy, _open_remote(str(path_or_name)))
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
    config = read_config(folder)
    _refuse_foreign(folder, config)
    policy: TrainablePolicy = family_class(config, str(folder / CONFIG_FILE)).from_pretrained(folder, device)
    return policy


def _open_remote(address: str) -> Policy:
    for module in ("msgpack", "websockets"):
        require_module(module, "a policy behind a websocket", "install the extra: pip install 'reflex-vla[serve]'")
    from vla.policies.remote.policy import RemotePolicy  # here, because only the extra has what it needs

    return RemotePolicy.open(address)


def family_class(config: Mapping[str, Any], source: str) -> Any:
    """The class that reads a policy folder with this config.json, which messages call `source`.

    Raises `ReflexError` when there is none, or when it is no policy.
    """
    # Folders from before there were families are of one of two, and only one of these has keypoints.
    family = str(config.get("family", "tiny" if config.get("keypoints") else "prismatic"))
    found = load_object(family, FAMILIES, f"{source}: family")
    missing = [name for name in ("from_pretrained", "act", "save_pretrained") if not hasattr(found, name)]
    if missing:
        raise ReflexError(f"{source}: family is {family!r}, which is no policy: it lacks {', '.join(missing)}")
    return found


def _refuse_foreign(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise `ReflexError` for the checkpoint of another project, which its config.json tells by `model_type`."""
    kind = config.get("model_type")
    if kind is not None and "family" not in config:
        raise ReflexError(f"{folder} is a checkpoint of model_type {kind!r}: {FOREIGN}")


def _policy_folder(path: Path) -> Path | None:
    """`path` itself or the policy that a checkpoint keeps beside the optimiser's state."""
    return next((folder for folder in (path, path / "policy") if (folder / CONFIG_FILE).is_file()), None)
