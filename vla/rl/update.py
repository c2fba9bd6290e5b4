"""One policy update: clipped policy gradient in minibatches of decisions, with early stopping."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from vla.errors import ReflexError
from vla.policies.protocol import TrainablePolicy
from vla.rl.batch import Samples
from vla.rl.config import AlgoConfig
from vla.rl.losses import LossTerms, policy_loss


@dataclass
class Totals:
    """Running sums over units, and what they say about an update."""

    units: int = 0
    loss: float = 0.0
    clipped: float = 0.0
    approximate_kl: float = 0.0
    reference_kl: float = 0.0
    entropy: float = 0.0

    def add(self, terms: LossTerms) -> None:
        """Count a (micro) batch in."""
        self.units += terms.units
        self.loss += float(terms.loss.detach())
        self.clipped += terms.clipped
        self.approximate_kl += terms.approximate_kl
        self.reference_kl += terms.reference_kl
        self.entropy += terms.entropy

    def merge(self, other: Totals) -> None:
        """Add another's sums."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def metrics(self) -> dict[str, float]:
        """Means over units, under the keys of `metrics.jsonl`."""
        units = max(self.units, 1)
        return {
            "update/loss": self.loss / units,
            "update/clip_share": self.clipped / units,
            "update/kl": self.approximate_kl / units,
            "update/reference_kl": self.reference_kl / units,
            "update/entropy": self.entropy / units,
        }


def make_optimiser(policy: TrainablePolicy, algo: AlgoConfig) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient. Raises `ReflexError` when there is none."""
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    if not parameters:
        raise ReflexError(f"policy {policy.policy_id} has no trainable parameter; unfreeze some of it before training")
    return torch.optim.AdamW(parameters, lr=algo.learning_rate, weight_decay=algo.weight_decay)


def learning_rate(algo: AlgoConfig, iteration: int, scale: float = 1.0) -> float:
    """The learning rate of an iteration (0 is the first): linear warm-up, constant, then as 1 / sqrt(iteration).

    `scale` multiplies it: what is left of it after updates that went too far. The end of a run need not be known, so a
    run that is resumed for longer goes on as if it had been meant to.
    """
    warm_up = min(1.0, (iteration + 1) / max(1, algo.warmup_iterations))
    constant = algo.constant_iterations
    decay = 1.0 if constant is None else min(1.0, math.sqrt(constant / (iteration + 1)))
    return algo.learning_rate * warm_up * decay * scale


def update_policy(
    policy: TrainablePolicy,
    optimiser: torch.optim.Optimizer,
    samples: Samples,
    algo: AlgoConfig,
    *,
    iteration: int,
    generator: np.random.Generator,
    reference: TrainablePolicy | None = None,
    kl_weight: float = 0.0,
    learning_rate_scale: float = 1.0,
) -> dict[str, float]:
    """`update_epochs` passes over the samples; one optimiser step for each minibatch.

    Ends at the first minibatch whose mean KL per unit to the sampling policy exceeds `target_kl`, and takes the step
    before it back, which led there: `update/stopped_early` is 1 and `update/refused_kl` that KL. The caller lowers
    `learning_rate_scale` then, or the next update may go as far.

    The ratio of the very first minibatch must be 1: `update/first_ratio_error` is its largest deviation, and a large
    value means that sampling and training do not compute the same probabilities.

    `kl_weight` is that of the penalty on distance from `reference`.

    Raises `ReflexError` when the gradient is not finite; the policy is then unchanged by that step.
    """
    policy.eval()
    if algo.freeze_vision:
        samples = replace(samples, inputs=policy.encode_vision(samples.inputs))
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    samples = samples.to(parameters[0].device)
    rate = learning_rate(algo, iteration, learning_rate_scale)
    for group in optimiser.param_groups:
        group["lr"] = rate
    totals = Totals()
    norms: list[float] = []
    first_ratio_error, stopped, refused_kl = 0.0, False, 0.0
    before = [] if algo.target_kl is None else [parameter.detach().clone() for parameter in parameters]
    for order in minibatches(len(samples), algo.minibatch_size, algo.update_epochs, generator):
        optimiser.zero_grad(set_to_none=True)
        minibatch, ratio_error = accumulate_gradient(policy, samples, order, algo, reference, kl_weight)
        if not norms:
            first_ratio_error = ratio_error
        if algo.target_kl is not None and not minibatch.approximate_kl <= algo.target_kl * minibatch.units:
            stopped, refused_kl = True, minibatch.approximate_kl / minibatch.units
            _copy(before, parameters)
            norms = norms[:-1]
            break
        norm = float(torch.nn.utils.clip_grad_norm_(parameters, algo.max_gradient_norm))
        if not math.isfinite(norm):
            raise ReflexError(
                f"the policy gradient of iteration {iteration + 1} is not finite; resume from the last checkpoint with "
                "a lower algo.learning_rate in a new output folder"
            )
        if before:
            _copy(parameters, before)
        optimiser.step()
        norms.append(norm)
        totals.merge(minibatch)
    optimiser.zero_grad(set_to_none=True)
    return {
        **totals.metrics(),
        "update/gradient_norm": float(np.mean(norms)) if norms else 0.0,
        "update/steps": float(len(norms)),
        "update/samples": float(len(samples)),
        "update/stopped_early": float(stopped),
        **({"update/refused_kl": refused_kl} if stopped else {}),
        "update/learning_rate": rate,
        "update/first_ratio_error": first_ratio_error,
    }


@torch.no_grad()
def _copy(values: Sequence[torch.Tensor], into: Sequence[torch.Tensor]) -> None:
    for value, target in zip(values, into, strict=True):
        target.copy_(value)


def minibatches(count: int, size: int, epochs: int, generator: np.random.Generator) -> list[torch.Tensor]:
    """Index tensors of shuffled minibatches of nearly equal size, at most `size`; each epoch covers all once."""
    parts = math.ceil(count / size)
    return [
        torch.from_numpy(part) for _ in range(epochs) for part in np.array_split(generator.permutation(count), parts)
    ]


def accumulate_gradient(
    policy: TrainablePolicy,
    samples: Samples,
    order: torch.Tensor,
    algo: AlgoConfig,
    reference: TrainablePolicy | None = None,
    kl_weight: float = 0.0,
) -> tuple[Totals, float]:
    """Add a minibatch's gradient (mean over executed units), in micro-batches; also its largest ratio error."""
    units = max(int(samples.executed[order].sum()), 1)
    totals, ratio_error = Totals(), 0.0
    for index in torch.split(order, algo.micro_batch_size or len(order)):
        part = samples[index]
        log_probs, entropies = policy.log_prob(part.inputs, part.decisions, algo.sampling)
        reference_log_probs = None
        if reference is not None:
            with torch.no_grad():
                reference_log_probs, _ = reference.log_prob(part.inputs, part.decisions, algo.sampling)
        terms = policy_loss(
            log_probs,
            part.old_log_probs,
            entropies,
            part.advantages,
            part.executed,
            part.weights,
            clip_low=algo.clip_low,
            clip_high=algo.clip_high,
            dual_clip=algo.dual_clip,
            reference_log_probs=reference_log_probs,
            kl_coefficient=kl_weight,
            entropy_coefficient=algo.entropy_coefficient,
        )
        torch.autograd.backward(terms.loss / units)
        totals.add(terms)
        ratios = torch.exp(log_probs.detach() - part.old_log_probs)[part.executed]
        ratio_error = max(ratio_error, _largest(ratios - 1))
    return totals, ratio_error


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0
