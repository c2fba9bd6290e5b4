"""V-JEPA 2 through transformers, with a tiny random checkpoint in a local folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import VJEPA2Model

from scripts.bench.encoder_speed import encoder_throughput, plain_transformers_loop
from tests.world_models.clips import moving_squares
from tests.world_models.networks import tiny_vjepa2
from world_models.encoders import PixelEncoder, load_encoder
from world_models.encoders.vjepa2 import VJepa2Config, VJepa2Encoder
from world_models.errors import WorldModelError


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny-vjepa2"
    VJEPA2Model(tiny_vjepa2(frames_per_clip=8, mlp_ratio=2)).save_pretrained(folder)
    return folder


def test_eight_rollouts_of_one_prompt_give_eight_embeddings(checkpoint: Path) -> None:
    encoder = load_encoder(str(checkpoint))
    clips, _ = moving_squares(8, seed=1)
    embeddings = encoder.encode(clips)
    assert embeddings.shape == (8, 48) == (8, encoder.embedding_size)
    assert len(np.unique(embeddings.round(6), axis=0)) == 8


def test_an_embedding_depends_on_its_own_clip_only(checkpoint: Path) -> None:
    """Whatever the token budget: a batch of one, of two, or all. Clips of any size share a batch."""
    clips, _ = moving_squares(5, seed=2)
    clips[3] = clips[3][:, 8:40]
    alone = VJepa2Encoder.from_pretrained(str(checkpoint), VJepa2Config(frames=8, tokens_per_batch=1))
    assert alone.tokens_per_clip == 4 * 4
    pairs = VJepa2Encoder.from_pretrained(str(checkpoint), VJepa2Config(frames=8, tokens_per_batch=2 * 16))
    together = VJepa2Encoder.from_pretrained(str(checkpoint), VJepa2Config(frames=8))
    expected = alone.encode(clips)
    np.testing.assert_allclose(pairs.encode(clips), expected, atol=1e-5)
    np.testing.assert_allclose(together.encode(clips[::-1])[::-1], expected, atol=1e-5)


def test_embeddings_are_the_mean_of_the_models_tokens(checkpoint: Path) -> None:
    encoder = VJepa2Encoder.from_pretrained(str(checkpoint), VJepa2Config(frames=4))
    clip = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    pixels = torch.from_numpy(((clip / 255 - mean) / deviation).transpose(0, 3, 1, 2)[None]).float()
    with torch.no_grad():
        tokens = VJEPA2Model.from_pretrained(checkpoint)(pixel_values_videos=pixels, skip_predictor=True)
    expected = tokens.last_hidden_state.mean(dim=1).numpy()
    np.testing.assert_allclose(encoder.encode([clip]), expected, atol=1e-5)


def test_the_whole_frame_is_kept_unless_the_papers_crop_is_asked_for(checkpoint: Path) -> None:
    """A border of 2 pixels of 32 is what resizing to 256/224 and cropping throws away."""
    clip = np.full((2, 32, 32, 3), 128, np.uint8)
    framed = clip.copy()
    framed[:, :1] = framed[:, -1:] = framed[:, :, :1] = framed[:, :, -1:] = 255
    for crop, differs in (("whole", True), ("paper", False)):
        encoder = VJepa2Encoder.from_pretrained(str(checkpoint), VJepa2Config(frames=2, crop=crop))  # type: ignore[arg-type]
        plain, bordered = encoder.preprocess(clip), encoder.preprocess(framed)
        assert plain.shape == (2, 3, 32, 32)
        assert bool((plain != bordered).any()) == differs, crop


def test_a_short_clip_holds_its_last_frame(checkpoint: Path) -> None:
    encoder = VJepa2Encoder.from_pretrained(str(checkpoint), VJepa2Config(frames=4))
    clip = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    shown = encoder.preprocess(clip)
    assert torch.equal(shown[1], shown[3])
    assert not torch.equal(shown[0], shown[3])


def test_what_is_no_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    with pytest.raises(WorldModelError, match="cannot load V-JEPA 2 from"):
        load_encoder(str(tmp_path))
    weights = (checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(WorldModelError, match="cannot load V-JEPA 2 from"):
        load_encoder(str(tmp_path))


def test_missing_weights_are_not_filled_with_random_ones(checkpoint: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    state = load_file(checkpoint / "model.safetensors")
    del state["encoder.layernorm.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorldModelError, match=r"lacks 1 V-JEPA 2 weights.*encoder\.layernorm\.weight"):
        load_encoder(str(tmp_path))


def test_a_hub_id_without_network_gives_one_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(WorldModelError, match=r"cannot load V-JEPA 2 from 'nobody/vjepa2-absent'.*network"):
        load_encoder("nobody/vjepa2-absent")


@pytest.mark.parametrize("changes", [{"frames": 0}, {"crop": "center"}, {"dtype": "int8"}])
def test_bad_settings_are_named(changes: dict[str, object]) -> None:
    with pytest.raises(WorldModelError, match=next(iter(changes))):
        VJepa2Config(**changes)  # type: ignore[arg-type]


def test_throughput_is_measured_beside_plain_transformers(checkpoint: Path) -> None:
    encoder = VJepa2Encoder.from_pretrained(str(checkpoint), VJepa2Config(frames=4))
    clips, _ = moving_squares(2, seed=0)
    peer = plain_transformers_loop(encoder)(clips)
    assert isinstance(peer, list)
    np.testing.assert_allclose(np.concatenate([row.numpy() for row in peer]), encoder.encode(clips), atol=1e-5)
    result = encoder_throughput(encoder, num_clips=2, frames_per_clip=4, image_size=32, repeats=1)
    assert result.cost.clips_per_second > 0
    assert result.ratio is not None
    assert result.ratio > 0
    assert encoder_throughput(PixelEncoder(), num_clips=1, repeats=1).ratio is None
    with pytest.raises(WorldModelError, match="no counterpart"):
        plain_transformers_loop(PixelEncoder())
