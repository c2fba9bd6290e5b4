"""Vision-language-action policies and everything that trains, evaluates and records them.

The way in from Python: `load_policy`, `make`, `evaluate`, `train`, `fine_tune` and `__version__`; see `vla.api`. They
are imported at first use, since torch takes seconds.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vla.api import evaluate, fine_tune, load_policy, make, train

    __version__: str

__all__ = ["__version__", "evaluate", "fine_tune", "load_policy", "make", "train"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("reflex-vla")
    if name in __all__:
        return getattr(import_module("vla.api"), name)
    raise AttributeError(f"module 'vla' has no attribute {name!r}; it has {', '.join(__all__)}")
