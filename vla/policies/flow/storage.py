"""Folders of flow policies: what every policy has, of the head, and the backbone's own folder in `backbone`."""

from __future__ import annotations

from pathlib import Path

from vla.errors import ReflexError
from vla.policies.flow.configuration import FlowConfig
from vla.policies.flow.head import FlowHead
from vla.policies.storage import CONFIG_FILE, read_config, write_policy_folder
from vla.policies.tokens.policy import TokenPolicy

FAMILY = "flow"

BACKBONE_FOLDER = "backbone"


def write_flow(backbone: TokenPolicy, head: FlowHead, config: FlowConfig, folder: Path, dtype: str | None) -> None:
    """Write a policy folder, replacing an earlier one; `dtype` is the backbone's stored precision."""

    def more(temporary: Path) -> None:
        backbone.save_pretrained(temporary / BACKBONE_FOLDER, dtype)

    content = {"family": FAMILY, **config.to_dict()}
    write_policy_folder(folder, content, backbone.embodiment, backbone.feature_map, head.state_dict(), more=more)


def read_flow_config(folder: Path) -> FlowConfig:
    """The head's configuration. Raises `ReflexError` naming the file at fault."""
    content = read_config(folder)
    content.pop("family", None)
    try:
        return FlowConfig.from_dict(content)
    except ReflexError as error:
        raise ReflexError(f"{folder / CONFIG_FILE}: {error}") from error
