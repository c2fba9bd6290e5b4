"""Overrides become a dataclass, and a wrong one is answered with the right one."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from vla.conf.compose import compose_config, default_options, list_groups
from vla.conf.schema import build, describe, field_docs, fields_of, mirror, type_name
from vla.errors import ReflexError
from vla.rl.config import TrainConfig
from vla.run.settings import Checks


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    """A rate."""
    kind: Literal["a", "b"] = "a"
    """Which
    kind."""

    def __post_init__(self) -> None:
        Checks(self, "inner.").literals()


@dataclass(frozen=True)
class Outer:
    output: str
    """Where to write."""
    split: Literal["train", "eval"] = "train"
    """Which states."""
    tasks: list[int] | None = None
    """Which tasks."""
    sizes: tuple[int, ...] = (1, 2)
    """Sizes."""
    folder: Path = Path("here")
    """A folder."""
    inner: Inner = field(default_factory=Inner)
    """A group."""
    other: Inner | None = None

    def __post_init__(self) -> None:
        Checks(self).literals()


def compose(*overrides: str) -> Outer:
    # The files of `vla collect` name no field, so any dataclass can stand in for its own.
    built = compose_config("collect", Outer, overrides).build()
    assert isinstance(built, Outer)
    return built


def test_values_arrive_with_their_types_in_the_real_class() -> None:
    config = compose(
        "output=runs/a", "split=eval", "tasks=[0,3]", "sizes=[4]", "folder=x/y", "inner.kind=b", "inner.rate=1"
    )
    assert config == Outer("runs/a", "eval", [0, 3], (4,), Path("x/y"), Inner(1.0, "b"))
    assert isinstance(config.inner.rate, float)
    assert isinstance(config.sizes, tuple)


def test_defaults_are_the_dataclass_defaults() -> None:
    assert compose("output=runs/a") == Outer("runs/a")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("split=evaluate", "split is 'evaluate'; it must be one of train, eval"),
        ("inner.kind=c", "inner.kind is 'c'; it must be one of a, b"),
        ("inner.rate=fast", "inner.rate must be a number"),
        ("tasks=x", "tasks must be a list of integers, e.g. [0,1] or null"),
        ("tasks=[x]", "tasks must be a list of integers"),
        ("outptu=a", "did you mean 'output'?"),
        ("rate=1", "did you mean 'inner.rate'?"),
        ("inner.rat=1", "did you mean 'inner.rate'?"),
        ("inner=b", "inner is a group of fields: set them one by one, such as inner.rate=..."),
        ("+new=1", "the fields are fixed"),
        ("~tasks", "the fields are fixed"),
        ("inner.rate=1,2", "names several values"),
        ("verbose", "is not an override"),
        ("inner.rate=a(b", "cannot read 'inner.rate=a(b'"),
        ("output=null", "output must be text, not null"),
        ("output=", "output is empty; give it a value"),
        ("output=${oc.env:REFLEX_UNSET}", "output: Environment variable 'REFLEX_UNSET' not found"),
    ],
)
def test_a_wrong_override_names_the_field_and_the_cure(override: str, said: str) -> None:
    with pytest.raises(ReflexError) as failure:
        compose("output=runs/a", override)
    assert said in str(failure.value)


def test_a_mandatory_field_is_asked_for() -> None:
    with pytest.raises(ReflexError, match=r"output has no default: give it as output="):
        compose()


def test_a_value_the_class_refuses_becomes_a_user_error() -> None:
    @dataclass
    class Positive:
        count: int = 1

        def __post_init__(self) -> None:
            if self.count < 1:
                raise ValueError("count must be positive")

    with pytest.raises(ReflexError, match="count must be positive"):
        build(Positive, {"count": 0})


def test_docs_and_types_for_the_help_page() -> None:
    assert field_docs(Inner) == {"rate": "A rate.", "kind": "Which kind."}
    infos = {info.key: info for info in fields_of(Outer)}
    assert infos["inner.kind"].doc == "Which kind."
    assert type_name(infos["tasks"].annotation) == "list[int] or null"
    assert type_name(infos["split"].annotation) == "train|eval"
    assert describe(infos["folder"].annotation) == "a path"
    assert "other.rate" in infos


def test_the_mirror_can_be_changed_without_touching_the_default() -> None:
    schema = mirror(Outer)
    first, second = schema(), schema()
    first.inner.rate = 9.0
    assert second.inner.rate == Inner().rate


def test_algorithms_differ_in_the_reward_alone() -> None:
    srpo = compose_config("train", TrainConfig, ["algo=srpo", "output=runs/a"]).build()
    grpo = compose_config("train", TrainConfig, ["algo=grpo", "output=runs/a"]).build()
    assert (srpo.algo.reward, grpo.algo.reward) == ("srpo", "binary")
    grpo.algo.reward = "srpo"
    assert grpo == srpo


def test_a_flag_beats_its_group() -> None:
    config = compose_config("train", TrainConfig, ["algo=grpo", "algo.reward=siirl", "algo.clip_high=0.5"]).build()
    assert (config.algo.reward, config.algo.clip_high) == ("siirl", 0.5)


def test_the_groups_of_the_trainer() -> None:
    assert list_groups("train") == {"algo": ["grpo", "srpo"]}
    assert default_options("train") == {"algo": "srpo"}


def test_an_unknown_option_of_a_group() -> None:
    with pytest.raises(ReflexError, match=r"has no option .* \(did you mean 'srpo'\?\)"):
        compose_config("train", TrainConfig, ["algo=srop"])
