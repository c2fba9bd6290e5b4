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

from vla.offline.algorithms.algorithm import State
from vla.offline.transitions import Transitions
from vla.policies.gaussian.perceptron import Parameters

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
    """CORL's IQL with its defaults but for the temperature, as its `train` makes and runs it."""

    def __init__(self, corl: Any, data: Transitions, updates: int, seed: int, temperature: float = 3.0) -> None:
        """`temperature` is its beta. The next observation is `data.chunk_horizon` control steps later."""
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
            beta=temperature,
            discount=0.99**data.chunk_horizon,
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

    def losses(self, batch: list[torch.Tensor]) -> dict[str, float]:
        """One update by a batch, and its losses in this project's words."""
        said = self._trainer.train(batch)
        return {f"loss/{name}": said[key] for name, key in CORL_LOSSES.items()}

    def state(self) -> State:
        """Copies of its weights, laid out as here."""
        trainer = self._trainer
        critics = [
            {
                name: _layers(net)
                for name, net in (("critics", getattr(trainer.qf, part)), ("target", getattr(trainer.q_target, part)))
            }
            for part in ("q1", "q2")
        ]
        return {
            "policy": _layers(trainer.actor.net) | {"log_deviation": trainer.actor.log_std.detach().clone()},
            "value": _layers(trainer.vf.v),
            **{
                name: {key: torch.stack([one[name][key] for one in critics]) for key in critics[0][name]}
                for name in ("critics", "target")
            },
        }


CORL_LOSSES = {"value": "value_loss", "critic": "q_loss", "policy": "actor_loss"}


def _layers(network: Any) -> Parameters:
    """Weights of CORL's perceptron, laid out as here."""
    linear = [layer for layer in network.net if isinstance(layer, torch.nn.Linear)]
    return {
        name: value
        for number, layer in enumerate(linear)
        for name, value in (
            (f"weight_{number}", layer.weight.detach().T.clone()),
            (f"bias_{number}", layer.bias.detach()[None].clone()),
        )
    }


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
