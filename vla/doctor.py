"""`vla doctor`: what this machine has, what is missing, and what to do about it.

Everything that can crash a process (a GL driver, a library without its system dependencies) is tried in a process of
its own, so that a crash becomes a line of the table.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sim.gl_platform import settings_problem
from vla.cli import EXIT_FAILED, prepare_environment
from vla.errors import ReflexError
from vla.run.cores import available_cpus

MUJOCO_VERSION = "3.3.0"
GIGABYTE = 1024**3
PROBE_SECONDS = 90
"""A GL driver that has drawn nothing by then never will."""

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the table."""

    name: str
    status: Status
    """"fail" means a needed thing is missing; "warn" an optional one, or a setting that costs speed."""
    detail: str
    """What was found."""
    fix: str = ""
    """What to do about it."""


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    """Python 3.11 or 3.12."""
    found = f"{version[0]}.{version[1]}"
    if version in ((3, 11), (3, 12)):
        return Check("python", "ok", found)
    return Check("python", "fail", found, "use Python 3.11 or 3.12: make PYTHON=/path/to/python3.11 demo")


def check_torch() -> Check:
    """torch imports, and which devices it sees."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch", "fail", f"cannot be imported: {error}", "pip install -c constraints.txt torch")
    devices = ["cpu"]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        devices.append(f"cuda:{index} {properties.name} ({properties.total_memory / GIGABYTE:.0f} GiB)")
    detail = f"{torch.__version__}, devices: {', '.join(devices)}"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if visible not in ("", "-1") and len(devices) == 1:  # these two are how a GPU is hidden on purpose
        fix = "unset CUDA_VISIBLE_DEVICES, or set it to a GPU's number, if this machine has a GPU"
        return Check("torch", "warn", f"{detail}; CUDA_VISIBLE_DEVICES={visible} leaves no GPU", fix)
    return Check("torch", "ok", detail)


def check_mujoco(found: str | None = None) -> Check:
    """Exactly the version whose physics and pictures the results were made with."""
    try:
        found = found or importlib.metadata.version("mujoco")
    except importlib.metadata.PackageNotFoundError:
        found = "not installed"
    if found == MUJOCO_VERSION:
        return Check("mujoco", "ok", found)
    reason = "other versions change LIBERO's pictures or physics"
    return Check("mujoco", "fail", f"{found}; {reason}", f"pip install mujoco=={MUJOCO_VERSION}")


_RENDER_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><geom size="0.3" rgba="1 0 0 1"/>'
    '<camera name="c" pos="0 -2 0" xyaxes="1 0 0 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data, "c")
    image = renderer.render()
    from OpenGL import GL
    print(GL.glGetString(GL.GL_RENDERER).decode())
assert image.std() > 1, "the picture is of one colour"
"""


def check_rendering(probe: str = _RENDER_PROBE) -> Check:
    """One frame, drawn off-screen in a process of its own."""
    backend = os.environ.get("MUJOCO_GL", "")
    name = f"rendering ({backend or 'default'})"
    if problem := settings_problem():
        found, _, fix = problem.partition("; ")
        return Check(name, "fail", found, fix)
    code, output, errors = run_probe(probe)
    if code == 0:
        return Check(name, "ok", output.strip().splitlines()[-1] if output.strip() else "drew a frame")
    if backend.lower().strip() not in ("", "egl"):
        return Check(name, "fail", explain_exit(code, errors), "unset MUJOCO_GL to use EGL")
    missing = missing_gl_libraries()
    if missing:
        packages = " ".join(sorted(missing.values()))
        return Check(name, "fail", f"missing {', '.join(sorted(missing))}", f"apt-get install {packages}")
    if not egl_vendors():
        detail = "libEGL is there, but no driver is registered with it (no JSON file in egl_vendor.d)"
        return Check(name, "fail", detail, "apt-get install libegl-mesa0, or install the GPU driver's EGL part")
    vendors = ", ".join(path.name for path in egl_vendors())
    return Check(
        name, "fail", f"{explain_exit(code, errors)}; EGL drivers: {vendors}", "apt-get install libegl1 libgl1"
    )


def missing_gl_libraries() -> dict[str, str]:
    """System libraries that EGL rendering loads and that are absent -> the Debian/Ubuntu package of each."""
    needed = {"libEGL.so.1": "libegl1", "libGL.so.1": "libgl1"}
    missing = {}
    for library, package in needed.items():
        try:
            ctypes.CDLL(library)
        except OSError:
            missing[library] = package
    return missing


def egl_vendors() -> list[Path]:
    """The drivers that libglvnd's EGL can find: the JSON files it would read."""
    named = os.environ.get("__EGL_VENDOR_LIBRARY_FILENAMES")
    if named:
        return [Path(path) for path in named.split(":") if Path(path).is_file()]
    folders = os.environ.get("__EGL_VENDOR_LIBRARY_DIRS", "/etc/glvnd/egl_vendor.d:/usr/share/glvnd/egl_vendor.d")
    return sorted(path for folder in folders.split(":") for path in Path(folder).glob("*.json"))


def check_opencv() -> Check:
    """OpenCV's wheel needs system libraries that a bare container lacks."""
    code, output, errors = run_probe("import cv2; print(cv2.__version__)")
    if code == 0:
        return Check("opencv", "ok", output.strip())
    return Check("opencv", "fail", explain_exit(code, errors), "apt-get install libgl1 libglib2.0-0")


def check_video() -> Check:
    """PyAV can encode the video of a dataset."""
    code, output, errors = run_probe(
        "import av; print(', '.join(n for n in ('libsvtav1', 'libx264') if n in av.codecs_available) or 'none')"
    )
    if code == 0 and output.strip() != "none":
        return Check("video", "ok", f"encoders: {output.strip()}")
    detail = "no H.264 or AV1 encoder" if code == 0 else explain_exit(code, errors)
    return Check("video", "fail", detail, "pip install --force-reinstall --only-binary=:all: av")


def check_libero() -> Check:
    """LIBERO's task builder and assets; only its suites need them."""
    from sim.contract import EnvironmentRequestError
    from sim.libero.installation import find_installation
    from sim.libero.suite import ARCHIVES_VARIABLE

    folder = os.environ.get(ARCHIVES_VARIABLE)
    archives = sorted(path.stem for path in Path(folder).glob("*.libero")) if folder else []
    if archives:
        return Check("libero (optional)", "ok", f"archives of {', '.join(archives)} in {folder}")
    try:
        installation = find_installation()
    except EnvironmentRequestError as error:
        return Check("libero (optional)", "warn", "cannot be used; nothing else needs it", str(error))
    return Check("libero (optional)", "ok", f"assets in {installation.assets}")


def check_disk(folder: Path, free: int | None = None) -> Check:
    """Room for runs, datasets and checkpoints."""
    free = shutil.disk_usage(folder).free if free is None else free
    detail = f"{free / GIGABYTE:.1f} GiB free in {folder}"
    if free < GIGABYTE // 2:
        return Check("disk", "fail", detail, "free some space, or write elsewhere with output=...")
    if free < 5 * GIGABYTE:
        return Check("disk", "warn", detail, "a run with all checkpoints and videos can need 5 GiB: keep_checkpoints=2")
    return Check("disk", "ok", detail)


def check_threads(cores: int | None = None, threads: str | None = None) -> Check:
    """Threads per process against the cores there are."""
    cores = available_cpus() if cores is None else cores
    threads = os.environ.get("OMP_NUM_THREADS", str(cores)) if threads is None else threads
    detail = f"{cores} usable cores, {threads} threads per process"
    if threads.isdigit() and int(threads) > cores:
        return Check(
            "threads", "warn", detail, f"export OMP_NUM_THREADS={cores}: more threads than cores slow a run down"
        )
    if cores < 2:
        return Check("threads", "warn", detail, "simulator and policy share one core; expect half the speed of two")
    return Check("threads", "ok", detail)


def check_memory(available: int | None = None) -> Check:
    """Memory that is free now."""
    available = available_memory() if available is None else available
    if available is None:
        return Check("memory", "warn", "not known on this system")
    detail = f"{available / GIGABYTE:.1f} GiB available"
    if available < GIGABYTE:
        return Check("memory", "fail", detail, "close other programs; a tabletop run needs about 2 GiB")
    if available < 4 * GIGABYTE:
        return Check("memory", "warn", detail, "use fewer environments at a time: num_slots=8")
    return Check("memory", "ok", detail)


def available_memory() -> int | None:
    """Bytes this process could still use: the machine's, or its control group's if that allows less."""
    bounds: list[int] = []
    information = Path("/proc/meminfo")
    if information.is_file():
        for line in information.read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                bounds.append(int(line.split()[1]) * 1024)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        bounds.append(int(limit.read_text()) - int(used.read_text()))
    return min(bounds) if bounds else None


def run_probe(code: str) -> tuple[int, str, str]:
    """Run Python code in a new process; (exit status, stdout, stderr). A hang counts as status 124."""
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PROBE_SECONDS)
    except subprocess.TimeoutExpired:
        return 124, "", f"nothing happened within {PROBE_SECONDS} s"
    return done.returncode, done.stdout, done.stderr


def explain_exit(code: int, errors: str) -> str:
    """A probe's failure in one line: the signal that killed it, or the last line it wrote."""
    if code < 0:
        return f"crashed with {signal.Signals(-code).name}"
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit status {code}"


CHECKS: tuple[Callable[[], Check], ...] = (
    check_python,
    check_torch,
    check_mujoco,
    check_rendering,
    check_opencv,
    check_video,
    check_libero,
    lambda: check_disk(Path.cwd()),
    check_threads,
    check_memory,
)


def main(arguments: Sequence[str]) -> int:
    """Run every check. `--json` prints them as JSON, `--brief` only what fails. 1 if a needed thing fails."""
    unknown = set(arguments) - {"--json", "--brief", "-h", "--help"}
    if unknown:
        raise ReflexError(f"vla doctor takes --json and --brief, not {min(unknown)!r}")
    if set(arguments) & {"-h", "--help"}:
        sys.stdout.write(f"vla doctor [--json | --brief]\n\n{main.__doc__}\n")
        return 0
    prepare_environment()
    checks = [_without_crash(check) for check in CHECKS]
    failed = [check for check in checks if check.status == "fail"]
    if "--json" in arguments:
        sys.stdout.write(json.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2) + "\n")
    elif "--brief" in arguments:
        for check in failed:
            Console(stderr=True).print(Text(f"{check.name}: {check.detail}. To fix: {check.fix}"), soft_wrap=True)
    else:
        _print_table(checks)
    return EXIT_FAILED if failed else 0


def _without_crash(check: Callable[[], Check]) -> Check:
    """What a check finds; one that fails itself, in whatever way a broken library chooses, is a line too."""
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - the doctor is for machines on which anything may be broken
        name = getattr(check, "__name__", "check").removeprefix("check_")
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        return Check(
            name,
            "fail",
            f"the check itself failed ({reason})",
            "mend what the other lines say is wrong, then run vla doctor again",
        )


def _print_table(checks: Sequence[Check]) -> None:
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = Table("check", "status")
    for heading in ("found", "what to do"):
        table.add_column(heading, overflow="fold")  # a command cut short cannot be copied
    for check in checks:
        table.add_row(check.name, Text(check.status, colours[check.status]), Text(check.detail), Text(check.fix))
    Console().print(table)
