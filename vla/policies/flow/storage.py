"""Folders of flow policies: config.json, the head's model.safetensors, and the backbone's own folder in `backbone`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from vla.errors import ReflexError
from vla.policies.flow.configuration import FlowConfig
from vla.policies.storage import CONFIG_FILE, WEIGHTS_FILE, load_weights, read_config, write_surroundings
from vla.run.files import replace_folder, write_json

if TYPE_CHECKING:
    from vla.policies.flow.head import FlowHead
    from vla.policies.prismatic import PrismaticPolicy

FAMILY = "flow"

FORMAT = "reflex-flow-1"

BACKBONE_FOLDER = "backbone"


def write_flow(backbone: PrismaticPolicy, head: FlowHead, config: FlowConfig, folder: Path, dtype: str | None) -> None:
    """Write a policy folder, replacing an earlier one; a crash leaves the old folder or the new one."""

    def fill(temporary: Path) -> None:
        write_json(temporary / CONFIG_FILE, {"format": FORMAT, "family": FAMILY, **config.to_dict()})
        write_surroundings(temporary, backbone.embodiment, backbone.feature_map)
        backbone.save_pretrained(temporary / BACKBONE_FOLDER, dtype)
        state = {name: value.detach().cpu().contiguous() for name, value in head.state_dict().items()}
        save_file(state, str(temporary / WEIGHTS_FILE))

    replace_folder(folder, fill)


def read_flow(folder: Path) -> tuple[FlowConfig, Path]:
    """The configuration, and the backbone's folder. Raises `ReflexError` naming the file at fault."""
    content = read_config(folder)
    content.pop("family", None)
    found = content.pop("format", None)
    if found != FORMAT:
        raise ReflexError(f"{folder / CONFIG_FILE}: format is {found!r}, this version reads {FORMAT!r}")
    try:
        config = FlowConfig.from_dict(content)
    except (ReflexError, TypeError) as error:
        raise ReflexError(f"{folder / CONFIG_FILE}: {error}") from error
    return config, folder / BACKBONE_FOLDER


def read_flow_into(head: FlowHead, folder: Path) -> None:
    """Read weights into a head of the same configuration. Raises `ReflexError` naming the file."""
    load_weights(head, folder / WEIGHTS_FILE)
