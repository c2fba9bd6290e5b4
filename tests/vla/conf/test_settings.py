"""A setting that several commands have is the same one in each, and every choice is checked wherever it is made."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_origin, get_type_hints

import pytest

from scripts.pretraining.pretrain import PretrainConfig
from tests.vla.policies.helpers import small_prismatic_config
from vla.cli import _load
from vla.commands import CONFIGURED
from vla.conf.compose import compose_config
from vla.conf.schema import fields_of
from vla.errors import ReflexError
from vla.policies.prismatic import PrismaticConfig
from vla.run.cores import available_cpus, worker_count
from vla.run.settings import SHARED_MINIMA, Checks, strip_optional

REQUIRED = {
    "dataset": "d", "output": "o", "suite": "libero_spatial", "demonstrations": "f", "labels": "l", "reward": "r",
    "models": ["m"], "start": "s",
}  # fmt: skip


def configurations() -> dict[str, Any]:
    """The dataclass of every command, and of the pretraining script."""
    return {name: _load(entry.config) for name, entry in CONFIGURED.items()} | {"pretraining": PretrainConfig}


def build(config_class: Any, **values: Any) -> Any:
    """A configuration with whatever has no default filled in."""
    names = [field.name for field in dataclasses.fields(config_class) if field.default is dataclasses.MISSING]
    return config_class(**({name: REQUIRED[name] for name in names if name in REQUIRED} | values))


OWN_TYPE = {
    "algo": "offline algorithms are plug-ins, called by name",
    "chunk_horizon": "offline RL makes a policy, fine-tuning may keep that of the one it starts from",
    "encoder": "a policy of offline RL may see no picture",
    "episodes_per_task": "fine-tuning and the import have a data set, of which null takes all",
    "policy": "the audit and pretraining can do without one",
    "demonstrations": "training can do without them, an import is of nothing else",
    "tasks": "the demo is of four tasks; null would be a run of hours",
    "num_slots": "training needs hundreds of rollouts an iteration, and as many at a time as their pictures allow",
    "port": "a robot's is a path or an address, a server's a number",
    "suite": "a policy is served for its own robot, unless asked",
    "task": "a robot is told in words, an emulator's scene is a number",
    "labels": "an audit is of labels, a reward model may do without any",
}
OWN_DEFAULT = {
    "algo": OWN_TYPE["algo"],
    "chunk_horizon": OWN_TYPE["chunk_horizon"],
    "batch_size": "fine-tuning's samples have pictures, offline RL's are states",
    "checkpoint_every": "counted in steps, iterations or pretraining steps",
    "demonstrations": OWN_TYPE["demonstrations"],
    "episodes": "a deployment is of one, training of hundreds",
    "episodes_per_task": "an episode is a demonstration to keep, one to learn from, or one to evaluate",
    "encoder": "training makes one for its rollouts, a reward model takes one, offline RL may do without",
    "evaluate_every": "counted in steps by fine-tuning, which needs no simulator unless asked, else in iterations",
    "evaluation_episodes_per_task": "one evaluation decides the demo, many follow a run of training",
    "log_every": "an update of offline RL takes milliseconds",
    "keep_checkpoints": "fine-tuning's newest weights are what it is for; a run of training may have had better ones",
    "labels": OWN_TYPE["labels"],
    "num_slots": OWN_TYPE["num_slots"],
    "port": OWN_TYPE["port"],
    "precision": "a server gives the numbers of vla eval, unless asked",
    "reward": "relabelling is with a reward model, which has no name to assume",
    "robot": "replaying asks no arm, an emulator is of one",
    "output": "each command has a folder of its own",
    "policy": "collecting is the expert's work, unless asked",
    "split": "one records training states, the other evaluates on held-out ones",
    "suite": "LIBERO's commands have no suite to assume",
    "task": OWN_TYPE["task"],
    "target_success": "the demo stops when it has shown what it is for",
    "tasks": OWN_TYPE["tasks"],
}


def differing(trait: Any) -> set[str]:
    """Names of the fields that two configurations have and whose `trait` is not the same in all."""
    traits: dict[str, list[Any]] = {}
    for config_class in configurations().values():
        hints = get_type_hints(config_class)
        for field in dataclasses.fields(config_class):
            traits.setdefault(field.name, []).append(trait(field, hints[field.name]))
    return {name for name, found in traits.items() if any(one != found[0] for one in found)}


def test_a_shared_setting_has_one_type_but_for_stated_reasons() -> None:
    assert differing(lambda field, annotation: annotation) == set(OWN_TYPE)


def test_a_shared_setting_has_one_default_but_for_stated_reasons() -> None:
    def default(field: dataclasses.Field[Any], _: Any) -> Any:
        return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default

    assert differing(default) == set(OWN_DEFAULT)


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("num_workers", "Simulator processes; null for one per available core"),
        ("threads", "Threads of torch's CPU kernels; null for one per available core"),
        ("resume", "Continue the run in `output`"),
        ("image_size", "Side in pixels of the rendered frames; null for the suite's own."),
    ],
)
def test_a_shared_setting_means_the_same_everywhere(name: str, meaning: str) -> None:
    docs = [info.doc for cls in configurations().values() for info in fields_of(cls) if info.key == name]
    assert len(docs) > 3 and all(doc.startswith(meaning) for doc in docs)


@pytest.mark.parametrize("command", sorted(configurations()))
def test_the_least_of_a_shared_setting_is_checked_in_every_command(command: str) -> None:
    config_class = configurations()[command]
    for field in dataclasses.fields(config_class):
        if field.name in SHARED_MINIMA:
            below = SHARED_MINIMA[field.name] - 1
            with pytest.raises(ReflexError, match=rf"{field.name} is {below}; it must be at least"):
                build(config_class, **{field.name: below})


def choices(cls: Any) -> list[str]:
    """Dotted names of the fields that are choices."""
    return [info.key for info in fields_of(cls) if get_origin(strip_optional(info.annotation)[0]) is Literal]


@pytest.mark.parametrize("command", sorted(configurations()))
def test_a_choice_that_is_none_is_refused_with_the_choices(command: str) -> None:
    config_class = configurations()[command]
    given = [f"{name}={value}" for name, value in REQUIRED.items() if name in get_type_hints(config_class)]
    for key in choices(config_class):
        if command != "pretraining":  # its choices are those of fine-tuning, which do not know who holds them
            with pytest.raises(ReflexError, match=rf"^{key} is 'neither'; it must be one of "):
                compose_config(command, config_class, [*given, f"{key}=neither"]).build()
        if "." not in key:
            with pytest.raises(ReflexError, match=rf"^{key} is 'neither'; it must be one of "):
                build(config_class, **{key: "neither"})


def test_the_choices_of_a_policy_are_checked() -> None:
    checked = set(choices(PrismaticConfig))
    assert checked == {"action_queries", "attention", "bin_layout", "projector", "prompt_order", "tokenizer"}
    for name in checked:
        with pytest.raises(ReflexError, match=rf"^{name} is 'neither'; it must be one of "):
            small_prismatic_config(**{name: "neither"})


@dataclasses.dataclass
class Toy:
    """One field of each kind of check."""

    kind: Literal["a", "b"] | None = None
    share: float | None = 0.5
    count: int | None = 3
    rate: float | None = 1.0
    threads: int | None = None

    def __post_init__(self) -> None:
        check = Checks(self, "toy.")
        check.shared()
        check.within(0, 1, "share", reason="it is a share")
        check.at_least(2, "count", reason="they are compared")
        check.positive("rate")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"kind": "c"}, "toy.kind is 'c'; it must be one of a, b"),
        ({"share": 1.1}, "toy.share is 1.1; it must lie in [0, 1]: it is a share"),
        ({"share": -0.1}, "toy.share is -0.1; it must lie in [0, 1]: it is a share"),
        ({"share": float("nan")}, "toy.share is nan; it must lie in [0, 1]: it is a share"),
        ({"count": 1}, "toy.count is 1; it must be at least 2: they are compared"),
        ({"count": float("nan")}, "toy.count is nan; it must be at least 2: they are compared"),
        ({"rate": 0.0}, "toy.rate is 0.0; it must be a positive number"),
        ({"rate": float("inf")}, "toy.rate is inf; it must be a positive number"),
        ({"rate": float("nan")}, "toy.rate is nan; it must be a positive number"),
        ({"threads": 0}, "toy.threads is 0; it must be at least 1"),
    ],
)
def test_a_refusal_names_the_field_its_value_and_what_is_right(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ReflexError) as refusal:
        Toy(**values)
    assert str(refusal.value) == said


def test_bounds_and_null_pass() -> None:
    Toy(kind="b", share=0, count=2, rate=1e-9, threads=1)
    Toy(share=1)
    Toy(kind=None, share=None, count=None, rate=None)


def test_workers_by_hand() -> None:
    assert worker_count(None, 10**6) == available_cpus()
    assert (worker_count(3, 2), worker_count(3, 9), worker_count(0, 9)) == (2, 3, 0)
