"""The page's process: it hears from the control loop, looks at the watchdog, and serves the page.

It is a process of its own so that drawing and browsers take nothing from the control loop, and so that the stop button
works while that hangs. It ends soon after the loop's process has, whatever became of that.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time

from real_robot.page.channel import SharedPictures, StepRing, receive
from real_robot.page.hub import Hub
from real_robot.page.server import UPDATE_EVERY, PageServer
from real_robot.page.watching import WatchdogView
from real_robot.watchdog.settings import WatchdogSettings
from sim.embodiments import Camera

NICENESS = 0
"""As other programs: the loop's and the watchdog's processes go first."""
LOOK_EVERY = 0.02
"""Seconds between two looks at the ring."""
VERDICT_WITHIN = 15.0
"""Seconds in which a watchdog whose loop died says what it did."""
LAST_LOOK = 2.0
"""Seconds that browsers have to take the last update."""


def main(arguments: list[str]) -> int:
    """Serve until the loop's process closes the channel, by its end or its death."""
    # A Ctrl-C, or a terminal that closes, concerns the control loop; the page goes on until that has ended.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    listener, channel, steps, memory = (int(descriptor) for descriptor in arguments)
    with socket.socket(fileno=channel) as messages:
        about = receive(messages)
        if about is None:
            return 0
        settings = WatchdogSettings.from_json(about.pop("watchdog"))
        pictures = SharedPictures(memory, [Camera(*camera) for camera in about["cameras"]])
        watchdog = WatchdogView(settings)
        hub = Hub(about, watchdog, pictures)
        server = PageServer(socket.socket(fileno=listener), hub, pictures, settings.pipe)
        threading.Thread(target=server.serve_forever, name="page", daemon=True).start()
        listen(messages, StepRing(steps), hub)
    _end(hub, watchdog, server)
    return 0


def listen(messages: socket.socket, ring: StepRing, hub: Hub) -> None:
    """Pass on what the loop tells, until it closes the socket."""
    messages.settimeout(LOOK_EVERY)
    while True:
        try:
            message = receive(messages)
        except TimeoutError:
            pass
        else:
            if message is None:
                break
            hub.add(message)
        hub.add_steps(ring.take(), ring.dropped)
    hub.add_steps(ring.take(), ring.dropped)


def _end(hub: Hub, watchdog: WatchdogView, server: PageServer) -> None:
    """Tell whoever looks how it ended: after a loop that died, what the watchdog did about it."""
    until = time.monotonic() + VERDICT_WITHIN
    while not hub.ended and watchdog.state()["verdict"] is None and time.monotonic() < until:
        time.sleep(UPDATE_EVERY)
    hub.over = True
    until = time.monotonic() + LAST_LOOK
    while server.viewers and time.monotonic() < until:
        time.sleep(UPDATE_EVERY / 2)
    server.shutdown()
    server.server_close()
