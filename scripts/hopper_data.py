"""Data for the parity study of offline RL: everything that a SAC agent did while it learned gymnasium's Hopper-v5.

    python -m scripts.hopper_data output=... steps=150000

Minari's files cannot be made without a download, so the study trains its own agent (stable-baselines3) and writes what
it did in Minari's HDF5 format, which `vla offline` and the peers then read. Each write holds all episodes so far, with
the agent's weights beside it, so that the data of a half-trained agent can be studied too.
"""

import sys
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import numpy as np
import safetensors.torch
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

ENVIRONMENT = "Hopper-v5"


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps every step of an environment, as one dict of lists an episode, in Minari's words."""

    def __init__(self, environment: gymnasium.Env[Any, Any]) -> None:
        super().__init__(environment)
        self.episodes: list[dict[str, list[Any]]] = []

    def reset(self, **arguments: Any) -> tuple[Any, dict[str, Any]]:
        """Start an episode; its first observation is kept."""
        observation, information = self.env.reset(**arguments)
        steps: dict[str, list[Any]] = {"observations": [observation.copy()], "actions": [], "rewards": []}
        self.episodes.append(steps | {"terminations": [], "truncations": []})
        return observation, information

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step, kept."""
        observation, reward, terminated, truncated, information = self.env.step(action)
        episode = self.episodes[-1]
        episode["observations"].append(observation.copy())
        episode["actions"].append(np.array(action, dtype=np.float32))
        episode["rewards"].append(float(reward))
        episode["terminations"].append(bool(terminated))
        episode["truncations"].append(bool(truncated))
        return observation, reward, terminated, truncated, information


class Copies(BaseCallback):
    """Writes the data and the agent every so many steps and at the end."""

    def __init__(self, recorder: Recorder, output: Path, every: int) -> None:
        super().__init__()
        self._recorder = recorder
        self._output = output
        self._every = every

    def _on_step(self) -> bool:
        if self.num_timesteps % self._every == 0:
            self.write()
        return True

    def write(self) -> None:
        """`steps_<n>/data/main_data.hdf5` as Minari lays it out, and `actor.safetensors`."""
        folder = self._output / f"steps_{self.num_timesteps}"
        (folder / "data").mkdir(parents=True, exist_ok=True)
        write_minari(
            folder / "data" / "main_data.hdf5", [episode for episode in self._recorder.episodes if episode["actions"]]
        )
        assert isinstance(self.model, SAC)
        safetensors.torch.save_file(self.model.policy.state_dict(), folder / "actor.safetensors")
        print(f"{self.num_timesteps} steps, {len(self._recorder.episodes)} episodes: {folder}", flush=True)


def write_minari(path: Path, episodes: list[dict[str, list[Any]]]) -> None:
    """Episodes as Minari stores them; an episode that the end of training cut is marked as truncated."""
    with h5py.File(path, "w") as file:
        file.attrs["total_episodes"] = len(episodes)
        file.attrs["total_steps"] = sum(len(episode["actions"]) for episode in episodes)
        for number, episode in enumerate(episodes):
            group = file.create_group(f"episode_{number}")
            group.attrs["id"] = number
            group.attrs["total_steps"] = len(episode["actions"])
            for name, values in episode.items():
                group.create_dataset(name, data=np.array(values))
            if not (episode["terminations"][-1] or episode["truncations"][-1]):
                group["truncations"][-1] = True


def main() -> None:
    """Train and write."""
    arguments = dict(argument.split("=", 1) for argument in sys.argv[1:])
    steps, output = int(arguments.get("steps", 150_000)), Path(arguments["output"])
    torch.set_num_threads(1)
    recorder = Recorder(gymnasium.make(ENVIRONMENT))
    agent = SAC("MlpPolicy", make_vec_env(lambda: recorder, n_envs=1), seed=int(arguments.get("seed", 0)), device="cpu")
    agent.learn(steps, callback=Copies(recorder, output, every=25_000))


if __name__ == "__main__":
    main()
