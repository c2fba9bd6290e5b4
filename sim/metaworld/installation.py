"""The optional package `metaworld`: found, checked, and asked for by task."""

from __future__ import annotations

import importlib.metadata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sim.contract import EnvironmentRequestError

PACKAGE_VERSION = "3.1.1"
"""What the suite is tested with. Other releases have other scenes, rewards and scripted policies."""

_ADVICE = f"pip install 'reflex-vla[metaworld]' (or metaworld=={PACKAGE_VERSION})"


def check_installation() -> None:
    """Raises `EnvironmentRequestError` when the package is missing or another version, saying what to install."""
    try:
        found = importlib.metadata.version("metaworld")
    except importlib.metadata.PackageNotFoundError as error:
        raise EnvironmentRequestError(f"the suite metaworld needs the package metaworld: {_ADVICE}") from error
    if found != PACKAGE_VERSION:
        raise EnvironmentRequestError(
            f"the suite metaworld is made for metaworld {PACKAGE_VERSION}, and {found} is installed: {_ADVICE}"
        )


def task_class(name: str) -> type[Any]:
    """MetaWorld's class of a task, e.g. of drawer-open."""
    with _importing():  # here, because it takes half a second
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    found: type[Any] = ALL_V3_ENVIRONMENTS[f"{name}-v3"]
    return found


def scripted_policy(name: str) -> Any:
    """MetaWorld's scripted policy of a task, which has `get_action(observation [39]) -> [4]`."""
    with _importing():
        from metaworld.policies import ENV_POLICY_MAP
    # They say at most steps that a command is clipped, which is what happens to all of them.
    warnings.filterwarnings("ignore", message="Constant", module="metaworld.policies.policy")
    policies: Any = ENV_POLICY_MAP
    return policies[f"{name}-v3"]()


@contextmanager
def _importing() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise EnvironmentRequestError(f"the package metaworld cannot be imported ({error}): {_ADVICE}") from error
