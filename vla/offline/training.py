"""Offline training on arrays: a trainer that resumes update for update, and `train_offline` for all of it at once.

The data lies normalised on the device, a batch is one gather, and an update is one compiled or captured function.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from vla.data.advantages import Advantages
from vla.errors import ReflexError, restoring
from vla.offline.algorithms.algorithm import Algorithm, Batch, Metrics, Sizes, State
from vla.offline.algorithms.iql import IQL
from vla.offline.episode_weights import EpisodeWeighting, EpisodeWeights, episode_weights
from vla.offline.transitions import (
    Ends,
    RewardMap,
    RewardScale,
    Transitions,
    absorbing_ends,
    chunk_transitions,
    reward_map,
)
from vla.policies.gaussian import GaussianPolicy
from vla.run.devices import computes_bfloat16, resolve_device
from vla.run.seeding import derive_seed
from vla.run.settings import Checks

BLOCK = 500
"""Updates whose batches are drawn together, from a generator of their own, so that any update can be repeated."""
WORTH_COMPILING = 2000
"""Updates from which on the compiler's half minute is won back."""
KINDS_COMPILED = 64
"""Updates of different algorithms, precisions and sizes that one process keeps compiled."""

STATE_FILE = "state.safetensors"

UpdateFunction = Callable[[State, Tensor, Tensor, Tensor], Metrics]
"""(state, rows of the table, noise, (number of the update, share done)) -> metrics; changes the state in place."""


@dataclass(frozen=True)
class OfflineSettings:
    """How an algorithm is run on data."""

    algorithm: Algorithm = field(default_factory=IQL)
    """What an update does."""
    updates: int = 100_000
    """Gradient updates."""
    batch_size: int = 256
    """Transitions an update."""
    hidden: tuple[int, ...] = (256, 256)
    """Widths of every network's hidden layers."""
    chunk_horizon: int = 1
    """Actions that the policy decides on at once."""
    weighting: EpisodeWeighting = "uniform"
    """Which episodes batches are drawn from (`vla.offline.episode_weights`)."""
    weighting_temperature: float = 0.1
    """Of the weightings "return" and "advantage"."""
    best_share: float = 0.1
    """Share of episodes that the weighting "best" keeps."""
    least_spread: float = 0.05
    """Spread of returns below which the weightings "return" and "advantage" are declined."""
    reward_scale: RewardScale = "none"
    """See `vla.offline.transitions.scale_rewards`."""
    ends: Ends = "success"
    """What ends an episode for good: its "success", or, where nobody knows that, the end itself, in which the robot is
    taken to stay ("absorbing")."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Of the products of hidden layers: "auto" is bfloat16 where the hardware multiplies it."""
    compiled: bool | None = None
    """Compile the update; None where it pays and there is a compiler."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:<n>."""

    def __post_init__(self) -> None:
        """Check every value. Raises `ReflexError` naming the field."""
        check = Checks(self)
        check.literals()
        check.at_least(1, "updates", "batch_size", "chunk_horizon")
        check.positive("weighting_temperature")
        check.within(0, 1, "best_share")
        check.at_least(0, "least_spread")
        if not self.hidden or min(self.hidden) < 1:
            raise ReflexError(f"hidden is {list(self.hidden)}; give the width of at least one layer, such as [256,256]")


def train_offline(transitions: Transitions, settings: OfflineSettings, seed: int) -> GaussianPolicy:
    """Train a policy on transitions, in memory and without a word; the same seed gives the same policy.

    Raises `ReflexError` for data or settings that cannot be used, or a policy that diverged.
    """
    trainer = OfflineTrainer(transitions, settings, seed)
    trainer.run(settings.updates)
    return trainer.policy()


class OfflineTrainer:
    """An algorithm's state on one data set; `run` does some updates."""

    def __init__(
        self, transitions: Transitions, settings: OfflineSettings, seed: int, policy_id: str = "gaussian"
    ) -> None:
        """Nothing is learnt yet; weights are random. Raises `ReflexError` for data that cannot be used."""
        self.settings, self.seed, self.done = settings, seed, 0
        self.device = resolve_device(settings.device)
        algorithm = settings.algorithm
        self.reward_map: RewardMap = reward_map(transitions, settings.reward_scale, algorithm.discount)
        """From rewards as they were given to those that are learnt from."""
        data = self.reward_map(transitions)
        self.weights: EpisodeWeights = episode_weights(
            data,
            settings.weighting,
            temperature=settings.weighting_temperature,
            best_share=settings.best_share,
            least_spread=settings.least_spread,
        )
        data = self._chunks(data)  # after the weights: returns are those of what was recorded
        chances = self.weights.probabilities(data.episodes)
        self._cumulative = None if chances is None else np.cumsum(chances)
        sizes = Sizes(data.observations.shape[1], data.actions.shape[1], settings.hidden)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed("offline weights", seed))
            self._policy = GaussianPolicy(
                data.embodiment, settings.hidden, settings.chunk_horizon, policy_id=policy_id, vision=data.vision,
                goals=tuple(data.goals or ()),
            )  # fmt: skip
            state = algorithm.initial_state(sizes, self._policy.parameter_mapping())
        self.state: State = _to_device(state, self.device)
        self._policy.fit_normalisation(data.actions.reshape(-1, data.embodiment.action.size), data.observations)
        self._has_goals = data.goals is not None
        if data.goals is not None:
            self._policy.goals.copy_(torch.from_numpy(np.stack(list(data.goals.values()))))
        self._episodes, self._frames = data.episodes, data.frames
        self._table = self._normalised(data)
        self._sizes, self._noise_size = sizes, algorithm.noise_size(sizes)
        self._update = self._make_update()
        self._block: tuple[int, Tensor, Tensor] | None = None

    def run(self, updates: int) -> dict[str, float]:
        """Do so many updates; returns the metrics of the last one, by name with "train/" before it.

        Raises `ReflexError` when a loss is not finite.
        """
        metrics: Metrics = {}
        for _ in range(updates):
            indices, noise = self._drawn(self.done)
            metrics = self._update(self.state, self._table[indices], noise, self._clock(self.done))
            self.done += 1
        values = {f"train/{name}": float(value) for name, value in metrics.items()}
        broken = next((name for name, value in values.items() if not np.isfinite(value)), None)
        if broken is not None:
            raise ReflexError(
                f"{broken} became {values[broken]} within {self.done} updates; lower algo.learning_rate, or set "
                "reward_scale=returns"
            )
        return values

    def batch(self, number: int) -> Batch:
        """What update `number`, from 0, learns from."""
        indices, noise = self._drawn(number)
        return _batch(self._sizes, self._table[indices], noise, self._clock(number))

    def _clock(self, number: int) -> Tensor:
        return torch.tensor([number + 1.0, number / self.settings.updates], device=self.device)

    def policy(self) -> GaussianPolicy:
        """The policy as it is now, on the CPU; later updates do not change it."""
        made = copy.deepcopy(self._policy)
        made.set_parameters({name: value.cpu() for name, value in self.state["policy"].items()})
        return made.eval()

    @torch.no_grad()
    def advantages(self) -> Advantages | None:
        """Of every action, or chunk, of the data by the critics as they are now; None of an algorithm without.

        None with goals too: an action is as good as its goal, and has several.
        """
        if self._has_goals:
            return None
        observed, acted = self._sizes.observation, self._sizes.action
        parts = []
        for rows in torch.split(self._table[: len(self._episodes)], 4096):
            found = self.settings.algorithm.advantages(
                self.state, rows[:, :observed], rows[:, observed : observed + acted]
            )
            if found is None:
                return None
            parts.append(found.cpu())
        return Advantages(self._episodes, self._frames, torch.cat(parts).numpy())

    def save(self, folder: Path) -> None:
        """Write the policy to `folder`/policy, and networks and optimisers beside it.

        Batches depend on the seed and the number of an update only, so that there is nothing else to keep.
        """
        self.policy().save_pretrained(folder / "policy")
        flat = {f"{name}/{key}": value for name, part in self.state.items() for key, value in part.items()}
        save_file({name: value.cpu().contiguous() for name, value in flat.items()}, folder / STATE_FILE,
                  metadata={"done": str(self.done)})  # fmt: skip

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote after some updates. Raises `ReflexError` naming a damaged file."""
        path = folder / STATE_FILE
        with restoring(path):
            flat = load_file(path, device=str(self.device))
            with safe_open(path, framework="pt") as handle:
                self.done = int(handle.metadata()["done"])
            for name, part in self.state.items():
                for key, value in part.items():
                    value.copy_(flat[f"{name}/{key}"])

    def _chunks(self, data: Transitions) -> Transitions:
        """What the algorithm learns from: single steps with their ends, as chunks."""
        discount = self.settings.algorithm.discount
        if self.settings.ends == "absorbing":
            data = absorbing_ends(data, discount)
        return chunk_transitions(data, self.settings.chunk_horizon, discount)

    def _normalised(self, data: Transitions) -> Tensor:
        """Rows of observations, actions, reward, discount and next observations, at the policy's scales."""
        discount = self.settings.algorithm.discount
        actions = torch.from_numpy(data.actions).view(len(data), data.chunk_horizon, -1)
        discounts = np.where(data.terminals, 0.0, discount**data.spans).astype(np.float32)
        parts = (
            self._policy.state_scale(torch.from_numpy(data.observations)),
            self._policy.action_scale(actions).flatten(1),
            torch.from_numpy(data.rewards)[:, None],
            torch.from_numpy(discounts)[:, None],
            self._policy.state_scale(torch.from_numpy(data.next_observations)),
        )
        return torch.cat(parts, dim=1).to(self.device)

    def _make_update(self) -> UpdateFunction:
        settings = self.settings
        bfloat16 = computes_bfloat16(self.device, settings.precision)
        update = partial(_update, settings.algorithm, bfloat16, self._sizes)
        if self.device.type == "cuda":
            return CapturedUpdate(update, self.state, (settings.batch_size, self._table.shape[1], self._noise_size))
        wanted = settings.compiled
        if wanted is None:
            wanted = settings.updates >= WORTH_COMPILING and has_compiler()
        if not wanted:
            return update
        return _compiled(settings.algorithm, bfloat16, self._sizes)

    def _drawn(self, number: int) -> tuple[Tensor, Tensor]:
        """The rows [B] and the noise [B, D] of an update, from 0."""
        block, place = divmod(number, BLOCK)
        if self._block is None or self._block[0] != block:
            generator = np.random.default_rng(derive_seed("offline batches", self.seed, block))
            shape = (BLOCK, self.settings.batch_size)
            indices = draw(generator, len(self._table), self._cumulative, shape)
            noise = generator.standard_normal((*shape, self._noise_size), dtype=np.float32)
            self._block = block, torch.from_numpy(indices).to(self.device), torch.from_numpy(noise).to(self.device)
        return self._block[1][place], self._block[2][place]


def draw(
    generator: np.random.Generator, count: int, cumulative: NDArray[np.float64] | None, shape: tuple[int, ...]
) -> NDArray[np.int64]:
    """Numbers in 0 .. count - 1 with replacement, with the probabilities whose sums `cumulative` [count] holds.

    Uniformly where it is None.
    """
    if cumulative is None:
        return generator.integers(0, count, shape)
    found = np.searchsorted(cumulative, generator.random(shape) * cumulative[-1], side="right")
    numbers: NDArray[np.int64] = np.minimum(found, count - 1).astype(np.int64)
    return numbers


def has_compiler() -> bool:
    """Whether there is a C++ compiler, which torch needs to compile for the CPU."""
    return any(shutil.which(name) for name in (os.environ.get("CXX", "g++"), "g++", "clang++"))


def _update(
    algorithm: Algorithm, bfloat16: bool, sizes: Sizes, state: State, rows: Tensor, noise: Tensor, clock: Tensor
) -> Metrics:
    """One update by rows of the table."""
    return algorithm.update(state, _batch(sizes, rows, noise, clock), bfloat16)


def _batch(sizes: Sizes, rows: Tensor, noise: Tensor, clock: Tensor) -> Batch:
    parts = torch.split(rows, [sizes.observation, sizes.action, 1, 1, sizes.observation], dim=1)
    return Batch(parts[0], parts[1], parts[2][:, 0], parts[3][:, 0], parts[4], noise, clock[0], clock[1])


@lru_cache(maxsize=KINDS_COMPILED)
def _compiled(algorithm: Algorithm, bfloat16: bool, sizes: Sizes) -> UpdateFunction:
    """The compiled update; trainers of one kind, such as a study's seeds, share it."""
    import torch._dynamo  # here: it takes more than a second, which a trainer that compiles nothing need not pay

    # By default torch refuses a ninth version of a function: too few for a study of several algorithms and robots.
    torch._dynamo.config.recompile_limit = max(KINDS_COMPILED, torch._dynamo.config.recompile_limit)
    update = partial(_update, algorithm, bfloat16, sizes)
    compiled: UpdateFunction = torch.compile(update, fullgraph=True, dynamic=False)
    return compiled


class CapturedUpdate:
    """An update as a CUDA graph: the launches of hundreds of small kernels become one."""

    def __init__(self, update: UpdateFunction, state: State, shape: tuple[int, int, int]) -> None:
        """`shape` is of the batch: transitions, numbers of a row, numbers of noise."""
        batch, width, noise = shape
        self._inputs = (
            torch.zeros(batch, width, device="cuda"),
            torch.zeros(batch, noise, device="cuda"),
            torch.ones(2, device="cuda"),
        )
        before = {name: {key: value.clone() for key, value in part.items()} for name, part in state.items()}
        side = torch.cuda.Stream()  # type: ignore[no-untyped-call] # untyped in torch
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):  # libraries set themselves up at the first calls, which cannot be captured
                update(state, *self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._metrics = update(state, *self._inputs)
        for name, part in before.items():
            for key, value in part.items():
                state[name][key].copy_(value)

    def __call__(self, state: State, rows: Tensor, noise: Tensor, clock: Tensor) -> Metrics:
        """Replay on another batch; `state` is the one it was captured with."""
        for target, given in zip(self._inputs, (rows, noise, clock), strict=True):
            target.copy_(given)
        self._graph.replay()
        return self._metrics


def _to_device(state: State, device: torch.device) -> State:
    return {name: {key: value.to(device) for key, value in part.items()} for name, part in state.items()}
