"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path

MACHINE = Path("/proc/meminfo")
GROUPS = (
    # What a container may take and has taken, by the kernel's two generations of control groups.
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)


def available_share() -> float:
    """Available memory as a share of all that the machine or this container has; 1.0 where nobody says.

    Files that the kernel keeps in memory count as available on the machine, and as taken in a container.
    """
    shares = [share for limit, usage in GROUPS if (share := _group_share(limit, usage)) is not None]
    if MACHINE.is_file():
        rows = dict(line.split(":", 1) for line in MACHINE.read_text().splitlines())
        total, available = (int(rows[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
        shares.append(available / total)
    return min(shares, default=1.0)


def _group_share(limit: Path, usage: Path) -> float | None:
    try:
        allowed, taken = limit.read_text().strip(), int(usage.read_text())
    except OSError:
        return None
    return None if allowed == "max" else max(0.0, 1.0 - taken / int(allowed))
