"""The table of encoders, on networks small enough for a test; and which networks it is about."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import SiglipVisionConfig

from scripts.bench import architectures
from scripts.bench.encoders import ON_CUDA, Case, least_cosine, measure
from scripts.bench.machine import main
from tests.world_models.networks import tiny_vjepa2
from world_models.encoders.load import CHECKPOINTS
from world_models.errors import WorldModelError

TINY_VIDEO = tiny_vjepa2()
TINY_IMAGES = SiglipVisionConfig(
    hidden_size=48, num_attention_heads=2, num_hidden_layers=2, intermediate_size=48, image_size=32
)


def test_every_released_name_has_its_network_and_its_size():
    assert set(architectures.SETTINGS) == set(CHECKPOINTS)
    assert {case.network for case in ON_CUDA} == set(CHECKPOINTS)
    sizes = {}
    for name in ("vjepa2-vitl", "vjepa2-vith", "vjepa2-vitg", "dinov2-vits", "siglip2-base"):
        network = architectures.random_network(name, "meta")
        network = getattr(network, "encoder", network) if name.startswith("vjepa2") else network
        sizes[name] = round(sum(weight.numel() for weight in network.parameters()) / 1e6)
    # As published: 300M, 600M and 1B (facebookresearch/vjepa2), 21M (DINOv2), 93M (SigLIP 2's vision tower).
    expected = {"vjepa2-vitl": 304, "vjepa2-vith": 632, "vjepa2-vitg": 1012, "dinov2-vits": 22, "siglip2-base": 93}
    assert sizes == expected
    with pytest.raises(WorldModelError, match="unknown network 'vjepa3'"):
        architectures.random_network("vjepa3")


@pytest.mark.parametrize("settings", [TINY_VIDEO, TINY_IMAGES])
def test_a_line_says_what_an_encoder_costs(settings: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(architectures.SETTINGS, "vjepa2-vitl", settings)  # type: ignore[arg-type]
    line = measure(Case("vjepa2-vitl", frames=4, clips=3, plain_clips=2), "cpu", repeats=1)
    assert line.agreement > 0.9999  # float32 both
    assert line.cost.clips_per_second > 0
    assert line.ratio == line.cost.clips_per_second / line.plain_float32.clips_per_second
    assert line.cost.peak_mebibytes is None and line.plain_bfloat16 is None


def test_least_cosine_by_hand():
    """Around the mean row, the first pair of rows agrees, the second is turned by 90 degrees."""
    left = np.array([[11, 10], [9, 10]], np.float32)
    assert least_cosine(left, left) == pytest.approx(1)
    assert least_cosine(left, np.array([[10, 11], [10, 9]], np.float32)) == pytest.approx(0)


def test_the_command_writes_what_it_prints(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(architectures.SETTINGS, "dinov2-vits", TINY_VIDEO)
    assert main(["encoders", "--quick", "--device", "cpu", "--json", str(tmp_path / "lines.json")]) == 0
    (line,) = json.loads((tmp_path / "lines.json").read_text())["lines"]
    assert line["encoder"] == "vjepa2-dinov2-vits-8x32-whole"
    assert "ratio" in capsys.readouterr().out


def test_a_batch_is_filled_up_for_a_compiled_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch has one size, and the copies that fill the last one give no rows."""
    from scripts.bench.encoder_speed import random_clips
    from world_models.encoders.vjepa2 import VJepa2Config, VJepa2Encoder

    sizes = []
    monkeypatch.setattr(torch, "compile", lambda network, dynamic: network)
    monkeypatch.setitem(architectures.SETTINGS, "vjepa2-vitl", TINY_VIDEO)
    torch.manual_seed(0)
    config = VJepa2Config(frames=4, tokens_per_batch=2 * 8, compiled=True)
    encoder = VJepa2Encoder(architectures.random_network("vjepa2-vitl"), "tiny", config)
    encoder.network.register_forward_hook(lambda module, arguments, output: sizes.append(len(output[0])))
    clips = random_clips(3, 4, 32)
    rows = encoder.encode(clips)
    assert sizes == [2, 2]
    assert len(rows) == 3
    np.testing.assert_allclose(rows[2], encoder.encode(clips[2:])[0], atol=1e-6)
