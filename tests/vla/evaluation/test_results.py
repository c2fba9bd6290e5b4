"""Protocols, records and what is computed from them, by hand."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import FakeSuite
from vla.errors import ReflexError
from vla.evaluation import protocol
from vla.evaluation.protocol import Protocol, check_same
from vla.evaluation.results import EvaluationResult, compare, compare_tasks, episode_key, evaluated_episodes
from vla.policies.sampling import GREEDY, as_it_is
from vla.run.run_folder import RunFolder

SAMPLED = as_it_is(1.0)


def test_the_protocol_hash_is_stable_and_notices_what_matters() -> None:
    suite = FakeSuite()
    base = Protocol.of(suite, "eval", GREEDY, 0)
    assert base.digest() == "4ee01e56dc846b85d505f6f85f4aac1d13f87dbbd7ba4242bf862b6253e57b09"
    assert Protocol.of(suite, "eval", GREEDY, 5).digest() == base.digest()
    others = [
        Protocol.of(suite, "train", GREEDY, 0),
        Protocol.of(suite, "eval", SAMPLED, 0),
        Protocol.of(suite, "eval", as_it_is(1.6), 0),
        Protocol.of(suite, "eval", SAMPLED, 1),
        Protocol.of(FakeSuite("other"), "eval", GREEDY, 0),
    ]
    assert len({base.digest(), *(other.digest() for other in others)}) == 6
    assert base.document()["hash"] == base.digest()


CHANGES: dict[str, Any] = {
    "suite": "another",
    "facts": {"suite": "fake", "horizon": 41, "init_states": 20},
    "split": "train",
    "mode": "greedy",
    "temperature": 1.6,
    "seed": 1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_the_hash_changes_with_each_part_of_the_protocol(name: str) -> None:
    base = Protocol.of(FakeSuite(), "eval", SAMPLED, 0)
    changed = replace(base, **{name: CHANGES[name]})
    assert changed.digest() != base.digest()
    differing = {key for key, value in changed.document().items() if value != base.document()[key]}
    assert differing == {name, "hash"}


def test_every_part_of_the_protocol_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {field.name for field in fields(Protocol)} == set(CHANGES)
    base = Protocol.of(FakeSuite(), "eval", SAMPLED, 0)
    assert base.facts == FakeSuite().protocol()
    before = base.digest()
    monkeypatch.setattr(protocol, "VERSION", protocol.VERSION + 1)
    assert base.digest() != before


def test_the_order_in_which_a_suite_lists_its_facts_does_not_matter() -> None:
    base = Protocol.of(FakeSuite(), "eval", GREEDY, 0)
    assert replace(base, facts=dict(reversed(base.facts.items()))).digest() == base.digest()


def test_of_a_training_run_the_last_evaluation_counts(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    for step in (0, 10):
        run.append_episodes([{**row(0, 0, step > 0), "split": "eval"}], step=step)
        run.append_episodes([{**row(0, 0, False), "split": "train", "reward": 0.3}], step=step + 1)
    assert [(line["step"], line["success"]) for line in evaluated_episodes(run.path)] == [(10, True)]


def row(task: int, state: int, success: bool, protocol: str = "p") -> dict[str, Any]:
    return {"task_id": task, "init_state_id": state, "success": success, "protocol": protocol}


def test_comparison_is_paired_and_refuses_different_protocols() -> None:
    before = [row(0, 0, False), row(0, 1, False), row(0, 2, True)]
    after = [row(0, 1, True), row(0, 2, True), row(1, 0, True)]
    paired = compare(before, after)
    assert paired is not None
    assert (paired.pairs, paired.only_a, paired.only_b, paired.difference) == (2, 0, 1, 0.5)
    assert compare(before, [row(1, 0, True)]) is None
    with pytest.raises(ReflexError, match="different protocols"):
        compare(before, [row(0, 0, True, "q")])
    with pytest.raises(ReflexError, match="no protocol hash"):
        check_same([{"task_id": 0}], before)


def test_an_empty_evaluation_claims_nothing() -> None:
    result = EvaluationResult([], "p")
    assert result.summary() == {"success_rate": 0.0, "episodes": 0, "wilson_low": 0.0, "wilson_high": 1.0}
    assert result.per_task == []


def test_rates_by_hand() -> None:
    """Task 2: 8 of 10, task 0: none of 10; z = 1.95996, see the Wilson intervals in test_statistics."""
    records = [row(task, state, task == 2 and state < 8) for task in (2, 0) for state in range(10)]
    result = EvaluationResult([{**record, "instruction": f"do {record['task_id']}"} for record in records], "p")
    assert [(task.task_id, task.instruction, task.successes, task.episodes) for task in result.per_task] == [
        (0, "do 0", 0, 10),
        (2, "do 2", 8, 10),
    ]
    intervals = [(task.wilson_low, task.wilson_high) for task in result.per_task]
    assert intervals[0] == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert intervals[1] == pytest.approx((0.490162, 0.943318), abs=1e-6)
    # 8 of 20: centre (0.4 + 0.0960365) / 1.192073 = 0.416112, half width 1.95996 sqrt(0.012 + 0.0024009) / 1.192073
    assert (result.wilson_low, result.wilson_high) == pytest.approx((0.218805, 0.613418), abs=1e-5)
    assert result.metrics() == {f"eval/{key}": value for key, value in result.summary().items()} | {
        "eval/task_0": 0.0,
        "eval/task_2": 0.8,
    }
    assert (result.successes, result.episodes, result.success_rate) == (8, 20, 0.4)


def test_tasks_are_compared_one_by_one() -> None:
    before = [row(0, 0, True), row(0, 1, True), row(1, 0, False), row(2, 0, False)]
    after = [row(1, 0, True), row(0, 1, True), row(0, 0, False), row(3, 0, True), row(2, 1, True)]
    found = compare_tasks(before, after)
    assert {task: (part.pairs, part.only_a, part.only_b, part.difference) for task, part in found.items()} == {
        0: (2, 1, 0, -0.5),
        1: (1, 0, 1, 1.0),
    }
    with pytest.raises(ReflexError, match="different protocols"):
        compare_tasks(before, [row(1, 0, True, "q")])


def test_pairs_are_matched_by_task_and_initial_state() -> None:
    """However the records are ordered, and whatever numbers they are read as."""
    before = [row(task, state, (task + state) % 2 == 0) for task in range(3) for state in range(4)]
    assert len({episode_key(record) for record in before}) == 12
    same = compare(before, [{**record, "task_id": float(record["task_id"])} for record in reversed(before)])
    assert same is not None
    assert (same.pairs, same.only_a, same.only_b, same.p_value) == (12, 0, 0, 1.0)
