"""What every released encoder costs, beside a plain transformers loop on the same clips: `... scripts.bench encoders`.

Weights are random where the released ones cannot be fetched: speed and memory are the same.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from scripts.bench.architectures import random_encoder, random_network
from scripts.bench.encoder_speed import Cost, cost_of, plain_transformers_loop, random_clips
from scripts.bench.timing import describe_machine
from vla.run.devices import resolve_device
from vla.run.files import write_json
from world_models.encoders.pretrained import Arithmetic

IMAGE_SIZE = 128
"""Pixels of the frames given; every encoder resizes them to its own."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    network: str
    """Of `scripts.bench.architectures`."""
    frames: int
    """Of every clip."""
    clips: int
    """Encoded in one call."""
    plain_clips: int
    """What the plain loop, at one clip a time, is given of them."""
    compiled: bool = False
    """With torch.compile."""


ON_CUDA = (
    Case("vjepa2-vitl", 16, 64, 8),
    Case("vjepa2-vitl", 64, 16, 4),
    Case("vjepa2-vith", 16, 32, 8),
    Case("vjepa2-vitg", 16, 32, 4),
    Case("vjepa2-vitg-384", 64, 4, 2),
    *(Case(f"dinov2-vit{size}", 8, 128, 16) for size in "sbl"),
    *(Case(f"dinov3-vit{size}", 8, 128, 16) for size in "sbl"),
    Case("siglip2-base", 8, 128, 16),
    Case("siglip2-large", 8, 128, 16),
    Case("vjepa2-vitl", 16, 64, 8, compiled=True),
    Case("dinov2-vitb", 8, 128, 16, compiled=True),
)
ON_CPU = (Case("dinov2-vits", 8, 4, 4), Case("dinov3-vits", 8, 4, 4), Case("siglip2-base", 8, 2, 2))
"""What a laptop can bear; V-JEPA 2 takes it a minute a clip."""


@dataclass(frozen=True)
class Line:
    """What was measured for a case."""

    encoder: str
    million_parameters: float
    frames: int
    arithmetic: str
    compiled: bool
    """With torch.compile."""
    first_seconds: float
    """Of the first call, which compiles."""
    cost: Cost
    """Of the encoder."""
    plain_float32: Cost
    """Of the plain loop."""
    plain_bfloat16: Cost | None
    """Of the plain loop with its network in bfloat16; None on the CPU."""
    agreement: float
    """Least cosine, over clips, between an embedding's deviation from the mean embedding and the float32 one's."""

    @property
    def ratio(self) -> float:
        """How many times faster than the plain loop in float32."""
        return self.cost.clips_per_second / self.plain_float32.clips_per_second


def measure(case: Case, device: str, repeats: int = 3) -> Line:
    """Time a case on a device, one way after the other, each with the same weights and nothing else on the device."""
    clips, target = random_clips(case.clips, case.frames, IMAGE_SIZE), torch.device(device)
    few = clips[: case.plain_clips]
    exact = _encoder(case, device, dtype="float32")
    reference = np.concatenate([exact.encode([clip]) for clip in few])
    _free(exact)
    encoder = _encoder(case, device, compiled=case.compiled)
    million_parameters = sum(weight.numel() for weight in encoder.network.parameters()) / 1e6
    started = time.perf_counter()
    agreement = least_cosine(encoder.encode(few), reference)
    first_seconds = time.perf_counter() - started
    cost = cost_of(encoder.encode, clips, repeats, target)
    _free(encoder)
    plain = {}
    for dtype in (torch.float32, torch.bfloat16) if target.type == "cuda" else (torch.float32,):
        network = _network(case, device)
        plain[dtype] = cost_of(plain_transformers_loop(encoder, network, dtype), few, repeats, target)
        del network
        gc.collect()
    return Line(
        encoder=encoder.name,
        million_parameters=million_parameters,
        frames=case.frames,
        arithmetic=str(encoder.dtype).removeprefix("torch."),
        compiled=case.compiled,
        first_seconds=first_seconds,
        cost=cost,
        plain_float32=plain[torch.float32],
        plain_bfloat16=plain.get(torch.bfloat16),
        agreement=agreement,
    )


def least_cosine(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Smallest cosine, over rows of [N, D], between what differs from the mean row; rewards compare differences."""
    left, right = left - left.mean(axis=0), right - right.mean(axis=0)
    products = (left * right).sum(axis=1)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return float((products / np.maximum(lengths, np.finfo(np.float32).tiny)).min())


def _network(case: Case, device: str) -> Any:
    torch.manual_seed(0)
    return random_network(case.network, device)


def _encoder(case: Case, device: str, *, compiled: bool = False, dtype: Arithmetic = "auto") -> Any:
    network = _network(case, device)
    return random_encoder(case.network, network, device, frames=case.frames, compiled=compiled, dtype=dtype)


def _free(encoder: Any) -> None:
    """Take the weights off the device; how clips are preprocessed stays known."""
    encoder.network.to("meta")
    gc.collect()


def print_table(lines: Sequence[Line], console: Console) -> None:
    """The lines as a table."""
    table = Table("encoder", "M weights", "clips/s", "MiB", "plain float32", "MiB", "plain bfloat16", "MiB", "ratio")
    for line in lines:
        cells = [line.encoder + (", compiled" if line.compiled else ""), f"{line.million_parameters:.0f}"]
        for cost in (line.cost, line.plain_float32, line.plain_bfloat16):
            cells += _cells(cost)
        table.add_row(*cells, f"{line.ratio:.2f}")
    console.print(table)


def _cells(cost: Cost | None) -> list[str]:
    if cost is None:
        return ["", ""]
    return [f"{cost.clips_per_second:.3g}", "" if cost.peak_mebibytes is None else f"{cost.peak_mebibytes:.0f}"]


def main(arguments: Sequence[str]) -> int:
    """Measure, print a table, write it. Raises `ReflexError` for a device this machine does not have."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.bench encoders", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:<n>")
    parser.add_argument("--quick", action="store_true", help="the first encoder only")
    parser.add_argument("--json", type=Path, help="also write the lines to this file")
    options = parser.parse_args(arguments)
    device = resolve_device(options.device)
    console, lines = Console(), []
    cases = ON_CUDA if device.type == "cuda" else ON_CPU
    with Progress(console=Console(stderr=True), transient=True) as progress:
        for case in progress.track(cases[:1] if options.quick else cases, description="encoders"):
            lines.append(measure(case, str(device)))
            if options.json is not None:  # after each: on a small machine the rest takes minutes
                write_json(options.json, {"device": _name(device), "lines": [asdict(line) for line in lines]})
    print_table(lines, console)
    return 0


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else describe_machine()
