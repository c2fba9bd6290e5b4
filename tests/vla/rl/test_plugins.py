"""Rewards, advantages and variants from outside the tree, as the page about them shows."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import vla.rl.variants
from tests.vla.rl.helpers import components, small_config
from vla.errors import ReflexError
from vla.rl.config import AlgoConfig
from vla.rl.loop import train
from vla.rl.method import estimator_class
from vla.run.run_folder import comparable_metrics

PAGE = Path(__file__).parents[3] / "docs" / "add_a_method.md"

VARIANT = '''
import numpy as np

from vla.rl.method import Variant


class FewerGroups(Variant):
    """Half of the groups, and how many iterations it has seen."""

    def __init__(self, settings, parts):
        super().__init__(settings, parts)
        self.seen = 0

    def choose(self, requests, success_rates, iteration, sampling_round):
        return list(requests)[: len(requests) // 2]

    def learn(self, batch, iteration):
        self.seen += 1
        return {"mine/seen": float(self.seen)}

    def save(self, folder):
        (folder / "fewer_groups.txt").write_text(str(self.seen))

    def load(self, folder):
        self.seen = int((folder / "fewer_groups.txt").read_text())
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The page's two classes and a variant in an installed package of a user's own; returns its name."""
    name = f"users_own_{abs(hash(str(tmp_path))) % 10**8}"
    folder = tmp_path / "site" / name
    folder.mkdir(parents=True)
    reward, advantage = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (folder / "__init__.py").touch()
    (folder / "rewards.py").write_text(reward)
    (folder / "advantages.py").write_text(advantage)
    (folder / "variants.py").write_text(VARIANT)
    metadata = tmp_path / "site" / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[reflex.plugins]\nranked = {name}.advantages:Ranked\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    return name


def metrics_of(run: Path) -> list[dict[str, float]]:
    return comparable_metrics([json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()])


def test_a_run_with_a_reward_an_advantage_and_a_variant_of_a_users_own_goes_on_over_a_resume(
    package: str, tmp_path: Path
) -> None:
    algo = {
        "algo_reward": f"{package}.rewards:Nearness",
        "algo_settings": {"Nearness": {"scale": 2}},
        "algo_advantage": "ranked",
        "algo_variants": [f"{package}.variants:FewerGroups"],
        "evaluate_every": 0,
        "algo_max_sampling_rounds": 1,
    }
    train(small_config(tmp_path / "whole", iterations=4, **algo), components())
    train(small_config(tmp_path / "cut", iterations=2, **algo), components())
    train(small_config(tmp_path / "cut", iterations=4, resume=True, **algo), components())
    whole = metrics_of(tmp_path / "whole")
    assert metrics_of(tmp_path / "cut") == whole
    assert [line["mine/seen"] for line in whole] == [1, 2, 3, 4]
    assert all(line["train/episodes"] == 6 // 2 * 4 for line in whole)
    assert any(line["train/success_rate"] < line["train/reward"] < 1 for line in whole), "failures get something"


def test_a_new_file_among_the_variants_is_found_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "constant.py").write_text(
        "import numpy as np\nfrom vla.rl.group_mean import GroupEstimator\n\n\nclass Constant(GroupEstimator):\n"
        "    def of_group(self, rewards, batch):\n        return np.ones(len(rewards))\n"
    )
    monkeypatch.setattr(vla.rl.variants, "__path__", [*vla.rl.variants.__path__, str(tmp_path)])
    assert estimator_class("constant").__name__ == "Constant"
    assert AlgoConfig(advantage="constant").advantage == "constant"


@pytest.mark.parametrize(
    ("algo", "said"),
    [
        ({"reward": "{package}.rewards:Nowhere"}, "cannot be imported"),
        ({"reward": "{package}.advantages:Ranked"}, "no subclass of vla.rewards.reward.Reward"),
        ({"reward": "{package}.rewards:Nearness", "settings": {"Nearness": {"scales": 2.0}}}, "did you mean 'scale'"),
        ({"reward": "{package}.rewards:Nearness", "settings": {"Nearness": {"scale": "far"}}}, "must be a number"),
    ],
)
def test_what_is_wrong_with_one_is_said_at_once(package: str, algo: dict[str, object], said: str) -> None:
    filled = json.loads(json.dumps(algo).replace("{package}", package))
    with pytest.raises(ReflexError, match=said):
        AlgoConfig(**filled)
