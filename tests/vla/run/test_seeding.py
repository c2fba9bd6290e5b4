"""Seeds and devices."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla.errors import ReflexError
from vla.run.cores import available_cpus
from vla.run.devices import autocast, computes_bfloat16, resolve_device, set_threads
from vla.run.seeding import derive_seed, seed_everything


def draw(generator: np.random.Generator) -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.normal()),  # noqa: NPY002
        float(torch.randn(())),
        float(generator.normal()),
    ]


def test_seeding_repeats() -> None:
    seed_everything(7)
    first = draw(np.random.default_rng(0))
    seed_everything(7)
    assert draw(np.random.default_rng(0)) == first
    seed_everything(8)
    other = draw(np.random.default_rng(0))
    assert [one == two for one, two in zip(other, first, strict=True)] == [False] * 4 + [True]


def test_derived_seeds_are_fixed_and_depend_on_order_and_type() -> None:
    assert derive_seed(0, "eval", 3, 14) == 6068628343093152675
    assert len({derive_seed(1, 2), derive_seed(2, 1), derive_seed(12), derive_seed("1", 2), derive_seed(1, 2, 0)}) == 5


@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_derived_seeds_fit_every_generator(parts: list[int | str]) -> None:
    seed = derive_seed(*parts)
    assert 0 <= seed < 2**63
    np.random.default_rng(seed)


def test_devices() -> None:
    assert resolve_device("cpu") == torch.device("cpu")
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    with pytest.raises(ReflexError, match="unknown device 'gpu'"):
        resolve_device("gpu")
    with pytest.raises(ReflexError, match="not supported"):
        resolve_device("meta")
    if not torch.cuda.is_available():
        with pytest.raises(ReflexError, match=r"finds no CUDA.*device=cpu"):
            resolve_device("cuda")


def test_threads() -> None:
    before = torch.get_num_threads()
    try:
        assert set_threads(1) == torch.get_num_threads() == 1
        assert set_threads() == available_cpus() >= 1
        with pytest.raises(ReflexError, match="at least 1"):
            set_threads(0)
    finally:
        torch.set_num_threads(before)


def test_precision() -> None:
    left, right = torch.ones(2, 2), torch.ones(2, 2)
    with autocast(torch.device("cpu"), "float32"):
        assert (left @ right).dtype == torch.float32
    multiplies = torch.cpu.get_capabilities()
    has_bfloat16 = bool(multiplies.get("avx512_bf16") or multiplies.get("amx_bf16"))
    assert computes_bfloat16(torch.device("cpu"), "auto") is has_bfloat16
    with autocast(torch.device("cpu"), "bfloat16"):
        assert (left @ right).dtype == torch.bfloat16
    with pytest.raises(ReflexError, match="unknown precision 'fp8'"):
        autocast(torch.device("cpu"), "fp8")
