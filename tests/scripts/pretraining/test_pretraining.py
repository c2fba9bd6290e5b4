"""Play data and a pretraining run of a few steps, on the real suite."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scripts.pretraining import play_data
from scripts.pretraining.__main__ import COMMAND
from scripts.pretraining.play_data import CHUNK, KINDS, PlaySamples, generate_play, load_play, record_shard
from scripts.pretraining.pretrain import PretrainConfig, named_things, place_loss, pretrain
from vla.cli import run_command
from vla.errors import ReflexError
from vla.imitation.loop import ImitationConfig
from vla.policies import load_policy


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("play") / "shard.npz"
    record_shard(path, seed=3, episodes=6)
    return path


def test_samples_follow_their_description(shard: Path) -> None:
    samples = load_play([shard])
    assert len(samples) > 10
    assert samples.images.shape[1:] == samples.wrist_images.shape[1:] == (64, 64, 3)
    assert samples.chunks.shape[1:] == (CHUNK, 7) and np.abs(samples.chunks).max() <= 1.0
    assert np.isfinite(samples.chunks).all() and np.isfinite(samples.states).all()
    present = np.isfinite(samples.positions).all(-1).sum(1)
    assert samples.positions.shape[1] == len(KINDS) and present.max() <= 6
    following = samples.next_sample
    linked = np.flatnonzero(following >= 0)
    assert len(linked), "some samples are followed by another one chunk later"
    np.testing.assert_array_equal(samples.instruction_index[linked], samples.instruction_index[following[linked]])


def test_a_shard_depends_on_its_seed_only(shard: Path, tmp_path: Path) -> None:
    record_shard(tmp_path / "again.npz", seed=3, episodes=6)
    first, again = load_play([shard]), load_play([tmp_path / "again.npz"])
    np.testing.assert_array_equal(first.images, again.images)
    np.testing.assert_array_equal(first.chunks, again.chunks)


def test_shards_join_with_their_indices_shifted(shard: Path) -> None:
    one, two = load_play([shard]), load_play([shard, shard])
    assert len(two) == 2 * len(one)
    linked = np.flatnonzero(one.next_sample >= 0)
    np.testing.assert_array_equal(two.next_sample[linked + len(one)], one.next_sample[linked] + len(one))
    half = [two.instructions[index] for index in two.instruction_index[len(one) :]]
    assert half == [one.instructions[index] for index in one.instruction_index]


def _samples(instructions: list[str], positions: dict[str, tuple[float, float]], target: str) -> PlaySamples:
    """One sample per instruction, of one scene, in which `target` is what to see to now."""
    count = len(instructions)
    places = np.full((count, len(KINDS), 2), np.nan, np.float32)
    for name, place in positions.items():
        places[:, KINDS.index(name)] = place
    targets = np.full((count, 6), np.nan, np.float32)
    targets[:, :3] = (*positions[target], 0.02)
    return PlaySamples(
        images=np.zeros((count, 64, 64, 3), np.uint8),
        wrist_images=np.zeros((count, 64, 64, 3), np.uint8),
        states=np.zeros((count, 8), np.float32),
        chunks=np.zeros((count, CHUNK, 7), np.float32),
        positions=places,
        pictured=np.full((count, 2, len(KINDS), 2), np.nan, np.float32),
        targets=targets,
        next_sample=np.full(count, -1),
        instruction_index=np.arange(count),
        instructions=instructions,
    )


def test_words_that_name_things_are_found_with_what_they_name() -> None:
    samples = _samples(
        [
            "put the red cube and the blue cylinder on the black plate",
            "put both cylinders on the plate",
            "press the button and then pick up the red cube",
            "open the drawer",
        ],
        {"red cube": (0.0, 0.1), "blue cylinder": (0.1, -0.1), "pink cylinder": (-0.1, 0.0), "button": (0.0, -0.15)},
        target="pink cylinder",
    )
    named = [
        {token: KINDS[kind] for token, kind in enumerate(row) if kind >= 0} for row in named_things(samples).tolist()
    ]
    assert named == [
        {3: "red cube", 7: "blue cylinder", 11: "black plate"},
        {3: "pink cylinder"},
        {3: "button", 9: "red cube"},
        {3: "drawer"},
    ]


def test_response_maps_are_classified_by_place() -> None:
    # Four patches, 2 x 2; x and y of their centres are -1 or 1 in these coordinates.
    coordinates = torch.tensor([[1.0, -1, -1], [1, 1, -1], [1, -1, 1], [1, 1, 1]])
    places = np.array([[0.5, -0.5], [-0.2, 0.9]], dtype=np.float32)  # the upper right patch, the lower left one
    sure = torch.tensor([[0.0, 50, 0, 0], [0, 0, 50, 0]])
    loss, error = place_loss(sure, places, coordinates)
    assert float(loss) == pytest.approx(0.0, abs=1e-6)
    # sqrt(0.5^2 + 0.5^2) and sqrt(0.8^2 + 0.1^2), times 2 pixels of half a picture's width of 2 patches
    assert error == pytest.approx((0.5**0.5 + 0.65**0.5) / 2 * 2)
    unsure, _ = place_loss(torch.zeros(2, 4), places, coordinates)
    assert float(unsure) == pytest.approx(np.log(4))
    nothing, _ = place_loss(sure[:0], places[:0], coordinates)
    assert float(nothing) == 0.0


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    path = tmp_path / "play-0-0000.npz"
    path.write_bytes(b"not a shard")
    with pytest.raises(ReflexError, match="play-0-0000"):
        load_play([path])


def test_pretraining_ends_with_weights_and_their_provenance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Path
) -> None:
    # One shard, put where the command looks for it: generating is tested above.
    monkeypatch.setattr(play_data, "EPISODES_PER_SHARD", 6)
    folder = tmp_path / "play"
    folder.mkdir()
    (folder / "play-0-0000.npz").write_bytes(shard.read_bytes())
    assert generate_play(folder, episodes=6, seed=0, num_workers=1) == [folder / "play-0-0000.npz"]
    imitation = dataclasses.replace(PretrainConfig().imitation, steps=2, batch_size=4, warmup_steps=1)
    assert isinstance(imitation, ImitationConfig)
    config = PretrainConfig(
        output=str(tmp_path / "run"),
        play_folder=str(folder),
        play_episodes=6,
        threads=1,
        checkpoint_every=1,
        imitation=imitation,
    )
    record = pretrain(config)
    policy = load_policy(str(tmp_path / "run" / "policy"))
    assert policy.has_normalisation
    stored = json.loads((tmp_path / "run" / "policy" / "provenance.json").read_text())
    assert stored["samples"] == record["samples"] > 10 and len(stored["weights_sha256"]) == 64
    assert (tmp_path / "run" / "policy" / "model.safetensors").stat().st_size <= 12_000_000


def test_the_command_calls_itself_what_is_typed(capsys: pytest.CaptureFixture[str]) -> None:
    name = "python -m scripts.pretraining"
    assert run_command(name, COMMAND, ["--help"]) == 0
    assert capsys.readouterr().out.startswith(f"{name}: Make the shipped base")
    assert run_command(name, COMMAND, ["torch_threads=2"]) == 2
    assert f"{name}: torch_threads is now threads: write threads=2" in capsys.readouterr().err
