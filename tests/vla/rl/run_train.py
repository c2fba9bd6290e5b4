"""A training that SIGKILLs itself: `python -m tests.vla.rl.run_train OUTPUT REWARD ITERATION DECISIONS`.

It dies in the given iteration (1 is the first), at the given decision of its rollouts.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.vla.rl.helpers import TrainableFakePolicy, components, load_fake_policy, resumable_config
from vla.policies.protocol import PolicyOutput
from vla.policies.sampling import GREEDY, Sampling
from vla.rl.loop import train


class DyingPolicy(TrainableFakePolicy):
    """Kills its process; sampling happens in training rollouts only."""

    output: Path
    iteration: int
    decisions: int

    def act(self, observations: Any, sampling: Sampling = GREEDY, generators: Any = None) -> PolicyOutput:
        metrics = self.output / "metrics.jsonl"
        begun = metrics.exists() and f'"step": {self.iteration - 1},' in metrics.read_text()
        if not sampling.greedy and begun:
            self.decisions -= 1
            if self.decisions == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return super().act(observations, sampling, generators)


def load_dying_policy(path_or_name: str, device: str) -> TrainableFakePolicy:
    policy = load_fake_policy(path_or_name, device)
    policy.__class__ = DyingPolicy
    policy.output, policy.iteration, policy.decisions = Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
    return policy


if __name__ == "__main__":
    train(resumable_config(Path(sys.argv[1]), sys.argv[2]), replace(components(), load_policy=load_dying_policy))
