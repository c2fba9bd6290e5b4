"""Whether a policy keeps `vla.policies.protocol`: shapes, determinism, probabilities, one training step, saving."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sim.contract import Observation, ObservationBatch, Suite, stack_observations
from vla.check.findings import Broken, Finding, require, run_checks
from vla.errors import ReflexError
from vla.policies.protocol import PolicyOutput
from vla.policies.registry import load_policy
from vla.policies.sampling import Sampling

SAMPLED = Sampling(temperature=1.0, token_noise=0.0, chunk_correlation=0.0)

LARGEST_ERROR = 1e-3
"""Between log-probabilities that were recorded and those computed again; a ratio is off by as much."""


def check_policy(policy: Any, suite: Suite) -> Iterator[Finding]:
    """Findings about a policy, on observations of a suite that it fits."""
    observations = _observations(suite)
    rules = [
        ("acts with the shapes of its spec", partial(_shapes, policy, suite, observations)),
        ("greedy actions repeat", partial(_greedy_repeats, policy, observations)),
        ("samples depend on their own generator only", partial(_own_generator, policy, observations)),
        ("states that are not finite are refused", partial(_refuses_nan, policy, observations)),
        ("log-probabilities are those recorded", partial(_same_log_probs, policy, observations)),
        ("a step of fine-tuning lowers the loss", partial(_imitation_step, policy, observations)),
        ("a saved policy acts alike", partial(_saves, policy, observations)),
    ]
    yield from run_checks("policy", rules)


def _observations(suite: Suite) -> list[Observation]:
    """Three moments of the suite's first task."""
    environment, seen = suite.make(suite.task_ids[0]), []
    for number in range(3):
        environment.reset_to("train", number % suite.num_init_states(suite.task_ids[0], "train"))
        seen.append(environment.render_observation())
    environment.close()
    return seen


def _generators(count: int) -> list[np.random.Generator]:
    return [np.random.default_rng(seed) for seed in range(count)]


def _shapes(policy: Any, suite: Suite, observations: Sequence[Observation]) -> None:
    spec, batch = policy.spec, len(observations)
    require(1 <= spec.execute_steps <= spec.chunk_horizon, f"execute_steps {spec.execute_steps} exceeds the chunk")
    size = suite.embodiment.action.size
    for label, output in (("greedy", _act(policy, observations)), ("sampled", _act(policy, observations, SAMPLED))):
        wanted = (batch, spec.chunk_horizon, size)
        actions = output.actions
        require(actions.shape == wanted, f"{label} actions have shape {actions.shape}; [B, H, A] is {wanted}")
        require(np.isfinite(actions).all(), f"{label} actions are not finite")
        require(
            np.allclose(actions, suite.embodiment.action.clip(actions)),
            f"{label} actions exceed the embodiment's limits",
        )
        require(len(output.decision) == batch, f"decision has {len(output.decision)} rows for {batch} observations")
        units = (batch, len(spec.unit_steps))
        found = output.log_probs.shape
        require(found == units, f"log_probs have shape {found}; [B, U] is {units}, by spec.unit_steps")
    chunk = policy.select_action(observations[0])
    require(chunk.shape[-1] == size, f"select_action gives {chunk.shape}; it ends in {size}")


def _act(policy: Any, observations: Sequence[Observation], sampling: Sampling | None = None) -> PolicyOutput:
    batch = stack_observations(observations)
    if sampling is None:
        output: PolicyOutput = policy.act(batch)
    else:
        output = policy.act(batch, sampling, _generators(len(observations)))
    return output


def _greedy_repeats(policy: Any, observations: Sequence[Observation]) -> None:
    one, other = _act(policy, observations).actions, _act(policy, observations).actions
    require(
        np.array_equal(one, other), "two calls on the same observations give other actions; draw nothing when greedy"
    )


def _own_generator(policy: Any, observations: Sequence[Observation]) -> None:
    together = _act(policy, observations, SAMPLED).actions
    alone = policy.act(stack_observations(observations[1:2]), SAMPLED, [np.random.default_rng(1)]).actions
    require(
        np.allclose(together[1], alone[0], atol=1e-4),
        "an observation's sample differs when others share its batch; draw from its own generator",
    )


def _refuses_nan(policy: Any, observations: Sequence[Observation]) -> None:
    if not policy.spec.uses_state:
        return
    batch = stack_observations(observations)
    bad = ObservationBatch(
        images=batch["images"], state=np.full_like(batch["state"], np.nan), instruction=batch["instruction"]
    )
    try:
        policy.act(bad)
    except ReflexError:
        return
    raise Broken("a state of NaN is acted on; raise ReflexError")


def _same_log_probs(policy: Any, observations: Sequence[Observation]) -> None:
    output = _act(policy, observations, SAMPLED)
    inputs = output.inputs if output.inputs is not None else policy.prepare(stack_observations(observations))
    with torch.no_grad():
        again, _ = policy.log_prob(inputs, torch.from_numpy(output.decision), SAMPLED)
    error = float(np.abs(again.float().cpu().numpy() - output.log_probs).max())
    require(error < LARGEST_ERROR, f"log_prob of a decision differs by {error:.2g} from what act recorded")


def _imitation_step(policy: Any, observations: Sequence[Observation]) -> None:
    inputs = policy.prepare(stack_observations(observations))
    actions = _act(policy, observations, SAMPLED).actions
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    require(parameters, "it has no parameter that requires a gradient")
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        losses = []
        for _ in range(2):
            torch.manual_seed(0)
            loss, _ = policy.imitation_loss(inputs, actions)
            require(loss.shape == (len(observations),), f"imitation_loss gives {tuple(loss.shape)}, not [B]")
            losses.append(float(loss.mean().detach()))
            for parameter in parameters:
                parameter.grad = None
            torch.autograd.backward(loss.mean())
            with torch.no_grad():
                square = sum(float((p.grad**2).sum()) for p in parameters if p.grad is not None)
                require(square > 0, "imitation_loss has no gradient")
                for parameter in parameters:
                    if parameter.grad is not None:
                        parameter -= 1e-3 * parameter.grad / square**0.5
        require(losses[1] < losses[0], f"the loss goes from {losses[0]:.4g} to {losses[1]:.4g} along its own gradient")
    finally:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
                parameter.grad = None


def _saves(policy: Any, observations: Sequence[Observation]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy"
        policy.save_pretrained(path)
        loaded = load_policy(path)
    one, other = _act(policy, observations).actions, _act(loaded, observations).actions
    require(np.allclose(one, other, atol=1e-5), "what load_policy reads of save_pretrained's folder acts differently")
