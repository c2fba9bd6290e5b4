"""What an evaluation checks of LIBERO before it starts."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sim.contract import EnvironmentRequestError
from sim.libero import assets, self_test
from sim.libero.environment import LiberoEnvironment
from sim.libero.suite import LiberoSuite


def test_a_file_is_named_as_git_names_it(tmp_path: Path) -> None:
    (tmp_path / "hello").write_bytes(b"hello\n")
    assert assets.blob_digest(tmp_path / "hello") == "ce013625030ba8dba906f756967f9e9ca394464a"
    assert assets.blob_digest(tmp_path / "absent") is None


def test_assets_are_told_from_stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = tmp_path / "official.json"
    manifest.write_text(
        json.dumps(
            {"files": {"a/bowl.png": "ce013625030ba8dba906f756967f9e9ca394464a", "b/plate.msh": "0" * 40}},
        )
    )
    monkeypatch.setattr(assets, "MANIFEST", manifest)
    folder = tmp_path / "assets"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "bowl.png").write_bytes(b"hello\n")
    missing = assets.describe_assets(folder)
    assert missing | {"sha256": ""} == {"official": False, "differing": 1, "first": "b/plate.msh", "sha256": ""}
    other = tmp_path / "other"
    folder.rename(other)
    (other / "b").mkdir()
    (other / "b" / "plate.msh").write_bytes(b"a plain disc")
    assert assets.describe_assets(other)["sha256"] != missing["sha256"]
    official = tmp_path / "official"
    other.rename(official)
    digest = assets.blob_digest(official / "b" / "plate.msh")
    manifest.write_text(manifest.read_text().replace("0" * 40, str(digest)))
    assert assets.describe_assets(official) == {"official": True}


@pytest.mark.libero
def test_every_suite_has_a_reference_of_its_own_initial_states(spatial: LiberoSuite) -> None:
    for name, reference in self_test.REFERENCES.items():
        self_test.check_initial_states(LiberoSuite(name).protocol(), reference)
    with pytest.raises(EnvironmentRequestError, match="libero_spatial are not the official ones"):
        self_test.check_initial_states(spatial.protocol(), self_test.REFERENCES["libero_goal"])


@pytest.mark.libero
def test_findings_of_a_suite_in_order(spatial: LiberoSuite) -> None:
    findings = spatial.self_test(pictures=True)
    assert json.loads(json.dumps(findings)) == findings
    assert findings["end_effector_error_m"] <= self_test.TOLERANCE
    assert len(findings["pictures_sha256"]) == 64
    assert findings["pictures_sha256"] == spatial.self_test(pictures=True)["pictures_sha256"]
    assert any("64 pixels" in reason for reason in findings["off_protocol"])
    assert any("the assets" in reason for reason in findings["off_protocol"]) != findings["assets"]["official"]


@pytest.mark.libero
def test_variants_say_what_they_change(spatial: LiberoSuite) -> None:
    reasons = " ".join(LiberoSuite("libero_goal_fast_plain").self_test(pictures=False)["off_protocol"])
    assert "stepped fast" in reasons
    assert "drawn plainly" in reasons
    assert "pixels" not in reasons


@pytest.mark.libero
def test_an_arm_that_moves_otherwise_is_refused(spatial: LiberoSuite, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = self_test.REFERENCES["libero_spatial"]
    x, y, z = reference.end_effector
    moved = dataclasses.replace(reference, end_effector=(x, y + 0.001, z))
    monkeypatch.setitem(self_test.REFERENCES, "libero_spatial", moved)
    with pytest.raises(EnvironmentRequestError, match=r"1\.000 mm from where it should be"):
        spatial.self_test(pictures=False)


@pytest.mark.libero
def test_a_bowl_that_slides_off_is_refused(spatial: LiberoSuite) -> None:
    suite = LiberoSuite("libero_spatial", 64)  # one that has not settled this state yet

    def tilted(task_id: int) -> LiberoEnvironment:
        environment = suite.make(task_id)
        gravity: Any = environment.scene.model.opt.gravity
        gravity[:] = (7.0, 0.0, -7.0)
        return environment

    with pytest.raises(EnvironmentRequestError, match="slides off its ramekin"):
        self_test.check_bowl(tilted)
