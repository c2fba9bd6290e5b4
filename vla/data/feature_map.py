"""What a policy calls a camera, its state or its action -> what a dataset or an environment calls it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class FeatureMap:
    """Names on the other side for each of a policy's names. What is absent has the same name on both sides."""

    cameras: Mapping[str, str] = field(default_factory=dict)
    """Policy's camera -> the other side's."""

    def camera(self, name: str) -> str:
        """What the other side calls the policy's camera `name`."""
        return self.cameras.get(name, name)


SAME_NAMES = FeatureMap()
