"""Train a stable-baselines3 agent on a tabletop task: `flat=True` gives it observations without nesting and text.

pip install stable-baselines3
python examples/train_with_stable_baselines3.py
"""

import gymnasium
from stable_baselines3.ppo import PPO

import sim  # noqa: F401 - registers the ids of every suite's tasks


def main(steps: int = 2048) -> int:
    """Returns how many control steps were made."""
    environment = gymnasium.make("reflex/tabletop-push_left-v0", flat=True, image_size=64)
    agent = PPO("MultiInputPolicy", environment, n_steps=min(steps, 512), batch_size=32, device="cpu", verbose=1)
    agent.learn(steps)
    return int(agent.num_timesteps)


if __name__ == "__main__":
    main()
