"""`vla check` says which rule a policy breaks, in words that say what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from rich.console import Console

from examples.own_policy import LinearPolicy, States
from sim.contract import ObservationBatch, Suite
from sim.embodiments import PANDA_EEF
from sim.suites import get_suite
from tests.vla.policies.helpers import small_policy
from vla.check import command
from vla.check.findings import Finding, run_checks
from vla.check.policy import check_policy
from vla.policies.protocol import PolicyOutput, PolicySpec


@pytest.fixture(scope="module")
def suite() -> Suite:
    return get_suite("tabletop")


class Sloppy(LinearPolicy):
    family = "tests.vla.check.test_policy_check:Sloppy"


class WithoutVision(Sloppy):
    @property
    def encode_vision(self) -> Any:  # type: ignore[override]
        raise AttributeError


class Deaf(Sloppy):
    """Says that it looks at a state which it does not look at."""

    def hidden(self, inputs: States) -> torch.Tensor:
        return super().hidden(States(torch.zeros_like(inputs.state)))


class ActsOnNaN(Sloppy):
    def prepare(self, observations: ObservationBatch) -> States:
        return States(torch.nan_to_num(torch.from_numpy(observations["state"])))


class RaisesOnNaN(Sloppy):
    def prepare(self, observations: ObservationBatch) -> States:
        return States(torch.from_numpy(observations["state"]))


class Tensors(Sloppy):
    def act(self, *args: Any, **kwargs: Any) -> PolicyOutput:
        output = super().act(*args, **kwargs)
        return replace(output, log_probs=torch.from_numpy(output.log_probs))  # type: ignore[arg-type]


class OtherFeatures(Sloppy):
    def features_from_inputs(self, inputs: States) -> NDArray[np.float32]:
        return np.random.default_rng().random((len(inputs), 2), dtype=np.float32)


class Reversed(States):
    """Joins its parts in another order."""

    @classmethod
    def concatenate(cls, parts: Any) -> Reversed:
        return super().concatenate(list(reversed(parts)))


class JoinsWrongly(Sloppy):
    def prepare(self, observations: ObservationBatch) -> States:
        return Reversed(super().prepare(observations).state)


class ForgetsItsScale(Sloppy):
    fits = True

    @property
    def has_normalisation(self) -> bool:
        return self.fits and "fits" in vars(self)


class FixedNames(Sloppy):
    """Looks for its camera by the name that the tabletop has."""

    @property
    def spec(self) -> PolicySpec:
        return replace(super().spec, embodiment=PANDA_EEF)

    def prepare(self, observations: ObservationBatch) -> States:
        brightness = torch.from_numpy(observations["images"]["image"]).float().mean((1, 2, 3))
        return States(super().prepare(observations).state + brightness[:, None] / 255)


def made(kind: Callable[..., LinearPolicy]) -> LinearPolicy:
    torch.manual_seed(0)
    policy = kind(PANDA_EEF, 4).eval()
    if kind is ForgetsItsScale:
        policy.fits = True  # type: ignore[attr-defined]
    return policy


def broken(policy: Any, suite: Suite) -> dict[str, str]:
    return {finding.rule: finding.problem for finding in check_policy(policy, suite) if finding.problem}


@pytest.mark.parametrize(
    ("kind", "rule", "message"),
    [
        (WithoutVision, "has what fine-tuning and RL call", "it lacks encode_vision; vla.policies.protocol"),
        (Deaf, "pictures and state reach the actions", "the state changes no log-probability"),
        (ActsOnNaN, "states that are not finite are refused", "a state of NaN is acted on; raise ReflexError"),
        (RaisesOnNaN, "states that are not finite are refused", "ends in ValueError; raise ReflexError"),
        (Tensors, "log-probabilities are those recorded", "log_probs as Tensor; a numpy array is right"),
        (OtherFeatures, "features are those recorded", "features_from_inputs (3, 2) differs"),
        (JoinsWrongly, "inputs are indexed and joined", "other log-probabilities than the same samples"),
        (ForgetsItsScale, "a saved policy acts alike", "has_normalisation is True before saving and False after"),
        (FixedNames, "cameras are found by the names in feature_map", "'image'; policy.feature_map.camera(name)"),
        (FixedNames, "pictures and state reach the actions", "camera wrist_image changes no log-probability"),
    ],
)
def test_what_breaks_a_rule_is_said(kind: Callable[..., LinearPolicy], rule: str, message: str, suite: Suite) -> None:
    assert message in broken(made(kind), suite)[rule]


def test_policies_that_keep_the_contract(suite: Suite) -> None:
    assert broken(made(Sloppy), suite) == {}
    assert broken(small_policy(), suite) == {}


def test_an_exception_is_shown_short_and_whole_brackets_are_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails() -> Iterator[Finding]:
        raise ValueError("found [nan, nan]\n" + 1000 * "[nan] ")

    (finding,) = run_checks("policy", [("a rule", fails)])
    assert finding.problem is not None and len(finding.problem) < 400
    assert "ValueError: found [nan, nan] [nan]" in finding.problem and "test_policy_check.py" in finding.problem
    monkeypatch.setattr(command, "Console", lambda: Console(width=200))
    command._print([finding])
    assert "[nan, nan]" in capsys.readouterr().out
