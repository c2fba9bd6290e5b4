"""The way from the loop to the page: it never waits, and says what it dropped."""

from __future__ import annotations

import json
import math
import mmap
import os
import socket
import time
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from real_robot.page.channel import COPY_EVERY, SLOT_BYTES, SLOTS, Sender, SharedPictures, StepRing, receive
from real_robot.page.feed import finite
from sim.embodiments import Camera

CAMERAS = [Camera("front", 6, 5), Camera("wrist", 4, 4)]


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def both() -> Iterator[tuple[SharedPictures, SharedPictures]]:
    """The memory as each of the two processes maps it."""
    descriptor = os.memfd_create("test")
    writer, reader = SharedPictures(descriptor, CAMERAS), SharedPictures(descriptor, CAMERAS)
    os.close(descriptor)
    yield writer, reader
    writer.close()
    reader.close()


@pytest.fixture
def rings() -> Iterator[tuple[StepRing, StepRing]]:
    descriptor = os.memfd_create("test")
    writer, reader = StepRing(descriptor), StepRing(descriptor)
    os.close(descriptor)
    yield writer, reader
    writer.close()
    reader.close()


def test_a_page_that_does_not_read_costs_the_loop_no_time_and_what_it_missed_is_counted(
    rings: tuple[StepRing, StepRing],
) -> None:
    writer, reader = rings
    longest = 0.0
    for number in range(3000):
        began = time.thread_time()  # of this thread: another program's work does not count
        writer.put({"number": number, "values": [0.125] * 18})
        longest = max(longest, time.thread_time() - began)
    assert longest < 0.02
    read = [step["number"] for step in reader.take()]
    assert read == list(range(3000 - len(read), 3000)), "the newest are there, whole and in order"
    assert len(read) > SLOTS - 5 and reader.dropped == 3000 - len(read)
    assert reader.take() == []
    writer.put({"number": 3000})
    assert reader.take() == [{"number": 3000}]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-SLOTS // 3, SLOTS * 2), max_size=12))
def test_every_step_is_taken_once_and_in_order_or_counted(counts: list[int]) -> None:
    """A positive count puts so many, another takes."""
    descriptor = os.memfd_create("test")
    writer, reader = StepRing(descriptor), StepRing(descriptor)
    os.close(descriptor)
    put, taken = 0, list[int]()
    for count in [*counts, 0]:
        for _ in range(count):
            writer.put({"number": put})
            put += 1
        if count <= 0:
            taken += [step["number"] for step in reader.take()]
            assert len(taken) + reader.dropped == put
    assert taken == sorted(set(taken))
    writer.close()
    reader.close()


def test_a_step_that_is_half_overwritten_or_too_long_is_counted(rings: tuple[StepRing, StepRing]) -> None:
    writer, reader = rings
    writer.put({"number": 1, "text": "x" * 100})
    writer.put({"text": "x" * SLOT_BYTES})
    writer.put({"number": 3})
    writer._memory[mmap.PAGESIZE + 50] ^= 1
    assert reader.take() == [{"number": 3}] and reader.dropped == 2


def test_messages_to_a_page_that_hangs_or_died_are_counted_and_never_wait(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    sender = Sender(ours)
    sent = 0
    while not sender.dropped:
        sender.send({"kind": "episode", "number": sent})
        sent += 1
    assert sent > 100
    assert receive(theirs) == {"kind": "episode", "number": 0}
    theirs.close()
    sender.send({"kind": "end"})
    assert sender.dropped == 2


def test_the_end_of_the_loop_is_the_end_of_its_messages(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    sender = Sender(ours)
    sender.send({"kind": "end"})
    sender.close()
    assert receive(theirs) == {"kind": "end"} and receive(theirs) is None


def test_pictures_arrive_only_while_somebody_looks_and_at_most_ten_a_second(
    both: tuple[SharedPictures, SharedPictures],
) -> None:
    writer, reader = both
    image = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    writer.put("front", image, 1.0)
    assert reader.get("front") is None and reader.newest("front") == 1.0, "its age is known, copied or not"
    reader.watched = True
    writer.put("front", image, 2.0)
    found = reader.get("front")
    assert found is not None and found[1] == 2.0
    np.testing.assert_array_equal(found[0], image)
    writer.put("front", image + 1, 2.0 + COPY_EVERY / 2)
    found = reader.get("front")
    assert found is not None and found[1] == 2.0 and reader.newest("front") == 2.0 + COPY_EVERY / 2
    writer.put("front", image + 1, 2.0 + COPY_EVERY)
    found = reader.get("front")
    assert found is not None and found[0][0, 0, 0] == 1
    assert reader.get("wrist") is None and reader.newest("wrist") is None
    writer.put("wrist", image, 3.0)
    assert reader.get("wrist") is None, "a picture of another size than the camera's"


def test_a_picture_that_is_being_written_is_left_out(both: tuple[SharedPictures, SharedPictures]) -> None:
    writer, reader = both
    reader.watched = True
    writer.put("front", np.zeros((6, 5, 3), np.uint8), 1.0)
    writer._heads["front"][0] += 1.0
    assert reader.get("front") is None


@settings(max_examples=50)
@given(st.lists(st.floats() | st.sampled_from(["nan", "inf", "-inf"])))
def test_numbers_are_what_a_browser_can_parse(values: list[float | str]) -> None:
    written = json.dumps(finite(values), allow_nan=False)
    for value, read in zip(values, json.loads(written), strict=True):
        if isinstance(value, str) or not math.isfinite(value):
            assert read is None
        else:
            assert abs(read - value) <= 0.0005 + 1e-12 * abs(value)
