"""What a user's own code is called by, `package.module:Name`, and where it failed when it did.

Nothing here knows what the object is for; `sim.suites` uses it, and so does whatever else can be an import path.
"""

from __future__ import annotations

import importlib
import re
import sys
import sysconfig
import traceback
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

ENTRY_POINTS = "reflex.plugins"
"""Group of entry points by which an installed package gives names to what it adds."""

_own_packages: set[str] = set()
"""Top-level names of the packages that plug-ins were loaded from: what tells an installed one from other libraries."""


class PluginError(Exception):
    """A plug-in that cannot be imported; the message has its path and the reason, with the line where there is one."""


def load_object(path: str) -> Any:
    """Import what "package.module:Name" names. Raises `PluginError`, whatever the module's own code raises."""
    module_name, _, attribute = path.partition(":")
    _own_packages.add(module_name.partition(".")[0])
    try:
        found = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except Exception as error:  # a module may raise anything while it is imported
        place = user_location(error)
        reason = f"{type(error).__name__}: {error}" + (f", in {place}" if place else "")
        raise PluginError(f"{path!r} cannot be imported ({reason})") from error
    return found


def entry_point(name: str) -> str | None:
    """The import path that an installed package registered under a name; None where none did."""
    return next((entry.value for entry in entry_points(group=ENTRY_POINTS) if entry.name == name), None)


def user_location(error: BaseException) -> str | None:
    """ "/home/me/my_suite.py, line 12": where an exception came from, if that is code of the user's own.

    That is the innermost line outside this project, Python's library and installed packages (but for those that a
    plug-in was loaded from). What a worker process noted of its traceback is read too. None where no line is.
    """
    frames = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    for note in getattr(error, "__notes__", ()):
        frames += [(file, int(line)) for file, line in re.findall(r'File "([^"]+)", line (\d+)', note)]
    for file, line in reversed(frames):
        if _is_users(file):
            return f"{file}, line {line}"
    return None


def _is_users(file: str) -> bool:
    path = Path(file)
    if not path.is_absolute() or path.is_relative_to(Path(sys.executable).parent):  # "<frozen ...>"; the `vla` script
        return False
    own = Path(__file__).parent.parent
    if any(path.is_relative_to(own / package) for package in ("sim", "vla", "world_models", "real_robot", "scripts")):
        return False
    paths = sysconfig.get_paths()
    for library in (paths["purelib"], paths["platlib"]):
        if path.is_relative_to(library):
            return path.relative_to(library).parts[0].removesuffix(".py") in _own_packages
    return not any(path.is_relative_to(paths[name]) for name in ("stdlib", "platstdlib"))
