"""Giving a policy another kind of decision: tokens or a flow, on the same backbone."""

from __future__ import annotations

from typing import Literal

from vla.errors import ReflexError
from vla.policies.flow.configuration import FlowConfig
from vla.policies.flow.policy import FlowPolicy
from vla.policies.protocol import TrainablePolicy
from vla.policies.tokens.policy import TokenPolicy

Decision = Literal["tokens", "flow"]


def with_decision(policy: TrainablePolicy, decision: Decision | None, flow: FlowConfig) -> TrainablePolicy:
    """The policy itself where it decides so already or `decision` is None; else its backbone under another head.

    A flow head, of configuration `flow`, starts with random weights (seed with `torch.manual_seed`); a token head with
    those that the backbone kept. Raises `ReflexError` for a policy without such a backbone.
    """
    if decision == "flow" and isinstance(policy, TokenPolicy):
        return FlowPolicy.on(policy, flow)
    if decision == "tokens" and isinstance(policy, FlowPolicy):
        return policy.token_policy()
    kinds = {"flow": FlowPolicy, "tokens": TokenPolicy, None: object}
    if not isinstance(policy, kinds[decision]):
        raise ReflexError(f"decision={decision} needs a backbone that {policy.policy_id} has not; leave decision out")
    return policy
