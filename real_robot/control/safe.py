"""The action filter as the control loop calls it: an action that is due, or a reason to hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from real_robot.control.schedulers import Planned
from vla.safety.checks import ActionRequest
from vla.safety.decision import Filtered
from vla.safety.filter import ActionFilter


@dataclass(frozen=True)
class SafeRequest:
    """All that one answer of the filter depends on, beside its state and settings."""

    action: NDArray[np.float64] | None
    """[J] None asks for a hold."""
    now: float
    observed: float
    deadline: float
    chunk: int | None
    measured: NDArray[np.float64]
    """[J]"""
    problem: str | None
    """Why a hold is asked for."""

    @classmethod
    def of(
        cls, planned: Planned | None, measured: NDArray[np.float64], now: float, problem: str | None
    ) -> SafeRequest:
        """For the action that is due; a `problem` asks for a hold instead."""
        if planned is None or problem is not None:
            return cls(None, now, now, now, None, measured, problem)
        return cls(planned.action, now, planned.observed, planned.deadline, planned.chunk, measured, None)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; every bit of the numbers is kept."""
        return {
            "action": None if self.action is None else self.action.tolist(),
            "now": self.now,
            "observed": self.observed,
            "deadline": self.deadline,
            "chunk": self.chunk,
            "measured": self.measured.tolist(),
            "problem": self.problem,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> SafeRequest:
        """Inverse of `to_dict`."""
        action = None if values["action"] is None else np.array(values["action"], np.float64)
        return cls(**{**values, "action": action, "measured": np.array(values["measured"], np.float64)})


def answer(action_filter: ActionFilter, request: SafeRequest) -> Filtered:
    """What may be sent; a hold that was asked for has the reason that was given."""
    filtered = action_filter.filter(
        ActionRequest(
            action=request.action,
            now=request.now,
            observation_time=request.observed,
            deadline=request.deadline,
            chunk_id=request.chunk,
            measured=request.measured,
        )
    )
    if request.problem is None:
        return filtered
    # The filter finds that no array is of the wrong shape; why there is none says more.
    others = tuple(reason for reason in filtered.reasons if not reason.startswith(("shape:", "kind:")))
    return Filtered(filtered.action, filtered.decision, (request.problem, *others))
