"""The cores this process may run on, without loading anything: what starts the command line asks as well."""

from __future__ import annotations

import os

__all__ = ["available_cpus", "core_numbers"]


def core_numbers() -> list[int]:
    """Numbers of the cores this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_cpus() -> int:
    """How many they are."""
    return len(core_numbers())
