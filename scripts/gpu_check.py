"""Checks on this machine's GPU what the project claims of GPUs, and prints one line a check and a JSON line at the end.

    python scripts/gpu_check.py [--device cuda:0] [--json FILE] [--quick]

Exit status: 0 all checks passed, 1 one failed, 3 there is no CUDA device. `--device cpu` runs the same checks on the
CPU with small sizes, which tests the script and says nothing about GPUs.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vla.bench import random_observations
from vla.policies import PrismaticPolicy, reflex_tiny_config

NO_DEVICE = 3


@dataclass(frozen=True)
class Outcome:
    """One check."""

    name: str
    passed: bool
    detail: str
    """What was measured, with units."""


def synchronise(device: str) -> None:
    """Wait for the device, so that a clock measures its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def largest_difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """Largest absolute difference, relative to the larger tensor's largest value (at least 1)."""
    left, right = left.detach().float().cpu(), right.detach().float().cpu()
    scale = max(1.0, float(left.abs().max()), float(right.abs().max()))
    return float((left - right).abs().max()) / scale


def copy_to(policy: PrismaticPolicy, device: str) -> PrismaticPolicy:
    """The same policy, with weights of its own, on a device."""
    return copy.deepcopy(policy).to(device)


def check_policy_agreement(device: str, quick: bool) -> Outcome:
    """Log-probabilities and gradients in float32 on the device against the CPU's, same weights and inputs."""
    torch.manual_seed(0)
    reference = PrismaticPolicy.from_config(reflex_tiny_config())
    moved = copy_to(reference, device)
    observations = random_observations(4 if quick else 32, reference.spec.image_size)
    tokens = torch.from_numpy(reference.act(observations).tokens)
    log_probs = {}
    for name, policy in (("cpu", reference), ("device", moved)):
        values, _ = policy.log_prob_from_inputs(policy.prepare(observations), tokens)
        torch.autograd.backward(values.mean())
        log_probs[name] = values
    forward = largest_difference(log_probs["cpu"], log_probs["device"])
    pairs = zip(reference.parameters(), moved.parameters(), strict=True)
    gradients = [(a.grad, b.grad) for a, b in pairs if a.grad is not None and b.grad is not None]
    backward = max(largest_difference(a, b) for a, b in gradients)
    detail = f"log-probabilities differ by {forward:.1e}, gradients by {backward:.1e} (allowed 1e-3 each)"
    return Outcome("policy, CPU against device, float32", forward < 1e-3 and backward < 1e-3, detail)


def check_policy_speed(device: str, quick: bool) -> Outcome:
    """A decision of the tiny policy, and a training step, per sample."""
    policy = PrismaticPolicy.from_config(reflex_tiny_config()).to(device)
    batch = 8 if quick else 256
    observations = random_observations(batch, policy.spec.image_size)
    tokens = torch.from_numpy(policy.act(observations).tokens)
    inputs = policy.prepare(observations)

    def train_step() -> None:
        log_probs, _ = policy.log_prob_from_inputs(inputs, tokens)
        torch.autograd.backward(log_probs.mean())

    decide = median_seconds(lambda: policy.act(observations), device, 3 if quick else 20)
    update = median_seconds(train_step, device, 3 if quick else 20)
    detail = f"{1e3 * decide / batch:.3f} ms/sample to decide, {1e3 * update / batch:.3f} to train, batch {batch}"
    return Outcome("policy speed", True, detail)


def check_fine_tuning(device: str, quick: bool) -> Outcome:
    """Steps of AdamW on one batch, in the precision fine-tuning uses on this device: the loss must fall."""
    from vla.training.devices import autocast

    torch.manual_seed(0)
    policy = PrismaticPolicy.from_config(reflex_tiny_config()).to(device)
    observations = random_observations(8, policy.spec.image_size)
    generator = np.random.default_rng(1)
    tokens = torch.from_numpy(generator.integers(0, 256, (8, policy.spec.tokens_per_chunk)))
    inputs = policy.prepare(observations)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    losses = []
    start = time.perf_counter()
    for _ in range(5 if quick else 50):
        optimiser.zero_grad(set_to_none=True)
        with autocast(torch.device(device)):
            log_probs, _ = policy.log_prob_from_inputs(inputs, tokens)
        loss = -log_probs.float().mean()
        torch.autograd.backward(loss)
        optimiser.step()
        losses.append(float(loss.detach()))
    rate = len(losses) / (time.perf_counter() - start)
    passed = bool(np.isfinite(losses).all()) and losses[-1] < losses[0]
    return Outcome(
        "fine-tuning steps", passed, f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {rate:.1f} steps/s of batch 8"
    )


def check_vjepa2(device: str, quick: bool) -> Outcome:
    """V-JEPA 2 with random weights through the project's encoder: finite, one embedding a clip, and its throughput."""
    from transformers import VJEPA2Config, VJEPA2Model

    from world_models.encoders.vjepa2 import VJepa2Config, VJepa2Encoder

    # The defaults of transformers are ViT-L at 256 px; `quick` is a toy of the same code path.
    toy: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "crop_size": 64}
    predictor: dict[str, Any] = {"pred_hidden_size": 32, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 4}
    settings: Any = VJEPA2Config(**({**toy, **predictor} if quick else {"pred_num_hidden_layers": 1}))
    torch.manual_seed(0)
    encoder = VJepa2Encoder(VJEPA2Model(settings), "random-weights", VJepa2Config(), device=device)
    generator = np.random.default_rng(0)
    count = 2 if quick else 32
    clips = [generator.integers(0, 256, (16, 64, 64, 3), dtype=np.uint8) for _ in range(count)]
    embeddings = encoder.encode(clips)
    distinct = len(np.unique(embeddings.round(6), axis=0)) == count
    seconds = median_seconds(lambda: encoder.encode(clips), device, 2 if quick else 5)
    passed = bool(np.isfinite(embeddings).all()) and embeddings.shape == (count, encoder.embedding_size) and distinct
    size = sum(parameter.numel() for parameter in encoder._encoder.parameters()) / 1e6
    detail = (
        f"{count / seconds:.1f} clips/s of 16 frames at {encoder.crop_size} px, {size:.1f}M parameters, {encoder.dtype}"
    )
    return Outcome("V-JEPA 2 encoder, random weights", passed, detail)


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


CHECKS: tuple[Callable[[str, bool], Outcome], ...] = (
    check_policy_agreement,
    check_policy_speed,
    check_fine_tuning,
    check_vjepa2,
)


def main() -> int:
    """Run the checks and return the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--json", type=Path, help="also write the outcomes here")
    parser.add_argument("--quick", action="store_true", help="toy sizes")
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
    outcomes = []
    for check in CHECKS:
        outcome = check(arguments.device, quick)
        print(f"{'ok  ' if outcome.passed else 'FAIL'} {outcome.name}: {outcome.detail}", flush=True)
        outcomes.append(outcome)
    document = {"device": name, "torch": torch.__version__, "checks": [asdict(outcome) for outcome in outcomes]}
    print(json.dumps(document))
    if arguments.json is not None:
        from vla.training.files import write_json

        write_json(arguments.json, document)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
