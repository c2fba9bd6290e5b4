"""What policy families would write alike: inputs made of tensors, checked pictures and states, scales, the folder.

A family of one's own may start from `BasePolicy`; the contract is `vla.policies.protocol.TrainablePolicy`.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray

from sim.contract import Observation, ObservationBatch
from sim.embodiments import Embodiment
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.data.images import resize_frames
from vla.errors import ReflexError
from vla.policies.normalisation import ScaleFrom
from vla.policies.observations import greedy_chunk
from vla.policies.protocol import PolicyOutput, PolicySpec
from vla.policies.sampling import GREEDY, Sampling
from vla.policies.storage import CONFIG_FILE, read_config, read_surroundings, read_weights, write_policy_folder


@dataclass(frozen=True)
class TensorInputs:
    """Base of a frozen dataclass whose fields are tensors of B rows: it is `vla.policies.protocol.PreparedInputs`."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index: torch.Tensor | slice) -> Self:
        return type(self)(*(getattr(self, entry.name)[index] for entry in fields(self)))

    def to(self, device: str | torch.device) -> Self:
        """Copy to a device."""
        return type(self)(*(getattr(self, entry.name).to(device) for entry in fields(self)))

    @classmethod
    def concatenate(cls, parts: Sequence[Self]) -> Self:
        """Join along the batch axis."""
        return cls(*(torch.cat([getattr(part, entry.name) for part in parts]) for entry in fields(cls)))


@dataclass(frozen=True)
class PicturesAndState(TensorInputs):
    """Inputs of a policy with cameras; fine-tuning augments `images`."""

    images: torch.Tensor
    """[B, cameras, H, W, 3] uint8."""
    state: torch.Tensor
    """[B, S] float32, not yet normalised."""

    def with_images(self, images: torch.Tensor) -> Self:
        """The same samples with other pictures."""
        return replace(self, images=images)


def camera_frames(
    images: Mapping[str, NDArray[np.uint8]], camera: str, feature_map: FeatureMap, height: int, width: int
) -> torch.Tensor:
    """Pictures of the policy's camera, uint8 [B, height, width, 3], resized where they are of another size.

    `feature_map` says what the observations call it. Raises `ReflexError` for a missing camera or no uint8 pictures.
    """
    name = feature_map.camera(camera)
    if name not in images:
        raise ReflexError(
            f"the policy's camera {camera!r} is to be {name!r} here, and the observation has "
            f"{', '.join(sorted(images)) or 'no pictures'}; set feature_map.cameras.{camera} to one of them"
        )
    frames = np.asarray(images[name])
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ReflexError(f"{name}: expected uint8 frames [B, H, W, 3], got {frames.dtype} {frames.shape}")
    return torch.from_numpy(np.ascontiguousarray(resize_frames(frames, height, width)))


def finite_states(observations: ObservationBatch, size: int) -> torch.Tensor:
    """The observations' states, float32 [B, size]. Raises `ReflexError` for another size, NaN or infinity."""
    state = np.ascontiguousarray(observations["state"], dtype=np.float32)
    if state.ndim != 2 or state.shape[1] != size:
        raise ReflexError(f"state: expected [B, {size}], got {list(state.shape)}")
    if not np.isfinite(state).all():
        rows = np.flatnonzero(~np.isfinite(state).all(axis=1)).tolist()
        raise ReflexError(f"state holds NaN or infinity in rows {rows} of the batch")
    return torch.from_numpy(state)


def gaussian_noise(
    generators: Sequence[np.random.Generator] | None, batch: int, shape: tuple[int, ...]
) -> torch.Tensor:
    """Standard normal numbers, float32 [batch, *shape], each environment's from its own generator.

    Raises `ReflexError` unless there is one generator for each environment.
    """
    drawn = np.stack([generator.standard_normal(shape) for generator in one_generator_each(generators, batch)])
    return torch.from_numpy(drawn.astype(np.float32))


def one_generator_each(generators: Sequence[np.random.Generator] | None, batch: int) -> Sequence[np.random.Generator]:
    """The generators. Raises `ReflexError` unless there is one for each of `batch` environments."""
    if generators is None or len(generators) != batch:
        count = "none" if generators is None else str(len(generators))
        raise ReflexError(f"sampling needs one generator per environment: {batch}, not {count}")
    return generators


class Scale(torch.nn.Module):
    """Numbers [..., N] to mean 0 and deviation 1 and back; what it learnt of the data is saved with the weights."""

    mean: torch.Tensor
    deviation: torch.Tensor
    fitted: torch.Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("deviation", torch.ones(size))
        self.register_buffer("fitted", torch.tensor(False))

    def fit(self, values: NDArray[np.float32]) -> None:
        """Take mean and deviation of data [samples, N]; a number that never changes keeps deviation 1."""
        mean, deviation = values.mean(axis=0), values.std(axis=0)
        self.mean.copy_(torch.from_numpy(mean))
        self.deviation.copy_(torch.from_numpy(np.where(deviation > 1e-5, deviation, 1.0)))
        self.fitted.fill_(True)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """To mean 0 and deviation 1, on the scale's device."""
        return (values.to(self.mean.device) - self.mean) / self.deviation

    def inverse(self, values: torch.Tensor) -> torch.Tensor:
        """Back to the data's units."""
        return values * self.deviation + self.mean


class BasePolicy(torch.nn.Module, ABC):
    """A policy without `spec`, `settings`, `prepare`, `act`, `log_prob`, `imitation_loss` and `features_from_inputs`.

    A family adds these, its network, and `__init__(embodiment, **settings)`, which calls this class's.
    """

    family: ClassVar[str]
    """Where `load_policy` finds the class, "package.module:Class": it is written into every folder."""

    def __init__(self, embodiment: Embodiment, policy_id: str) -> None:
        super().__init__()
        self.embodiment, self.policy_id = embodiment, policy_id
        self.feature_map: FeatureMap = SAME_NAMES
        self.action_scale, self.state_scale = Scale(embodiment.action.size), Scale(embodiment.state.size)

    # what a family adds

    @property
    @abstractmethod
    def spec(self) -> PolicySpec:
        """See `Policy.spec`."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """JSON-ready arguments of the constructor, besides the embodiment: what config.json keeps."""

    @abstractmethod
    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """See `Policy.act`."""

    @abstractmethod
    def prepare(self, observations: ObservationBatch) -> Any:
        """See `TrainablePolicy.prepare`."""

    @abstractmethod
    def log_prob(self, inputs: Any, decisions: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor]:
        """See `TrainablePolicy.log_prob`."""

    @abstractmethod
    def imitation_loss(self, inputs: Any, actions: NDArray[np.float32]) -> tuple[torch.Tensor, dict[str, float]]:
        """See `TrainablePolicy.imitation_loss`."""

    @abstractmethod
    def features_from_inputs(self, inputs: Any) -> NDArray[np.float32]:
        """See `TrainablePolicy.features_from_inputs`."""

    # where it is, and its scale

    @property
    def device(self) -> torch.device:
        """Where the weights are. `prepare` gives inputs on the CPU, whatever this is."""
        return self.action_scale.mean.device

    @property
    def has_normalisation(self) -> bool:
        """Whether the scale of its actions and states was taken from data."""
        return bool(self.action_scale.fitted)

    def fit_normalisation(
        self, actions: NDArray[np.float32], states: NDArray[np.float32], scale: ScaleFrom = "mean_std"
    ) -> None:
        """Take the scale of actions [N, A] and states [N, S] from data: mean and deviation, whatever `scale` says."""
        self.action_scale.fit(actions)
        self.state_scale.fit(states)

    # what a small family has no use for

    def set_precision(self, precision: str) -> None:
        """It computes in float32, whatever is asked for."""

    def freeze_vision(self) -> None:
        """All of it learns."""

    def encode_vision(self, inputs: Any) -> Any:
        """The same inputs."""
        return inputs

    # one observation, and the folder

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """The greedy chunk [H, A] after one observation, ours or a LeRobot dataset's (`as_observation`)."""
        return greedy_chunk(self, observation)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a policy folder, replacing an earlier one atomically."""
        config = {"family": self.family, "policy_id": self.policy_id, **self.settings()}
        write_policy_folder(Path(folder), config, self.embodiment, self.feature_map, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> Self:
        """Read a folder written by `save_pretrained`. Raises `ReflexError` naming the file at fault."""
        config, (embodiment, feature_map) = read_config(Path(folder)), read_surroundings(Path(folder))
        if embodiment is None:
            raise ReflexError(f"{folder}: has no embodiment.json, which says what robot the policy is for")
        settings = {key: value for key, value in config.items() if key != "family"}
        try:
            inspect.signature(cls).bind(embodiment, **settings)
        except TypeError as error:
            raise ReflexError(
                f"{Path(folder) / CONFIG_FILE}: {error}; beside family it holds what {cls.__name__} is made with, as "
                "its `settings` give it"
            ) from error
        policy = cast(Any, cls)(embodiment, **settings)
        policy.feature_map = feature_map
        policy.load_weights_from(folder)
        made: Self = policy.to(device).eval()
        return made

    def load_weights_from(self, folder: str | Path) -> None:
        """Take weights and scales of a folder that such a policy wrote, in place."""
        read_weights(self, Path(folder))
