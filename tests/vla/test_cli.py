"""The command line: exit statuses, one line per error, help that shows every field."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import vla.cli
import vla.run.progress_bar
from sim.contract import EnvironmentRequestError
from vla.cli import main
from vla.commands import CONFIGURED, ConfiguredCommand
from vla.conf.schema import fields_of, is_config
from vla.errors import ReflexError
from vla.rl.config import AlgoConfig, TrainConfig
from vla.run.cores import available_cpus
from vla.run.settings import strip_optional
from world_models.errors import WorldModelError


@dataclass
class ToyConfig:
    """A command small enough to see through."""

    steps: int = 3
    """How many."""
    resume: bool = False
    """Go on."""


@dataclass
class ToyRunConfig(ToyConfig):
    """One that writes a run folder."""

    output: str = field(default_factory=lambda: "runs/toy_2026-11-27_14-03-05")
    """Where to."""


RAISED: list[BaseException] = []


def run_toy(config: ToyConfig) -> dict[str, Any]:
    if RAISED:
        raise RAISED[0]
    return {"steps": config.steps, "resumed": config.resume}


def progress_toy(config: ToyConfig, on_progress: Any = None) -> Path:
    for step in range(config.steps):
        on_progress(step + 1, config.steps, step)
    return Path(f"done-{config.steps}")


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """`vla demo` with the toy configuration; put an exception in the list to have it raised."""
    monkeypatch.setattr(vla.cli, "_load", lambda target: {"c": ToyConfig, "r": run_toy, "p": progress_toy}[target])
    monkeypatch.setitem(CONFIGURED, "demo", ConfiguredCommand("Toy.", "c", "r", "vla demo steps=4"))
    monkeypatch.setitem(CONFIGURED, "collect", ConfiguredCommand("Toy.", "c", "p", "vla collect"))
    RAISED.clear()
    return RAISED


def test_help_of_training_lists_the_settings_of_every_method(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    for name, settings in AlgoConfig.settings_classes().items():
        for info in fields_of(settings):
            assert f"\n  algo.settings.{name}.{info.key}=" in said
            assert info.doc, "nothing says what it is for"
    assert "algo.settings.critic.decay=0.9" in said


def test_help_is_immediate_and_lists_every_command() -> None:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "vla", "--help"], capture_output=True, text=True, check=True)
    # A loose bound, for busy machines: what takes long is importing, so the heavy imports are looked for too.
    assert time.perf_counter() - start < 10
    for command in ("demo", "collect", "sft", "train", "eval", "report", "compare", "merge", "doctor", "audit"):
        assert f"\n  {command} " in done.stdout
    code = (
        "import sys, vla.cli; vla.cli.main(['--help']); "
        "print([name for name in ('torch', 'hydra', 'numpy') if name in sys.modules])"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert listed.stdout.splitlines()[-1] == "[]"


def test_a_run_prints_its_result(toy: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "steps=5"]) == 0
    assert '"steps": 5' in capsys.readouterr().out


def test_progress_reports_reach_the_bar(
    toy: list[BaseException], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[tuple[str, int, int, str]] = []

    @contextmanager
    def record(label: str, total: int) -> Iterator[Callable[[int, str], None]]:
        yield lambda done, note: shown.append((label, total, done, note))

    monkeypatch.setattr(vla.run.progress_bar, "progress_bar", record)
    assert main(["collect", "steps=2"]) == 0
    assert shown == [("episodes", 2, 1, "0 succeeded"), ("episodes", 2, 2, "1 succeeded")]
    assert capsys.readouterr().out == "done-2\n"


@pytest.fixture
def toy_run(toy: list[BaseException], monkeypatch: pytest.MonkeyPatch) -> list[BaseException]:
    """`vla demo` as a command that writes a run folder."""
    monkeypatch.setattr(vla.cli, "_load", lambda target: {"c": ToyRunConfig, "r": run_toy}[target])
    return toy


def test_a_folder_that_nobody_named_is_printed_first(
    toy_run: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo"]) == 0
    captured = capsys.readouterr()
    assert captured.err == "vla: output=runs/toy_2026-11-27_14-03-05\n"
    assert json.loads(captured.out) == {"steps": 3, "resumed": False}, "standard output is the result alone"
    assert main(["demo", "output=mine"]) == 0
    assert capsys.readouterr().err == ""


def test_an_interrupted_run_in_such_a_folder_is_continued_there(
    toy_run: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    toy_run.append(KeyboardInterrupt())
    assert main(["demo"]) == 130
    again = "vla demo output=runs/toy_2026-11-27_14-03-05 resume=true"
    assert capsys.readouterr().err.splitlines()[-1] == f"vla: interrupted; continue with: {again}"
    assert main(["demo", "resume=true"]) == 2
    assert "resume=true needs output=..., the folder of the run to continue" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error",
    [
        ReflexError("cannot write x: [bold]no[/bold]\nspace"),
        EnvironmentRequestError("cannot write x: [bold]no[/bold]\nspace"),
        WorldModelError("cannot write x: [bold]no[/bold]\nspace"),
    ],
)
def test_user_errors_are_one_line_and_status_2(
    error: Exception, toy: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    toy.append(error)
    assert main(["demo"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "vla: cannot write x: [bold]no[/bold] space\n"
    assert captured.out == ""


def test_a_defect_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(fail, "__code__", fail.__code__.replace(co_filename=vla.cli.__file__))
    monkeypatch.setattr(vla.cli, "_run_configured", fail)
    with pytest.raises(ZeroDivisionError):
        main(["demo"])


def test_an_exception_of_the_users_own_code_names_its_line(
    toy: list[BaseException], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is not Reflex's, Python's or an installed package's is the user's, this file for one."""
    toy.append(ZeroDivisionError("not\nby zero"))
    assert main(["demo"]) == 1
    said = capsys.readouterr().err
    line = run_toy.__code__.co_firstlineno + 2
    assert said == f"vla: ZeroDivisionError: not by zero, in {__file__}, line {line} (the whole traceback: --debug)\n"


@pytest.mark.parametrize("error", [ZeroDivisionError("theirs"), ReflexError("a wrong setting")])
def test_debug_shows_every_traceback(error: Exception, toy: list[BaseException]) -> None:
    toy.append(error)
    with pytest.raises(type(error)):
        main(["demo", "--debug", "steps=4"])


def test_every_command_takes_debug(capsys: pytest.CaptureFixture[str]) -> None:
    for command in CONFIGURED:
        assert main([*command.split(), "--help", "--debug"]) == 0
        assert "--debug" in capsys.readouterr().out
    with pytest.raises(ReflexError, match="there is no run folder"):
        main(["report", "--debug", "no/such/folder"])


def test_a_plug_in_is_found_where_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with the installed script `vla`, whose folder Python searches in place of the user's."""
    (tmp_path / "a_table_beside_the_user.py").write_text("TABLE = 1\n")
    elsewhere = [path for path in sys.path if path not in ("", str(tmp_path))]
    monkeypatch.setattr(sys, "path", elsewhere)
    monkeypatch.chdir(tmp_path)
    assert main(["eval", "suite=a_table_beside_the_user:TABLE", "output=o"]) == 2
    assert "is neither a class nor a function that makes a suite" in capsys.readouterr().err
    assert sys.path[-1] == str(tmp_path)


def test_an_interrupt_says_how_to_go_on(toy: list[BaseException], capsys: pytest.CaptureFixture[str]) -> None:
    toy.append(KeyboardInterrupt())
    assert main(["demo", "steps=7", "resume=false"]) == 130
    assert capsys.readouterr().err == "vla: interrupted; continue with: vla demo steps=7 resume=true\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "there is no command 'trian' (did you mean 'train'?)"),
        (["train", "sed=1"], "did you mean 'seed'?"),
        (["train", "seed=x"], "seed must be an integer"),
        (["train", "algo=ppo"], "algo has no option 'ppo'; it has grpo, srpo"),
        (["train", "--seed", "3"], "not '--seed'"),
        (["train", "algo.settings.srpo.alpha=2"], "algo.settings.srpo.alpha is 2"),
        (["report"], "arguments are required: RUN; usage: vla report"),
        (["report", "no/such/folder"], "there is no run folder no/such/folder"),
        (["doctor", "--fix"], "not '--fix'"),
        (["bench", "libero"], "vla bench is now python -m scripts.bench"),
        (["pretrain"], "vla pretrain is now python -m scripts.pretraining"),
        (["libero"], "there is no command 'libero' (did you mean 'libero pack'?)"),
        (["libero", "pack", "suit=libero_goal"], "vla libero pack has no field 'suit' (did you mean 'suite'?)"),
        (["audit", "modes=[srop]"], "modes are srpo, srpo_cosine"),
    ],
)
def test_wrong_usage_is_status_2_on_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_train_help_shows_groups_every_field_docs_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help", "algo=grpo", "seed=11"]) == 0
    page = capsys.readouterr().out
    assert "algo    grpo, srpo (default)" in page
    assert "libero_spatial" in page
    first = page[page.index("fields (") : page.index("more fields")]
    assert re.findall(r"^  (\w+)=", first, re.MULTILINE) == [
        "suite", "demonstrations", "policy", "tasks", "output", "iterations", "max_minutes", "resume", "seed", "device",
    ]  # fmt: skip
    assert "seed=11" in page
    assert "algo.reward=binary" in page
    words = " ".join(page.split())
    for info in fields_of(TrainConfig):
        inner, _ = strip_optional(info.annotation)
        if is_config(inner):
            continue
        assert f"  {info.key}=" in page, info.key
        assert info.doc, f"{info.key} has no docstring"
        assert info.doc in words


@pytest.mark.parametrize("command", sorted(CONFIGURED))
def test_every_command_has_a_documented_configuration(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert f"usage: vla {command}" in capsys.readouterr().out
    config_class: Any = vla.cli._load(CONFIGURED[command].config)
    undocumented = [info.key for info in fields_of(config_class) if not info.doc]
    assert undocumented == []
    assert callable(vla.cli._load(CONFIGURED[command].runner))


def test_show_config_prints_what_would_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "algo=grpo", "--show-config"]) == 0
    assert "reward: binary" in capsys.readouterr().out


def test_environment_is_prepared_before_heavy_imports() -> None:
    code = (
        "import os, sys; from vla.cli import prepare_environment; prepare_environment(); "
        "names = ('MUJOCO_GL', 'LP_NUM_THREADS', 'OMP_NUM_THREADS'); "
        "print(*(os.environ[name] for name in names), 'torch' in sys.modules)"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("LP_NUM_THREADS", "OMP_NUM_THREADS")}
    environment["MUJOCO_GL"] = ""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    gl, llvmpipe, threads, torch_loaded = done.stdout.split()
    assert (gl, llvmpipe, torch_loaded) == ("egl" if sys.platform == "linux" else "", "0", "False")
    assert int(threads) == available_cpus()
