"""Seeds: of the global generators, and derived ones that two purposes never share."""

from __future__ import annotations

import hashlib
import random

import numpy as np
import torch

__all__ = ["derive_seed", "seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices) with a non-negative number."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - libraries still draw from the legacy global generator
    torch.manual_seed(seed)


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) that depends on every part and their order: the first 63 bits of a SHA-256.

    The same on every machine, and unlike ``seed + task`` two different tuples do not meet in practice.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:8], "big") >> 1
