"""`python -m scripts.bench`: how fast the simulator, the policy and the encoders are on this machine.

Every number is the median of repeated, timed blocks after a warm-up; a row's name says what it counts. Threads are
those of OMP_NUM_THREADS (by default: one per core).
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from scripts.bench.timing import CHUNK, Measurement, describe_machine, milliseconds, per_second, time_blocks
from sim.embodiments import Embodiment
from vla.errors import ReflexError
from vla.run.cores import available_cpus

PARTS = ("sim", "policy", "encoder")
USAGE = """python -m scripts.bench PART [--quick] [--json FILE]

PART is sim, policy, encoder, all of these, or libero (beside hf-libero's own environment).
--quick measures for a tenth of the time; --json also writes the rows to FILE.
`encoders` compares every released encoder with plain transformers; see python -m scripts.bench encoders --help.
"""


def bench_sim(seconds: float) -> list[Measurement]:
    """Control steps per second: on one core with an image pair every 8 steps, and through the pool on all cores."""
    from sim.pool import EnvironmentPool, EpisodeRequest
    from sim.suites import get_suite

    suite = get_suite("tabletop")
    rows = []
    generator = np.random.default_rng(0)
    for task_id in suite.task_ids[:3]:
        environment = suite.make(task_id)
        environment.reset_to("train", 0)

        def chunks(environment: Any = environment) -> None:
            environment.reset_to("train", 0)
            for _ in range(5):
                for action in random_chunk(generator, 1)[0]:
                    environment.advance(action)
                environment.render_observation()

        durations = time_blocks(chunks, seconds / 4)
        name = (
            f"{suite.task_name(task_id)}: control steps on one core, image pair every {CHUNK}, reset every {5 * CHUNK}"
        )
        rows.append(per_second(name, 5 * CHUNK, "step", durations))
        environment.close()
    workers, slots = available_cpus(), 16
    with EnvironmentPool("tabletop", slots, workers) as pool:
        requests = [EpisodeRequest(suite.task_ids[slot % len(suite.task_ids)], "train", slot) for slot in range(slots)]

        def pooled() -> None:
            pool.reset(range(slots), requests)
            for _ in range(2):
                pool.step_chunk(range(slots), random_chunk(generator, slots))

        durations = time_blocks(pooled, seconds / 4)
    rows.append(
        per_second(f"pool, {workers} workers, {slots} slots: control steps", 2 * CHUNK * slots, "step", durations)
    )
    return rows


def random_chunk(generator: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Small random actions [count, 8, 7]: the arm moves, and ends no episode early but by accident."""
    return generator.uniform(-0.2, 0.2, (count, CHUNK, 7)).astype(np.float32)


def bench_policy(seconds: float, device: str = "cpu", batch: int = 32) -> list[Measurement]:
    """Milliseconds a sample of deciding and of a training step, and whole episodes per second."""
    import torch

    from sim.pool import EnvironmentPool, EpisodeRequest
    from sim.suites import get_suite
    from vla.policies.sampling import Sampling
    from vla.rollout.pool_rollouts import RolloutRequest, collect_rollouts

    policy = bench_model(device)
    as_it_is = Sampling(temperature=1.0, token_noise=0.0, chunk_correlation=0.0)
    observations = random_observations(batch, policy.spec.embodiment)
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    rows = []
    durations = time_blocks(lambda: policy.act(observations), seconds / 3, synchronise)
    rows.append(milliseconds(f"{policy.policy_id}: decide, batch {batch}", batch, "sample", durations))
    decisions = torch.from_numpy(policy.act(observations).decision)
    inputs = policy.prepare(observations)

    def step() -> None:
        log_probs, _ = policy.log_prob(inputs, decisions, as_it_is)
        log_probs.mean().backward()

    durations = time_blocks(step, seconds / 3, synchronise)
    rows.append(milliseconds(f"{policy.policy_id}: forward and backward, batch {batch}", batch, "sample", durations))
    suite, workers, slots = get_suite("tabletop"), available_cpus(), 8
    requests = [
        RolloutRequest(EpisodeRequest(suite.task_ids[index % 2], "train", index % 50), seed=index)
        for index in range(max(slots, int(4 * seconds)))
    ]
    with EnvironmentPool("tabletop", slots, workers) as pool:
        # Once, to build the environments; episodes are long enough not to need a median of many.
        collect_rollouts(policy, pool, suite, requests[:slots], sampling=as_it_is)
        start = time.perf_counter()
        episodes = collect_rollouts(policy, pool, suite, requests, sampling=as_it_is)
        duration = time.perf_counter() - start
    steps = sum(episode.length for episode in episodes)
    name = f"{policy.policy_id}: episodes through the pool, {workers} workers, {steps / len(episodes):.0f} steps each"
    rows.append(Measurement(name, len(episodes) / duration, "episode/s", 1))
    return rows


def bench_model(device: str) -> Any:
    """The shipped policy, or the same network with random weights where the weights are missing; speed is the same."""
    from vla.policies import TinyPolicy, load_policy, reflex_tiny_config

    try:
        return load_policy("reflex-tiny", device=device)
    except ReflexError:
        return TinyPolicy.from_config(reflex_tiny_config()).to(device)


def random_observations(batch: int, robot: Embodiment) -> Any:
    """Noise in the shape of B observations of a robot."""
    from sim.contract import ObservationBatch

    generator = np.random.default_rng(0)
    images = {
        camera.name: generator.integers(0, 256, (batch, camera.height, camera.width, 3), dtype=np.uint8)
        for camera in robot.cameras
    }
    state = generator.uniform(-0.1, 0.1, (batch, robot.state.size)).astype(np.float32)
    return ObservationBatch(images=images, state=state, instruction=["pick up the red cube"] * batch)


def bench_encoder(seconds: float, device: str = "cpu") -> list[Measurement]:
    """Clips of 16 frames per second through the encoders that need no download."""
    import torch

    from world_models.encoders.pixels import PixelEncoder
    from world_models.jepa.config import JepaConfig
    from world_models.jepa.encoder import JepaEncoder
    from world_models.jepa.model import Jepa

    generator = np.random.default_rng(0)
    clips = [generator.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8) for _ in range(16)]
    synchronise = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    config = JepaConfig()
    rows = []
    for encoder in (PixelEncoder(), JepaEncoder(Jepa(config), config, device)):

        def encode(encoder: Any = encoder) -> None:
            encoder.encode(clips)

        durations = time_blocks(encode, seconds / 2, synchronise)
        rows.append(per_second(f"{encoder.name}: clips of 16 frames, 64 px", len(clips), "clip", durations))
    return rows


def bench_libero(seconds: float) -> list[Measurement]:
    """See `scripts.bench.libero`, which is imported where LIBERO is asked for."""
    from scripts.bench import libero as module

    return module.bench_libero(seconds)


BENCHES: dict[str, Callable[[float], list[Measurement]]] = {
    "libero": bench_libero,
    "sim": bench_sim,
    "policy": bench_policy,
    "encoder": bench_encoder,
}


def main(arguments: Sequence[str]) -> int:
    """Run the parts asked for, print a table, and JSON lines for machines. Raises `ReflexError` on wrong usage."""
    words = list(arguments)
    if words[:1] == ["encoders"]:
        from scripts.bench import encoders as bench_encoders

        return bench_encoders.main(words[1:])
    if set(words) & {"-h", "--help"}:
        sys.stdout.write(USAGE)
        return 0
    output: Path | None = None
    if "--json" in words:
        position = words.index("--json")
        if position + 1 >= len(words):
            raise ReflexError("python -m scripts.bench --json needs a file name")
        output = Path(words[position + 1])
        del words[position : position + 2]
    seconds = 1.0 if "--quick" in words else 10.0
    words = [word for word in words if word != "--quick"]
    parts = PARTS if words == ["all"] else tuple(words)
    if not parts or set(parts) - set(BENCHES):
        named = ", ".join(repr(word) for word in words) or "nothing"
        raise ReflexError(f"python -m scripts.bench takes sim, policy, encoder, libero or all, not {named}")
    document: dict[str, Any] = {
        "machine": describe_machine(),
        "cores": available_cpus(),
        "threads": os.environ.get("OMP_NUM_THREADS", ""),
    }
    for part in parts:
        rows = BENCHES[part](seconds)
        document[part] = [asdict(row) for row in rows]
        _print_table(part, rows)
    sys.stdout.write(json.dumps(document) + "\n")
    if output is not None:
        from vla.run.files import write_json

        write_json(output, document)
    return 0


def _print_table(part: str, rows: Sequence[Measurement]) -> None:
    table = Table("what", "median", "unit", "blocks", title=part)
    for row in rows:
        table.add_row(
            row.name, f"{row.value:,.3g}" if row.value < 100 else f"{row.value:,.0f}", row.unit, str(row.blocks)
        )
    Console().print(table)
