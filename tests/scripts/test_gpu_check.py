"""The GPU checks themselves, at toy size on the CPU, and what they say where there is no GPU."""

import copy
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "scripts" / "gpu_check.py"


@pytest.fixture(scope="module")
def gpu_check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu_check"] = module  # dataclasses look their module up by name
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_no_device_is_said_and_is_status_3(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert gpu_check.main() == 3
    assert "no CUDA device" in capsys.readouterr().out


def test_the_agreement_check_passes_and_can_fail(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert next(gpu_check.check_policy_agreement("cpu", quick=True)).passed

    def perturbed(policy: torch.nn.Module, device: str) -> torch.nn.Module:
        other = copy.deepcopy(policy).to(device)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.add_(0.05)
        return other

    monkeypatch.setattr(gpu_check, "copy_to", perturbed)
    assert not next(gpu_check.check_policy_agreement("cpu", quick=True)).passed


@pytest.mark.parametrize("check", ["check_encoders", "check_drawing", "check_training"])
def test_a_check_runs_at_toy_size(gpu_check: ModuleType, check: str) -> None:
    outcomes = list(getattr(gpu_check, check)("cpu", quick=True))
    assert outcomes
    for outcome in outcomes:
        assert outcome.passed, outcome
        assert outcome.numbers
