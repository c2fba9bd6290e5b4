"""`vla audit labels`: what it measures, its gate, and what relabelling reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.vla.data.foreign import Foreign, write_foreign
from tests.vla.offline.labels.bright import bright_dataset, label_config
from tests.vla.offline.labels.chat_server import chat_server
from vla.errors import ReflexError
from vla.offline.labels.audit import AuditLabelsConfig, audit_labels, read_gate
from vla.offline.labels.backend import Decoding
from vla.offline.labels.command import label
from vla.offline.labels.files import read_labels
from vla.offline.labels.oracle import OracleSettings


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bright_dataset(tmp_path_factory.mktemp("bright") / "data", episodes=12)


def oracle(dataset: Path, folder: Path, error_rate: float, **changes: Any) -> Path:
    settings = {"pairs": 600, "checks": 6, "backend": "oracle", "model": None, **changes}
    label(label_config(dataset, folder, oracle=OracleSettings(error_rate), **settings))
    return folder


def audit(folder: Path, **changes: Any) -> dict[str, Any]:
    audit_labels(AuditLabelsConfig(str(folder), **changes))
    found: dict[str, Any] = json.loads((folder / "audit.json").read_text())
    return found


@pytest.mark.parametrize(("error_rate", "passed"), [(0.0, True), (0.15, True), (0.4, False)])
def test_the_gate_is_about_the_accuracy_of_clear_pairs(
    dataset: Path, tmp_path: Path, error_rate: float, passed: bool
) -> None:
    folder = oracle(dataset, tmp_path / "labels", error_rate)
    found = audit(folder)
    gate = read_gate(read_labels(folder))
    assert gate.passed is passed and found["gate"]["passed"] is passed
    assert gate.accuracy == pytest.approx(1 - error_rate, abs=0.07)
    assert gate.low < 1 - error_rate < gate.high or error_rate == 0.0
    uniform = found["truth"]["uniform"]
    assert uniform["pairs"] == 600 and gate.pairs == uniform["accuracy_beyond_gate_difference"]["of"] < 600
    assert sum(row["pairs"] for row in uniform["by_difference"]) == 600
    assert uniform["kappa"] == pytest.approx(1 - 2 * error_rate, abs=0.2)
    assert uniform["same_episode"]["of"] + uniform["two_episodes"]["of"] == uniform["accuracy"]["of"]
    assert "accuracy is" in gate.reason and f"{gate.pairs} pairs" in gate.reason


def test_a_stricter_gate_fails_what_a_lax_one_passes(dataset: Path, tmp_path: Path) -> None:
    folder = oracle(dataset, tmp_path / "labels", 0.15)
    assert audit(folder, gate=0.95)["gate"]["passed"] is False
    assert audit(folder, gate=0.5)["gate"]["passed"] is True


def test_checks_need_no_truth_and_find_a_labeller_that_errs(dataset: Path, tmp_path: Path) -> None:
    right = audit(oracle(dataset, tmp_path / "right", 0.0))["checks"]
    wrong = audit(oracle(dataset, tmp_path / "wrong", 1.0))["checks"]
    assert {name: found["of"] for name, found in right.items()} == {"start_end": 6, "outcome": 6, "identical": 6}
    assert [found["share"] for found in right.values()] == [1.0, 1.0, 1.0]
    assert [found["share"] for found in wrong.values()] == [0.0, 0.0, 1.0]  # the oracle's ties stay ties


def test_probabilities_are_calibrated_against_the_truth(dataset: Path, tmp_path: Path) -> None:
    """The server is always right and says 85 %: its probabilities are 15 points too modest."""
    with chat_server() as server:
        label(
            label_config(
                dataset,
                tmp_path / "labels",
                server.base_url,
                prompt="one_call_v1",
                pairs=30,
                checks=0,
                decoding=Decoding(log_probabilities=True),
            )
        )
    found = audit(tmp_path / "labels")["truth"]["uniform"]["calibration"]
    assert found["pairs"] > 20 and found["expected_error"] == pytest.approx(0.15, abs=0.06)


def test_labels_that_changed_after_their_audit_have_no_gate(dataset: Path, tmp_path: Path) -> None:
    folder = oracle(dataset, tmp_path / "labels", 0.0)
    with pytest.raises(ReflexError, match=r"audit\.json is missing; run vla audit labels"):
        read_gate(read_labels(folder))
    audit(folder)
    lines = (folder / "labels.jsonl").read_text().splitlines(keepends=True)
    (folder / "labels.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(ReflexError, match=r"is of other labels than .* holds now; run vla audit labels"):
        read_gate(read_labels(folder))


def test_without_true_progress_the_gate_is_unknown(tmp_path: Path) -> None:
    data = write_foreign(tmp_path / "data", Foreign(lengths=(6, 6, 6), task=lambda episode, frame: 0))
    with chat_server() as server:
        label(label_config(data, tmp_path / "labels", server.base_url, pairs=8, checks=0))
    found = audit(tmp_path / "labels")
    assert found["truth"] is None and found["gate"]["passed"] is None
    assert "unknown" in read_gate(read_labels(tmp_path / "labels")).reason
    with pytest.raises(ReflexError, match=r"does not know true progress \(column next\.progress\)"):
        label(label_config(data, tmp_path / "oracle", backend="oracle", model=None))


def test_progress_that_was_never_recorded_is_no_truth(tmp_path: Path) -> None:
    """A recording of a real arm has the column, and zeros in it."""
    data = bright_dataset(tmp_path / "data", episodes=4, progress=np.zeros(12, np.float32))
    with chat_server() as server:
        label(label_config(data, tmp_path / "labels", server.base_url, prompt="one_call_v1", pairs=8, checks=2))
    found = audit(tmp_path / "labels")
    assert found["truth"] is None and found["gate"]["passed"] is None
    assert found["checks"]["start_end"]["share"] == 1.0
    with pytest.raises(ReflexError, match="does not know true progress"):
        label(label_config(data, tmp_path / "oracle", backend="oracle", model=None))


def test_the_truth_can_be_another_copy_but_no_other_dataset(dataset: Path, tmp_path: Path) -> None:
    folder = oracle(dataset, tmp_path / "labels", 0.0)
    other = bright_dataset(tmp_path / "other", episodes=2)
    with pytest.raises(ReflexError, match=r"has no episode .*; the labels are of another dataset"):
        audit(folder, truth=str(other))


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"edges": [0.5]}, "edges is"), ({"edges": [0.0, 0.5, 0.2]}, "edges is"), ({"gate": 1.5}, "gate is 1.5")],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ReflexError, match=said):
        AuditLabelsConfig("labels", **changes)


def test_what_holds_no_labels_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReflexError, match=r"settings\.json is missing; give the output folder of vla label"):
        audit(tmp_path)
    (tmp_path / "settings.json").write_text('{"prompt_version": "p", "dataset": "d", "model_identity": "m"}')
    with pytest.raises(ReflexError, match=r"labels\.jsonl is missing; vla label has not ended there"):
        audit(tmp_path)
    (tmp_path / "labels.jsonl").write_text('{"kind": "odd"}\n')
    with pytest.raises(ReflexError, match=r"line 1 of .*labels\.jsonl is no label"):
        audit(tmp_path)
