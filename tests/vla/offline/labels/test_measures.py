"""What labels are worth, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla.offline.labels.asking import Outcome
from vla.offline.labels.files import AskedPair, Label
from vla.offline.labels.joining import counts, join, order_effects
from vla.offline.labels.measures import accuracy, by_difference, calibration, check_rates, kappa
from vla.offline.labels.oracle import OracleSettings, oracle_preferences, progress_at
from vla.offline.preferences import Answer, Moment, Pair, Preference, Status

F, S, T = Answer.FIRST, Answer.SECOND, Answer.TIE
PAIR = Pair(Moment(0, 0), Moment(0, 9), "go")


def test_accuracy_leaves_out_ties_and_pairs_without_a_difference() -> None:
    found = accuracy([S, F, S, T, F], [0.5, -0.1, -0.2, 0.9, 0.0])
    assert (found["count"], found["of"], found["share"]) == (2, 3, pytest.approx(2 / 3))
    assert found["low"] < 2 / 3 < found["high"]
    assert accuracy([], [])["share"] is None


def test_bins_hold_every_difference_once() -> None:
    rows = by_difference([S, S, F, T, F], [0.0, 0.2, -0.2, 0.21, 1.0], [0, 0.2, 1])
    assert [row["pairs"] for row in rows] == [3, 2]
    assert rows[0]["accuracy"]["share"] == 1.0 and rows[0]["accuracy"]["of"] == 2
    assert rows[1]["accuracy"]["share"] == 0.0 and rows[1]["ties"]["share"] == 0.5


@given(st.lists(st.floats(-1, 1), max_size=30))
def test_no_pair_falls_between_bins(differences: list[float]) -> None:
    rows = by_difference([F] * len(differences), differences, [0.0, 0.05, 0.1, 0.5, 1.0])
    assert sum(row["pairs"] for row in rows) == len(differences)


def test_kappa_by_hand() -> None:
    assert kappa([F, F, S, S], [F, F, S, S]) == 1.0
    assert kappa([F, S, F, S], [F, F, S, S]) == pytest.approx(0.0)
    assert kappa([F, F, S, T], [F, S, S, T]) == pytest.approx((0.75 - 5 / 16) / (1 - 5 / 16))
    assert kappa([F, F], [F, F]) is None and kappa([], []) is None


def test_calibration_by_hand() -> None:
    found = calibration([0.9, 0.9, 0.1, 1.0, 0.5], [0.3, -0.3, -0.2, 0.1, 0.0])
    assert found is not None and found["pairs"] == 4
    # 0.9, 0.9 and 1.0 share the last bin: mean 0.9333, two of three right; 0.1 alone: never better
    assert found["expected_error"] == pytest.approx(0.75 * abs(2.8 / 3 - 2 / 3) + 0.25 * 0.1)
    assert calibration([0.5], [0.0]) is None


def said(answer: Answer | None, consistent: bool | None = None) -> Preference:
    return Preference(PAIR, Status.OK if answer else Status.ERROR, answer, None, consistent)


def test_checks_by_hand() -> None:
    assert check_rates("start_end", [said(S), said(S), said(T)], [True, False, True])["count"] == 1
    assert check_rates("identical", [said(T, True), said(T, False), said(F, True), said(T)], [False] * 4)["count"] == 2


def ok(answer: Answer, probability: float | None = None) -> Outcome:
    return Outcome(Status.OK, answer, probability)


def joined(plain: Outcome | None, swapped: Outcome | None) -> Preference:
    label = join(AskedPair(PAIR, "uniform", True), plain, swapped)
    assert label is not None
    return label.preference


def test_both_orders_are_joined() -> None:
    assert joined(ok(F), None) == Preference(PAIR, Status.OK, F)
    assert joined(None, ok(F)) == Preference(PAIR, Status.OK, S)
    agreed = joined(ok(S, 0.9), ok(F, 0.3))  # the swapped one names the second, with 0.7
    assert (agreed.answer, agreed.consistent, agreed.probability_second) == (S, True, pytest.approx(0.8))
    assert joined(ok(F), ok(F)) == Preference(PAIR, Status.OK, T, None, False)
    assert joined(ok(F), ok(T)) == Preference(PAIR, Status.OK, T, None, False)
    assert joined(ok(T), ok(T)) == Preference(PAIR, Status.OK, T, None, True)
    assert joined(Outcome(Status.REFUSED), ok(F)) == Preference(PAIR, Status.OK, S)
    assert joined(Outcome(Status.TIMEOUT), Outcome(Status.ERROR)) == Preference(PAIR, Status.TIMEOUT, None)
    assert join(AskedPair(PAIR, "uniform", True), None, None) is None


def labels_of(*both: tuple[Answer, Answer]) -> list[Label]:
    made = [join(AskedPair(PAIR, "uniform", True), ok(plain), ok(swapped)) for plain, swapped in both]
    return [label for label in made if label is not None]


def test_a_labeller_without_bias_names_the_first_shown_half_of_the_time() -> None:
    fair = order_effects(labels_of((S, F), (F, S), (S, F), (T, T)))
    assert fair["first_shown"]["share"] == 0.5 and fair["consistent"]["share"] == 1.0
    biased = order_effects(labels_of((F, F), (F, F), (S, F)))
    assert biased["first_shown"]["share"] == pytest.approx(5 / 6)
    assert biased["consistent"]["share"] == pytest.approx(1 / 3)
    assert order_effects([])["consistent"]["share"] is None


def test_failures_are_counted_apart_from_ties() -> None:
    labels = [Label(said(F), "uniform"), Label(said(T), "uniform"), Label(said(None), "uniform")]
    found = counts(labels)
    assert (found["first"], found["tie"], found["error"], found["second"]) == (1, 1, 1, 0)


def test_a_picture_shows_what_came_of_the_action_before_it() -> None:
    progress = np.array([0.1, 0.2, 0.9], dtype=np.float32)
    assert [progress_at(progress, frame) for frame in (0, 1, 2)] == pytest.approx([0.1, 0.1, 0.2])


def some_pairs(count: int, seed: int = 0) -> list[Pair]:
    drawn = np.random.default_rng(seed).integers(0, 50, size=(count, 4))
    return [Pair(Moment(int(a), int(b)), Moment(int(c), int(d)), "go") for a, b, c, d in drawn]


PROGRESS = {episode: np.linspace(0, 1, 50, dtype=np.float32) for episode in range(50)}


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.3, 1.0])
def test_the_oracle_errs_as_often_as_stated(rate: float) -> None:
    pairs = some_pairs(3000)
    answers = [said.answer for said in oracle_preferences(pairs, PROGRESS, OracleSettings(rate, 0.0), 1)]
    gaps = [progress_at(PROGRESS[0], p.second.frame) - progress_at(PROGRESS[0], p.first.frame) for p in pairs]
    found = accuracy([answer for answer in answers if answer], gaps)
    assert found["share"] == pytest.approx(1 - rate, abs=0.03)
    assert {answers[n] is T for n, gap in enumerate(gaps) if gap == 0} <= {True}


def test_the_oracles_errors_do_not_depend_on_order_or_company() -> None:
    settings = OracleSettings(0.3, 0.05)
    pairs = some_pairs(200)
    together = oracle_preferences(pairs, PROGRESS, settings, 4)
    alone = [oracle_preferences([Pair(p.second, p.first, p.goal)], PROGRESS, settings, 4)[0] for p in pairs]
    assert [one.answer for one in together] == [other.answer.swapped for other in alone if other.answer]
    assert [one.answer for one in together] != [one.answer for one in oracle_preferences(pairs, PROGRESS, settings, 5)]


def test_within_the_margin_the_oracle_ties() -> None:
    near = Pair(Moment(0, 10), Moment(1, 11), "go")
    assert oracle_preferences([near], PROGRESS, OracleSettings(1.0, 0.03), 0)[0].answer is T
    assert oracle_preferences([near], PROGRESS, OracleSettings(1.0, 0.01), 0)[0].answer is F
    assert oracle_preferences([near], PROGRESS, OracleSettings(0.0, 0.01), 0)[0].answer is S
