"""The page in a real browser, of a real `vla deploy` that moves the emulated SO-101."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from real_robot.emulators.so101 import SO101Emulator
from sim.so101.embodiment import SO101
from tests.real_robot.sway_policy import SwayPolicy
from vla.run.jsonl import read_lines

pytestmark = pytest.mark.slow
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--window-size=1280,1300",
)  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="pip install '.[dev]'")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium: apt-get install --no-install-recommends chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@contextmanager
def deployed(emulator: SO101Emulator, folder: Path, **changes: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`vla deploy` in a process of its own, and the address that it prints."""
    SwayPolicy(SO101, seconds=0.02).save_pretrained(folder / "sway")
    config = {
        "policy": folder / "sway", "robot": "so101", "port": emulator.port, "calibration": emulator.calibration_file,
        "task": "sway to and fro", "max_seconds": 60, "page": 0, "output": folder / "run", "threads": 1,
        "watchdog_timeout": 0.5,  # a machine that tests share may well stop for a quarter of a second
        **{f"cameras.{name}": source for name, source in emulator.camera_urls.items()}, **changes,
    }  # fmt: skip
    with (folder / "said").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "vla.cli", "deploy", *(f"{name}={value}" for name, value in config.items())],
            stdin=subprocess.DEVNULL, stdout=said, stderr=said, text=True,
            env=os.environ | {"XDG_STATE_HOME": str(folder / "state")},
        )  # fmt: skip
    try:
        found = wait(lambda: re.search(r"page: (http://\S+)", (folder / "said").read_text()), 60.0)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def wait(question: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Ask until the answer is true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if answer := question():
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def verdict(run: Path) -> dict[str, Any]:
    lines = wait(lambda: [line for line in read_lines(run / "watchdog.jsonl") if line["event"] in STOPPED])
    found: dict[str, Any] = lines[0]
    return found


STOPPED = ("stopped", "not_verified")
# Whether each canvas has anything but one colour on it.
DRAWN = """return [...document.querySelectorAll("canvas")].map(canvas => new Set(new Uint32Array(
  canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.buffer)).size > 1)"""
PICTURES = 'return [...document.querySelectorAll("figure img")].map(image => [image.naturalWidth, image.src])'


def test_the_page_shows_the_episode_and_its_stop_button_stops_the_arm(
    browser: Any, emulator: SO101Emulator, tmp_path: Path
) -> None:
    with deployed(emulator, tmp_path) as (process, address):
        browser.get(address)

        def text(name: str) -> str:
            return str(browser.find_element("id", name).text)

        wait(lambda: browser.execute_script("return steps.length") > 40)
        wait(lambda: text("watchdog") == "watching" and text("arm") in ("moving", "holding"))
        assert text("instruction") == "sway to and fro" and text("episode") == "1 of 1"
        wait(lambda: 25.0 < float(text("rate").split()[0]) < 35.0)
        before = browser.execute_script(PICTURES)
        assert [width for width, _ in before] == [64, 64]
        wait(lambda: all(old[1] != new[1] for old, new in zip(before, browser.execute_script(PICTURES), strict=True)))
        drawn = browser.execute_script(DRAWN)
        assert len(drawn) >= 6 + 1 + 8 and all(drawn), "six joints, the chunks, a histogram a stage"
        assert all(stage in text("latency") for stage in ("filter", "bus write", "inference"))
        assert "Not a hardware emergency stop" in text("said")
        browser.find_element("id", "take_over").click()
        wait(lambda: text("arm") == "person")
        browser.find_element("id", "give_back").click()
        wait(lambda: text("arm") in ("moving", "holding"))
        assert emulator.status()["torque"] == [True] * 6
        browser.find_element("id", "stop").click()
        stopped = verdict(tmp_path / "run")
        assert stopped["event"] == "stopped" and stopped["cause"].startswith("the operator pressed stop (pipe ")
        assert process.wait(60) == 2
        wait(lambda: "The watchdog stopped the deployment" in text("banner") and "has ended" in text("banner"))
        assert "not a hardware emergency stop" in text("said")
        at_rest = np.array(emulator.status()["positions"])
        time.sleep(0.3)
        assert np.abs(emulator.status()["positions"] - at_rest).max() < 0.5
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_the_space_bar_stops_the_arm_while_the_control_loop_hangs(
    browser: Any, emulator: SO101Emulator, tmp_path: Path
) -> None:
    from selenium.webdriver.common.keys import Keys

    with deployed(emulator, tmp_path, watchdog_timeout=5) as (process, address):
        browser.get(address)
        wait(lambda: browser.execute_script("return steps.length") > 20)
        os.kill(process.pid, signal.SIGSTOP)
        wait(lambda: "control loop has been silent" in browser.find_element("id", "banner").text, 4.0)
        browser.find_element("tag name", "body").send_keys(Keys.SPACE)
        stopped = verdict(tmp_path / "run")
        assert stopped["event"] == "stopped" and stopped["killed"] is True
        assert stopped["cause"].startswith("the operator pressed stop (pipe ")
        wait(lambda: "The deployment has ended" in browser.find_element("id", "banner").text)
        assert process.wait(10) == -signal.SIGKILL
        wait(lambda: not_listening(address))


def not_listening(address: str) -> bool:
    """Whether the page's process is gone."""
    host, _, port = address.removeprefix("http://").partition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) != 0
