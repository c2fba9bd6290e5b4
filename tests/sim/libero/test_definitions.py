"""Task definitions that are damaged or ask for what is not there."""

import dataclasses
from pathlib import Path

import pytest

from sim.contract import EnvironmentRequestError
from sim.libero.build import TaskBuilder
from sim.libero.installation import find_installation
from sim.libero.suite import LiberoSuite
from sim.libero.tasks import load_tasks

GOAL = "(And (On akita_black_bowl_1 plate_1))"


@pytest.mark.libero
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (GOAL, "(And (Beside akita_black_bowl_1 plate_1))", r"unknown predicate \(beside .*known: true, false, on, in"),
        (GOAL, "(And (On akita_black_bowl_1 saucer_1))", "'saucer_1', which the scene has not; it has akita_black"),
        (GOAL, "(And (On akita_black_bowl_1))", "on speaks of 2 things"),
        (GOAL, "(And (Open akita_black_bowl_1))", r"\(open akita_black_bowl_1\) asks of akita_black_bowl_1 what it"),
        (f"(:goal\n    {GOAL}\n  )", "", "has no goal"),
        ("- akita_black_bowl", "- golden_bowl", "cannot be built: KeyError: 'golden_bowl'"),
        ("LIBERO_Tabletop", "LIBERO_Rooftop", "unknown kind 'libero_rooftop_manipulation'; known: libero_tabletop"),
        ("(:goal", "(:goal (", "cannot be built: .*parenthes"),
    ],
)
def test_each_is_one_message_that_names_the_file(
    spatial: LiberoSuite, tmp_path: Path, old: str, new: str, message: str
) -> None:
    installation = find_installation()
    task = load_tasks("libero_spatial", installation)[0]
    whole = task.bddl_file.read_text()
    assert old in whole
    damaged = tmp_path / "damaged.bddl"
    damaged.write_text(whole.replace(old, new))
    with pytest.raises(EnvironmentRequestError, match=message) as caught:
        TaskBuilder(dataclasses.replace(task, bddl_file=damaged), installation)
    assert str(damaged) in str(caught.value)
