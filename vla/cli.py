"""The command `vla`. What a command needs is imported after its arguments are understood, so help is immediate."""

from __future__ import annotations

import importlib
import json
import logging
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from vla.commands import CONFIGURED, MOVED, PLAIN, ConfiguredCommand
from vla.run.cores import available_cpus

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

DEBUG = "--debug"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status.

    0 done, 1 a defect (with its traceback) or a failed check, 2 a request that cannot be carried out, 130 interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        sys.stdout.write(_overview())
        return 0
    words = 2 if " ".join(arguments[:2]) in CONFIGURED else 1
    command, rest = " ".join(arguments[:words]), arguments[words:]
    if command == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"reflex {version('reflex-vla')}\n")
        return 0
    prepare_environment()
    if not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))  # a plug-in beside the user; last, so that a folder there shadows no package
    if command in CONFIGURED:
        return run_command(command, CONFIGURED[command], rest)
    if command in PLAIN:
        plain = [argument for argument in rest if argument != DEBUG]
        return guarded(lambda: int(_load(PLAIN[command][1])(plain)), debug=DEBUG in rest)
    former = next((old for old in MOVED if f"{' '.join(arguments)} ".startswith(f"{old} ")), None)
    if former is not None:
        return _fail(f"vla {former} is now {MOVED[former]}")
    return _fail(f"there is no command {command!r}{_nearest_command(command)}; see vla --help")


def run_command(name: str, command: ConfiguredCommand, arguments: Sequence[str]) -> int:
    """Run a configured command and return the exit status, as `main` does."""
    return guarded(lambda: _run_configured(name, command, list(arguments)), debug=DEBUG in arguments)


def guarded(work: Callable[[], int], debug: bool = False) -> int:
    """Do some work and return its exit status; what the user can mend is one line on stderr.

    So is an exception of the user's own code, with its file and line; `debug` shows the traceback of either.
    """
    try:
        return work()
    except KeyboardInterrupt:
        _say("interrupted")
        return EXIT_INTERRUPTED
    except Exception as error:
        if debug:
            raise
        if isinstance(error, _user_errors()):
            _say(str(error))
            return _status_of(error)
        from sim.plugins import user_location  # here, because sim brings gymnasium, and help needs neither

        place = user_location(error)
        if place is None:
            raise
        _say(f"{type(error).__name__}: {error}, in {place} (the whole traceback: {DEBUG})")
        return EXIT_FAILED


def prepare_environment() -> None:
    """Set what libraries read once, when they load: off-screen rendering, and no more threads than cores."""
    from sim.gl_platform import choose_platform

    choose_platform()
    os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software renderer: draw in the calling thread
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # it warns after a fork otherwise
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")


def _run_configured(command: str, entry: ConfiguredCommand, arguments: list[str]) -> int:
    from vla.conf.compose import compose_config, program
    from vla.errors import ReflexError

    flags = {argument for argument in arguments if argument.startswith("-")}
    unknown = flags - {"-h", "--help", "--show-config", DEBUG}
    if unknown:
        raise ReflexError(
            f"{program(command)} takes field=value, --help, --show-config and {DEBUG}, not {min(unknown)!r}; "
            f"see {program(command)} --help"
        )
    overrides = [argument for argument in arguments if argument not in flags]
    config_class = _load_config(entry)
    composed = compose_config(command, config_class, overrides)
    if flags & {"-h", "--help"}:
        from vla.conf.help import render_help

        sys.stdout.write(render_help(command, entry.summary, entry.example, composed))
        return 0
    if "--show-config" in flags:
        from omegaconf import OmegaConf

        sys.stdout.write(OmegaConf.to_yaml(composed.values))
        return 0
    config = composed.build()
    if entry.simulates or bool(getattr(config, "evaluate_every", None)):
        _check_drawing()
    overrides = _settle_output(overrides, config)
    try:
        result = _with_progress(_load(entry.runner), config)
    except KeyboardInterrupt:
        _say(f"interrupted{_how_to_resume(command, entry, overrides, config)}")
        return EXIT_INTERRUPTED
    _show(result)
    return 0


def _load_config(entry: ConfiguredCommand) -> Any:
    """A command's configuration class; where MuJoCo cannot be imported, an error that says why."""
    try:
        return _load(entry.config)
    except (ImportError, RuntimeError, AttributeError):
        _check_drawing()
        raise


def _check_drawing() -> None:
    """Raise `ReflexError` when an environment variable keeps this machine from drawing."""
    from sim.gl_platform import settings_problem
    from vla.errors import ReflexError

    if problem := settings_problem():
        raise ReflexError(f"cannot render: {problem}; vla doctor checks it")


def _settle_output(overrides: list[str], config: Any) -> list[str]:
    """The overrides with the folder that is written to, which is said where the user did not name one.

    Raises `ReflexError` for a run to be resumed that is not named.
    """
    from vla.errors import ReflexError

    named = any(override.startswith("output=") for override in overrides)
    if named or not hasattr(config, "output"):
        return overrides
    if getattr(config, "resume", False):
        raise ReflexError("resume=true needs output=..., the folder of the run to continue")
    _say(f"output={config.output}")
    return [*overrides, f"output={config.output}"]


def _with_progress(runner: Callable[..., Any], config: Any) -> Any:
    """Run a command's function, with a progress bar if it reports (done, total, successes)."""
    import inspect

    if "on_progress" not in inspect.signature(runner).parameters:
        return runner(config)
    from contextlib import ExitStack

    from vla.run.progress_bar import progress_bar

    with ExitStack() as stack:
        show: list[Callable[[int, str], None]] = []

        def update(done: int, total: int, successes: int) -> None:
            if not show:  # how many there are is known from the first report on
                show.append(stack.enter_context(progress_bar("episodes", total)))
            show[0](done, f"{successes} succeeded")

        return runner(config, on_progress=update)


def _how_to_resume(command: str, entry: ConfiguredCommand, overrides: list[str], config: Any) -> str:
    from vla.conf.compose import program

    again = [*program(command).split(), *(override for override in overrides if not override.startswith("resume="))]
    if any(field.name == "resume" for field in fields(config)):
        again.append("resume=true")
    elif not entry.continues:
        return ""
    return f"; continue with: {shlex.join(again)}"


def _show(result: Any) -> None:
    if isinstance(result, Path):
        sys.stdout.write(f"{result}\n")
    elif isinstance(result, dict):
        sys.stdout.write(json.dumps(result, indent=2, default=str) + "\n")


def _load(target: str) -> Callable[..., Any]:
    module, _, name = target.partition(":")
    loaded: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return loaded


def _user_errors() -> tuple[type[Exception], ...]:
    from sim.contract import EnvironmentRequestError
    from vla.errors import ReflexError
    from world_models.errors import WorldModelError

    return ReflexError, EnvironmentRequestError, WorldModelError


def _status_of(error: Exception) -> int:
    from vla.errors import CheckFailedError

    return EXIT_FAILED if isinstance(error, CheckFailedError) else EXIT_USAGE


def _fail(message: str) -> int:
    _say(message)
    return EXIT_USAGE


def _say(message: str) -> None:
    """One line on stderr, however long and whatever brackets it holds."""
    from rich.console import Console
    from rich.text import Text

    line = Text.assemble(("vla: ", "bold red"), " ".join(message.split()))
    Console(stderr=True, highlight=False).print(line, soft_wrap=True)


def _nearest_command(command: str) -> str:
    import difflib

    matches = difflib.get_close_matches(command, [*CONFIGURED, *PLAIN], n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def _overview() -> str:
    lines = [
        "Reflex: reinforcement learning for vision-language-action policies.",
        "",
        "usage: vla COMMAND [field=value ...]",
        "",
    ]
    summaries = {name: entry.summary for name, entry in CONFIGURED.items()} | {
        name: item[0] for name, item in PLAIN.items()
    }
    width = max(map(len, summaries)) + 2
    lines += [f"  {name:<{width}}{summary}" for name, summary in summaries.items()]
    lines += ["", "vla COMMAND --help shows a command's fields, groups and defaults; vla --version the version."]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
