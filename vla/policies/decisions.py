"""Giving a policy another kind of decision: tokens or a flow, on the same backbone."""

from __future__ import annotations

from typing import Literal

from vla.errors import ReflexError
from vla.policies.flow.configuration import FlowConfig
from vla.policies.flow.policy import FlowPolicy
from vla.policies.prismatic import PrismaticPolicy
from vla.policies.protocol import TrainablePolicy

Decision = Literal["tokens", "flow"]


def with_decision(policy: TrainablePolicy, decision: Decision | None, flow: FlowConfig) -> TrainablePolicy:
    """The policy itself where it decides so already or `decision` is None; else its backbone under another head.

    A flow head, of configuration `flow`, starts with random weights (seed with `torch.manual_seed`); a token head with
    those that the backbone kept. Raises `ReflexError` for a policy without such a backbone.
    """
    if decision == "flow" and isinstance(policy, PrismaticPolicy):
        return FlowPolicy.on(policy, flow)
    if decision == "tokens" and isinstance(policy, FlowPolicy):
        return policy.token_policy()
    kinds: dict[Decision, type[TrainablePolicy]] = {"flow": FlowPolicy, "tokens": PrismaticPolicy}
    if decision is not None and not isinstance(policy, kinds[decision]):
        raise ReflexError(f"decision={decision} needs a backbone that {policy.policy_id} has not; leave decision out")
    return policy
