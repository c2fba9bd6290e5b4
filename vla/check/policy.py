"""Whether a policy keeps `vla.policies.protocol`: shapes, determinism, probabilities, one training step, saving."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import FloatArray, Observation, ObservationBatch, Suite, stack_observations
from vla.check.findings import Broken, Finding, require, run_checks
from vla.errors import ReflexError
from vla.policies.protocol import PolicyOutput, TrainablePolicy
from vla.policies.registry import load_policy
from vla.policies.sampling import Sampling

SAMPLED = Sampling(temperature=1.0, token_noise=0.0, chunk_correlation=0.0)

LARGEST_ERROR = 1e-3
"""Between log-probabilities that were recorded and those computed again; a ratio is off by as much."""


def check_policy(policy: Any, suite: Suite) -> Iterator[Finding]:
    """Findings about a policy, on observations of a suite that it fits."""
    observations = _observations(suite)
    rules = [
        ("has what fine-tuning and RL call", partial(_complete, policy)),
        ("acts with the shapes of its spec", partial(_shapes, policy, suite, observations)),
        ("greedy actions repeat", partial(_greedy_repeats, policy, observations)),
        ("samples depend on their own generator only", partial(_own_generator, policy, observations)),
        ("states that are not finite are refused", partial(_refuses_nan, policy, observations)),
        ("cameras are found by the names in feature_map", partial(_renamed_cameras, policy, observations)),
        ("pictures and state reach the actions", partial(_every_input, policy, observations)),
        ("inputs are indexed and joined", partial(_inputs, policy, observations)),
        ("log-probabilities are those recorded", partial(_same_log_probs, policy, observations)),
        ("features are those recorded", partial(_same_features, policy, observations)),
        ("a step of fine-tuning lowers the loss", partial(_imitation_step, policy, observations)),
        ("a saved policy acts alike", partial(_saves, policy, observations)),
    ]
    yield from run_checks("policy", rules)


def _complete(policy: Any) -> None:
    members = [name for name in dir(TrainablePolicy) if not name.startswith("_")] + ["policy_id", "feature_map"]
    missing = sorted({name for name in members if not hasattr(policy, name)})
    require(not missing, f"it lacks {', '.join(missing)}; vla.policies.protocol.TrainablePolicy says what they do")


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


def _renamed_cameras(policy: Any, observations: Sequence[Observation]) -> None:
    before, batch = policy.feature_map, stack_observations(observations)
    names = {camera: before.camera(camera) for camera in policy.spec.embodiment.camera_names}
    renamed = ObservationBatch(
        images=batch["images"] | {f"{name} elsewhere": batch["images"][name] for name in names.values()},
        state=batch["state"],
        instruction=batch["instruction"],
    )
    for name in names.values():
        renamed["images"].pop(name, None)
    wanted = policy.act(batch).actions
    try:
        policy.feature_map = replace(before, cameras={ours: f"{name} elsewhere" for ours, name in names.items()})
        found = policy.act(renamed).actions
    except KeyError as error:
        raise Broken(
            f"pictures are looked for under {error}; policy.feature_map.camera(name) is what a camera is called here"
        ) from error
    finally:
        policy.feature_map = before
    require(np.allclose(found, wanted, atol=1e-5), "the actions are others once cameras have other names")


def _every_input(policy: Any, observations: Sequence[Observation]) -> None:
    spec, batch = policy.spec, stack_observations(observations)

    def logged(images: dict[str, NDArray[np.uint8]], state: FloatArray) -> NDArray[np.float32]:
        changed = ObservationBatch(images=images, state=state, instruction=batch["instruction"])
        with torch.no_grad():
            log_probs, _ = policy.log_prob(policy.prepare(changed), decisions, SAMPLED)
        numbers: NDArray[np.float32] = log_probs.float().cpu().numpy()
        return numbers

    decisions = torch.from_numpy(_act(policy, observations, SAMPLED).decision)
    before = logged(batch["images"], batch["state"])
    deaf = []
    for camera in spec.embodiment.camera_names:
        name = policy.feature_map.camera(camera)
        if np.array_equal(logged(batch["images"] | {name: 255 - batch["images"][name]}, batch["state"]), before):
            deaf.append(f"camera {camera}")
    if spec.uses_state and np.array_equal(logged(batch["images"], batch["state"] + 0.3), before):
        deaf.append("the state")
    require(not deaf, f"{' and '.join(deaf)} changes no log-probability; leave out of `spec` what it does not look at")


def _inputs(policy: Any, observations: Sequence[Observation]) -> None:
    inputs = policy.prepare(stack_observations(observations))
    require(len(inputs) == len(observations), f"len(inputs) is {len(inputs)} for {len(observations)} observations")
    parts = [inputs[torch.tensor([2])], inputs[torch.tensor([0, 1])]]
    joined = type(inputs).concatenate(parts)
    decisions = torch.from_numpy(_act(policy, observations, SAMPLED).decision)
    with torch.no_grad():
        plain, _ = policy.log_prob(inputs, decisions, SAMPLED)
        turned, _ = policy.log_prob(joined, decisions[[2, 0, 1]], SAMPLED)
    require(
        torch.allclose(turned, plain[[2, 0, 1]], atol=LARGEST_ERROR),
        "inputs[index], joined by concatenate, have other log-probabilities than the same samples before",
    )


def _same_features(policy: Any, observations: Sequence[Observation]) -> None:
    output = _act(policy, observations, SAMPLED)
    if output.features is None:
        return
    again = policy.features_from_inputs(policy.prepare(stack_observations(observations)))
    require(
        again.shape == output.features.shape and np.allclose(again, output.features, atol=LARGEST_ERROR),
        f"features_from_inputs {again.shape} differs from the features that act reported {output.features.shape}",
    )


def _refuses_nan(policy: Any, observations: Sequence[Observation]) -> None:
    if not policy.spec.uses_state:
        return
    batch = stack_observations(observations)
    bad = ObservationBatch(
        images=batch["images"], state=np.full_like(batch["state"], np.nan), instruction=batch["instruction"]
    )
    advice = "raise ReflexError where `prepare` finds NaN (`vla.policies.base.finite_states` does)"
    try:
        policy.act(bad)
    except ReflexError:
        return
    except Exception as error:
        raise Broken(f"a state of NaN ends in {type(error).__name__}; {advice}") from error
    raise Broken(f"a state of NaN is acted on; {advice}")


def _same_log_probs(policy: Any, observations: Sequence[Observation]) -> None:
    output = _act(policy, observations, SAMPLED)
    inputs = output.inputs if output.inputs is not None else policy.prepare(stack_observations(observations))
    for name in ("actions", "decision", "log_probs"):
        found = type(getattr(output, name))
        require(issubclass(found, np.ndarray), f"act gives {name} as {found.__name__}; a numpy array is right")
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
    require(
        loaded.has_normalisation == policy.has_normalisation,
        f"has_normalisation is {policy.has_normalisation} before saving and {loaded.has_normalisation} after loading; "
        "keep the scale with the weights (a buffer)",
    )
    one, other = _act(policy, observations).actions, _act(loaded, observations).actions
    require(np.allclose(one, other, atol=1e-5), "what load_policy reads of save_pretrained's folder acts differently")
