"""Suites by name, by import path and by entry point, here and in worker processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sim.contract import EnvironmentRequestError
from sim.plugins import user_location
from sim.pool import EnvironmentPool, EnvironmentPoolError, EpisodeRequest
from sim.suites import get_suite

SUITE = """
from tests.fake_suite import FakeEnvironment, FakeSuite


class Mine(FakeSuite):
    def __init__(self, image_size=None):
        super().__init__("mine", image_size)


class OfOneSize(FakeSuite):
    def __init__(self):
        super().__init__("of one size")


class Clumsy(Mine):
    def make(self, task_id):
        return Breaking("mine", task_id, 16)


class Breaking(FakeEnvironment):
    def advance(self, action):
        raise ZeroDivisionError("the drawer is stuck")


class Impossible(Mine):
    def __init__(self):
        raise ZeroDivisionError("no such table")


def make_suite(name, image_size):
    return FakeSuite(name, image_size)


ANSWER = 42
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's, with another name for each test: Python keeps what it imported."""
    name = f"suite_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(SUITE)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_class_and_a_function_are_suites(module: str) -> None:
    assert (get_suite(f"{module}:Mine").name, get_suite(f"{module}:Mine", 32).image_size) == ("mine", 32)
    made = get_suite(f"{module}:make_suite", 32)
    assert (made.name, made.image_size) == (f"{module}:make_suite", 32)
    assert get_suite(f"{module}:OfOneSize").image_size == 16
    with pytest.raises(EnvironmentRequestError, match="takes no image_size"):
        get_suite(f"{module}:OfOneSize", 32)


def test_an_entry_point_is_a_name(module: str, tmp_path: Path) -> None:
    metadata = tmp_path / f"{module}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[reflex.plugins]\nmy_table = {module}:Mine\n")
    assert get_suite("my_table", 32).image_size == 32


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_pool_makes_it_too(module: str, num_workers: int) -> None:
    with EnvironmentPool(f"{module}:Mine", 1, num_workers, 32) as pool:
        (observation,) = pool.reset([0], [EpisodeRequest(2, "train", 3)])
    assert observation["images"]["image"].shape == (32, 32, 3)
    assert observation["instruction"] == "move to the blue target"


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_error_of_the_users_environment_names_its_line(module: str, tmp_path: Path, num_workers: int) -> None:
    line = SUITE.splitlines().index('        raise ZeroDivisionError("the drawer is stuck")') + 1
    place = f"{tmp_path / module}.py, line {line}"
    with EnvironmentPool(f"{module}:Clumsy", 1, num_workers) as pool:
        pool.reset([0], [EpisodeRequest(0, "train", 0)])
        with pytest.raises(EnvironmentPoolError) as failure:
            pool.step_chunk([0], np.zeros((1, 2, 7), np.float32))
    assert str(failure.value) == f"slot 0, task 0: ZeroDivisionError: the drawer is stuck, in {place}"


def test_an_error_of_the_users_suite_is_found(module: str, tmp_path: Path) -> None:
    line = SUITE.splitlines().index('        raise ZeroDivisionError("no such table")') + 1
    with pytest.raises(ZeroDivisionError) as failure:
        get_suite(f"{module}:Impossible")
    assert user_location(failure.value) == f"{tmp_path / module}.py, line {line}"


def test_the_line_is_found_in_what_a_worker_noted() -> None:
    error = ValueError("of a worker")
    error.add_note('In a worker process:\n  File "/home/me/mine.py", line 7, in act\n  File "<string>", line 1, in f')
    assert user_location(error) == "/home/me/mine.py, line 7"
    assert user_location(ValueError("never raised")) is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_package.suites:Mine", "suite 'no_such_package.suites:Mine' cannot be imported (ModuleNotFoundError"),
        ("{module}:Yours", "has no attribute 'Yours'); it must read package.module:Class"),
        ("{module}:ANSWER", "is neither a class nor a function that makes a suite"),
        ("pathlib:Path", "which is no sim.contract.Suite"),
        ("libero_spacial", "unknown suite 'libero_spacial' (did you mean 'libero_spatial'?)"),
        ("{module}", "one of your own is package.module:Class"),
    ],
)
def test_what_is_no_suite_is_one_message(module: str, name: str, said: str) -> None:
    with pytest.raises(EnvironmentRequestError) as failure:
        get_suite(name.format(module=module))
    assert said in str(failure.value)


def test_a_module_that_fails_names_its_line(module: str, tmp_path: Path) -> None:
    broken = tmp_path / f"{module}_broken.py"
    broken.write_text("import os\n\nTABLE = undefined_name\n")
    with pytest.raises(EnvironmentRequestError) as failure:
        get_suite(f"{module}_broken:Mine")
    assert f"(NameError: name 'undefined_name' is not defined, in {broken}, line 3)" in str(failure.value)


@pytest.mark.parametrize("size", [0, 15, 2049, -64, 64.0, True])
def test_a_picture_that_cannot_be_drawn_is_refused(size: int) -> None:
    with pytest.raises(EnvironmentRequestError, match="image_size must be an integer from 16 to 2048"):
        get_suite("tabletop", size)
