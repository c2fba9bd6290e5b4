"""DINOv2, DINOv3 and SigLIP 2 through transformers, with tiny random checkpoints in local folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from scripts.bench.encoder_speed import encoder_throughput
from tests.world_models.clips import moving_squares
from world_models.encoders import load_encoder
from world_models.encoders.images import FAMILIES, ImageEncoder, ImageEncoderConfig
from world_models.errors import WorldModelError

SMALL = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


def siglip() -> SiglipModel:
    vision = SMALL | {"intermediate_size": 32, "image_size": 32, "patch_size": 16}
    text = SMALL | {"intermediate_size": 32, "vocab_size": 50, "max_position_embeddings": 8}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))


MAKERS: dict[str, Callable[[], torch.nn.Module]] = {
    "dinov2": lambda: Dinov2Model(Dinov2Config(**SMALL, patch_size=14, image_size=28)),
    "dinov2_with_registers": lambda: Dinov2WithRegistersModel(
        Dinov2WithRegistersConfig(**SMALL, patch_size=14, image_size=28, num_register_tokens=3)
    ),
    "dinov3_vit": lambda: DINOv3ViTModel(
        DINOv3ViTConfig(**SMALL, intermediate_size=32, patch_size=16, num_register_tokens=4)
    ),
    "siglip": siglip,
    "siglip_vision_model": lambda: SiglipVisionModel(
        SiglipVisionConfig(**SMALL, intermediate_size=32, image_size=32, patch_size=16)
    ),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for kind, make in MAKERS.items():
        torch.manual_seed(0)
        made[kind] = tmp_path_factory.mktemp("models") / f"tiny-{kind}"
        make().save_pretrained(made[kind])  # type: ignore[operator]
    return made


def test_every_family_is_tried() -> None:
    assert set(MAKERS) == set(FAMILIES)


@pytest.mark.parametrize("kind", list(MAKERS))
def test_a_folder_becomes_an_encoder_whose_rows_are_their_clips_own(kind: str, folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders[kind]))
    assert isinstance(encoder, ImageEncoder)
    clips, _ = moving_squares(4, seed=1)
    clips[2] = clips[2][:, 8:40]
    together = encoder.encode(clips)
    assert together.shape == (4, 48) == (4, encoder.embedding_size)
    one_by_one = ImageEncoder.from_pretrained(str(folders[kind]), kind, ImageEncoderConfig(frames_per_batch=1))
    np.testing.assert_allclose(np.concatenate([one_by_one.encode([clip]) for clip in clips]), together, atol=1e-5)
    assert len(np.unique(together.round(5), axis=0)) == 4
    assert encoder.encode([]).shape == (0, 48)


@pytest.mark.parametrize("kind", ["dinov2", "dinov2_with_registers", "dinov3_vit"])
def test_only_patch_tokens_are_averaged(kind: str, folders: dict[str, Path]) -> None:
    config = ImageEncoderConfig(frames=3, size=70)
    encoder = ImageEncoder.from_pretrained(str(folders[kind]), kind, config)
    patch = 16 if kind == "dinov3_vit" else 14
    assert (encoder.size, encoder.patches) == (70 // patch * patch, (70 // patch) ** 2)
    clip = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    model = FAMILIES[kind].model_class.from_pretrained(folders[kind])
    with torch.no_grad():
        tokens = model(pixel_values=encoder.preprocess(clip)).last_hidden_state
    extra = {"dinov2": 1, "dinov2_with_registers": 4, "dinov3_vit": 5}[kind]  # class token and registers
    assert tokens.shape[1] == extra + encoder.patches
    frames = tokens[:, extra:].mean(dim=1)
    expected = torch.cat([frames.mean(dim=0), frames[-2:].mean(dim=0)]).numpy()
    np.testing.assert_allclose(encoder.encode([clip])[0], expected, atol=1e-5)


def test_siglip_sees_its_own_size_and_range(folders: dict[str, Path]) -> None:
    encoder = ImageEncoder.from_pretrained(str(folders["siglip"]), "siglip", ImageEncoderConfig(frames=2, size=100))
    assert encoder.size == 32
    white = encoder.preprocess(np.full((2, 8, 8, 3), 255, np.uint8))
    assert white.shape == (2, 3, 32, 32) and torch.allclose(white, torch.ones(()))


def test_missing_weights_and_other_networks_are_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((folders["dinov2"] / "config.json").read_bytes())
    state = load_file(folders["dinov2"] / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorldModelError, match=r"lacks 1 dinov2 weights.*layernorm\.weight"):
        load_encoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "resnet"}')
    with pytest.raises(WorldModelError, match="model_type 'resnet'; known are"):
        load_encoder(str(tmp_path))


def test_hub_ids_without_network_give_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("dinov2-vits", "dinov3-vitb", "google/siglip2-absent"):
        with pytest.raises(
            WorldModelError, match=r"cannot load (dinov2_with_registers|dinov3_vit|siglip) from.*network"
        ):
            load_encoder(name)


@pytest.mark.parametrize("changes", [{"frames": 0}, {"size": 0}, {"frames_per_batch": 0}, {"dtype": "int8"}])
def test_bad_settings_are_named(changes: dict[str, object]) -> None:
    with pytest.raises(WorldModelError, match=next(iter(changes))):
        ImageEncoderConfig(**changes)  # type: ignore[arg-type]


def test_a_frame_smaller_than_a_patch_is_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(WorldModelError, match="smaller than a patch"):
        ImageEncoder.from_pretrained(str(folders["dinov2"]), "dinov2", ImageEncoderConfig(size=10))


def test_throughput_is_measured_beside_plain_transformers(folders: dict[str, Path]) -> None:
    encoder = load_encoder(str(folders["dinov2"]))
    result = encoder_throughput(encoder, num_clips=2, frames_per_clip=4, image_size=32, repeats=1)
    assert result.ratio is not None and result.ratio > 0
