"""Suites by name."""

from __future__ import annotations

import difflib

from sim.contract import EnvironmentRequestError, Suite

SUITE_NAMES = ("tabletop", "libero_spatial", "libero_object", "libero_goal", "libero_10", "libero_90")


def get_suite(name: str, image_size: int | None = None) -> Suite:
    """The suite of that name, with square frames of `image_size` pixels (None: the suite's own default).

    "_fast" behind a LIBERO suite's name steps its physics faster (`sim.core.stepping.FastStepping`).

    Raises `EnvironmentRequestError` for an unknown name, with the nearest known one.
    """
    if name == "tabletop":
        from sim.tabletop.suite import TabletopSuite

        return TabletopSuite(image_size)
    if name.removesuffix("_fast") in SUITE_NAMES[1:]:
        from sim.libero.suite import LiberoSuite

        return LiberoSuite(name) if image_size is None else LiberoSuite(name, image_size)
    nearest = difflib.get_close_matches(name, SUITE_NAMES, n=1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise EnvironmentRequestError(f"unknown suite {name!r}{hint} Known suites: {', '.join(SUITE_NAMES)}")
