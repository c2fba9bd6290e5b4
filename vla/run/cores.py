"""The cores this process may run on, without loading anything: what starts the command line asks as well."""

from __future__ import annotations

import os

__all__ = ["available_cpus", "core_numbers", "worker_count"]


def core_numbers() -> list[int]:
    """Numbers of the cores this process may run on, which in a container can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def available_cpus() -> int:
    """How many they are."""
    return len(core_numbers())


def worker_count(num_workers: int | None, jobs: int) -> int:
    """Simulator processes that a command's setting `num_workers` asks for, at most one for each of `jobs`.

    None is one per available core, 0 is none: whoever calls simulates in its own process.
    """
    return min(available_cpus() if num_workers is None else num_workers, jobs)
