"""Successes kept over iterations, and what they do to a batch without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.vla.rl.helpers import reward
from tests.vla.rl.test_collection import FinalFrame
from vla.errors import ReflexError
from vla.rewards.embeddings import FrameEmbedding
from vla.rewards.reward import Reward, Scores
from vla.rewards.variants.success_bank import SuccessBank


def rows(*values: float) -> NDArray[np.float32]:
    return np.array(values, dtype=np.float32)[:, None]


def add(bank: SuccessBank, iteration: int, values: list[float], task: int = 0, success: bool = True) -> None:
    count = len(values)
    bank.add(iteration, rows(*values), np.full(count, success), np.full(count, task))


def kept(bank: SuccessBank, *tasks: int) -> list[tuple[float, int]]:
    found = bank.references(tasks)
    return [] if found is None else list(zip(found[0][:, 0].tolist(), found[1].tolist(), strict=True))


def test_the_newest_successes_of_each_task_are_kept() -> None:
    bank = SuccessBank(capacity=2, max_age=10)
    add(bank, 0, [1.0, 2.0, 3.0])
    add(bank, 0, [7.0], task=4)
    add(bank, 1, [9.0], success=False)
    assert kept(bank, 0, 4) == [(2.0, 0), (3.0, 0), (7.0, 4)]
    add(bank, 1, [4.0])
    assert kept(bank, 0) == [(3.0, 0), (4.0, 0)]
    assert kept(bank, 5) == []
    assert len(bank) == 3


def test_old_ones_go_even_where_nothing_replaces_them() -> None:
    bank = SuccessBank(capacity=5, max_age=2)
    add(bank, 0, [1.0])
    add(bank, 1, [2.0])
    assert kept(bank, 0) == [(1.0, 0), (2.0, 0)]
    add(bank, 2, [], task=0)
    assert kept(bank, 0) == [(2.0, 0)]
    add(bank, 3, [], task=0)
    assert kept(bank, 0) == []


def test_an_embedding_that_is_not_finite_is_no_reference() -> None:
    bank = SuccessBank(capacity=5, max_age=2)
    add(bank, 0, [float("nan"), 1.0])
    assert kept(bank, 0) == [(1.0, 0)]


def test_it_survives_a_checkpoint(tmp_path: Path) -> None:
    bank = SuccessBank(capacity=5, max_age=3)
    add(bank, 0, [1.0])
    add(bank, 2, [2.0], task=3)
    bank.save(tmp_path)
    again = SuccessBank(capacity=5, max_age=3)
    again.load(tmp_path)
    for one in (bank, again):
        add(one, 3, [5.0])
    assert kept(again, 0, 3) == kept(bank, 0, 3) == [(5.0, 0), (2.0, 3)]
    with pytest.raises(ReflexError, match=r"success_bank\.pt"):
        again.load(tmp_path / "nowhere")


def banked(**settings: Any) -> Reward:
    settings = {"reward": "srpo", "capacity": 5, "age": 3} | settings
    return reward("success_bank", FrameEmbedding(FinalFrame()), **settings)


def learn(model: Reward, *values: float) -> None:
    """Successes of task 0."""
    model.learn(0, rows(*values), np.ones(len(values), bool), np.zeros(len(values), np.int64))


def score(model: Reward, embeddings: NDArray[np.float32], *successes: bool) -> Scores:
    """A batch of task 0, each rollout in a group of its own."""
    count = len(embeddings)
    return model.score(embeddings, np.array(successes, bool), np.zeros(count, np.int64), np.arange(count))


def test_a_batch_without_a_success_is_judged_by_the_bank() -> None:
    model = banked()
    batch = rows(0.0, 4.0, 9.0), False, False, False
    without = score(model, *batch)
    assert not without.rewards.any()
    assert without.metrics["bank/rescued_rollouts"] == 0.0
    learn(model, 10.0)
    found = score(model, *batch)
    assert len(found.rewards) == 3
    assert 0 < found.rewards[0] < found.rewards[1] < found.rewards[2] < 1
    assert found.metrics["bank/rescued_rollouts"] == 3.0
    assert found.metrics["bank/successes"] == 1.0
    assert found.metrics["reward/failure_mean"] == pytest.approx(found.rewards.mean())


def test_with_a_success_in_the_batch_both_are_references_and_nothing_is_rescued() -> None:
    model = banked()
    learn(model, 10.0)
    found = score(model, rows(0.0, 1.0, 9.0), True, False, False)
    assert found.rewards[0] == 1.0
    assert found.rewards[1] == found.rewards[2], "one unit from the batch's success, and from the bank's"
    assert found.metrics["bank/rescued_rollouts"] == 0.0


def test_the_bank_s_rows_hold_whatever_the_reward_embeds() -> None:
    """Under "calibrated" a row holds the start as well."""
    model = banked(reward="calibrated")
    model.learn(0, np.array([[10.0, 0.0]], np.float32), np.array([True]), np.array([0]))
    found = score(model, np.array([[5.0, 0.0], [0.0, 0.0]], np.float32), False, False)
    assert found.rewards.tolist() == pytest.approx([0.4, 0.0])


def test_the_reward_with_its_bank_survives_a_checkpoint_and_keeps_to_its_bounds(tmp_path: Path) -> None:
    model = banked(capacity=1)
    learn(model, 10.0, 2.0)
    model.save(tmp_path)
    again = banked(capacity=1)
    again.load(tmp_path)
    batch = rows(0.0, 4.0), False, False
    assert score(again, *batch).rewards.tolist() == score(model, *batch).rewards.tolist()
    assert score(again, *batch).metrics["bank/successes"] == 1.0, "the newest"


def test_what_the_bank_holds_is_in_no_group_of_the_batch() -> None:
    """Its successes are references, and no success of a group: failures there are paid as without it."""
    model = banked(reward="without_success")
    learn(model, 10.0)
    found = score(model, rows(0.0, 9.0), False, False)
    assert 0 < found.rewards[0] < found.rewards[1] < 1
    assert found.telling is not None and found.telling.tolist() == [0.0, 0.0], "of the batch's rollouts alone"


def test_rescued_are_the_rollouts_of_tasks_that_only_the_bank_has_a_success_of() -> None:
    model = banked()
    model.learn(0, rows(1.0, 2.0), np.ones(2, bool), np.array([0, 1]))
    tasks, groups = np.array([0, 0, 1, 1, 2]), np.arange(5)
    found = model.score(rows(0.0, 3.0, 0.0, 3.0, 0.0), np.array([True, False, False, False, False]), tasks, groups)
    assert found.metrics["bank/rescued_rollouts"] == 2.0, "task 1's; task 0 has a success, task 2 none anywhere"
    assert found.metrics["bank/successes"] == 2.0
    assert found.metrics["reward/failure_mean"] == pytest.approx(found.rewards[1:].mean())
    assert found.rewards[4] == 0.0


def test_a_success_s_embedding_is_kept_as_it_was() -> None:
    bank, embeddings = SuccessBank(capacity=5, max_age=2), rows(1.0)
    bank.add(0, embeddings, np.array([True]), np.array([0]))
    embeddings[:] = 9.0
    assert kept(bank, 0) == [(1.0, 0)]


def test_embeddings_of_one_row_are_of_one_task() -> None:
    bank = SuccessBank(capacity=5, max_age=3)
    bank.add(1, rows(1.0, 2.0, 3.0), np.array([True, False, True]), np.array([4, 4, 2]))
    found = bank.references([2, 4, 2])
    assert found is not None
    assert found[0].tolist() == [[3.0], [1.0]] and found[1].tolist() == [2, 4] and found[1].dtype == np.int64
    assert bank.references([]) is None and bank.references([3]) is None


def test_the_reward_inside_remembers_too(tmp_path: Path) -> None:
    """A bank in a bank: each writes its own, one after the other."""
    learned: list[tuple[int, int]] = []
    model = banked()
    inner = model.inner  # type: ignore[attr-defined]
    inner.learn = lambda iteration, embeddings, *_: learned.append((iteration, len(embeddings)))
    inner.save, inner.load = learned.append, learned.append
    learn(model, 1.0, 2.0)
    model.save(tmp_path)
    model.load(tmp_path)
    assert learned == [(0, 2), tmp_path, tmp_path]
