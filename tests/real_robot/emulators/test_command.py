"""`vla robot emulate`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from real_robot.arms.so101 import SO101Arm, SO101Settings
from real_robot.emulators.command import EmulateConfig, emulate
from vla.errors import ReflexError

ROOT = Path(__file__).parents[3]


@pytest.mark.usefixtures("running")  # which skips where the arm's packages are missing
def test_the_command_says_where_the_robot_is_until_it_is_interrupted(tmp_path: Path) -> None:
    calibration = tmp_path / "so101.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "vla", "robot", "emulate", "robot=so101", "task=1", f"calibration={calibration}"],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    said = dict(process.stdout.readline().rstrip().split(": ", 1) for _ in range(5))
    assert set(said) == {"port", "calibration", "camera front", "camera wrist", "status"}
    with urllib.request.urlopen(said["status"]) as answer:
        assert json.load(answer)["instruction"] == "pick up the red block"
    with SO101Arm(SO101Settings(said["port"], str(calibration), timeout=0.1)) as arm:
        assert arm.observe().positions.shape == (6,)
    process.send_signal(signal.SIGINT)
    assert process.wait(20.0) == 0
    assert not Path(said["port"]).exists()


@contextmanager
def own_robot(config: EmulateConfig) -> Iterator[Mapping[str, str]]:
    """A robot of a user's own."""
    yield {"port": f"mine, task {config.task}"}
    raise ReflexError("it was ended")


def test_a_robot_of_one_s_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("threading.Event.wait", interrupted)
    with pytest.raises(ReflexError, match="it was ended"):
        emulate(EmulateConfig(robot=f"{__name__}:own_robot", task=3))
    assert capsys.readouterr().out.startswith("port: mine, task 3\n")


@pytest.mark.parametrize("wrong", [{"task": -1}, {"image_size": 15}, {"frames_per_second": -1.0}, {"split": "test"}])
def test_settings_that_make_no_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(ReflexError, match=next(iter(wrong))):
        EmulateConfig(**wrong)  # type: ignore[arg-type]
