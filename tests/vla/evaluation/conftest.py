"""The small suite and policy of `tests.fakes` in real worker processes, for everything that evaluates."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest

from sim.pool import EnvironmentPool
from tests.fakes import FakePolicy, get_suite
from tests.vla.evaluation.small_runs import FACTORY
from vla.evaluation import runner


@pytest.fixture(scope="package")
def pool() -> Iterator[EnvironmentPool]:
    with EnvironmentPool("fake", 4, 1, factory=FACTORY) as shared:
        yield shared


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch, pool: EnvironmentPool) -> None:
    """The command runs as it is, on the small suite and policy instead of the shipped ones."""
    monkeypatch.setattr(runner, "get_suite", get_suite)
    monkeypatch.setattr(runner, "load_policy", lambda name, device: FakePolicy(gain=float(name)))
    monkeypatch.setattr(runner, "EnvironmentPool", lambda *_, **__: nullcontext(pool))
