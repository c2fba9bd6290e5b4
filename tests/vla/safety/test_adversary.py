"""Random and adversarial sequences; the long run is `python -m scripts.bench.action_filter`."""

import pytest

from scripts.bench.filter_adversary import Findings, play
from vla.safety import stopping
from vla.safety.decision import Decision
from vla.safety.setup import TOLERANCE

SEQUENCES, STEPS = 500, 20


def test_no_sequence_breaks_the_filter() -> None:
    findings = Findings()
    for seed in range(SEQUENCES):
        play(findings, 1_000_000 + seed, STEPS)
    assert findings.violations.total() == 0, findings.violations
    assert findings.worst_excess <= TOLERANCE
    assert findings.slowest_rest <= 1.0
    assert findings.clips_checked > 200
    assert all(findings.decisions[decision.value] > 100 for decision in Decision)
    assert all(count > 0 for count in findings.kinds.values())


@pytest.mark.parametrize("defect", ["changes what passes", "clips too much", "clips too little"])
def test_the_adversary_notices_a_defect(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def defective(wanted, asked, followed, position, velocity, acceleration, limits, period):  # type: ignore[no-untyped-def]
        sent, codes = stopping.follow_positions(
            wanted, asked, followed, position, velocity, acceleration, limits, period
        )
        if defect == "changes what passes":
            return sent * (1.0 + 1e-15), codes
        if defect == "clips too much":
            return sent + (codes > 0) * 1e-3 * (position - sent), codes
        return sent + (codes > 0) * 1e-6 * (limits[1] - limits[0]), codes

    monkeypatch.setattr("vla.safety.filter.follow_positions", defective)
    findings = Findings()
    for seed in range(60):
        play(findings, seed, STEPS)
    found = findings.violations
    expected = {
        "changes what passes": found.pass_changed,
        "clips too much": found.clipped_too_much,
        "clips too little": found.beyond_limits,
    }
    assert expected[defect] > 0
