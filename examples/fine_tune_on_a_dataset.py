"""Fine-tune the shipped policy on a LeRobot dataset of any robot, and act on observations with the dataset's own names.

python -m examples.fine_tune_on_a_dataset lerobot/svla_so101_pickplace 2000
"""

import sys

import numpy as np

import vla
from vla.data.lerobot_dataset import LeRobotDataset


def main(dataset: str, steps: int = 2000, output: str = "runs/fine_tuned") -> tuple[int, ...]:
    """Returns the shape [H, A] of the chunk that the fine-tuned policy answers with."""
    robot = LeRobotDataset(dataset).embodiment
    print(f"{dataset} is of {robot.describe()}")
    vla.fine_tune(dataset=dataset, policy="reflex-tiny", embodiment="dataset", steps=steps, output=output)
    policy = vla.load_policy(output)
    observation = {  # as LeRobot's own code holds it
        **{f"observation.images.{c.name}": np.zeros((c.height, c.width, 3), np.uint8) for c in robot.cameras},
        "observation.state": np.zeros(robot.state.size, np.float32),
        "task": "pick up the block",
    }
    chunk = policy.select_action(observation)
    print(f"the next {len(chunk)} actions ({', '.join(robot.action.names)}):", chunk.round(2), sep="\n")
    return chunk.shape


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 2000)
