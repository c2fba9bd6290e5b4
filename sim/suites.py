"""Suites by name."""

from __future__ import annotations

import difflib
import re

from sim.contract import EnvironmentRequestError, Suite

SUITE_NAMES = (
    *("tabletop", "libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90", "robosuite"),
    "so101",
)


def get_suite(name: str, image_size: int | None = None) -> Suite:
    """The suite of that name, with square frames of `image_size` pixels (None: the suite's own default).

    Suffixes to the name of a LIBERO suite or of robosuite's change how it is run (`sim.libero.tasks.Variant`).

    Raises `EnvironmentRequestError` for an unknown name, with the nearest known one.
    """
    if name == "tabletop":
        from sim.tabletop.suite import TabletopSuite

        return TabletopSuite(image_size)
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
    nearest = difflib.get_close_matches(name, SUITE_NAMES, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise EnvironmentRequestError(f"unknown suite {name!r}{hint} Known suites: {', '.join(SUITE_NAMES)}")
