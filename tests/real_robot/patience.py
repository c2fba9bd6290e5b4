"""How long tests wait for a machine that they share."""

from __future__ import annotations

UNHURRIED = 5.0
"""Seconds of silence that the watchdog forgives: it would end these tests' process on a machine that they share."""
