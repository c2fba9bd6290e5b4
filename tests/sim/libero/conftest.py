"""Suites and environments shared by the LIBERO tests; all of them skip where LIBERO is not installed."""

import os
from collections.abc import Iterator

import pytest

from sim.contract import EnvironmentRequestError
from sim.libero.build import TaskBuilder
from sim.libero.environment import LiberoEnvironment
from sim.libero.source import InstalledSimulation
from sim.libero.suite import LiberoSuite


def installed(environment: LiberoEnvironment) -> TaskBuilder:
    """What hf-libero built for an environment."""
    assert isinstance(environment.simulation, InstalledSimulation)
    assert isinstance(environment.simulation.builder, TaskBuilder)
    return environment.simulation.builder


@pytest.fixture(scope="session")
def spatial() -> LiberoSuite:
    if not os.environ.get("LIBERO_ASSETS"):
        pytest.skip("LIBERO_ASSETS is not set: it names the folder that contains LIBERO's assets/")
    try:
        return LiberoSuite("libero_spatial", image_size=64)
    except EnvironmentRequestError as error:
        if "not installed" in str(error):
            pytest.skip(str(error))
        raise


@pytest.fixture(scope="session")
def between_plate_and_ramekin(spatial: LiberoSuite) -> Iterator[LiberoEnvironment]:
    """Task 0 of libero_spatial."""
    environment = spatial.make(0)
    assert isinstance(environment, LiberoEnvironment)
    yield environment
    environment.close()
