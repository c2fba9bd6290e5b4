"""A package outside the tree brings a suite, a policy family, a reward and an advantage; `vla train` runs with all."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ENTRY_POINTS = """[reflex.plugins]
lab_centre = my_lab.suite:CentreSuite
lab_linear = my_lab.policy:LinearPolicy
lab_nearness = my_lab.methods:Nearness
lab_ranked = my_lab.methods:Ranked
"""


def code_of(page: str, title: str) -> str:
    """The Python under a heading of a page of `docs/`."""
    section = (ROOT / "docs" / page).read_text(encoding="utf-8").split(f"## {title}\n")[1]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, installed as far as entry points are concerned."""
    folder = tmp_path_factory.mktemp("lab")
    package, installed = folder / "my_lab", folder / "my_lab-1.0.dist-info"
    package.mkdir()
    installed.mkdir()
    (package / "__init__.py").touch()
    (package / "suite.py").write_text((ROOT / "examples" / "own_environment.py").read_text())
    policy = (ROOT / "examples" / "own_policy.py").read_text()
    (package / "policy.py").write_text(policy.replace("examples.own_policy:", "my_lab.policy:"))
    (package / "methods.py").write_text(
        code_of("add_a_method.md", "A reward") + "\n\n" + code_of("add_a_method.md", "An advantage")
    )
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: my-lab\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(ENTRY_POINTS)
    return folder


def vla(lab: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "vla", *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(lab)])},
        cwd=lab,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("suite", "policy", "reward", "advantage"),
    [
        ("my_lab.suite:CentreSuite", "my_lab.policy:LinearPolicy", "my_lab.methods:Nearness", "my_lab.methods:Ranked"),
        ("lab_centre", "lab_linear", "lab_nearness", "lab_ranked"),
    ],
    ids=["import paths", "entry points"],
)
def test_training_with_nothing_of_ours(
    lab: Path, tmp_path: Path, suite: str, policy: str, reward: str, advantage: str
) -> None:
    make = (
        "import my_lab.policy as policy, my_lab.suite as suite, sys, torch\n"
        f"policy.LinearPolicy.family = {policy!r}\n"
        "start = policy.LinearPolicy(suite.POINT, horizon=8)\n"
        "start.mean.bias.data.zero_()\n"  # towards the centre: it succeeds now and then when it is sampled
        "start.mean.weight.data.copy_(-2.0 * torch.eye(2).repeat(8, 1))\n"
        "start.save_pretrained(sys.argv[1])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(lab)])}
    subprocess.run([sys.executable, "-c", make, str(tmp_path / "start")], env=environment, check=True)
    vla(
        lab, "train", f"suite={suite}", f"policy={tmp_path}/start", f"algo.reward={reward}",
        f"algo.advantage={advantage}", "encoder=proprioception", "iterations=2", "algo.groups_per_iteration=4",
        "algo.group_size=4", "algo.sampling.temperature=1.5", "num_workers=1", "num_slots=8", "evaluate_every=2",
        "evaluation_episodes_per_task=2", f"output={tmp_path}/run",
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("update/loss" in line for line in lines), "no group had rollouts of different rewards"
    assert max(abs(line["update/first_ratio_error"]) for line in lines if "update/loss" in line) < 1e-4
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["iterations"] == 2
