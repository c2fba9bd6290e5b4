"""The error this package raises for requests it cannot serve."""

from __future__ import annotations


class WorldModelError(ValueError):
    """A clip, setting or saved encoder that cannot be used; the message says which one and what to do about it."""
