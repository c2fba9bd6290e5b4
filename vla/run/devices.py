"""Which device computes, with how many threads, in which precision."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Protocol

import torch

from sim.gl_platform import draw_beside_cuda
from vla.errors import ReflexError
from vla.run.cores import available_cpus

__all__ = [
    "autocast",
    "computes_bfloat16",
    "draw_beside",
    "in_float32",
    "resolve_device",
    "set_threads",
    "sharing_cores",
]


class HasPrecision(Protocol):
    """A policy that can be told which arithmetic to use."""

    def set_precision(self, precision: str) -> None: ...


def resolve_device(name: str = "auto") -> torch.device:
    """Turn "auto", "cpu", "cuda" or "cuda:<n>" into a device; "auto" is CUDA when there is one, else the CPU.

    Raises:
        ReflexError: the name is unknown, or asks for a CUDA device this machine does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ReflexError(f"unknown device {name!r}; use auto, cpu, cuda or cuda:<n>") from error
    if device.type == "cpu":
        return device
    if device.type != "cuda":
        raise ReflexError(f"device {name!r} is not supported; use auto, cpu, cuda or cuda:<n>")
    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hidden = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible}: unset it, or set it to a GPU's number)"
        raise ReflexError(
            f"device={name} was asked for, but torch finds no CUDA{hidden}; use device=cpu or run vla doctor"
        )
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise ReflexError(f"device={name} does not exist: torch finds {torch.cuda.device_count()} CUDA device(s)")
    return device


def draw_beside(device: torch.device) -> None:
    """Let simulator processes started from now on draw on the card that computes, where EGL knows which it is."""
    if device.type == "cuda":
        draw_beside_cuda(torch.cuda.current_device() if device.index is None else device.index)


def set_threads(count: int | None = None) -> int:
    """Set torch's threads and return the count; None takes every available core.

    More threads than cores make small CPU models several times slower, not faster.

    Raises:
        ReflexError: ``count`` is below 1.
    """
    if count is not None and count < 1:
        raise ReflexError(f"threads must be at least 1, not {count}")
    threads = available_cpus() if count is None else count
    torch.set_num_threads(threads)
    return threads


@contextmanager
def sharing_cores() -> Iterator[None]:
    """Half of torch's threads, at least one, while the simulator's processes need cores as well."""
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def in_float32(policy: HasPrecision, precision: str) -> Iterator[None]:
    """The policy in float32, as `vla eval` runs it, and back in `precision` afterwards."""
    policy.set_precision("float32")
    try:
        yield
    finally:
        policy.set_precision(precision)


def computes_bfloat16(device: torch.device, precision: str = "auto") -> bool:
    """Whether a precision setting means bfloat16 on this device.

    "auto" is bfloat16 where the hardware multiplies it (CUDA from Ampere on, CPUs with AVX512-BF16 or AMX) and float32
    elsewhere; "float32" and "bfloat16" are what they say. float16 is not offered: it needs loss scaling, and every
    device that profits from it has bfloat16 by now.

    Raises:
        ReflexError: ``precision`` is something else.
    """
    if precision not in ("auto", "float32", "bfloat16"):
        raise ReflexError(f"unknown precision {precision!r}; use auto, float32 or bfloat16")
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return device.type == "cpu" and bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def autocast(device: torch.device, precision: str = "auto") -> AbstractContextManager[object]:
    """The precision of a forward pass (see `computes_bfloat16`) as a context manager."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if computes_bfloat16(device, precision) else nullcontext()
