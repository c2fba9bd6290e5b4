"""Scoring rewards on rollouts whose embeddings are made up, so that every measure is known."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sim.embodiments import PANDA_EEF
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rewards.audit.command import AuditConfig, Sampling, audit
from vla.rewards.audit.embeddings import TimeEmbedding
from vla.rewards.audit.rollouts import AuditRollout, Kind
from vla.rewards.audit.scoring import MEASURES, MODES, Row, choose_references, recommend, score
from vla.rewards.embeddings import FrameEmbedding, ProprioceptionEmbedding, RolloutEmbedding, TrueProgressEmbedding
from world_models.encoders import load_encoder


def rollout(kind: Kind, progress: float, task_id: int = 0, length: int = 4) -> AuditRollout:
    frames = np.full((3, 8, 8, 3), int(255 * progress), dtype=np.uint8)
    episode = Episode(
        suite="made_up",
        embodiment=PANDA_EEF.with_image_size(8),
        task_id=task_id,
        instruction="do it",
        split="train",
        init_state_id=0,
        seed=0,
        policy_id="audit",
        success=kind == "success",
        actions=np.zeros((length, 7), np.float32),
        observation_steps=np.array([0, 2, length]),
        images={"image": frames, "wrist_image": frames},
        states=np.full((3, 8), progress, np.float32),
        rewards=np.zeros(length, np.float32),
        costs=np.zeros(length, np.float32),
        progress=np.full(length, progress, np.float32),
    )
    return AuditRollout(episode, kind)


class Honest:
    """Embeds a rollout as its true progress: the best there can be."""

    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        return np.array([[episode.progress[-1]] for episode in episodes], dtype=np.float32)

    def embed_starts(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        return np.zeros((len(episodes), 1), dtype=np.float32)


class Backwards(Honest):
    def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
        # Successes at 0 still; the nearer a failure truly is, the farther it looks.
        return np.array([[0.0 if episode.success else episode.progress[-1]] for episode in episodes], dtype=np.float32)


def made_up() -> list[AuditRollout]:
    rollouts = []
    for task in (1, 4):
        rollouts += [rollout("success", 1.0, task) for _ in range(4)]
        rollouts += [rollout("stalled", progress, task) for progress in (0.2, 0.4, 0.6, 0.8)]
        rollouts += [rollout("frozen", 0.0, task), rollout("hopeless", 0.1, task), rollout("wrong", 0.3, task)]
        rollouts += [rollout("reversed", 0.0, task), rollout("shuffled", 0.5, task)]
    return rollouts


def test_references_are_the_first_half_of_each_task_s_successes() -> None:
    assert np.flatnonzero(choose_references(made_up())).tolist() == [0, 1, 13, 14]


def test_a_perfect_embedding_gets_perfect_marks() -> None:
    rows = {row.mode: row.estimates() for row in score(made_up(), "made up", Honest(), list(MODES))}
    for mode in ("srpo", "siirl", "calibrated"):
        found = rows[mode]
        assert found["rank"].value == pytest.approx(1.0)
        assert found["pairs"].value == pytest.approx(1.0)
        for name in ("success", "wrong", "reversed", "shuffled"):
            assert found[name].value == 1.0
    # On the absolute scale a failure gets 0.8 of its progress: the seven failures' errors average a fifth of theirs.
    assert rows["calibrated"]["error"].value == pytest.approx(0.2 * 2.4 / 7)
    assert rows["calibrated"]["idle"].value == pytest.approx(0.8 * 0.05)
    assert set(rows["srpo"]) == set(MEASURES)


def test_an_embedding_that_has_it_backwards_is_found_out() -> None:
    (row,) = score(made_up(), "made up", Backwards(), ["srpo"])
    assert row.estimates()["rank"].value == pytest.approx(-1.0)


def test_the_policy_s_failures_are_compared_where_they_began_alike() -> None:
    def own(state: int, progress: float, success: bool = False) -> AuditRollout:
        made = rollout("policy", progress)
        return replace(made, episode=replace(made.episode, init_state_id=state, success=success))

    # The reward follows progress; in state 1 it is told wrong of one, and a success is no failure.
    policy = [own(0, 0.2), own(0, 0.6), own(1, 0.5), own(1, 0.1), own(1, 0.9), own(1, 1.0, success=True)]
    rollouts = [rollout("success", 1.0) for _ in range(4)] + policy

    class OneWrong(Honest):
        def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
            rows = super().embed(episodes)
            rows[8] = 0.05  # the rollout of state 1 that came furthest looks like the worst
            return rows

    (honest,), (wrong,) = (score(rollouts, "made up", seen, ["srpo"]) for seen in (Honest(), OneWrong()))
    assert honest.estimates()["own"].value == 1.0
    assert wrong.estimates()["own"].value == pytest.approx(2 / 4)  # of 1 + 3 pairs, two are right


def test_controls_do_not_shift_what_the_others_get() -> None:
    """Rewards under "srpo" are relative: a far control would change all, were it scored with them."""
    without = [item for item in made_up() if item.kind != "reversed"]
    with_far = [*without, rollout("reversed", 0.0, 1), rollout("reversed", 0.0, 4)]

    class Far(Honest):
        def embed(self, episodes: Sequence[Episode]) -> NDArray[np.float32]:
            rows = super().embed(episodes)
            rows[len(without) :] = -1000.0
            return rows

    (before,), (after,) = score(without, "made up", Honest(), ["srpo"]), score(with_far, "made up", Far(), ["srpo"])
    assert before.per_task["error"] == pytest.approx(after.per_task["error"])


def test_every_embedding_has_one_row_for_each_rollout() -> None:
    episodes = [item.episode for item in made_up()]
    embeddings: list[RolloutEmbedding] = [
        ProprioceptionEmbedding(5),
        TimeEmbedding(),
        FrameEmbedding(load_encoder("pixels"), 4),
    ]
    for embedding in embeddings:
        moving, still = embedding.embed(episodes), embedding.embed_starts(episodes)
        assert moving.shape == still.shape
        assert len(moving) == len(episodes)
        assert np.array_equal(moving, still)  # nothing moves in these


def row(embedding: str, ranks: Sequence[float], mode: str = "srpo") -> Row:
    return Row(embedding, mode, {name: np.array(ranks) for name in MEASURES})


def test_advice_names_the_best_encoder_and_what_it_adds() -> None:
    rows = [row("pixels", [0.1, 0.2, 0.3]), row("jepa", [0.7, 0.8, 0.9]), row("time", [0.0, 0.1, 0.2])]
    advice = recommend(rows)
    assert "encoder=jepa with srpo" in advice
    assert "0.70 (0.70 to 0.70) more than without pictures (time, srpo)" in advice


def test_modes_that_rank_alike_are_told_apart_by_the_size_of_their_rewards() -> None:
    def with_error(mode: str, ranks: Sequence[float], error: float) -> Row:
        return Row("jepa", mode, {name: np.array(ranks) for name in MEASURES} | {"error": np.full(3, error)})

    first, alike = with_error("siirl", [0.7, 0.8, 0.9], 0.3), with_error("calibrated", [0.8, 0.7, 0.85], 0.1)
    worse = with_error("srpo", [0.3, 0.4, 0.5], 0.05)
    assert "encoder=jepa with calibrated" in recommend([first, alike, worse, row("pixels", [0.1, 0.1, 0.1])])


def test_advice_says_when_pictures_do_not_help() -> None:
    advice = recommend([row("jepa", [0.7, 0.1, 0.9]), row("proprioception", [0.6, 0.6, 0.6], "calibrated")])
    assert "proprioception with calibrated, which sees no picture, is not behind" in advice


def test_advice_without_encoders_or_controls() -> None:
    assert "nothing to recommend" in recommend([row("time", [0.5])])
    assert recommend([row("jepa", [0.5, 0.6])]).endswith("(0.50 to 0.60).")


def test_the_truth_itself_is_the_ceiling_and_no_choice() -> None:
    assert "encoder=jepa" in recommend([row("jepa", [0.5, 0.6]), row("true_progress", [1.0, 1.0])])
    (scored,) = score(made_up(), "true_progress", TrueProgressEmbedding(), ["calibrated"])
    found = scored.estimates()
    assert found["rank"].value == found["success"].value == pytest.approx(1.0)
    assert found["error"].value == pytest.approx(0.2 * 2.4 / 7)  # a failure gets alpha times its progress


def test_the_command_writes_everything_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = AuditConfig(
        output=str(tmp_path), tasks=[0, 1], encoders=["pixels", "time"], modes=["srpo"], rollouts=2, policy=None
    )
    audit(config)
    printed = capsys.readouterr().out
    assert "Use encoder=pixels with srpo" in printed
    document = json.loads((tmp_path / "reward.json").read_text())
    assert document["rollouts"] == {
        "success": 8,
        "stalled": 4,
        "wrong": 4,
        "hopeless": 4,
        "frozen": 4,
        "reversed": 4,
        "shuffled": 4,
    }
    assert [(line["encoder"], line["mode"]) for line in document["rows"]] == [("pixels", "srpo"), ("time", "srpo")]
    assert document["rows"][1]["estimates"]["rank"]["value"] == 0.0
    with pytest.raises(ReflexError, match="already holds an audit"):
        audit(config)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"modes": ["srop"]}, "modes are srpo, srpo_cosine, siirl, calibrated"),
        ({"rollouts": 1}, "rollouts is 1; it must be at least 2"),
        ({"group_size": 1}, "group_size is 1; it must be at least 2"),
    ],
)
def test_bad_settings_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        AuditConfig(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "sampling.temperature is -0.1"),
        ({"temperature": float("inf")}, "sampling.temperature is inf"),
        ({"temperature": float("nan")}, "sampling.temperature is nan"),
        ({"token_noise": -1.0}, "sampling.token_noise is -1.0"),
        ({"chunk_correlation": 1.0}, "sampling.chunk_correlation is 1.0"),
    ],
)
def test_bad_sampling_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ReflexError, match=message):
        Sampling(**options)
