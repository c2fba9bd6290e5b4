"""What training the small world model is made of: its split, its loss, its target, its settings and when it stops."""

from __future__ import annotations

import copy
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.world_models.clips import moving_squares
from world_models.errors import WorldModelError
from world_models.jepa import JepaConfig, JepaEncoder, train, train_jepa
from world_models.jepa.model import Jepa
from world_models.jepa.regulariser import random_directions, sigreg

TINY = JepaConfig(
    image_size=16,
    latent_size=4,
    width=8,
    predictor_size=8,
    window=3,
    batch_size=6,
    directions=8,
    steps=3,
    report_every=3,
    weight_decay=0.5,
    gradient_clip=0.5,
    ema_decay=0.5,
    heldout_share=0.2,
    on_collapse="flag",
)


def frames_of(lengths: list[int]) -> train._Frames:
    generator = np.random.default_rng(0)
    clips = [generator.integers(0, 256, (length, 16, 16, 3), dtype=np.uint8) for length in lengths]
    return train._stack(clips, TINY)


def test_held_out_clips_are_not_trained_on_and_every_usable_clip_is_somewhere() -> None:
    data = frames_of([3, 1, 2, 5, 1, 4, 2, 3, 2, 2, 6, 2])  # clips 1 and 4 have no next frame
    splits = set()
    for seed in range(5):
        trained, heldout = train._split(data, replace(TINY, seed=seed, heldout_share=0.3))
        assert (len(trained), len(heldout)) == (7, 3)
        assert sorted(trained + heldout) == [0, 2, 3, 5, 6, 7, 8, 9, 10, 11]
        assert trained == sorted(trained) and heldout == sorted(heldout)
        splits.add(tuple(heldout))
    assert len(splits) > 1, "the seed draws"
    for share, kept in ((0.001, 1), (0.999, 9)):
        trained, heldout = train._split(data, replace(TINY, heldout_share=share))
        assert (len(trained), len(heldout)) == (10 - kept, kept), "each side has one at least"


@pytest.mark.parametrize("target_moved", [0.0, 0.3])
def test_the_loss_by_hand(target_moved: float) -> None:
    """Squared error of the next latents of the target, over real frames only, and the two regularisers."""
    torch.manual_seed(0)
    model = Jepa(TINY)
    target = copy.deepcopy(model)
    with torch.no_grad():
        target.encoder.project.bias.add_(target_moved)
    data = frames_of([2, 4])
    frames, valid = train._gather(data, torch.tensor([[0, 0], [1, 1], [1, 0]]), TINY)
    directions = random_directions(4, 8, torch.Generator().manual_seed(0))
    with torch.no_grad():
        latents, goals = model.encode_windows(frames), target.encode_windows(frames)
        guesses = model.predictor(latents[:, :-1])
        real = [(0, 1), (1, 1), (1, 2), (2, 1), (2, 2)]  # the first window holds its second frame once more
        errors = [float((guesses[row, time - 1] - goals[row, time]).square().mean()) for row, time in real]
        spread = float(sigreg(latents.transpose(0, 1), directions))
        change = float(sigreg((latents[:, 2] - latents[:, 0]) / TINY.change_scale, directions))
    expected = np.mean(errors) + TINY.regulariser_weight * spread + TINY.change_weight * change
    loss = float(train._loss(model, target, frames, valid, directions, TINY).detach())
    assert loss == pytest.approx(expected, rel=1e-5)
    alone = float(train._loss(model, None, frames, valid, directions, TINY).detach())
    assert bool(alone == pytest.approx(expected, rel=1e-5)) is (target_moved == 0.0)


def test_no_gradient_passes_through_the_target() -> None:
    model = Jepa(TINY)
    target = copy.deepcopy(model)
    frames, valid = train._gather(frames_of([4, 5]), torch.tensor([[0, 0], [1, 1]]), TINY)
    directions = random_directions(4, 8, torch.Generator().manual_seed(0))
    train._loss(model, target, frames, valid, directions, TINY).backward()
    assert all(parameter.grad is None for parameter in target.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_the_target_follows_by_its_decay() -> None:
    model, target = Jepa(TINY), Jepa(TINY)
    before = [parameter.clone() for parameter in target.parameters()]
    train._follow(target, model, 0.9)
    for average, old, new in zip(target.parameters(), before, model.parameters(), strict=True):
        torch.testing.assert_close(average, 0.9 * old + 0.1 * new)


CHANGES: dict[str, Any] = {
    "image_size": 32,
    "latent_size": 5,
    "width": 16,
    "predictor_size": 9,
    "window": 2,
    "steps": 4,
    "batch_size": 7,
    "learning_rate": 1e-3,
    "weight_decay": 0.0,
    "regulariser_weight": 0.5,
    "change_weight": 0.5,
    "change_scale": 0.1,
    "directions": 9,
    "ema_decay": 0.9,
    "gradient_clip": 1e-3,
    "heldout_share": 0.5,
    "seed": 1,
}
"""Settings that shape the weights."""


def weights_of(config: JepaConfig) -> list[np.ndarray]:
    clips, _ = moving_squares(8, seed=0, size=32)
    encoder, _ = train_jepa(clips, config)
    return [value.numpy().copy() for value in encoder.model.state_dict().values()]


@pytest.mark.parametrize("name", list(CHANGES))
def test_each_setting_reaches_training(name: str) -> None:
    plain, changed = weights_of(TINY), weights_of(replace(TINY, **{name: CHANGES[name]}))
    same = [one.shape == other.shape and np.array_equal(one, other) for one, other in zip(plain, changed, strict=True)]
    assert not all(same)


def test_each_step_is_made_at_its_learning_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 steps the first two warm up; the last is made at a rate of nothing."""
    rates: list[float] = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW, *arguments: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return real(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", step)
    weights_of(replace(TINY, steps=40, report_every=40, learning_rate=0.01))
    assert rates[:2] == [0.005, 0.01]
    assert rates[20] == pytest.approx(0.01 * 0.5 * (1 + np.cos(np.pi * 19 / 38)))
    assert rates[-1] == pytest.approx(0.0, abs=1e-12) and len(rates) == 40


def test_every_setting_is_known_to_shape_the_weights_or_not_to() -> None:
    telling = {"report_every", "min_latent_deviation", "min_effective_rank", "on_collapse"}
    embedding = {"pooling", "last_frames", "device"}
    assert set(CHANGES) | telling | embedding == {field.name for field in fields(JepaConfig)}


@pytest.mark.parametrize(
    ("deviations", "steps_made"),
    [
        ([0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0], 8),  # a slow start
        ([1.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0, 1.0], 8),  # never twice in a row
        ([1.0, 1.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0], 5),
        ([0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0], 4),  # half of the steps are made
    ],
)
def test_training_stops_at_a_collapse_that_lasts(
    deviations: list[float], steps_made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = [
        {"prediction_loss": 1.0, "copy_ratio": 1.0, "latent_deviation": value, "effective_rank": 4.0}
        for value in deviations
    ]
    monkeypatch.setattr(train, "_measure", lambda *_: measured.pop(0))
    clips, _ = moving_squares(6, seed=0, size=16)
    _, telemetry = train_jepa(clips, replace(TINY, steps=8, report_every=1))
    assert telemetry.steps == steps_made
    assert [entry["step"] for entry in telemetry.history] == list(range(1, steps_made + 1))
    assert telemetry.collapsed is (deviations[steps_made - 1] == 0.0)


@pytest.mark.parametrize(
    ("deviation", "rank", "collapsed"), [(0.3, 3.0, False), (0.2999, 3.0, True), (0.3, 2.999, True), (1.0, 4.0, False)]
)
def test_collapsed_is_under_either_threshold(deviation: float, rank: float, collapsed: bool) -> None:
    measured = {"latent_deviation": deviation, "effective_rank": rank}
    config = replace(TINY, min_latent_deviation=0.3, min_effective_rank=3.0)
    assert train._collapsed(measured, config) is collapsed


def test_prediction_is_measured_on_the_clips_held_out() -> None:
    """Squared errors by hand, over the next frames of clips 1 and 2; the copy ratio by those of no change."""
    torch.manual_seed(0)
    model, data = Jepa(TINY), frames_of([3, 4, 2, 5])
    predicted, copied = [], []
    for index in (1, 2):
        with torch.no_grad():
            latents = model.encoder(data.clip(index))
            guesses = model.predictor(latents[None, :-1])[0]
        predicted += (guesses - latents[1:]).square().flatten().tolist()
        copied += (latents[:-1] - latents[1:]).square().flatten().tolist()
    measured = train._measure(model, data, [1, 2], TINY)
    assert measured["prediction_loss"] == pytest.approx(np.mean(predicted), rel=1e-5)
    assert measured["copy_ratio"] == pytest.approx(np.sum(predicted) / np.sum(copied), rel=1e-5)
    with torch.no_grad():
        everything = model.encoder(data.frames).numpy()
    assert measured["latent_deviation"] == pytest.approx(everything.std(axis=0).mean(), rel=1e-5)


def test_a_loss_that_is_not_finite_ends_training() -> None:
    clips, _ = moving_squares(6, seed=0, size=16)
    with pytest.raises(WorldModelError, match=r"not finite at step \d+; lower learning_rate"):
        train_jepa(clips, replace(TINY, learning_rate=1e30, steps=20, report_every=1))


def test_files_are_on_the_disk_before_the_encoder_gets_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(descriptor: int) -> None:
        calls.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real_sync(descriptor)

    def rename(self: Path, target: Path) -> Path:
        calls.append(f"to {Path(target).name}")
        return real_replace(self, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", rename)
    JepaEncoder(Jepa(TINY), TINY).save(tmp_path / "small", {"steps": 3})
    assert set(calls[:-1]) == {"config.json", "model.safetensors", "telemetry.json"}
    assert calls[-1] == "to small"


def test_a_folder_that_cannot_be_replaced_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk refuses the new folder when the old one has stepped aside already."""
    JepaEncoder(Jepa(TINY), TINY).save(tmp_path / "small")
    real = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if (self / "telemetry.json").exists():
            raise OSError("no space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(WorldModelError, match=r"cannot write the model to .*small: no space left"):
        JepaEncoder(Jepa(TINY), TINY).save(tmp_path / "small", {"steps": 3})
    assert [path.name for path in tmp_path.iterdir()] == ["small"]
    assert JepaEncoder.load(tmp_path / "small").config == TINY
