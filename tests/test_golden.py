"""Three iterations each of GRPO, SRPO and the critic on the tabletop give the metrics they have always given.

Moving code must change no number. A change that is meant to change numbers writes the new ones down:
`python -m tests.test_golden`. The last digits depend on the instructions a processor has, so another kind than the
recorded one is not compared.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

from vla.policies.sampling import Sampling
from vla.rl.config import AlgoConfig, TrainConfig
from vla.rl.loop import Components, train
from vla.run.jsonl import read_lines
from vla.run.run_folder import comparable_metrics

RECORDED = Path(__file__).with_suffix(".json")
RUNS: dict[str, dict[str, Any]] = {
    "grpo": {"reward": "binary"},
    "srpo": {"reward": "srpo"},
    "critic": {"reward": "binary", "advantage": "critic"},
}


def metrics_of(run: str, output: Path) -> list[dict[str, Any]]:
    """The metrics of one run, without times."""
    algo = AlgoConfig(
        group_size=4,
        groups_per_iteration=4,
        sampling=Sampling(temperature=0.8, token_noise=14.0),
        minibatch_size=64,
        **RUNS[run],
    )
    config = TrainConfig(
        suite="tabletop",
        tasks=[2, 9],
        output=str(output),
        algo=algo,
        encoder_episodes_per_task=3,
        encoder_steps=20,
        iterations=3,
        evaluate_every=0,
        videos_per_task=0,
        num_workers=0,
        num_slots=8,
        threads=1,
        device="cpu",
    )
    threads = torch.get_num_threads()
    try:
        train(config, Components(log=lambda line: None))
    finally:
        torch.set_num_threads(threads)
    return comparable_metrics(read_lines(output / "metrics.jsonl"))


def digest(metrics: list[dict[str, Any]]) -> str:
    return hashlib.sha256(json.dumps(metrics, sort_keys=True).encode()).hexdigest()


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_metrics_are_those_recorded(run: str, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text())
    if recorded["processor"] != torch.backends.cpu.get_cpu_capability():
        pytest.skip(f"recorded on {recorded['processor']}, this is {torch.backends.cpu.get_cpu_capability()}")
    assert digest(metrics_of(run, tmp_path / run)) == recorded["digests"][run]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        digests = {run: digest(metrics_of(run, Path(folder) / run)) for run in RUNS}
    RECORDED.write_text(
        json.dumps({"processor": torch.backends.cpu.get_cpu_capability(), "digests": digests}, indent=2) + "\n"
    )
