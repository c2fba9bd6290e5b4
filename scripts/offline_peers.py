"""Other implementations of IQL on the same transitions, for `offline_parity` and `offline_speed`.

Neither is a dependency. CORL is one file: fetch https://github.com/tinkoff-ai/CORL (commit 6afec90) and give the path
of its algorithms/offline/iql.py; what it imports for simulators and logging is replaced here by empty modules, and
nothing of it is changed. d3rlpy is imported where it is installed.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla.offline.transitions import Transitions

EPSILON = 1e-3
"""What CORL adds to the deviations of observations."""


def load_corl(path: Path) -> Any:
    """The module, with empty ones in place of those for simulators, command lines and logging."""
    for name in ("d4rl", "gym", "pyrallis", "wandb"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["gym"].Env = object  # type: ignore[attr-defined] # annotations name it
    sys.modules["pyrallis"].wrap = lambda: lambda function: function  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("corl_iql", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in ("gym", "d4rl"):
        del sys.modules[name]  # others ask whether these are installed
    return module


class Corl:
    """CORL's IQL with its defaults, as its `train` makes and runs it."""

    def __init__(self, corl: Any, data: Transitions, updates: int, seed: int) -> None:
        np.random.seed(seed)  # noqa: NPY002 - its buffer draws from the global generator
        torch.manual_seed(seed)
        self.mean, self.deviation = corl.compute_mean_std(data.observations, eps=EPSILON)
        observed, acted = data.observations.shape[1], data.actions.shape[1]
        self._buffer = corl.ReplayBuffer(observed, acted, len(data))
        self._buffer.load_d4rl_dataset(
            {
                "observations": corl.normalize_states(data.observations, self.mean, self.deviation),
                "next_observations": corl.normalize_states(data.next_observations, self.mean, self.deviation),
                "actions": data.actions,
                "rewards": data.rewards,
                "terminals": data.terminals,
            }
        )
        critics, value = corl.TwinQ(observed, acted), corl.ValueFunction(observed)
        self.actor = corl.GaussianPolicy(observed, acted, 1.0)
        self._trainer = corl.ImplicitQLearning(
            1.0,
            self.actor,
            torch.optim.Adam(self.actor.parameters(), lr=3e-4),
            critics,
            torch.optim.Adam(critics.parameters(), lr=3e-4),
            value,
            torch.optim.Adam(value.parameters(), lr=3e-4),
            max_steps=updates,
        )

    def run(self, updates: int) -> None:
        """So many updates."""
        for _ in range(updates):
            self._trainer.train(self._buffer.sample(256))

    def act(self, observation: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """The greedy action."""
        self.actor.eval()
        action: NDArray[np.float32] = self.actor.act((observation - self.mean) / self.deviation)
        self.actor.train()
        return action


def d3rlpy_updates(data: Transitions) -> Callable[[int], None]:
    """A function that does so many updates of d3rlpy's IQL with its defaults on a CPU, batches included."""
    import d3rlpy

    algorithm = d3rlpy.algos.IQLConfig(observation_scaler=d3rlpy.preprocessing.StandardObservationScaler()).create()
    ends = np.append(np.diff(data.episodes) != 0, True)
    dataset = d3rlpy.dataset.MDPDataset(
        data.observations, data.actions, data.rewards, data.terminals, timeouts=ends & ~data.terminals
    )
    algorithm.config.observation_scaler.fit_with_transition_picker(dataset.episodes, dataset.transition_picker)
    algorithm.build_with_dataset(dataset)

    def run(updates: int) -> None:
        for _ in range(updates):
            algorithm.update(dataset.sample_transition_batch(256))

    return run
