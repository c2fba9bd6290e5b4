"""What the page of `vla deploy` costs the control loop, on the emulated SO-101: without it, looked at by a program that
only reads, and by Chromium. Needs the extra `dev` and Chromium.

    python -m scripts.page_study docs/results/deploy_page.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from real_robot.emulators.so101 import SO101Emulator
from vla.run.files import write_json

ROUNDS, SECONDS = 3, 20
STAGES = ("overhead", "wake_late", "observe", "filter", "bus_write")


def reading(address: str) -> Callable[[], None]:
    """Look on as a page does, and throw everything away. Returns what ends it."""
    page = urllib.request.urlopen(address, timeout=5).read().decode()
    token = json.loads(re.search(r'id="facts">(.*?)</script>', page)[1])["token"]  # type: ignore[index]
    stream = urllib.request.urlopen(f"{address}/events?token={token}", timeout=5)

    def read() -> None:
        with contextlib.suppress(OSError, ValueError):  # the end of the deployment, or of this study
            while stream.readline():
                pass

    threading.Thread(target=read, daemon=True).start()
    return lambda: None


def chromium(address: str) -> Callable[[], None]:
    """Look on with a real browser, without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--window-size=1280,1300"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService("/usr/bin/chromedriver"))
    browser.get(address)
    return browser.quit


VIEWERS: dict[str, Callable[[str], Callable[[], None]] | None] = {
    "no_page": None, "page_read": reading, "page_in_chromium": chromium,
}  # fmt: skip


@contextlib.contextmanager
def viewing(name: str, said: Path) -> Iterator[None]:
    """Look on from when the page's address is there."""
    viewer = VIEWERS[name]
    if viewer is None:
        yield
        return
    while not (found := re.search(r"page: (http://\S+)", said.read_text())):
        time.sleep(0.1)
    end = viewer(found[1])
    try:
        yield
    finally:
        end()


def run(emulator: SO101Emulator, policy: str, name: str, folder: Path) -> dict[str, Any]:
    """One deployment's latencies."""
    emulator.reset(0)
    settings = {
        "policy": policy, "robot": "so101", "port": emulator.port, "calibration": emulator.calibration_file,
        "task": "page study", "max_seconds": SECONDS, "output": folder / "run", "threads": 1, "watchdog_timeout": 2,
        **{f"cameras.{camera}": source for camera, source in emulator.camera_urls.items()},
        **({} if VIEWERS[name] is None else {"page": 0}),
    }  # fmt: skip
    words = [f"{key}={value}" for key, value in settings.items()]
    said = folder / "said"
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "vla.cli", "deploy", *words], stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        with viewing(name, said):
            if process.wait():
                raise SystemExit(said.read_text())
    latency = json.loads((folder / "run" / "latency.json").read_text())
    return {
        "control_steps": latency["control_steps"],
        "missed_steps": latency["missed_steps"],
        "load": os.getloadavg()[0],
        "stages_ms": {stage: latency["stages"][stage] for stage in STAGES},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("output", type=Path)
    parser.add_argument("--policy", required=True, help="a policy folder for the SO-101")
    arguments = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in VIEWERS}
    with SO101Emulator(task_id=0, init_state=0) as emulator, tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            for name in VIEWERS:  # in turn, since the machine's other work changes
                place = Path(folder) / f"{name}_{number}"
                place.mkdir()
                found[name].append(run(emulator, arguments.policy, name, place))
                print(name, found[name][-1]["stages_ms"]["overhead"], found[name][-1]["missed_steps"], flush=True)
    write_json(
        arguments.output,
        {
            "what": __doc__,
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "seconds": SECONDS,
            "runs": found,
        },
    )


if __name__ == "__main__":
    main()
