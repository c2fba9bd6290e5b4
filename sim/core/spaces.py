"""The space of language instructions, and how gymnasium's asynchronous vector environments share one.

gymnasium reads a `Text` out of shared memory once, when the vector environment is made, so that what its observations
say afterwards is that empty text for ever. Here the shared memory holds code points, and what is handed out reads them
when it is looked at or copied.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector.utils import shared_memory

MAX_LENGTH = 400
"""Characters of the longest instruction."""

_NOTHING = -1
"""In shared memory, where there is no character."""


class Instruction(gymnasium.spaces.Text):
    """Any text of at most `MAX_LENGTH` characters; samples are of printable ASCII."""

    def __init__(self) -> None:
        super().__init__(
            MAX_LENGTH, min_length=0, charset=string.ascii_letters + string.digits + string.punctuation + " "
        )

    def contains(self, x: Any) -> bool:
        """Whether `x` is a text that is not too long."""
        return isinstance(x, str) and len(x) <= MAX_LENGTH

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Instruction)

    __hash__ = None  # type: ignore[assignment]


class _Texts(Sequence[str]):
    """The instructions of n environments, as they are in shared memory at the moment they are read."""

    def __init__(self, memory: Any, n: int) -> None:
        self._rows = np.frombuffer(memory.get_obj(), dtype=np.int32).reshape(n, MAX_LENGTH)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        return "".join(chr(code) for code in row[row != _NOTHING])

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __deepcopy__(self, memo: Any) -> tuple[str, ...]:
        return tuple(self)


@shared_memory.create_shared_memory.register(Instruction)
def _create(space: Instruction, n: int = 1, ctx: Any = None) -> Any:
    memory = ctx.Array(np.dtype(np.int32).char, n * MAX_LENGTH)
    np.frombuffer(memory.get_obj(), dtype=np.int32)[:] = _NOTHING
    return memory


@shared_memory.read_from_shared_memory.register(Instruction)
def _read(space: Instruction, memory: Any, n: int = 1) -> _Texts:
    return _Texts(memory, n)


@shared_memory.write_to_shared_memory.register(Instruction)
def _write(space: Instruction, index: int, value: str, memory: Any) -> None:
    row = np.frombuffer(memory.get_obj(), dtype=np.int32)[index * MAX_LENGTH : (index + 1) * MAX_LENGTH]
    row[:] = _NOTHING
    row[: len(value)] = [ord(character) for character in value]
