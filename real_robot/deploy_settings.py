"""What can be set of `vla deploy`."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from real_robot.control.schedulers import Strategy
from real_robot.session_settings import SessionConfig
from vla.run.run_folder import dated_folder
from vla.run.settings import Checks


@dataclass(frozen=True)
class DeployConfig(SessionConfig):
    """Which policy drives which arm, and how."""

    policy: str = "reflex-tiny"
    """Policy folder, run folder or shipped name; ws://host:port for a policy server."""
    strategy: Strategy = "async"
    """How chunks follow each other: sync holds while the policy decides; async goes on and blends the next chunk in;
    ensemble averages all chunks; rtc makes a flow policy continue what is under way."""
    execute_steps: int | None = None
    """Actions of a chunk to execute before the next decision; null for the policy's own."""
    blend_steps: int = 3
    """strategy=async: control steps over which a new chunk takes over."""
    ensemble_decay: float = 0.01
    """strategy=ensemble: how fast the weight falls from the oldest chunk to the newest."""
    output: str = field(default_factory=partial(dated_folder, "deploy"))
    """Run folder to write."""
    device: str = "auto"
    """Where the policy computes: auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core, less one for the control loop."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check = Checks(self)
        check.at_least(1, "execute_steps")
        check.at_least(0, "blend_steps", "ensemble_decay")
