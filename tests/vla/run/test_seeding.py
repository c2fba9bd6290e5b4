"""Seeds, random number states, devices."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vla.errors import ReflexError
from vla.run.cores import available_cpus
from vla.run.devices import autocast, computes_bfloat16, resolve_device, set_threads
from vla.run.seeding import derive_seed, load_rng, restore_rng, save_rng, seed_everything


def draw(generator: np.random.Generator) -> list[float]:
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.normal()),  # noqa: NPY002
        float(torch.randn(())),
        float(generator.normal()),
    ]


@pytest.mark.parametrize("bits", [np.random.PCG64, np.random.MT19937, np.random.Philox])
def test_a_restored_state_draws_the_same(tmp_path: Path, bits: type[np.random.BitGenerator]) -> None:
    seed_everything(3)
    generator = np.random.Generator(bits(5))
    draw(generator)  # leaves the cached second Gaussian of the legacy generators behind
    save_rng(tmp_path / "rng.json", {"rollouts": generator})
    expected = [draw(generator) for _ in range(3)]
    seed_everything(99)
    other = np.random.Generator(bits(1))
    load_rng(tmp_path / "rng.json", {"rollouts": other})
    assert [draw(other) for _ in range(3)] == expected


def test_seeding_repeats() -> None:
    seed_everything(7)
    first = draw(np.random.default_rng(0))
    seed_everything(7)
    assert draw(np.random.default_rng(0)) == first


def test_a_damaged_state_is_refused(tmp_path: Path) -> None:
    save_rng(tmp_path / "rng.json")
    with pytest.raises(ReflexError, match=r"damaged.*older checkpoint"):
        load_rng(tmp_path / "rng.json", {"missing": np.random.default_rng(0)})
    with pytest.raises(ReflexError, match="damaged"):
        restore_rng({"python": [3, [1, 2], None], "numpy": ["MT19937", [], 0, 0, 0.0], "torch": ""})
    (tmp_path / "rng.json").write_text("[]")
    with pytest.raises(ReflexError, match="does not hold a random number state"):
        load_rng(tmp_path / "rng.json")


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
