"""The command `vla check`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sim.suites import get_suite
from vla.check.findings import Finding
from vla.check.suite import check_suite, check_workers
from vla.errors import ReflexError
from vla.run.settings import Checks


@dataclass(frozen=True)
class CheckConfig:
    """What to check."""

    suite: str = "tabletop"
    """Suite to check, and to check a policy on: a name, or package.module:Suite of your own."""
    policy: str | None = None
    """Policy to check: a folder, a shipped name, or null for the suite alone."""
    tasks: list[int] | None = None
    """Task numbers to look at; null for the first two."""
    image_size: int | None = None
    """Side in pixels of the rendered frames; null for the suite's own."""

    def __post_init__(self) -> None:
        Checks(self).shared()


def check(config: CheckConfig) -> dict[str, Any]:
    """Check a suite, and a policy on it; prints a table and returns how many rules hold.

    Raises:
        ReflexError: a rule does not hold, or the suite or policy cannot be loaded.
    """
    suite = get_suite(config.suite, config.image_size)
    findings = list(check_suite(suite, suite.task_ids[:2] if config.tasks is None else config.tasks))
    findings += check_workers(suite, config.suite, config.image_size)
    if config.policy is not None:
        from vla.check.policy import check_policy
        from vla.policies import load_policy
        from vla.policies.connect import connect

        policy = load_policy(config.policy)
        connect(policy, suite.embodiment)
        findings += check_policy(policy, suite)
    _print(findings)
    broken = [finding for finding in findings if finding.problem is not None]
    if broken:
        raise ReflexError(f"{len(broken)} of {len(findings)} rules do not hold; the table above says which")
    return {"rules": len(findings), "broken": 0}


def _print(findings: list[Finding]) -> None:
    table = Table("", "what", "rule", "found")
    for finding in findings:
        mark = "[green]ok[/]" if finding.problem is None else "[red]no[/]"
        table.add_row(mark, finding.subject, finding.rule, escape(finding.problem or ""))
    Console().print(table)
