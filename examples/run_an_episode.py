"""Run one episode of a shipped policy on the tabletop and write its pictures as a film strip.

python examples/run_an_episode.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

import vla


def main(output: str = "episode.png") -> bool:
    """Returns whether the task was done."""
    policy = vla.load_policy("reflex-tiny")
    environment = vla.make("tabletop", "pick_red")
    observation, _ = environment.reset(seed=0)
    frames, done, success = [observation["images"]["image"]], False, False
    while not done:
        for action in policy.select_action(observation):  # a chunk of actions, one control step each
            observation, _, success, truncated, _ = environment.step(action)
            done = success or truncated
            if done:
                break
        frames.append(observation["images"]["image"])
    Image.fromarray(np.concatenate(frames, axis=1)).save(output)
    print(f"{observation['instruction']}: {'done' if success else 'not done'}; {Path(output).resolve()}")
    return bool(success)


if __name__ == "__main__":
    main()
