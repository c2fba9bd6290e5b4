"""What serving a policy costs and whether it changes anything, measured into one JSON file.

    python -m scripts.serving_study cost docs/results/serving.json          # where a request's time goes
    python -m scripts.serving_study throughput docs/results/serving.json    # 32 clients, with and without batches
    python -m scripts.serving_study hostile docs/results/serving.json       # clients beside peers that break the rules
    python -m scripts.serving_study agreement docs/results/serving.json RUN RUN ...   # evaluations, episode by episode

Each part replaces its own entry of the file. One thread of torch, whatever the machine has; times are of the server's
processor where they say so, since the wall clock of a busy machine measures the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from websockets.asyncio.client import connect

from real_robot.serving.requests import RequestReader
from real_robot.serving.server import ServerSettings, serving
from sim.contract import Observation, stack_observations
from sim.suites import get_suite
from vla.policies import load_policy
from vla.policies.remote.codec import decode_mapping, encode
from vla.policies.remote.policy import RemotePolicy
from vla.policies.sampling import GREEDY
from vla.run.files import read_json, write_json
from vla.run.jsonl import read_lines

CLIENTS = 32
SECONDS = 8.0
REPETITIONS = 3
POLICY = "reflex-tiny"
SETTLED_S = 2.0
"""Clients connect and the first batches run before counting begins."""


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "agreement", "load"])
    parser.add_argument("target", help="the JSON file; for load, a server's address")
    parser.add_argument("runs", nargs="*", type=Path, help="for agreement: run folders, the first in process")
    parser.add_argument("--policy", default=POLICY, help="for throughput: another policy of the tabletop's robot")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.part == "load":
        asyncio.run(load(arguments.target))
        return
    path = Path(arguments.target)
    results: dict[str, Any] = read_json(path) if path.exists() else {}
    if arguments.part == "agreement":
        found = agreement(arguments.runs)
    elif arguments.part == "throughput":
        found = throughput(arguments.policy)
    else:
        found = PARTS[arguments.part]()
    name = arguments.part if arguments.policy == POLICY else f"{arguments.part}_{Path(arguments.policy).name}"
    results[name] = {"machine": machine(), **found}
    write_json(path, results)
    print(json.dumps(results[name], indent=2))


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "commit": commit.stdout.strip(),
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }


def observations(count: int) -> list[Observation]:
    """Observations of the tabletop a few random steps into four of its tasks."""
    suite, seen = get_suite("tabletop"), []
    for task in (0, 1, 3, 4):
        environment = suite.make(task)
        for state in range(count // 4):
            generator = np.random.default_rng(state)
            environment.reset_to("eval", state)
            for _ in range(int(generator.integers(0, 20))):
                environment.advance(generator.uniform(-1, 1, 7).astype(np.float32))
            seen.append(environment.render_observation())
        environment.close()
    return seen


def processor_ms(work: Callable[[], object], times: int = 15) -> float:
    """Median processor time of this thread, in milliseconds, after one call that does not count."""
    work()
    taken = []
    for _ in range(times):
        started = time.thread_time()
        work()
        taken.append(time.thread_time() - started)
    return round(statistics.median(taken) * 1000, 3)


def cost() -> dict[str, Any]:
    """Where the time of a request goes, and what a batch and bfloat16 change in the decisions."""
    policy, seen = load_policy(POLICY), observations(64)
    reader = RequestReader(policy.spec, policy.feature_map, CLIENTS)
    request = encode(dict(seen[0]))
    one = stack_observations(seen[:1])
    answer = encode({"actions": policy.act(one).actions[0], "server_timing": {"infer_ms": 1.0}})
    parts = {
        "decode_request": processor_ms(lambda: decode_mapping(request)),
        "decode_and_check_request": processor_ms(lambda: reader.read(decode_mapping(request))),
        "prepare_inputs": processor_ms(lambda: policy.prepare(one)),
        "encode_answer": processor_ms(lambda: encode(decode_mapping(answer))),
    }
    found: dict[str, Any] = {"request_bytes": len(request), "milliseconds_of_one_request": parts}
    alone = np.concatenate([policy.act(stack_observations([row])).decision for row in seen])
    for precision in ("float32", "bfloat16"):
        policy.set_precision(precision)
        taken, changed = {}, {}
        for size in (1, 2, 4, 8, 16, 32):
            batch = stack_observations(seen[:size])
            taken[str(size)] = round(processor_ms(lambda batch=batch: policy.act(batch, GREEDY)) / size, 3)  # type: ignore[misc]
            decided = np.concatenate(
                [policy.act(stack_observations(seen[at : at + size])).decision for at in range(0, 64, size)]
            )
            changed[str(size)] = int((decided != alone).sum())
        found[precision] = {
            "milliseconds_per_observation_by_batch": taken,
            "of_one_to_of_32": round(taken["1"] / taken["32"], 2),
            "tokens_that_differ_from_float32_one_by_one": changed,
            "tokens": int(alone.size),
        }
    return found


def agreement(runs: list[Path]) -> dict[str, Any]:
    """Evaluations of one policy beside the first of them: how many episodes differ, and whether the files do."""
    episodes = {run.name: read_lines(run / "episodes.jsonl") for run in runs}
    first = next(iter(episodes.values()))
    return {
        name: {
            "episodes": len(lines),
            "successes": sum(bool(line["success"]) for line in lines),
            "episodes_with_another_outcome": sum(
                one["success"] != other["success"] for one, other in zip(first, lines, strict=True)
            ),
            "episodes_with_another_length": sum(
                one["steps"] != other["steps"] for one, other in zip(first, lines, strict=True)
            ),
            "sha256_of_episodes_jsonl": hashlib.sha256((run / "episodes.jsonl").read_bytes()).hexdigest(),
            "policy": read_json(run / "summary.json")["policy"],
            "policy_sha256": read_json(run / "summary.json")["policy_sha256"],
        }
        for run, (name, lines) in zip(runs, episodes.items(), strict=True)
    }


def throughput(source: str = POLICY) -> dict[str, Any]:
    """Requests a second of 32 clients that each wait for their answer, decided one by one and in batches, in turns."""
    policy = load_policy(source)
    runs: dict[str, list[dict[str, float]]] = {}
    for _ in range(REPETITIONS):
        for precision in ("float32", "bfloat16"):
            for batch in (1, CLIENTS):
                settings = ServerSettings(port=0, max_batch=batch, precision=precision)
                runs.setdefault(f"{precision}_max_batch_{batch}", []).append(measured(policy, settings))
                policy.set_precision("float32")
    found: dict[str, Any] = {"clients": CLIENTS, "seconds_each": SECONDS, "runs": runs}
    for precision in ("float32", "bfloat16"):
        single, batched = runs[f"{precision}_max_batch_1"], runs[f"{precision}_max_batch_{CLIENTS}"]
        found[precision] = {
            f"ratio_of_{name}": round(
                statistics.median(run[name] for run in batched) / statistics.median(run[name] for run in single), 2
            )
            for name in ("requests_per_second", "requests_per_processor_second")
        }
    return found


def measured(policy: Any, settings: ServerSettings) -> dict[str, float]:
    """One server under load: what its clients saw, and the processor time of this process, which serves."""
    with serving(policy, settings) as address:
        command = [sys.executable, "-m", "scripts.serving_study", "load", address]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as clients:
            assert clients.stdout is not None
            clients.stdout.readline()  # they have settled
            used, started = time.process_time(), time.monotonic()
            counted = json.loads(clients.stdout.readline())
            used, wall = time.process_time() - used, time.monotonic() - started
    return {
        "requests_per_second": round(counted["requests"] / wall, 1),
        "requests_per_processor_second": round(counted["requests"] / used, 1),
        "server_processor_ms_per_request": round(1000 * used / counted["requests"], 2),
        "latency_p50_ms": counted["p50_ms"],
        "latency_p95_ms": counted["p95_ms"],
    }


async def load(address: str) -> None:
    """32 clients that ask again as soon as they are answered; one line when they have settled, one with the counts."""
    generator = np.random.default_rng(0)
    latencies: list[float] = []
    begins = time.monotonic() + SETTLED_S
    ends = begins + SECONDS

    async def client() -> None:
        pictures = {name: generator.integers(0, 255, (64, 64, 3), dtype=np.uint8) for name in ("image", "wrist_image")}
        state = np.zeros(8, np.float32)
        request = encode({"images": pictures, "state": state, "instruction": "pick up the red cube"})
        async with connect(address, compression=None, max_size=None, proxy=None) as connection:
            await connection.recv()
            while (asked := time.monotonic()) < ends:
                await connection.send(request)
                answer = await connection.recv()
                if isinstance(answer, str):
                    raise RuntimeError(answer)
                if time.monotonic() >= begins:
                    latencies.append(time.monotonic() - asked)

    async def announce() -> None:
        await asyncio.sleep(max(0.0, begins - time.monotonic()))
        print("settled", flush=True)

    await asyncio.gather(announce(), *(client() for _ in range(CLIENTS)))
    p50, p95 = (round(float(np.quantile(latencies, share)) * 1000, 1) for share in (0.5, 0.95))
    print(json.dumps({"requests": len(latencies), "p50_ms": p50, "p95_ms": p95}), flush=True)


def hostile() -> dict[str, Any]:
    """A client that behaves, beside peers that send garbage, half a frame, too much or no token, for 20 seconds."""
    policy = load_policy(POLICY)
    settings = ServerSettings(port=0, token="a-token", max_message_megabytes=1, batch_window_ms=0)
    token_file = Path("/tmp") / f"token-{os.getpid()}"
    token_file.write_text("a-token")
    seen = stack_observations(observations(4)[:1])
    with serving(policy, settings) as address:
        port = int(address.rsplit(":", 1)[1])
        stop, sent = threading.Event(), dict.fromkeys(ATTACKS, 0)
        threads = [
            threading.Thread(target=attack, args=(kind, port, stop, sent), name=kind, daemon=True) for kind in ATTACKS
        ]
        for thread in threads:
            thread.start()
        remote = RemotePolicy.open(f"{address}?token_file={token_file}&patience_s=0&timeout_s=10")
        expected, taken, ends = policy.act(seen).actions, [], time.monotonic() + 20
        while time.monotonic() < ends:
            started = time.monotonic()
            if not np.array_equal(remote.act(seen).actions, expected):
                raise RuntimeError("the answer is another one")
            taken.append(time.monotonic() - started)
        stop.set()
        for thread in threads:
            thread.join(10)
        remote.close()
    token_file.unlink()
    return {
        "attacks": sent,
        "right_answers_to_the_client_that_behaves": len(taken),
        "wrong_or_missing_answers": 0,
        "latency_p50_ms": round(float(np.quantile(taken, 0.5)) * 1000, 1),
        "latency_max_ms": round(max(taken) * 1000, 1),
    }


ATTACKS = ("random_bytes", "mutated_messages", "oversized", "half_frames", "without_token", "silent")


def attack(kind: str, port: int, stop: threading.Event, sent: dict[str, int]) -> None:
    """One bad peer, again and again."""
    generator = random.Random(kind)
    held: list[socket.socket] = []
    while not stop.wait(0.02):
        with socket.create_connection(("127.0.0.1", port), timeout=5) as peer:
            sent[kind] += 1
            if kind == "silent" or kind == "half_frames":
                held = [*held[-15:], peer.dup()]
            if kind == "silent":
                continue
            if kind == "random_bytes" and generator.random() < 0.5:
                peer.sendall(generator.randbytes(200))
                continue
            token = "wrong" if kind == "without_token" else "a-token"
            peer.sendall(handshake(token))
            peer.recv(1024)
            peer.sendall(hostile_frames(kind, generator))
            if kind != "half_frames":
                peer.settimeout(0.2)
                try:
                    peer.recv(4096)
                except OSError:
                    continue
    for peer in held:
        peer.close()


def handshake(token: str) -> bytes:
    """The opening of a websocket, as bytes."""
    return (
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        f"Authorization: Api-Key {token}\r\n\r\n"
    ).encode()


def hostile_frames(kind: str, generator: random.Random) -> bytes:
    """Frames that break a rule, masked as a client's are."""
    if kind == "oversized":
        return frame(b"\0" * 64, claimed=generator.choice([2 << 20, 1 << 40, (1 << 63) - 1]))
    if kind == "half_frames":
        return frame(generator.randbytes(500), claimed=900_000)
    if kind == "random_bytes":
        return frame(generator.randbytes(generator.randint(0, 2000)), text=generator.random() < 0.2)
    picture = np.zeros((64, 64, 3), np.uint8)
    message = bytearray(
        encode({"images": {"image": picture, "wrist_image": picture}, "state": np.zeros(8), "instruction": "go"})
    )
    for _ in range(generator.randint(1, 6)):
        message[generator.randrange(min(400, len(message)))] = generator.randrange(256)
    return frame(bytes(message[: generator.choice([len(message), generator.randrange(len(message))])]))


def frame(content: bytes, claimed: int | None = None, text: bool = False) -> bytes:
    """A websocket frame with the mask 0, which may claim another length than it has."""
    head = bytes([0x81 if text else 0x82, 0xFF]) + (len(content) if claimed is None else claimed).to_bytes(8, "big")
    return head + b"\0\0\0\0" + content


PARTS: dict[str, Callable[[], dict[str, Any]]] = {"cost": cost, "throughput": throughput, "hostile": hostile}

if __name__ == "__main__":
    main()
