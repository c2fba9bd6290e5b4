"""Checks on this machine's GPU what the project claims of GPUs, one line a check.

    python -m scripts.gpu_check [--device cuda:0] [--json FILE] [--quick] [--only CHECK]

Exit status: 0 all checks passed, 1 one failed, 3 there is no CUDA device. `--device cpu` runs the same checks on the
CPU with small sizes, which tests the script and says nothing about GPUs.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from scripts.bench.machine import random_observations
from vla.policies import TinyPolicy, reflex_tiny_config
from vla.policies.sampling import Sampling
from vla.run.files import write_json

NO_DEVICE = 3

LEAST_AGREEMENT = 0.98
"""Least cosine of what tells clips apart, in bfloat16 beside float32."""

LARGE_RUN = ["algo.groups_per_iteration=32", "num_slots=128"]
"""Of the training check: 256 rollouts an iteration."""

AS_IT_IS = Sampling(temperature=1.0, token_noise=0.0, chunk_correlation=0.0)


@dataclass(frozen=True)
class Outcome:
    """One check."""

    name: str
    passed: bool
    detail: str
    """What was measured, with units."""
    numbers: dict[str, Any] = field(default_factory=dict)
    """The same for machines."""


def synchronise(device: str) -> None:
    """Wait for the device, so that a clock measures its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def largest_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest absolute difference, relative to the larger tensor's largest value (at least 1)."""
    left, right = left.detach().float().cpu(), right.detach().float().cpu()
    scale = max(1.0, float(left.abs().max()), float(right.abs().max()))
    return float((left - right).abs().max()) / scale


def copy_to(policy: TinyPolicy, device: str) -> TinyPolicy:
    """The same policy, with weights of its own, on a device."""
    return copy.deepcopy(policy).to(device)


def check_policy_agreement(device: str, quick: bool) -> Iterator[Outcome]:
    """Log-probabilities and gradients in float32 on the device against the CPU's, same weights and inputs."""
    torch.manual_seed(0)
    reference = TinyPolicy.from_config(reflex_tiny_config())
    moved = copy_to(reference, device)
    observations = random_observations(4 if quick else 32, reference.spec.embodiment)
    decisions = torch.from_numpy(reference.act(observations).decision)
    log_probs = {}
    for name, policy in (("cpu", reference), ("device", moved)):
        values, _ = policy.log_prob(policy.prepare(observations), decisions, AS_IT_IS)
        torch.autograd.backward(values.mean())
        log_probs[name] = values
    forward = largest_difference(log_probs["cpu"], log_probs["device"])
    pairs = zip(reference.parameters(), moved.parameters(), strict=True)
    gradients = [(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None]
    backward = max(largest_difference(a, b) for a, b in gradients)
    detail = f"log-probabilities differ by {forward:.1e}, gradients by {backward:.1e} (allowed 1e-3 each)"
    yield Outcome("policy, CPU against device, float32", forward < 1e-3 and backward < 1e-3, detail)


def check_policy_speed(device: str, quick: bool) -> Iterator[Outcome]:
    """A decision of the tiny policy, and a training step, per sample."""
    policy = TinyPolicy.from_config(reflex_tiny_config()).to(device)
    batch = 8 if quick else 256
    observations = random_observations(batch, policy.spec.embodiment)
    decisions = torch.from_numpy(policy.act(observations).decision)
    inputs = policy.prepare(observations)

    def train_step() -> None:
        log_probs, _ = policy.log_prob(inputs, decisions, AS_IT_IS)
        torch.autograd.backward(log_probs.mean())

    decide = median_seconds(lambda: policy.act(observations), device, 3 if quick else 20)
    update = median_seconds(train_step, device, 3 if quick else 20)
    detail = f"{1e3 * decide / batch:.3f} ms/sample to decide, {1e3 * update / batch:.3f} to train, batch {batch}"
    yield Outcome("policy speed", True, detail)


def check_fine_tuning(device: str, quick: bool) -> Iterator[Outcome]:
    """Steps of AdamW on one batch, in the precision fine-tuning uses on this device: the loss must fall."""
    from vla.run.devices import autocast

    torch.manual_seed(0)
    policy = TinyPolicy.from_config(reflex_tiny_config()).to(device)
    observations = random_observations(8, policy.spec.embodiment)
    generator = np.random.default_rng(1)
    decisions = torch.from_numpy(generator.integers(0, 256, (8, len(policy.spec.unit_steps))))
    inputs = policy.prepare(observations)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    losses, start = [], 0.0
    for step in range(5 if quick else 50):
        if step == 1:  # the first one also loads kernels
            synchronise(device)
            start = time.perf_counter()
        optimiser.zero_grad(set_to_none=True)
        with autocast(torch.device(device)):
            log_probs, _ = policy.log_prob(inputs, decisions, AS_IT_IS)
        loss = -log_probs.float().mean()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    rate = (len(losses) - 1) / (time.perf_counter() - start)
    passed = bool(np.isfinite(losses).all()) and losses[-1] < losses[0]
    detail = f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {rate:.1f} steps/s of batch 8"
    yield Outcome("fine-tuning steps", passed, detail)


def check_encoders(device: str, quick: bool) -> Iterator[Outcome]:
    """Every released encoder, weights random, beside a plain transformers loop: embeddings agree, and which is faster.

    The table of docs/world_models.md.
    """
    from scripts.bench.encoders import ON_CPU, ON_CUDA, Case, measure

    cases = (Case(ON_CPU[0].network, 2, 2, 2),) if quick else ON_CUDA
    for case in cases:
        line = measure(case, device, repeats=1 if quick else 2)
        faster = quick or line.ratio > 1
        yield Outcome(
            f"encoder {line.encoder}, {'compiled' if case.compiled else 'not compiled'}",
            line.agreement > LEAST_AGREEMENT and faster,
            f"{line.cost.clips_per_second:.1f} clips/s in {line.arithmetic}, {line.ratio:.1f}x the plain loop, "
            f"cosine with float32 {line.agreement:.4f} (at least {LEAST_AGREEMENT})",
            asdict(line),
        )


def check_drawing(device: str, quick: bool) -> Iterator[Outcome]:
    """Pictures are drawn on the card that computes, and how many a second from one process."""
    from sim.gl_platform import EGL_DEVICE
    from sim.suites import get_suite
    from vla.run.devices import draw_beside

    draw_beside(torch.device(device))
    chosen = os.environ.get(EGL_DEVICE)
    suites = ["tabletop"] if quick or not os.environ.get("LIBERO_ARCHIVES") else ["tabletop", "libero_spatial"]
    for name in suites:
        environment = get_suite(name, 256).make(0)
        environment.reset_to("train", 0)
        observation = environment.render_observation()
        start, count = time.perf_counter(), 3 if quick else 100
        for _ in range(count):
            observation = environment.render_observation()
        pairs = count / (time.perf_counter() - start)
        passed = float(observation["images"]["image"].std()) > 1 and (chosen is not None or device == "cpu")
        detail = f"{pairs:.0f} observations/s of two 256 px pictures, {EGL_DEVICE}={chosen}"
        environment.close()
        yield Outcome(f"drawing {name}", passed, detail, {"observations_per_second": pairs})


def check_training(device: str, quick: bool) -> Iterator[Outcome]:
    """SRPO on the tabletop with V-JEPA 2 (ViT-L, random weights) as the encoder: finite, and seconds of each part."""
    from scripts.bench.architectures import random_network

    with tempfile.TemporaryDirectory() as folder:
        encoder = "pixels" if quick else str(Path(folder) / "vjepa2")
        if not quick:
            random_network("vjepa2-vitl", device).save_pretrained(encoder)
        size = ["algo.groups_per_iteration=1", "algo.group_size=2", "num_workers=0"] if quick else LARGE_RUN
        run = Path(folder) / "run"
        words = ["algo=srpo", "suite=tabletop", f"encoder={encoder}", f"device={device}", f"output={run}", *size]
        words += [
            "algo.max_sampling_rounds=1",
            "evaluate_every=0",
            "videos_per_task=0",
            f"iterations={2 if quick else 4}",
        ]
        subprocess.run([sys.executable, "-m", "vla", "train", "policy=reflex-tiny", *words], check=True)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = {name: value for name, value in lines[-1].items() if isinstance(value, float)}
    finite = all(np.isfinite(value) for value in last.values())
    seconds = {part: last[f"time/{part}_seconds"] for part in ("rollout", "encode", "score", "update", "iteration")}
    share = (seconds["encode"] + seconds["score"]) / seconds["iteration"]
    detail = f"{last['train/episodes']:.0f} rollouts, seconds " + ", ".join(f"{k} {v:.2f}" for k, v in seconds.items())
    detail += f"; reward {100 * share:.1f} % of the iteration"
    yield Outcome("SRPO iteration", finite, detail, {**seconds, "episodes": last["train/episodes"]})


def median_seconds(block: Callable[[], Any], device: str, repeats: int) -> float:
    """Median duration of a block after one warm-up."""
    block()
    synchronise(device)
    durations = []
    for _ in range(repeats):
        start = time.perf_counter()
        block()
        synchronise(device)
        durations.append(time.perf_counter() - start)
    return float(np.median(durations))


CHECKS: tuple[Callable[[str, bool], Iterator[Outcome]], ...] = (
    check_policy_agreement,
    check_policy_speed,
    check_fine_tuning,
    check_drawing,
    check_training,
    check_encoders,
)


def name_of(check: Callable[..., object]) -> str:
    """What --only calls it."""
    return check.__name__.removeprefix("check_")


def main() -> int:
    """Run the checks and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--json", type=Path, help="also write the outcomes here")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
    parser.add_argument("--only", choices=[name_of(check) for check in CHECKS], help="one check")
    arguments = parser.parse_args()
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        print(f"no CUDA device: torch {torch.__version__} finds none, so no claim about GPUs was checked")
        return NO_DEVICE
    # TensorFloat-32 would make the agreement check measure its rounding instead of the code.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    quick = arguments.quick or arguments.device == "cpu"
    name = torch.cuda.get_device_name() if arguments.device.startswith("cuda") else "the CPU"
    print(f"checking {name}, torch {torch.__version__}")
    outcomes: list[Outcome] = []
    for check in CHECKS:
        if arguments.only not in (None, name_of(check)):
            continue
        for outcome in check(arguments.device, quick):
            print(f"{'ok  ' if outcome.passed else 'FAIL'} {outcome.name}: {outcome.detail}", flush=True)
            outcomes.append(outcome)
            if arguments.json is not None:  # after each: lent machines are taken back without asking
                checks = [asdict(done) for done in outcomes]
                write_json(arguments.json, {"device": name, "torch": torch.__version__, "checks": checks})
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
