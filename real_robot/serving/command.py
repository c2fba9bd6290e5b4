"""The code behind `vla serve`."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import dataclass, fields

from rich.console import Console

from real_robot.serving.server import PolicyServer, ServerSettings
from sim.suites import get_suite
from vla.errors import ReflexError
from vla.policies.connect import connect
from vla.policies.registry import load_policy
from vla.policies.remote.address import read_token
from vla.run.devices import resolve_device, set_threads
from vla.run.settings import Checks


@dataclass(frozen=True)
class ServeConfig(ServerSettings):
    """Settings of ``vla serve``."""

    policy: str = "reflex-tiny"
    """Folder of a saved policy, or the name of a shipped one."""
    suite: str | None = None
    """Suite whose robot the policy is to act on, checked before anything is served; the suite's names of cameras are
    taken as well. Null: those of the policy's folder."""
    token_file: str | None = None
    """File with the token on one line, so that it shows in no list of processes."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""
    threads: int | None = None
    """Threads of torch's CPU kernels; null for one per available core. Another number rounds sums otherwise."""

    def __post_init__(self) -> None:
        if self.token_file is not None:
            if self.token is not None:
                raise ReflexError("give token or token_file, and not both")
            object.__setattr__(self, "token", read_token(self.token_file))
        super().__post_init__()
        Checks(self).shared()

    def server(self) -> ServerSettings:
        """What the server itself needs of them."""
        return ServerSettings(**{field.name: getattr(self, field.name) for field in fields(ServerSettings)})


def serve_policy(config: ServeConfig) -> None:
    """Serve a policy until SIGTERM or Ctrl-C; requests under way are answered first.

    Raises `ReflexError` when the policy cannot be loaded, does not fit the suite, or the address cannot be used.
    """
    set_threads(config.threads)
    policy = load_policy(config.policy, str(resolve_device(config.device)))
    if config.suite is not None:
        connect(policy, get_suite(config.suite).embodiment)
    server = PolicyServer(policy, config.server())
    console = Console(stderr=True, highlight=False)

    async def until_told() -> None:
        stop, loop = asyncio.Event(), asyncio.get_running_loop()

        def told(number: signal.Signals) -> None:
            loop.remove_signal_handler(number)  # a second one ends it at once
            console.print(f"{number.name}: answering what is under way")
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, told, number)
        shown = f"[{config.host}]" if ":" in config.host else config.host
        await server.run(
            stop,
            lambda port: console.print(
                f"serving {policy.policy_id} for {policy.spec.embodiment.name} at ws://{shown}:{port}"
                f" (/healthz, /metrics)",
                soft_wrap=True,
                markup=False,
            ),
        )

    asyncio.run(until_told())
