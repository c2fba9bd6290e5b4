"""An emulator's HTTP server on this machine: its cameras as MJPEG streams, its status, and what can be done to it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import cv2
import numpy as np

from sim.contract import Image

BOUNDARY = "frame"
JPEG = [
    cv2.IMWRITE_JPEG_QUALITY,
    100,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
]
"""Colours at full resolution: half of it, which is usual, moves pixels at coloured edges by up to 90 of 255."""

Command = Callable[[str, Mapping[str, Any]], dict[str, Any]]
"""(name, values) -> answer: what the emulator does with a request; raises `ValueError` for one it cannot carry out."""


class Pictures:
    """The newest picture of each camera, waited for by any number of streams."""

    def __init__(self, cameras: tuple[str, ...]) -> None:
        self._condition = threading.Condition()
        self._frames: dict[str, tuple[int, bytes]] = dict.fromkeys(cameras, (0, b""))
        self.closed = False

    @property
    def cameras(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self._frames)

    def show(self, images: Mapping[str, Image]) -> None:
        """Make these RGB pictures the newest ones."""
        encoded = {name: _encode(image) for name, image in images.items()}
        with self._condition:
            for name, data in encoded.items():
                self._frames[name] = (self._frames[name][0] + 1, data)
            self._condition.notify_all()

    def next(self, camera: str, after: int) -> tuple[int, bytes]:
        """The newest picture with a number above `after`; waits for it. An empty one when the server closes."""
        with self._condition:
            self._condition.wait_for(lambda: self.closed or self._frames[camera][0] > after)
            return (after, b"") if self.closed else self._frames[camera]

    def close(self) -> None:
        """End every stream."""
        with self._condition:
            self.closed = True
            self._condition.notify_all()


def with_noise(image: Image, generator: np.random.Generator) -> Image:
    """The picture with one pixel a little off: no two pictures of a real camera are equal, and that is looked at."""
    image = image.copy()
    image[generator.integers(image.shape[0]), generator.integers(image.shape[1])] ^= 8
    return image


def _encode(image: Image) -> bytes:
    done, data = cv2.imencode(".jpg", np.ascontiguousarray(image[:, :, ::-1]), JPEG)
    assert done
    return bytes(data.tobytes())


class PictureServer:
    """Serves on a free port of the loopback interface, in threads of its own.

    GET /cameras/NAME streams a camera, GET /status answers JSON, POST /NAME with a JSON object carries out a command.
    """

    def __init__(self, pictures: Pictures, command: Command) -> None:
        self._pictures = pictures
        handler = type("Handler", (_Handler,), {"pictures": pictures, "carry_out": staticmethod(command)})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, name="pictures", daemon=True)
        self._thread.start()

    def camera_url(self, camera: str) -> str:
        """Where a camera streams."""
        return f"{self.url}/cameras/{camera}"

    def close(self) -> None:
        """Stop serving."""
        self._pictures.close()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pictures: Pictures
    carry_out: Command

    def do_GET(self) -> None:
        """A stream, or the status."""
        path = self.path.strip("/")
        camera = path.removeprefix("cameras/")
        if path.startswith("cameras/") and camera in self.pictures.cameras:
            self._stream(camera)
        elif path == "status":
            self._answer(path, {})
        else:
            self._json(404, {"error": f"there is no /{path}; cameras are {', '.join(self.pictures.cameras)}"})

    def do_POST(self) -> None:
        """A command."""
        try:
            values = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        except ValueError as error:
            self._json(400, {"error": f"not JSON: {error}"})
            return
        self._answer(self.path.strip("/"), values)

    def _answer(self, name: str, values: Mapping[str, Any]) -> None:
        try:
            self._json(200, self.carry_out(name, values))
        except ValueError as error:
            self._json(400, {"error": str(error)})

    def _json(self, code: int, content: Mapping[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, camera: str) -> None:
        self.close_connection = True
        self.send_response(200)
        self.send_header("Content-Type", f"multipart/x-mixed-replace; boundary={BOUNDARY}")
        self.end_headers()
        number = 0
        try:
            while True:
                number, data = self.pictures.next(camera, number)
                if not data:
                    return
                head = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                self.wfile.write(head.encode() + data + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # whoever watched has gone

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing: a request a second is no news."""
