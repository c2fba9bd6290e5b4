"""Asks an action filter again what a log says that it was asked, and compares the answers bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vla.errors import ReflexError
from vla.safety.checks import ActionRequest
from vla.safety.config import FilterConfig
from vla.safety.decision import Decision, Filtered
from vla.safety.filter import ActionFilter
from vla.safety.limits import MotionLimits
from vla.safety.log import Row, read_array
from vla.safety.workspace import HandModel


@dataclass(frozen=True)
class Replay:
    """What came of asking again."""

    actions: int
    """Requests that were asked again."""
    differences: tuple[str, ...]
    """What differs, e.g. "action 12: sent"; empty when every answer has the same bits."""


def replay(rows: Sequence[Row], hand: HandModel | None = None) -> Replay:
    """Ask a filter of the log's limits and settings what the log's filter was asked, and compare every answer.

    Raises `ReflexError` where the rows are no log of a filter, or of one whose code or limits were another.
    """
    if not rows or rows[0].get("event") != "open":
        raise ReflexError("this is no log of an action filter: it does not begin with the filter's limits")
    asked: ActionFilter | None = None
    differences: list[str] = []
    actions = 0
    try:
        for row in rows:
            if row["event"] == "open":
                asked = _open(row, hand)
            elif asked is None:
                continue
            elif row["event"] == "start":
                asked.start(read_array(row["measured"]))
            elif row["event"] == "anchor":
                asked.anchor(read_array(row["measured"]))
            elif row["event"] == "stand":
                asked.stand()
            elif row["event"] == "stop":
                asked.stop(row["reason"])
            else:
                differences += [f"action {actions}: {what}" for what in _compare(asked.filter(_request(row)), row)]
                actions += 1
    except (KeyError, TypeError, ValueError) as error:
        raise ReflexError(f"the log of the action filter lacks or garbles {error} at action {actions}") from error
    return Replay(actions, tuple(differences))


def _open(row: Row, hand: HandModel | None) -> ActionFilter:
    asked = ActionFilter(MotionLimits.from_dict(row["limits"]), row["period"], FilterConfig(**row["config"]), hand)
    if asked.setup.digest() != row["digest"]:
        raise ReflexError("the log's limits and settings were changed since it was written: its digest is of others")
    return asked


def _compare(filtered: Filtered, row: Row) -> list[str]:
    differing = [] if filtered.action.tobytes() == read_array(row["sent"]).tobytes() else ["sent"]
    if filtered.decision is not Decision(row["decision"]):
        differing.append("decision")
    if list(filtered.reasons) != row["reasons"]:
        differing.append("reasons")
    return differing


def _request(row: Row) -> ActionRequest:
    return ActionRequest(
        action=read_array(row["action"]),
        now=float(row["now"]),
        observation_time=float(row["observation_time"]),
        deadline=float(row["deadline"]),
        chunk_id=row["chunk_id"],
        measured=None if row["measured"] is None else read_array(row["measured"]),
        units=None if row["units"] is None else tuple(row["units"]),
    )
