"""Cameras through OpenCV: files, streams that come and go, pictures that are no good."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from real_robot.cameras.camera import Camera, CameraConfig, CameraError, Frame, PictureCheck
from real_robot.emulators.pictures import Pictures, PictureServer
from sim.contract import Image
from tests.real_robot.emulators.test_so101 import wait_for


def picture(red: int = 200, seed: int = 0) -> Image:
    """Red on the left, green on the right, and a little noise."""
    image = np.zeros((48, 64, 3), np.uint8)
    image[:, :32, 0], image[:, 32:, 1] = red, 120
    noise = np.random.default_rng(seed).integers(0, 4, image.shape)
    return (image + noise).astype(np.uint8)


class Feed:
    """A stream of one picture after another, 50 a second, as long as it is not paused."""

    def __init__(self) -> None:
        self.picture, self.paused, self._ended = picture(), False, threading.Event()
        self.pictures = Pictures(("front",))
        self.server = PictureServer(self.pictures, lambda name, values: {})
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._ended.wait(0.02):
            if not self.paused:
                self.pictures.show({"front": self.picture})

    def __enter__(self) -> Feed:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()
        self.server.close()

    def config(self, **changes: Any) -> CameraConfig:
        """Of a camera that looks at it."""
        values: dict[str, Any] = {
            "name": "front",
            "source": self.server.camera_url("front"),
            "height": 48,
            "width": 64,
        } | changes
        return CameraConfig(**values)


@pytest.fixture
def feed() -> Iterator[Feed]:
    with Feed() as running:
        yield running


def redness(frame: Frame | None) -> float:
    """How red the left side is."""
    return 0.0 if frame is None else float(frame.image[:, :30, 0].mean())


def test_a_stream_comes_in_rgb_and_promptly(feed: Feed) -> None:
    with Camera(feed.config()) as camera:
        frame = camera.fresh()
        assert np.abs(frame.image.astype(int) - picture()).mean() < 1.5
        newer = camera.after(frame.sequence, timeout=5.0)
        assert newer is not None and newer.sequence > frame.sequence and newer.time > frame.time
        feed.picture = picture(60)
        shown = time.monotonic()
        assert wait_for(lambda: abs(redness(camera.latest()) - 61.5) < 4.0)
        assert time.monotonic() - shown < 0.5
        feed.paused = True
        time.sleep(0.1)
        assert camera.after(camera.fresh().sequence, timeout=0.05) is None


def test_an_old_picture_is_refused(feed: Feed) -> None:
    with Camera(feed.config(max_age_ms=50)) as camera:
        feed.paused = True
        time.sleep(0.15)
        with pytest.raises(CameraError, match=r"camera front: the newest good picture is \d+ ms old, at most 50 ms"):
            camera.fresh()
        assert camera.latest() is not None


def test_a_black_picture_is_not_handed_out(feed: Feed) -> None:
    with Camera(feed.config(max_age_ms=50)) as camera:
        feed.picture = np.zeros_like(picture())
        assert wait_for(lambda: camera.problem == "black")
        last = camera.latest()
        time.sleep(0.1)
        assert camera.latest() is last and redness(last) > 150.0
        with pytest.raises(CameraError, match="allowed: black"):
            camera.fresh()
        feed.picture = picture(90)
        assert wait_for(lambda: camera.problem == "" and abs(redness(camera.latest()) - 91.5) < 4.0)


def test_a_frozen_picture_is_not_handed_out(feed: Feed) -> None:
    with Camera(feed.config(frozen_after=0.2)) as camera:
        assert wait_for(lambda: camera.problem.startswith("the same for 0."))
        feed.picture = picture(90)
        assert wait_for(lambda: camera.problem == "")


def test_a_stream_that_ends_is_opened_again(feed: Feed) -> None:
    with Camera(feed.config()) as camera:
        first = camera.fresh()
        feed.pictures.close()
        assert wait_for(lambda: "gone" in camera.problem)
        feed.pictures.closed = False
        assert wait_for(lambda: camera.reconnects >= 1 and camera.problem == "", timeout=10.0)
        newer = camera.latest()
        assert newer is not None and newer.sequence > first.sequence


def test_a_video_file_is_played_at_its_rate_and_resized(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 50.0, (64, 48))
    for index in range(100):
        writer.write(np.ascontiguousarray(picture(50 + index)[:, :, ::-1]))
    writer.release()
    with Camera(CameraConfig("front", str(path), 24, 32)) as camera:
        first = camera.fresh()
        time.sleep(0.5)
        later = camera.fresh()
        assert later.image.shape == (24, 32, 3)
        assert 10 < later.sequence - first.sequence < 30, "50 a second"


@pytest.mark.parametrize("source", ["/dev/nowhere", "77", "http://127.0.0.1:9/none"])
def test_a_camera_that_is_not_there(source: str) -> None:
    with pytest.raises(CameraError, match="camera front: cannot open") as refused:
        Camera(CameraConfig("front", source, 48, 64)).open()
    assert source in str(refused.value)


def test_a_camera_without_a_good_picture_cannot_be_opened(feed: Feed) -> None:
    feed.picture = np.zeros_like(picture())
    with pytest.raises(CameraError, match=r"gave no good picture within 0\.3 s: black"):
        Camera(feed.config()).open(timeout=0.3)


def test_what_counts_as_black_and_frozen() -> None:
    check = PictureCheck(black_below=3.0, frozen_after=0.5)
    assert check.problem(picture(), 0.0) == ""
    assert check.problem(picture(), 0.4) == ""
    assert check.problem(picture(), 0.5) == "the same for 0.5 s"
    assert check.problem(picture(seed=1), 0.6) == "", "noise tells a live camera"
    assert check.problem(np.full((2, 2, 3), 2, np.uint8), 0.7) == "black"
    patient = PictureCheck(black_below=3.0, frozen_after=None)
    assert [patient.problem(picture(), now) for now in (0.0, 99.0)] == ["", ""]


@pytest.mark.parametrize("changes", [{"height": 0}, {"max_age_ms": -1.0}, {"frozen_after": float("nan")}])
def test_settings_that_make_no_sense(changes: dict[str, float]) -> None:
    values = {"name": "front", "source": "0", "height": 48, "width": 64} | changes
    with pytest.raises(CameraError, match=f"camera front: {next(iter(changes))} is"):
        CameraConfig(**values)  # type: ignore[arg-type]
