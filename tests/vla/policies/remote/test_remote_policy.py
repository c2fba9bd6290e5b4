"""A policy behind a wire, against servers whose answers are scripted: late, wrong, of somebody else, or not at all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.asyncio.server import ServerConnection, serve

from sim.contract import Observation, ObservationBatch, stack_observations
from sim.embodiments import PANDA_EEF
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies import load_policy
from vla.policies.fingerprint import policy_fingerprint
from vla.policies.protocol import Policy, TrainablePolicy
from vla.policies.remote.announcement import Announcement
from vla.policies.remote.client import RemoteError, RemoteRefusedError, RemoteUnavailableError
from vla.policies.remote.codec import decode_mapping, encode
from vla.policies.remote.policy import NotTrainableError, RemotePolicy
from vla.policies.sampling import as_it_is

SIDE = 8
ANNOUNCEMENT = Announcement(
    policy_id="scripted",
    policy_sha256="ab" * 32,
    embodiment=PANDA_EEF.with_image_size(SIDE),
    feature_map=SAME_NAMES,
    uses_state=True,
    chunk_horizon=4,
    execute_steps=2,
    precision="float32",
    max_batch=3,
    max_message_bytes=1 << 20,
)
Script = Callable[[dict[str, Any]], Awaitable[bytes | str | None]]


class ScriptedServer:
    """Sends a first frame, and answers each request with what the script makes of it; None leaves it unanswered."""

    def __init__(self, script: Script, metadata: dict[str, Any] | None = None) -> None:
        self.script = script
        self.metadata = ANNOUNCEMENT.to_metadata() if metadata is None else metadata
        self.requests: list[dict[str, Any]] = []
        self.connections = 0

    async def converse(self, connection: ServerConnection) -> None:
        self.connections += 1
        await connection.send(encode(self.metadata))
        async for frame in connection:
            assert isinstance(frame, bytes)
            self.requests.append(decode_mapping(frame))
            answer = await self.script(self.requests[-1])
            if answer is not None:
                await connection.send(answer)


@contextmanager
def running(server: ScriptedServer, port: int = 0) -> Iterator[str]:
    loop, started, ports = asyncio.new_event_loop(), threading.Event(), []
    stop = asyncio.Event()

    async def work() -> None:
        async with serve(server.converse, "127.0.0.1", port, compression=None, max_size=None) as listening:
            ports.append(next(iter(listening.sockets)).getsockname()[1])
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(work()), daemon=True)
    thread.start()
    assert started.wait(30)
    try:
        yield f"ws://127.0.0.1:{ports[0]}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


@contextmanager
def remote(address: str, query: str = "timeout_s=20&patience_s=0") -> Iterator[RemotePolicy]:
    policy = RemotePolicy.open(f"{address}?{query}")
    try:
        yield policy
    finally:
        policy.close()


def numbered(*numbers: float, side: int = SIDE) -> ObservationBatch:
    """Observations whose states begin with numbers."""
    picture = np.zeros((side, side, 3), np.uint8)
    return stack_observations(
        [
            Observation(
                images={"image": picture + np.uint8(abs(number) % 256), "wrist_image": picture},
                state=np.array([number] + [0] * 7, np.float32),
                instruction=f"say {number:g}",
            )
            for number in numbers
        ]
    )


def actions_of(request: dict[str, Any], steps: int = 4) -> np.ndarray[Any, Any]:
    """A chunk, or one for each row, of hundredths of the state's first number."""
    state = request.get("state", request.get("observation/state"))
    chunk = np.asarray(state)[..., None, :1].repeat(steps, axis=-2).repeat(7, axis=-1)
    scaled: np.ndarray[Any, Any] = (chunk / np.float32(100)).astype(np.float32)
    return scaled


async def right(request: dict[str, Any]) -> bytes:
    return encode({"actions": actions_of(request), "server_timing": {"infer_ms": 1.5}})


def said(policy: RemotePolicy, *numbers: float, **options: Any) -> list[float]:
    actions = policy.act(numbered(*numbers, **options)).actions
    return [round(float(number), 4) for number in actions[:, 0, 0] * 100]


def test_it_is_a_policy_that_says_what_the_server_says() -> None:
    with running(ScriptedServer(right)) as address, remote(address) as policy:
        assert isinstance(policy, Policy) and not isinstance(policy, TrainablePolicy)
        assert policy.spec == ANNOUNCEMENT.spec
        assert (policy.policy_id, policy_fingerprint(policy)) == ("scripted", "ab" * 32)
        output = policy.act(numbered(1))
        assert output.actions.shape == (1, 4, 7)
        assert output.decision.shape == output.log_probs.shape == (1, 0)
        assert policy.server_timing == {"infer_ms": 1.5}
        assert policy.select_action(
            Observation(
                images={"image": np.zeros((SIDE, SIDE, 3), np.uint8), "wrist_image": np.zeros((4, 4, 3), np.uint8)},
                state=np.full(8, 3, np.float32),
                instruction="go",
            )
        )[0, 0] == pytest.approx(0.03)
        assert policy.describe()["policy_sha256"] == "ab" * 32


def test_a_batch_is_one_request_up_to_what_the_server_takes() -> None:
    server = ScriptedServer(right)
    with running(server) as address, remote(address) as policy:
        assert said(policy, 1, 2, 3, 4, 5, 6, 7) == [1, 2, 3, 4, 5, 6, 7]
        assert sorted(len(np.atleast_2d(request["state"])) for request in server.requests) == [1, 3, 3]
        assert [request["instruction"] for request in server.requests if request["state"].ndim == 1] == ["say 7"]


def test_a_foreign_servers_environments_are_asked_about_at_once() -> None:
    waiting: list[int] = []
    both = asyncio.Event()

    async def together(request: dict[str, Any]) -> bytes:
        waiting.append(1)
        if len(waiting) == 3:
            both.set()
        await asyncio.wait_for(both.wait(), 20)  # a client that asked one after another would never get past this
        return encode({"actions": actions_of(request, steps=10)})

    server = ScriptedServer(together, metadata={"reset_pose": [0.0]})
    with running(server) as address, remote(address, "keys=libero&patience_s=0&timeout_s=20&name=pi05") as policy:
        assert (policy.spec.chunk_horizon, policy.spec.execute_steps, policy.policy_id) == (10, 5, "pi05")
        assert said(policy, 1, 2, 3, side=16) == [1, 2, 3]
    assert server.requests[0]["observation/image"].shape == (224, 224, 3)
    assert set(server.requests[0]) == {
        "observation/image",
        "observation/wrist_image",
        "observation/state",
        "prompt",
    }


def test_cameras_are_sent_under_the_policys_names_and_size() -> None:
    server = ScriptedServer(right)
    with running(server) as address, remote(address) as policy:
        policy.feature_map = FeatureMap({"wrist_image": "gripper"})
        batch = numbered(7, side=16)
        batch["images"]["gripper"] = batch["images"].pop("wrist_image") + 9
        policy.act(batch)
        (request,) = server.requests
        assert request["images"]["wrist_image"].tolist() == np.full((SIDE, SIDE, 3), 9).tolist()
        assert request["images"]["image"].tolist() == np.full((SIDE, SIDE, 3), 7).tolist()


def test_a_late_answer_is_never_the_next_requests() -> None:
    async def late(request: dict[str, Any]) -> bytes:
        await asyncio.sleep(0.5 if request["instruction"] == "say 1" else 0.0)
        return await right(request)

    server = ScriptedServer(late)
    with running(server) as address, remote(address, "timeout_s=0.2&patience_s=0") as policy:
        with pytest.raises(RemoteUnavailableError, match=r"no answer within timeout_s=0.2"):
            policy.act(numbered(1))
        for number in (2, 3):
            assert said(policy, number) == [number]
            time.sleep(0.3)
        assert said(policy, 4) == [4]
        assert server.connections == 2


def test_it_waits_for_a_server_that_comes_back() -> None:
    with running(ScriptedServer(right)) as address:
        policy = RemotePolicy.open(f"{address}?patience_s=20&timeout_s=5")
        assert said(policy, 1) == [1]
    answers: list[list[float]] = []
    asking = threading.Thread(target=lambda: answers.append(said(policy, 2)))
    asking.start()
    time.sleep(0.3)  # nobody listens
    with running(ScriptedServer(right), int(address.rsplit(":", 1)[1])):
        asking.join(20)
        assert answers == [[2]]
    policy.close()


def test_another_policy_behind_the_same_address_is_refused() -> None:
    other = {**ANNOUNCEMENT.to_metadata(), "policy_sha256": "cd" * 32}
    with running(ScriptedServer(right)) as address:
        policy = RemotePolicy.open(f"{address}?patience_s=20&timeout_s=5")
        assert said(policy, 1) == [1]
    changed = running(ScriptedServer(right, metadata=other), int(address.rsplit(":", 1)[1]))
    with changed, pytest.raises(RemoteError, match="serves another policy than at first"):
        policy.act(numbered(2))
    policy.close()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("it\nbroke", "refused: it broke"),
        (b"\xc1", "no message"),
        (encode({}), "no array of numbers"),
        (encode({"actions": [[1.0] * 7]}), "no array of numbers"),
        (encode({"actions": np.zeros((4, 6), np.float32)}), r"shape \[1, 4, 6\]; \[1, 4, 7\]"),
        (encode({"actions": np.zeros((2, 4, 7), np.float32)}), r"shape \[2, 4, 7\]"),
        (encode({"actions": np.zeros((3, 7), np.float32)}), r"for 3 steps, and 4 were expected; set \?chunk_horizon=3"),
        (encode({"actions": np.full((4, 7), np.nan)}), "NaN or infinity"),
        (encode({"actions": np.array([["a"] * 7] * 4)}), "no array of numbers"),
    ],
)
def test_a_wrong_answer_is_an_error_in_words(answer: bytes | str, message: str) -> None:
    async def wrong(_: dict[str, Any]) -> bytes | str:
        return answer

    with (
        running(ScriptedServer(wrong)) as address,
        remote(address) as policy,
        pytest.raises(RemoteError, match=message),
    ):
        policy.act(numbered(1))


def test_a_server_of_openpis_that_failed_and_closed_is_asked_again_at_once() -> None:
    class Failing(ScriptedServer):
        """As openpi's server does: the traceback as text, then the end of the connection."""

        async def converse(self, connection: ServerConnection) -> None:
            await connection.send(encode(self.metadata))
            async for frame in connection:
                assert isinstance(frame, bytes)
                request = decode_mapping(frame)
                if request["prompt"] == "say 1":
                    await connection.send("Traceback (most recent call last):\nKeyError: 'image'")
                    await connection.close(1011, "Internal server error. Traceback included in previous frame.")
                    return
                await connection.send(encode({"actions": actions_of(request, steps=10)}))

    with running(Failing(right, metadata={})) as address, remote(address, "keys=libero&patience_s=0") as policy:
        for number in (2, 3):
            with pytest.raises(RemoteRefusedError, match=r"Traceback .*KeyError: 'image'"):
                policy.act(numbered(1))
            assert said(policy, number) == [number]


def test_actions_are_clipped_to_the_robots_limits() -> None:
    with running(ScriptedServer(right)) as address, remote(address) as policy:
        assert said(policy, 500, -500) == [100, -100]


def test_what_it_cannot_do_is_said() -> None:
    with running(ScriptedServer(right)) as address, remote(address) as policy:
        with pytest.raises(ReflexError, match="decides greedily"):
            policy.act(numbered(1), as_it_is(1.0))
        with pytest.raises(NotTrainableError, match="acts and cannot be trained"):
            policy.set_precision("float32")
        assert not hasattr(policy, "parameters")
        with pytest.raises(AttributeError, match="no attribute 'colour'"):
            _ = policy.colour
        with pytest.raises(ReflexError, match="save it where it is served"):
            policy.save_pretrained(Path("x"))
        broken = numbered(1)
        broken["state"] = broken["state"] * np.nan
        with pytest.raises(ReflexError, match="NaN or infinity in rows"):
            policy.act(broken)
        with pytest.raises(ReflexError, match="camera 'image'"):
            policy.act({**numbered(1), "images": {}})


def test_nobody_there() -> None:
    with running(ScriptedServer(right)) as address:
        pass
    started = time.monotonic()
    with pytest.raises(RemoteUnavailableError, match="check that vla serve runs there"):
        load_policy(f"{address}?patience_s=0.5")
    assert 0.2 < time.monotonic() - started < 20


def test_a_server_that_says_nothing_is_not_waited_for_without_end() -> None:
    async def silent(connection: ServerConnection) -> None:
        await connection.wait_closed()

    server = ScriptedServer(right)
    server.converse = silent  # type: ignore[method-assign]
    with running(server) as address, pytest.raises(RemoteUnavailableError, match=r"no connection within"):
        load_policy(f"{address}?connect_timeout_s=0.2&patience_s=0")


def test_a_foreign_server_needs_keys() -> None:
    foreign, words = (
        ScriptedServer(right, metadata={"reset_pose": 1}),
        r"does not say .*\(its first frame says reset_pose",
    )
    with running(foreign) as address, pytest.raises(ReflexError, match=words):
        load_policy(f"{address}?patience_s=0")
    with running(ScriptedServer(right)) as address:
        with pytest.raises(ReflexError, match="a chunk has 4 actions"):
            load_policy(f"{address}?patience_s=0&chunk_horizon=5")
        with remote(address, "execute_steps=3&patience_s=0") as policy:
            assert policy.spec.execute_steps == 3
