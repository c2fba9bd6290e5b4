"""The doctor: each check on both sides of its boundary, and probes that crash without taking it along."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vla import doctor
from vla.cli import main
from vla.commands import CONFIGURED
from vla.doctor import GIGABYTE, Check
from vla.errors import ReflexError
from vla.run.devices import resolve_device


@pytest.mark.parametrize(
    ("version", "status"), [((3, 10), "fail"), ((3, 11), "ok"), ((3, 12), "ok"), ((3, 13), "fail")]
)
def test_python_versions(version: tuple[int, int], status: str) -> None:
    assert doctor.check_python(version).status == status


def test_only_one_mujoco_will_do() -> None:
    assert doctor.check_mujoco("3.3.0").status == "ok"
    newer = doctor.check_mujoco("3.4.0")
    assert newer.status == "fail"
    assert newer.fix == "pip install mujoco==3.3.0"


def test_disk_and_memory_and_threads_boundaries() -> None:
    assert doctor.check_disk(Path.cwd(), GIGABYTE // 4).status == "fail"
    assert doctor.check_disk(Path.cwd(), 2 * GIGABYTE).status == "warn"
    assert doctor.check_disk(Path.cwd(), 50 * GIGABYTE).status == "ok"
    assert doctor.check_memory(GIGABYTE // 2).status == "fail"
    assert doctor.check_memory(2 * GIGABYTE).status == "warn"
    assert doctor.check_memory(16 * GIGABYTE).status == "ok"
    assert doctor.check_threads(cores=2, threads="8").status == "warn"
    assert doctor.check_threads(cores=1, threads="1").status == "warn"
    assert doctor.check_threads(cores=4, threads="2").status == "ok"


def test_a_frame_is_drawn_here() -> None:
    check = doctor.check_rendering()
    assert check.status == "ok", check
    assert check.detail


def test_a_driver_that_crashes_is_a_line_of_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    check = doctor.check_rendering("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    assert check.status == "fail"
    assert check.detail.startswith("crashed with SIGSEGV")


def test_a_missing_library_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")

    def refuse(name: str) -> None:
        if name == "libEGL.so.1":
            raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(doctor.ctypes, "CDLL", refuse)
    assert doctor.missing_gl_libraries() == {"libEGL.so.1": "libegl1"}
    check = doctor.check_rendering("raise SystemExit(1)")
    assert (check.status, check.detail, check.fix) == ("fail", "missing libEGL.so.1", "apt-get install libegl1")


def test_egl_without_a_driver_is_told_from_egl_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.delenv("__EGL_VENDOR_LIBRARY_FILENAMES", raising=False)
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_DIRS", str(tmp_path))
    monkeypatch.setattr(doctor, "missing_gl_libraries", dict)
    check = doctor.check_rendering()  # libEGL itself reads that variable, so this really finds no driver
    assert check.status == "fail"
    assert "no driver is registered" in check.detail
    (tmp_path / "50_test.json").write_text("{}")
    assert [path.name for path in doctor.egl_vendors()] == ["50_test.json"]


def test_a_backend_chosen_by_hand_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MUJOCO_GL", "nonsense")
    check = doctor.check_rendering()
    assert check.status == "fail"
    assert "nonsense" in check.name
    assert check.detail == "MUJOCO_GL=nonsense is not one of egl, osmesa and glfw"
    assert check.fix == "unset MUJOCO_GL, or set it to egl"


def test_an_archive_of_libero_is_enough(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "libero_goal.libero").touch()
    monkeypatch.setenv("LIBERO_ARCHIVES", str(tmp_path))
    check = doctor.check_libero()
    assert (check.status, check.detail) == ("ok", f"archives of libero_goal in {tmp_path}")


def test_libero_without_assets_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    check = doctor.check_libero()
    assert check.status == "warn"
    assert check.fix


def test_exit_status_and_json_follow_the_checks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    good, slow = Check("a", "ok", "fine"), Check("b", "warn", "slow", "do this")
    bad = Check("c", "fail", "gone [x]", "get it")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: good, lambda: slow))
    assert doctor.main([]) == 0
    assert "do this" in capsys.readouterr().out
    assert doctor.main(["--brief"]) == 0
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(doctor, "CHECKS", (lambda: good, lambda: bad))
    assert doctor.main(["--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["checks"][1] == {"name": "c", "status": "fail", "detail": "gone [x]", "fix": "get it"}
    assert doctor.main(["--brief"]) == 1
    assert capsys.readouterr().err == "c: gone [x]. To fix: get it\n"


def test_a_probe_that_hangs_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.2)
    code, _, errors = doctor.run_probe("import time; time.sleep(60)")
    assert code == 124
    assert "nothing happened" in doctor.explain_exit(code, errors)


def test_a_check_that_fails_itself_is_a_line_of_the_table(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check_libero() -> Check:
        raise RuntimeError("invalid value for environment variable MUJOCO_GL: nonsense\nand more")

    monkeypatch.setattr(doctor, "CHECKS", (check_libero, lambda: Check("a", "ok", "fine")))
    assert doctor.main(["--json"]) == 1
    broken, fine = json.loads(capsys.readouterr().out)["checks"]
    assert (broken["name"], broken["status"], fine["status"]) == ("libero", "fail", "ok")
    assert broken["detail"].endswith("(RuntimeError: invalid value for environment variable MUJOCO_GL: nonsense)")


def test_a_gpu_that_a_variable_hides_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    hidden = doctor.check_torch()
    assert hidden.status == "warn"
    assert "CUDA_VISIBLE_DEVICES=3 leaves no GPU" in hidden.detail
    with pytest.raises(ReflexError, match=r"finds no CUDA \(CUDA_VISIBLE_DEVICES=3: unset it, or set it to"):
        resolve_device("cuda")
    for on_purpose in ("", "-1"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", on_purpose)
        assert doctor.check_torch().status == "ok"


WRONG = [
    ("MUJOCO_GL", "nonsense"),
    ("MUJOCO_GL", "off"),
    ("MUJOCO_EGL_DEVICE_ID", "777"),
    ("PYOPENGL_PLATFORM", "osmesa"),
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no EGL to choose")
@pytest.mark.parametrize(("name", "value"), WRONG)
def test_every_command_that_draws_names_a_wrong_variable(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setenv(name, value)
    for command, entry in CONFIGURED.items():
        if not (entry.simulates or command == "sft"):
            continue
        needed = ["demonstrations=f", "suite=libero_goal"] if command == "libero import" else []
        needed += ["suite=libero_goal"] if command == "libero pack" else []
        needed += ["dataset=d", "evaluate_every=1"] if command == "sft" else []
        needed += ["start=s", "suite=tabletop"] if command == "online" else []
        needed += ["output=o"] if command not in ("check", "robot emulate") else []
        assert main([*command.split(), *needed]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"vla: cannot render: {name}={value} ") and said.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no EGL to choose")
def test_it_is_said_before_mujoco_ends_in_a_traceback() -> None:
    """In a process of its own: MuJoCo reads the variable when it is first imported."""
    done = subprocess.run(
        [sys.executable, "-m", "vla", "libero", "import", "demonstrations=f", "suite=libero_spatial"],
        env={**os.environ, "MUJOCO_GL": "nonsense"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("vla: cannot render: MUJOCO_GL=nonsense ") and done.stderr.count("\n") == 1
