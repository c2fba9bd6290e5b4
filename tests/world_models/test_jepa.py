"""The small world model: its regulariser, its measures, its training and its folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.world_models.clips import moving_squares
from world_models.encoders import load_encoder
from world_models.errors import WorldModelError
from world_models.jepa import JepaConfig, JepaEncoder, JepaTelemetry, train_jepa
from world_models.jepa.encoder import pool_latents
from world_models.jepa.measures import effective_rank, latent_deviation, ridge_r2
from world_models.jepa.model import Jepa
from world_models.jepa.regulariser import epps_pulley, random_directions, sigreg

SMALL: dict[str, Any] = {
    "image_size": 32,
    "latent_size": 16,
    "width": 16,
    "predictor_size": 32,
    "batch_size": 48,
    "directions": 48,
    "learning_rate": 4e-3,
}

TOY: dict[str, Any] = {**SMALL, "latent_size": 32, "change_scale": 1.0, "steps": 200, "report_every": 100}


def epps_pulley_in_closed_form(samples: list[float]) -> float:
    """The integral over all real t, from the Gaussian integrals of its three terms."""
    x = np.array(samples)
    pairs = np.exp(-0.5 * (x[:, None] - x[None, :]) ** 2).sum() / len(x)
    return float(math.sqrt(2 * math.pi) * (pairs - math.sqrt(2) * np.exp(-0.25 * x**2).sum() + len(x) / math.sqrt(3)))


def test_epps_pulley_of_collapsed_and_gaussian_samples() -> None:
    """All zero: N * integral of (1 - exp(-t^2/2))^2 exp(-t^2/2) = N * sqrt(2 pi) (1 - sqrt 2 + 1/sqrt 3) = 0.409 N,
    of which 0.403 N lies in [-3, 3]. Gaussian: sqrt(2 pi) (1 - 1/sqrt 3) = 1.059 expected, 1.053 of it in [-3, 3]."""
    assert float(epps_pulley(torch.zeros(50, 1))) == pytest.approx(50 * 0.4026, rel=0.005)
    samples = torch.randn(200, 400, generator=torch.Generator().manual_seed(0))
    assert float(epps_pulley(samples).mean()) == pytest.approx(1.053, rel=0.1)


@given(st.lists(st.floats(-2.5, 2.5), min_size=1, max_size=12))
def test_epps_pulley_is_the_integral_it_approximates(samples: list[float]) -> None:
    """The tails beyond |t| = 3 hold at most 4 N * 0.0068 (both functions are at most 1 there)."""
    value = float(epps_pulley(torch.tensor(samples, dtype=torch.float64)[:, None], knots=65))
    exact = epps_pulley_in_closed_form(samples)
    assert -0.002 * len(samples) <= exact - value <= 0.028 * len(samples)


def test_sigreg_prefers_gaussian_latents_to_flat_and_to_collapsed_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = random_directions(8, 256, generator)
    assert torch.allclose(directions.norm(dim=0), torch.ones(256))
    gaussian = torch.randn(128, 8, generator=generator)
    flat = gaussian * torch.tensor([2.83] + [0.01] * 7)  # the same total variance in one direction
    values = [float(sigreg(latents, directions)) for latents in (gaussian, flat, torch.zeros(128, 8))]
    assert values[0] < 1.3 < 5 * values[0] < values[1] < values[2]
    assert values[2] == pytest.approx(128 * 0.4026, rel=0.005)


def test_time_is_not_spread() -> None:
    """Latents that differ between moments but not between clips are as collapsed as constant ones."""
    moments = torch.randn(6, 1, 4, generator=torch.Generator().manual_seed(0)).expand(6, 32, 4)
    directions = random_directions(4, 64, torch.Generator().manual_seed(1))
    assert float(sigreg(moments, directions)) > 8


def test_effective_rank_by_hand() -> None:
    """Singular values 3 and 1: shares 3/4 and 1/4, entropy 0.5623, exp of it 1.7548."""
    latents = np.array([[3.0, 0, 7], [-3, 0, 7], [0, 1, 7], [0, -1, 7]]) / math.sqrt(2)
    assert effective_rank(latents) == pytest.approx(1.7548, abs=1e-3)
    line = np.arange(5.0)[:, None] * np.array([1.0, 2.0])
    assert effective_rank(line) == pytest.approx(1.0, abs=1e-6)
    assert effective_rank(np.full((10, 4), 3.3, np.float32)) == 0.0
    assert effective_rank(np.random.default_rng(0).normal(size=(5000, 8))) == pytest.approx(8, abs=0.01)


def test_latent_deviation_by_hand() -> None:
    assert latent_deviation(np.array([[0.0, 5.0], [2.0, 5.0]])) == 0.5


def test_ridge_reads_linear_targets_and_nothing_from_noise() -> None:
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(400, 5))
    targets = np.stack([inputs @ [1, 2, 0, 0, -1] + 3, generator.normal(size=400), np.ones(400)], axis=1)
    scores = ridge_r2(inputs[:300], targets[:300], inputs[300:], targets[300:])
    assert scores[0] > 0.999
    assert scores[1] < 0.1
    assert np.isnan(scores[2])


def test_pooling_by_hand() -> None:
    latents = np.array([[0, 2], [2, 2], [4, 8]], np.float32)
    assert pool_latents(latents, "mean", 2).tolist() == [2, 4]
    assert pool_latents(latents, "last", 2).tolist() == [3, 5]
    assert pool_latents(latents, "mean_last", 2).tolist() == [2, 4, 3, 5]
    assert pool_latents(latents[:1], "last", 2).tolist() == [0, 2]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[JepaEncoder, JepaTelemetry, Path]:
    clips, positions = moving_squares(300, seed=0, size=32)
    folder = tmp_path_factory.mktemp("encoders") / "small"
    encoder, telemetry = train_jepa(clips, JepaConfig(**TOY), folder, probe_targets=positions)
    return encoder, telemetry, folder


def test_training_learns_dynamics_and_does_not_collapse(trained: tuple[JepaEncoder, JepaTelemetry, Path]) -> None:
    _, telemetry, _ = trained
    assert not telemetry.collapsed
    assert telemetry.steps == 200
    assert telemetry.latent_deviation == pytest.approx(1.0, abs=0.25)
    assert telemetry.effective_rank > 12
    assert telemetry.copy_ratio < 0.95  # training starts at 1: an untrained predictor copies
    assert telemetry.probe_r2 is not None
    assert len(telemetry.probe_r2_per_target) == 4
    assert min(telemetry.probe_r2_per_target[:2]) > 0.6, "the moving square is not in the latents"


def test_without_the_change_term_latents_miss_what_moves() -> None:
    """Healthy by deviation, rank and prediction loss, and useless for progress: only the probe tells."""
    clips, positions = moving_squares(300, seed=0, size=32)
    _, telemetry = train_jepa(clips, JepaConfig(**{**TOY, "change_weight": 0.0}), probe_targets=positions)
    assert not telemetry.collapsed
    assert max(telemetry.probe_r2_per_target[:2]) < 0.4


def test_distance_to_the_goal_shrinks_as_a_clip_gets_further(trained: tuple[JepaEncoder, JepaTelemetry, Path]) -> None:
    """What SRPO needs: clips that end nearer to where a success ends are nearer to it."""
    encoder, _, _ = trained
    column, frames = np.linspace(4, 28, 10), np.full((10, 32, 32, 3), 60, np.uint8)
    for step, x in enumerate(column.astype(int)):
        frames[step, 14:18, max(0, x - 2) : x + 2] = (220, 40, 40)
    stopped = [frames[np.minimum(np.arange(10), last)] for last in (1, 3, 5, 7)]
    embeddings = encoder.encode([frames, *stopped])
    distances = np.linalg.norm(embeddings[1:] - embeddings[0], axis=1)
    assert (np.diff(distances) < 0).all(), distances


def test_a_saved_encoder_gives_the_same_embeddings(trained: tuple[JepaEncoder, JepaTelemetry, Path]) -> None:
    encoder, telemetry, folder = trained
    clips, _ = moving_squares(3, seed=9)
    loaded = load_encoder(str(folder))
    assert loaded.name == encoder.name
    assert np.array_equal(loaded.encode(clips), encoder.encode(clips))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "telemetry.json"]
    assert json.loads((folder / "telemetry.json").read_text())["copy_ratio"] == telemetry.copy_ratio


def test_training_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    clips, _ = moving_squares(12, seed=0, size=32)
    config = JepaConfig(**SMALL, steps=6, report_every=3, on_collapse="flag")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, first_telemetry = train_jepa(clips, config)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(6)
    second, second_telemetry = train_jepa(clips, config)
    assert np.array_equal(first.encode(clips), second.encode(clips))
    assert first_telemetry == second_telemetry
    other, _ = train_jepa(clips, JepaConfig(**SMALL, steps=6, seed=1, on_collapse="flag"))
    assert not np.array_equal(first.encode(clips), other.encode(clips))


def test_a_run_without_regulariser_is_flagged_and_stops_early(tmp_path: Path) -> None:
    clips, _ = moving_squares(20, seed=0, size=32)
    bare: dict[str, Any] = {**SMALL, "regulariser_weight": 0.0, "change_weight": 0.0, "steps": 80, "report_every": 20}
    _, telemetry = train_jepa(clips, JepaConfig(**bare, on_collapse="flag"))
    assert telemetry.collapsed
    assert telemetry.steps == 40
    with pytest.raises(WorldModelError, match=r"latents collapsed after 40 steps.*regulariser_weight"):
        train_jepa(clips, JepaConfig(**bare), tmp_path / "bad")
    assert list(tmp_path.iterdir()) == []


def test_the_moving_average_target_follows_and_trains() -> None:
    clips, _ = moving_squares(12, seed=0, size=32)
    config = JepaConfig(**SMALL, steps=4, report_every=2, ema_decay=0.9, on_collapse="flag")
    calls: list[tuple[int, int]] = []
    _, telemetry = train_jepa(clips, config, on_progress=lambda done, total, _: calls.append((done, total)))
    assert calls == [(2, 4), (4, 4)]
    assert math.isfinite(telemetry.prediction_loss)


def test_windows_of_short_clips_hold_the_last_frame_and_do_not_count_it() -> None:
    """A two-frame clip and a four-frame clip in windows of four: the copies are marked as not real."""
    from world_models.jepa.train import _gather, _stack, _window_starts

    config = JepaConfig(image_size=16, window=4)
    clips = [np.full((length, 16, 16, 3), 10 * length, np.uint8) for length in (2, 5)]
    clips[0][1] = 99
    data = _stack(clips, config)
    starts = _window_starts(data, [0, 1], 4)
    assert starts.tolist() == [[0, 0], [1, 0], [1, 1]]
    frames, valid = _gather(data, starts, config)
    assert frames[0, :, 0, 0, 0].tolist() == [20, 99, 99, 99]
    assert valid.tolist() == [[True, True, False, False], [True] * 4, [True] * 4]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": 1}, "window"),
        ({"image_size": 40}, "image_size.*multiple of 16"),
        ({"pooling": "max"}, "pooling.*mean, last, mean_last"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"heldout_share": 1.0}, "heldout_share"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_bad_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WorldModelError, match=message):
        JepaConfig(**changes)


def test_unusable_training_data_is_refused() -> None:
    clips, positions = moving_squares(3, seed=0, size=32)
    with pytest.raises(WorldModelError, match="two clips of two frames"):
        train_jepa([clips[0], clips[1][:1]])
    with pytest.raises(WorldModelError, match="2 probe targets for 3 clips"):
        train_jepa(clips, probe_targets=positions[:2])
    with pytest.raises(WorldModelError, match="probe target 1 has shape"):
        train_jepa(clips, probe_targets=[positions[0], positions[1][:-1], positions[2]])
    positions[2][0, 0] = np.nan
    with pytest.raises(WorldModelError, match=r"probe target 2.*finite"):
        train_jepa(clips, probe_targets=positions)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    config = JepaConfig(**SMALL)
    JepaEncoder(Jepa(config), config).save(tmp_path / "encoder")
    return tmp_path / "encoder"


def test_damaged_folders_are_named(saved: Path) -> None:
    weights, settings = saved / "model.safetensors", saved / "config.json"
    whole, text = weights.read_bytes(), settings.read_text()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WorldModelError, match=r"cannot read the weights .*model\.safetensors"):
        JepaEncoder.load(saved)
    weights.write_bytes(whole)
    settings.write_text(text.replace('"latent_size": 16', '"latent_size": 24'))
    with pytest.raises(WorldModelError, match=r"does not fit .*config"):
        JepaEncoder.load(saved)
    settings.write_text(text.replace('"window"', '"windw"'))
    with pytest.raises(WorldModelError, match="unknown JEPA settings: windw"):
        JepaEncoder.load(saved)
    settings.write_text(text)
    weights.unlink()
    with pytest.raises(WorldModelError, match="cannot read the weights"):
        JepaEncoder.load(saved)


def test_saving_replaces_an_encoder_and_nothing_else(saved: Path, tmp_path: Path) -> None:
    config = JepaConfig(**{**SMALL, "latent_size": 8})
    encoder = JepaEncoder(Jepa(config), config)
    encoder.save(saved)
    assert JepaEncoder.load(saved).config.latent_size == 8
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("unsaved")
    with pytest.raises(WorldModelError, match="no saved reflex_jepa"):
        encoder.save(precious)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder", "precious"]


def test_a_non_finite_embedding_is_an_error(saved: Path) -> None:
    encoder = JepaEncoder.load(saved)
    with torch.no_grad():
        encoder.model.encoder.project.bias[0] = float("nan")
    with pytest.raises(WorldModelError, match="non-finite embedding for clip 0"):
        encoder.encode(moving_squares(1, seed=0)[0])


@settings(max_examples=20)
@given(st.integers(1, 400), st.integers(2, 400))
def test_the_learning_rate_rises_then_falls_to_zero(steps_before: int, steps: int) -> None:
    from world_models.jepa.train import _schedule

    step = min(steps_before, steps)
    assert 0 <= _schedule(step, steps) <= 1
    assert _schedule(max(1, steps // 20), steps) == 1
    assert _schedule(steps, steps) == pytest.approx(0, abs=1e-9)
