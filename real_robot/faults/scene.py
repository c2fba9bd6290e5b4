"""A deployment on the emulated SO-101 that a fault can strike: its processes, and the ways to them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from real_robot.emulators.so101 import SO101Emulator
from real_robot.faults.proxy import Proxy
from real_robot.faults.swing import AMPLITUDE, RATE, SwingPolicy
from real_robot.processes import child_environment
from sim.so101.embodiment import SO101
from vla.errors import ReflexError
from vla.run.jsonl import read_lines

STARTS_WITHIN = 90.0
"""Seconds in which a server or a deployment must have started; a busy machine is slow."""
SWINGS_FOR = 1.5
"""Seconds of motion before a fault strikes."""
FAST = 0.85
"""Share of the base's greatest velocity above which it strikes."""
ENDS_WITHIN = 30.0
"""Seconds in which a deployment must have ended."""
DISK_MEGABYTES = 24
"""Size of a small disk."""
KILLED = 128 + signal.SIGKILL
"""Exit status of a shell whose command was killed."""
ON_SMALL_DISK = 'mount -t tmpfs -o size={size}m none "$1" && shift && "$@"; code=$?; cp -r {disk}/. {kept}; exit $code'
"""Shell script: mount a small disk, run a command, and keep what is on the disk where everybody sees it."""


class Scene:
    """One deployment, from before its start until everything has ended. A context manager."""

    def __init__(
        self, emulator: SO101Emulator, folder: Path, policy: str, small_disk: bool, watchdog_timeout: float
    ) -> None:
        """`policy` and `small_disk` are as of `rows.Row`; the emulated arm must be healthy and at rest."""
        self.emulator, self.folder = emulator, folder
        self._policy, self._small_disk, self._watchdog_timeout = policy, small_disk, watchdog_timeout
        folder.mkdir(parents=True)
        self.poison, self._clock = folder / "poison", folder / "clock"
        self._disk = folder / "disk"
        self.struck = 0.0
        """When the fault struck: monotonic seconds. Of several, the last."""
        self._server: subprocess.Popen[bytes] | None = None
        self._deployment: subprocess.Popen[bytes] | None = None
        self._opened: Proxy | None = None

    @property
    def proxy(self) -> Proxy:
        """The network to the server, of a row whose policy is `proxied`."""
        assert self._opened is not None
        return self._opened

    @property
    def run(self) -> Path:
        """The run folder, where this process sees it."""
        if not self._small_disk:
            return self.folder / "run"
        if self._deployment is not None and self._deployment.poll() is None:
            return Path(f"/proc/{self._deployment.pid}/root{self._disk}/run")
        return self.folder / "kept" / "run"

    @property
    def ended(self) -> bool:
        """Whether the deployment has ended."""
        return self._deployment is not None and self._deployment.poll() is not None

    @property
    def said(self) -> str:
        """What the deployment wrote on its terminal."""
        return (self.folder / "output.txt").read_text(encoding="utf-8", errors="replace")

    # ---- starting --------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end_everything()
            raise
        return self

    def _start(self) -> None:
        policy = self.folder / "policy"
        centre = self.emulator.status()["positions"]
        SwingPolicy(SO101, centre, str(self.poison)).save_pretrained(policy)
        address = str(policy)
        if self._policy != "in_process":
            port = self._serve(policy)
            if self._policy == "proxied":
                self._opened = Proxy(port).__enter__()
                port = self._opened.port
            address = f"ws://127.0.0.1:{port}"
        cameras = {f"cameras.{name}": f"{url}@64x64" for name, url in self.emulator.camera_urls.items()}
        values = {
            "policy": address, "robot": "so101", "port": self.emulator.port, "task": "swing", "threads": 1,
            "calibration": self.emulator.calibration_file, "max_seconds": 60, "device": "cpu",
            "output": (self._disk if self._small_disk else self.folder) / "run",
            "watchdog_timeout": self._watchdog_timeout, **cameras,
        }  # fmt: skip
        module = ["real_robot.faults.jumping_clock", str(self._clock), "vla.cli"]
        words = [sys.executable, "-m", *module, "deploy", *(f"{key}={value}" for key, value in values.items())]
        self._deployment = self._popen("output.txt", self._on_small_disk(words) if self._small_disk else words)

    def _popen(self, output: str, words: list[str]) -> subprocess.Popen[bytes]:
        state = {"XDG_STATE_HOME": str((self._disk if self._small_disk else self.folder) / "state")}
        with (self.folder / output).open("wb") as file:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=child_environment() | state,
                start_new_session=True,  # so that what it starts can be ended with it
            )

    def _on_small_disk(self, words: list[str]) -> list[str]:
        kept = self.folder / "kept"
        self._disk.mkdir()
        kept.mkdir()
        script = ON_SMALL_DISK.format(size=DISK_MEGABYTES, disk=self._disk, kept=kept)
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", *user, "--mount", "sh", "-c", script, "sh", str(self._disk), *words]

    def _serve(self, policy: Path) -> int:
        words = [sys.executable, "-m", "vla.cli", "serve", f"policy={policy}", "port=0", "threads=1", "device=cpu"]
        self._server = self._popen("server.txt", words)
        log = self.folder / "server.txt"

        def address() -> str:
            if self._server is None or self._server.poll() is not None:
                raise ReflexError(f"the policy server did not start; its messages are in {log}")
            return log.read_text(encoding="utf-8").partition("ws://127.0.0.1:")[2]

        self._wait_for(lambda: bool(address().strip()), "the policy server to listen")
        return int("".join(letter for letter in address()[:6] if letter.isdigit()))

    def _wait_for(self, condition: Callable[[], bool], what: str, seconds: float = STARTS_WITHIN) -> None:
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                raise ReflexError(f"waited {seconds:.0f} s for {what}; see {self.folder}")
            time.sleep(0.01)

    def swing(self) -> None:
        """Wait until the arm has moved for a while and its base is fast. Raises `ReflexError` when it does not move."""
        log = self.run / "control.jsonl"

        def moves() -> bool:
            if self.ended:
                raise ReflexError(f"the deployment ended before the fault: {self.said.strip().splitlines()[-1]}")
            return log.exists() and log.stat().st_size > 10_000

        self._wait_for(moves, "the deployment to move the arm")
        time.sleep(SWINGS_FOR)
        fast = FAST * 2.0 * np.pi * RATE * AMPLITUDE[0]
        self._wait_for(lambda: moves() and abs(self.emulator.status()["velocities"][0]) > fast, "the arm to be fast")

    # ---- faults ----------------------------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        """Send the deployment's process a signal."""
        assert self._deployment is not None
        process = self._deployment.pid
        if self._small_disk:  # there its parent is the shell
            process = int(Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()[0])
        self.struck = time.monotonic()
        os.kill(process, number)

    def kill_server(self) -> None:
        """The policy server's process ends at once."""
        assert self._server is not None
        self._server.kill()
        self._server.wait()

    def jump_clock(self, seconds: float) -> None:
        """The wall clock of the deployment's process is wrong from now on."""
        whole = self._clock.with_suffix(".new")
        whole.write_text(str(seconds), encoding="utf-8")
        whole.replace(self._clock)

    def fill_disk(self) -> None:
        """Leave no room on the small disk."""
        with (self.run.parent / "filler").open("wb", buffering=0) as filler:
            try:
                while True:
                    filler.write(bytes(65536))
            except OSError:  # it is full
                self.struck = time.monotonic()

    # ---- ending ----------------------------------------------------------------------------------------------------

    def wait_until_ended(self) -> None:
        """Wait for the deployment to end by itself, and for its watchdog where it was killed."""
        until = time.monotonic() + ENDS_WITHIN
        while time.monotonic() < until:
            status = None if self._deployment is None else self._deployment.poll()
            was_killed = status is not None and (status < 0 or status == KILLED)
            if status is not None and ("WATCHDOG" in self.said or not was_killed):
                return
            time.sleep(0.02)

    def finish(self) -> None:
        """Let the deployment end if it has not; raises `ReflexError` when it does not."""
        assert self._deployment is not None
        if not self.ended:
            with suppress(OSError):  # it may just have ended, and then nobody reads the pipe
                pipe = os.open(self.run / "operator", os.O_WRONLY | os.O_NONBLOCK)
                os.write(pipe, b"end\n")
                os.close(pipe)
        try:
            self._deployment.wait(ENDS_WITHIN)
        except subprocess.TimeoutExpired as error:
            raise ReflexError(f"the deployment did not end within {ENDS_WITHIN:.0f} s; see {self.folder}") from error

    def watchdog(self) -> list[dict[str, Any]]:
        """What the watchdog wrote."""
        return read_lines(self.run / "watchdog.jsonl")

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end_everything()

    def _end_everything(self) -> None:
        for process in (self._deployment, self._server):
            if process is not None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._opened is not None:
            self._opened.__exit__(None, None, None)
