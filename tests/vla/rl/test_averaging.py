"""The average of the weights, worked by hand."""

from pathlib import Path

import pytest
import torch

from vla.errors import ReflexError
from vla.rl.averaging import WEIGHTS_FILE, WeightAverage


def _parameters() -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
    return torch.nn.Parameter(torch.tensor([7.0])), torch.nn.Parameter(torch.tensor([4.0]), requires_grad=False)


def _averaged(average: WeightAverage, learning: torch.nn.Parameter) -> float:
    with average.applied():
        return float(learning.detach())


def test_the_first_iterations_are_averaged_evenly_and_later_ones_decay() -> None:
    learning, frozen = _parameters()
    average = WeightAverage([learning, frozen], decay=0.5)
    expected = {1.0: 1.0, 3.0: 2.0, 6.0: 4.0, 0.0: 2.0}  # 1; (1 + 3) / 2; 2 / 2 + 6 / 2; 4 / 2 + 0 / 2
    for iteration, (value, mean) in enumerate(expected.items(), start=1):
        learning.data.fill_(value)
        average.update(iteration)
        assert _averaged(average, learning) == pytest.approx(mean)
        assert float(learning) == value, "the weights themselves go on learning"
    assert float(frozen) == 4.0


def test_an_even_mean_while_iterations_are_few() -> None:
    learning, _ = _parameters()
    average = WeightAverage([learning], decay=0.9)
    for iteration, value in enumerate([2.0, 4.0, 9.0], start=1):
        learning.data.fill_(value)
        average.update(iteration)
    assert _averaged(average, learning) == pytest.approx(5.0)


def test_weights_come_back_after_an_error() -> None:
    learning, _ = _parameters()
    average = WeightAverage([learning], decay=0.5)
    learning.data.fill_(1.0)
    with pytest.raises(RuntimeError), average.applied():
        assert float(learning) == 7.0
        raise RuntimeError
    assert float(learning) == 1.0


def test_stored_weights_are_restored_beside_their_average(tmp_path: Path) -> None:
    learning, _ = _parameters()
    average = WeightAverage([learning], decay=0.5)
    learning.data.fill_(1.0)
    average.save_weights(tmp_path)
    restored = torch.nn.Parameter(torch.tensor([7.0]))  # a stored policy holds the average
    again = WeightAverage([restored], decay=0.5)
    again.load_weights(tmp_path)
    assert float(restored) == 1.0 and _averaged(again, restored) == 7.0
    (tmp_path / WEIGHTS_FILE).write_bytes(b"cut off")
    with pytest.raises(ReflexError, match=WEIGHTS_FILE):
        again.load_weights(tmp_path)
