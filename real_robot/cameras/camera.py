"""A camera through OpenCV, read in a thread of its own: the newest picture, when it came, and whether it is good."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import cv2
import numpy as np

from sim.contract import Image
from vla.errors import ReflexError

RECONNECT_EVERY = 0.5
"""Seconds between attempts at a camera that is gone."""
_PATIENCE = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 2000]
"""Milliseconds that a stream may take to begin and to send its next picture; by default half a minute."""
_log = logging.getLogger(__name__)


class CameraError(ReflexError):
    """A camera that cannot be used; the message names it and says what to do."""


@dataclass(frozen=True)
class CameraConfig:
    """One camera."""

    name: str
    """What the policy calls it, such as front."""
    source: str
    """Number of a camera of this machine (0), path of a device or a video file, or a URL (http, rtsp)."""
    height: int
    """Pixels of the pictures that are handed out; those that come otherwise are resized."""
    width: int
    """Pixels."""
    fps: float | None = None
    """Pictures a second to ask the camera for; null leaves it as it is. A video file is played at its own rate."""
    max_age_ms: float = 200.0
    """Milliseconds after which a picture is too old to act on."""
    black_below: float = 3.0
    """Mean brightness (of 255) below which a picture counts as black: a closed lid, or a camera that failed."""
    frozen_after: float | None = None
    """Seconds of equal pictures after which a camera counts as frozen; null for never. A real camera's noise makes no
    two pictures equal, a simulator's scene at rest does."""

    def __post_init__(self) -> None:
        """Check the ranges. Raises `CameraError` naming the field."""
        for field in ("height", "width", "max_age_ms", "fps", "frozen_after"):
            value = getattr(self, field)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise CameraError(f"camera {self.name}: {field} is {value!r}; it must be a positive number")


@dataclass(frozen=True)
class Frame:
    """One picture."""

    image: Image
    """uint8 [height, width, 3], RGB."""
    time: float
    """`time.monotonic()` in seconds when it had been read."""
    sequence: int
    """Counts the camera's pictures from 1; a gap is a picture that was not good."""


class PictureCheck:
    """Tells good pictures from black and frozen ones."""

    def __init__(self, black_below: float, frozen_after: float | None) -> None:
        self._black_below, self._frozen_after = black_below, frozen_after
        self._last: Image | None = None
        self._changed = 0.0

    def problem(self, image: Image, now: float) -> str:
        """What is wrong with the picture that came at `now` (s); empty for a good one."""
        if self._last is None or not np.array_equal(image, self._last):
            self._last, self._changed = image, now
        if float(image.mean()) < self._black_below:
            return "black"
        if self._frozen_after is not None and now - self._changed >= self._frozen_after:
            return f"the same for {now - self._changed:.1f} s"
        return ""


class Camera:
    """A camera's newest good picture.

    A black or frozen picture is not handed out: the last good one grows old instead, and whoever drives the arm stops
    for it as for a camera that is gone. A camera that is gone is opened again until it is back.
    """

    def __init__(self, config: CameraConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.config = config
        self.reconnects = 0
        """How often it was opened again."""
        self._clock = clock
        self._check = PictureCheck(config.black_below, config.frozen_after)
        self._newest: Frame | None = None
        self._problem = "no picture yet"
        self._sequence = 0
        self._running = False
        self._arrived = threading.Condition()
        self._thread: threading.Thread | None = None

    def open(self, timeout: float = 10.0) -> None:
        """Start reading, and wait for the first good picture.

        Raises `CameraError` naming it when it cannot be opened, or has no good picture within `timeout` seconds.
        """
        capture = self._capture()
        if capture is None:
            raise CameraError(
                f"camera {self.config.name}: cannot open {self.config.source!r}; check that it is plugged in and not "
                "in use (its number: `ls /dev/video*`), or that the file or address exists"
            )
        self._running = True
        self._thread = threading.Thread(target=self._read, args=(capture,), name=self.config.name, daemon=True)
        self._thread.start()
        with self._arrived:
            if not self._arrived.wait_for(lambda: self._newest is not None, timeout):
                problem = self._problem
                self.close()
                raise CameraError(
                    f"camera {self.config.name} ({self.config.source}) gave no good picture within {timeout:g} s: "
                    f"{problem}"
                )

    def close(self) -> None:
        """Stop reading; closing twice is harmless."""
        self._running = False
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._thread = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def latest(self) -> Frame | None:
        """The newest good picture, however old; None before the first. Does not wait."""
        return self._newest

    def fresh(self) -> Frame:
        """The newest picture. Raises `CameraError` when it is older than `max_age_ms`, saying why if that is known."""
        frame, now = self._newest, self._clock()
        if frame is None or now - frame.time > self.config.max_age_ms / 1000.0:
            age = "none" if frame is None else f"{1000.0 * (now - frame.time):.0f} ms old"
            raise CameraError(
                f"camera {self.config.name}: the newest good picture is {age}, at most {self.config.max_age_ms:g} ms "
                f"is allowed{': ' + self._problem if self._problem else ''}"
            )
        return frame

    def after(self, sequence: int, timeout: float) -> Frame | None:
        """Wait up to `timeout` seconds for a picture newer than number `sequence`; None when there is none."""
        with self._arrived:
            self._arrived.wait_for(lambda: self._newest is not None and self._newest.sequence > sequence, timeout)
            newest = self._newest
        return newest if newest is not None and newest.sequence > sequence else None

    @property
    def problem(self) -> str:
        """What is wrong with the newest picture; empty when it is good."""
        return self._problem

    def _capture(self) -> Any:
        source = self.config.source
        try:
            if "://" in source:
                capture = cv2.VideoCapture(source, cv2.CAP_FFMPEG, _PATIENCE)
            else:
                capture = cv2.VideoCapture(int(source) if source.isdigit() else source)
        except cv2.error as error:
            _log.debug("camera %s: %s", self.config.name, error)
            return None
        if not capture.isOpened():
            return None
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)
        if self.config.fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self.config.fps)
        if source.isdigit():
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self.config.width)
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self.config.height)
        return capture

    def _read(self, capture: Any) -> None:
        # A file would be read as fast as the disk allows.
        is_file = "://" not in self.config.source and not self.config.source.isdigit()
        period = 1.0 / (capture.get(cv2.CAP_PROP_FPS) or 30.0) if is_file else 0.0
        while self._running:
            began = self._clock()
            done, picture = capture.read()
            if not done:
                capture.release()
                capture = self._reopen()
                continue
            self._take(picture)
            if period:
                time.sleep(max(0.0, period - (self._clock() - began)))
        if capture is not None:
            capture.release()

    def _reopen(self) -> Any:
        self._problem = "the stream ended or the camera is gone"
        _log.warning("camera %s: %s; opening it again", self.config.name, self._problem)
        capture = None
        while self._running and capture is None:
            capture = self._capture()
            if capture is None:
                time.sleep(RECONNECT_EVERY)
        self.reconnects += capture is not None
        return capture

    def _take(self, picture: Image) -> None:
        now = self._clock()
        problem = self._check.problem(picture, now)
        self._sequence += 1
        if problem and problem != self._problem:
            _log.warning("camera %s: pictures are %s", self.config.name, problem)
        self._problem = problem
        if problem:
            return
        size = (self.config.width, self.config.height)
        if picture.shape[1::-1] != size:
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        image = np.ascontiguousarray(picture[:, :, ::-1])
        with self._arrived:
            self._newest = Frame(image, now, self._sequence)
            self._arrived.notify_all()
