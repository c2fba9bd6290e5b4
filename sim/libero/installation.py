"""Finding what LIBERO needs: packages at their exact versions, the asset tree, and an import that asks no questions.

`hf-libero` prompts on import when it finds no configuration file, downloads assets when it finds none, and drags in
torchvision and robomimic when installed with its dependencies. Building and stepping a task needs none of that.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import sys
import tempfile
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sim.contract import EnvironmentRequestError
from sim.gl_platform import EGL_DEVICE

MUJOCO_VERSION = "3.3.0"
"""From 3.3.3 LIBERO's pictures change; from 3.4.0 the bowl of libero_spatial task 5 slides off its ramekin."""

PACKAGE_VERSIONS = {"hf-libero": "0.1.4", "robosuite": "1.4.0", "bddl": "1.0.1"}
"""Distribution name -> the one version that the official numbers were measured with and that builds every task."""

INSTALL_HINT = (
    "run `make libero`, or: pip install --no-deps hf-libero==0.1.4 robosuite==1.4.0 bddl==1.0.1 and "
    "pip install cloudpickle easydict future matplotlib networkx numba opencv-python-headless pyyaml termcolor "
    "(see docs/libero.md)"
)

ASSETS_VARIABLE = "LIBERO_ASSETS"

ASSET_FOLDERS = (
    "articulated_objects",
    "scenes",
    "stable_hope_objects",
    "stable_scanned_objects",
    "textures",
    "turbosquid_objects",
)


@dataclass(frozen=True)
class Installation:
    """Where LIBERO's files are, once everything was found."""

    package: Path
    """The folder `libero/libero` of hf-libero, which holds task definitions and initial states."""
    assets: Path
    """The folder of meshes, textures and scene XML."""


def installed_versions() -> dict[str, str]:
    """Versions of the packages that determine LIBERO's physics and pictures."""
    return {name: _version(name) for name in ("mujoco", *PACKAGE_VERSIONS)}


def find_installation() -> Installation:
    """Check packages, versions and assets without importing LIBERO.

    Raises `EnvironmentRequestError` saying what to install or set: a missing package, a version that changes results,
    a missing or incomplete asset tree.
    """
    for name, wanted in {"mujoco": MUJOCO_VERSION, **PACKAGE_VERSIONS}.items():
        found = _version(name)
        if found != wanted:
            raise EnvironmentRequestError(
                f"LIBERO needs {name} {wanted}, but {found} is installed: other versions change its physics or "
                f"pictures. Run: pip install --no-deps {name}=={wanted}"
            )
    package = _package_folder()
    return Installation(package=package, assets=_find_assets(package))


def import_libero(installation: Installation) -> None:
    """Import `libero.libero.envs` quietly: no prompt, no download, nothing of LIBERO's in the user's home.

    Raises `EnvironmentRequestError` when a package that LIBERO imports is missing or no GL library can be loaded.
    """
    quiet_robosuite()
    if "libero.libero" not in sys.modules:
        os.environ["LIBERO_CONFIG_PATH"] = str(_configuration_folder(installation))
    try:
        # Importing robosuite loads the GL library that MUJOCO_GL names, so a missing one shows here.
        with without_egl_device():
            import libero.libero
            import libero.libero.envs
    except ModuleNotFoundError as error:
        raise EnvironmentRequestError(f"LIBERO needs the package {error.name!r}; {INSTALL_HINT}") from error
    except (ImportError, AttributeError, OSError, RuntimeError) as error:
        from sim.core.gl import gl_error  # here, because it needs what may just have failed to load

        raise gl_error(error) from error
    # Without this LIBERO looks beside its own code and then downloads from the Hugging Face hub.
    libero_package: Any = libero.libero
    libero_package._assets_path_cache = str(installation.assets)


@contextmanager
def without_egl_device() -> Iterator[None]:
    """MUJOCO_EGL_DEVICE_ID out of sight: robosuite takes an EGL device for wrong that CUDA_VISIBLE_DEVICES does not
    name, though the two count differently, and draws nothing here."""
    value = os.environ.pop(EGL_DEVICE, None)
    try:
        yield
    finally:
        if value is not None:
            os.environ[EGL_DEVICE] = value


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        hint = "run: pip install mujoco==3.3.0" if distribution == "mujoco" else INSTALL_HINT
        raise EnvironmentRequestError(
            f"LIBERO needs the package {distribution!r}, which is not installed; {hint}"
        ) from None


def _package_folder() -> Path:
    spec = importlib.util.find_spec("libero")
    if spec is None or spec.origin is None:
        raise EnvironmentRequestError(f"the package 'libero' cannot be imported; {INSTALL_HINT}")
    folder = Path(spec.origin).parent / "libero"
    if not (folder / "bddl_files").is_dir():
        raise EnvironmentRequestError(
            f"{folder} holds no task definitions (bddl_files): another package named 'libero' shadows hf-libero; "
            + INSTALL_HINT
        )
    return folder


def _find_assets(package: Path) -> Path:
    variable = os.environ.get(ASSETS_VARIABLE)
    if variable:
        given = Path(variable).expanduser().absolute()
        # The folder that contains assets/ is what is asked for; the assets folder itself is understood too.
        assets = given if (given / "scenes").is_dir() else given / "assets"
        source = f"{ASSETS_VARIABLE}={variable}"
    else:
        assets = package / "assets"
        source = f"{ASSETS_VARIABLE}, which is not set"
    if not assets.is_dir():
        raise EnvironmentRequestError(
            f"LIBERO's meshes and textures were not found (looked at {source}). Download them with "
            "`hf download lerobot/libero-assets --repo-type dataset --local-dir FOLDER/assets` "
            f"and set {ASSETS_VARIABLE}=FOLDER, the folder that contains assets/."
        )
    missing = [name for name in ASSET_FOLDERS if not (assets / name).is_dir()]
    if missing:
        raise EnvironmentRequestError(
            f"LIBERO's assets in {assets} are incomplete: no {', '.join(missing)}. Download them again "
            f"(see docs/libero.md) or point {ASSETS_VARIABLE} at a complete copy."
        )
    return assets


@cache
def _configuration_keeper() -> tempfile.TemporaryDirectory[str]:
    """Private folder of the generated configuration; removed when the process ends."""
    return tempfile.TemporaryDirectory(prefix="reflex-libero-")


def _configuration_folder(installation: Installation) -> Path:
    """The user's own LIBERO configuration folder when it is complete, else a generated one."""
    given = os.environ.get("LIBERO_CONFIG_PATH")
    if given and (Path(given) / "config.yaml").is_file():
        return Path(given)
    folder = Path(_configuration_keeper().name)
    paths = {
        "benchmark_root": installation.package,
        "bddl_files": installation.package / "bddl_files",
        "init_states": installation.package / "init_files",
        "datasets": installation.package.parent / "datasets",
        "assets": installation.assets,
    }
    # JSON strings are valid YAML and quote any character a path may hold.
    lines = [f"{key}: {json.dumps(str(path))}\n" for key, path in paths.items()]
    (folder / "config.yaml").write_text("".join(lines), encoding="utf-8")
    return folder


def quiet_robosuite() -> None:
    """Load robosuite's settings with its log file switched off, and without its advice to write private settings.

    robosuite logs to /tmp/robosuite.log on import, which fails where another user owns that file.
    """
    if "robosuite" in sys.modules:
        return
    spec = importlib.util.find_spec("robosuite")
    if spec is None or spec.origin is None:
        raise EnvironmentRequestError(f"the package 'robosuite' cannot be imported; {INSTALL_HINT}")
    macros_spec = importlib.util.spec_from_file_location("robosuite.macros", Path(spec.origin).parent / "macros.py")
    assert macros_spec is not None and macros_spec.loader is not None
    macros: Any = importlib.util.module_from_spec(macros_spec)
    macros_spec.loader.exec_module(macros)
    macros.FILE_LOGGING_LEVEL = None
    sys.modules["robosuite.macros"] = macros
    if not (Path(spec.origin).parent / "macros_private.py").is_file():
        sys.modules["robosuite.macros_private"] = types.ModuleType("robosuite.macros_private")
