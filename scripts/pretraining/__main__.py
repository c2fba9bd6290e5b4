"""`python -m scripts.pretraining [field=value ...]`."""

import sys

from scripts.pretraining.pretrain import PretrainConfig, pretrain
from vla.cli import prepare_environment, run_command
from vla.commands import ConfiguredCommand

COMMAND = ConfiguredCommand(
    "Make the shipped base policy again: scripted play, then imitation with auxiliaries.",
    f"{PretrainConfig.__module__}:{PretrainConfig.__name__}",
    f"{pretrain.__module__}:{pretrain.__name__}",
    "python -m scripts.pretraining output=runs/pretrain play_episodes=18000",
)

if __name__ == "__main__":
    prepare_environment()
    sys.exit(run_command("python -m scripts.pretraining", COMMAND, sys.argv[1:]))
