"""Suites by name, and a user's own by import path or entry point."""

from __future__ import annotations

import difflib
import inspect
import re
from typing import Any

from sim.contract import EnvironmentRequestError, Suite
from sim.gl_platform import settings_problem
from sim.plugins import PluginError, entry_point, load_object

SUITE_NAMES = (
    "tabletop",
    "libero_spatial",
    "libero_object",
    "libero_goal",
    "libero_10",
    "libero_90",
    "robosuite",
    "metaworld",
    "so101",
)

IMAGE_SIZES = (16, 2048)
"""The least and the greatest side of a picture, in pixels."""


def get_suite(name: str, image_size: int | None = None) -> Suite:
    """The suite of that name, with square frames of `image_size` pixels (None: the suite's own default).

    Suffixes to the name of a LIBERO suite or of robosuite's change how it is run (`sim.libero.tasks.Variant`). "_state"
    behind the tabletop's or MetaWorld's changes what is observed: where everything is, and pictures only where an
    `image_size` is asked for. A suite of a user's own is "package.module:Name" or the name of an entry point in the
    group `reflex.plugins`: a subclass of `Suite`, or a function that returns one; it is given `image_size` if it takes
    it, and `name` if it must have it.

    Raises `EnvironmentRequestError` for an unknown name, with the nearest known one, for an image size that cannot be
    drawn, a suite of the user's that cannot be made, and environment variables that OpenGL cannot do with.
    """
    _check_image_size(image_size)
    if problem := settings_problem():
        raise EnvironmentRequestError(problem)
    if name == "tabletop":
        from sim.tabletop.suite import TabletopSuite

        return TabletopSuite(image_size)
    if name == "tabletop_state":
        from sim.tabletop.true_state import TabletopStateSuite

        return TabletopStateSuite(image_size)
    if name == "so101":
        from sim.so101.suite import SO101Suite

        return SO101Suite(image_size)
    variant = re.fullmatch(r"(libero_[a-z0-9]+)(_512)?(_fast)?(_plain)?", name)
    if variant and variant[1] in SUITE_NAMES:
        from sim.libero.suite import LiberoSuite

        return LiberoSuite(name) if image_size is None else LiberoSuite(name, image_size)
    if re.fullmatch(r"robosuite(_fast)?(_plain)?", name):
        from sim.robosuite.suite import RobosuiteSuite

        return RobosuiteSuite(name) if image_size is None else RobosuiteSuite(name, image_size)
    if re.fullmatch(r"metaworld(_state)?", name):
        from sim.metaworld.suite import MetaWorldSuite

        return MetaWorldSuite(name, image_size)
    path = name if ":" in name else entry_point(name)
    if path is not None:
        return _users_suite(name, path, image_size)
    nearest = difflib.get_close_matches(name, SUITE_NAMES, n=1)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    raise EnvironmentRequestError(
        f"unknown suite {name!r}{hint}; known suites are {', '.join(SUITE_NAMES)}, and one of your own is "
        "package.module:Class"
    )


def _check_image_size(image_size: int | None) -> None:
    least, greatest = IMAGE_SIZES
    whole = isinstance(image_size, int) and not isinstance(image_size, bool)
    if image_size is not None and not (whole and least <= image_size <= greatest):
        raise EnvironmentRequestError(f"image_size must be an integer from {least} to {greatest}, not {image_size!r}")


def _users_suite(name: str, path: str, image_size: int | None) -> Suite:
    try:
        make = load_object(path)
    except PluginError as error:
        raise EnvironmentRequestError(
            f"suite {error}; it must read package.module:Class, of a package that is installed or in the folder of the "
            "command"
        ) from error
    if not callable(make):
        raise EnvironmentRequestError(f"suite {path!r} is neither a class nor a function that makes a suite")
    takes = inspect.signature(make).parameters
    named = "name" in takes and takes["name"].default is inspect.Parameter.empty
    given: dict[str, Any] = {"name": name} if named else {}
    if "image_size" in takes:
        given["image_size"] = image_size
    elif image_size is not None:
        raise EnvironmentRequestError(f"suite {path!r} takes no image_size; leave image_size out")
    suite = make(**given)
    if not isinstance(suite, Suite):
        raise EnvironmentRequestError(f"suite {path!r} made a {type(suite).__name__}, which is no sim.contract.Suite")
    return suite
