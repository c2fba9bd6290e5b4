"""Writes docs/api.md from the docstrings of what a program imports.

python -m scripts.api_page > docs/api.md
"""

from __future__ import annotations

import inspect
from typing import Any

import sim.embodiments
import vla.api
from sim.contract import ManipulationEnvironment, Suite
from vla.policies.protocol import Policy, PolicyOutput, PolicySpec
from vla.policies.sampling import Sampling

CLASSES: tuple[tuple[str, Any], ...] = (
    ("sim.embodiments", sim.embodiments.Embodiment),
    ("sim.contract", Suite),
    ("sim.contract", ManipulationEnvironment),
    ("vla.policies.protocol", Policy),
    ("vla.policies.protocol", PolicySpec),
    ("vla.policies.protocol", PolicyOutput),
    ("vla.policies.sampling", Sampling),
)


def page() -> str:
    """The page as Markdown."""
    module_doc = inspect.cleandoc(vla.api.__doc__ or "")
    first, _, rest = module_doc.partition("\n\n")
    code, _, after = rest.partition("\n\nWhatever")
    parts = [
        "# From Python",
        "",
        first,
        "",
        "```python",
        inspect.cleandoc(code),
        "```",
        "",
        f"Whatever{after}",
        "",
        "This page is made from the docstrings by `python -m scripts.api_page`.",
    ]
    for name in ("make", "load_policy", "evaluate", "fine_tune", "train"):
        function = getattr(vla.api, name)
        parts += ["", f"## `vla.{name}`", "", *_code(f"{name}{_signature(function)}"), "", *_code(_doc(function))]
    parts += ["", "## The types", "", "Shapes, units and errors are in their docstrings; these are their summaries."]
    for module, cls in CLASSES:
        parts += ["", f"### `{module}.{cls.__name__}`", "", _doc(cls).partition("\n\n")[0], ""]
        parts += [f"- `{name}`: {summary}" for name, summary in _members(cls)]
    return "\n".join(parts) + "\n"


def _code(text: str) -> list[str]:
    return ["```text", text, "```"]


def _signature(function: Any) -> str:
    text = str(inspect.signature(function, eval_str=True))
    for module in ("gymnasium.core.", "pathlib._local.", "pathlib.", "typing.", "vla.policies.protocol."):
        text = text.replace(module, "")
    return text


def _doc(thing: Any) -> str:
    return inspect.cleandoc(thing.__doc__ or "")


def _members(cls: Any) -> list[tuple[str, str]]:
    """Methods and properties with docstrings, and fields with the docstring below them."""
    from vla.conf.schema import field_docs

    found = list(field_docs(cls).items()) if hasattr(cls, "__dataclass_fields__") else []
    for name, value in vars(cls).items():
        target = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if not name.startswith("_") and callable(target) and getattr(target, "__doc__", None):
            found.append((name, " ".join(_doc(target).partition("\n\n")[0].split())))
    return found


def main() -> None:
    print(page(), end="")


if __name__ == "__main__":
    main()
