"""A labelling run that a bad endpoint and a kill get in the way of, small."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest

from scripts.check_labelling import LabellingStudy, problems, run


@pytest.mark.slow
def test_every_pair_is_accounted_for_and_none_is_paid_twice(tmp_path: Path) -> None:
    study = LabellingStudy("", pairs=60, kills=1, episodes=8, length=12, concurrency=4)
    found = run(study, tmp_path)
    assert problems(found) == []
    assert found["calls_at_kills"][0] < found["cap"]["calls"] < found["calls"]
    assert found["server"]["too_many"] and found["server"]["broken"] and found["server"]["disconnect_within"]
    assert found["audit"]["gate"]["passed"] is True
    for name, wrong in (("answers_received_twice", 1), ("calls_under_way_at_kills", 99)):
        spoilt = copy.deepcopy(found) | {name: wrong}
        assert len(problems(spoilt)) == 1
