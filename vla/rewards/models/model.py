"""What every reward model offers, whatever it was fitted to: a number for each moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from sim.contract import ObservationBatch
from vla.data.episode import Episode
from vla.errors import ReflexError
from vla.rewards.models.ensemble import EnsembleShape, RewardEnsemble
from vla.rewards.models.features import MomentFeatures, load_features
from vla.rollout.observations import observations_at
from vla.run.devices import resolve_device
from vla.run.files import read_json_object, replace_folder, write_json
from vla.run.plugins import load_object

MODEL_FILE, WEIGHTS_FILE = "reward_model.json", "model.safetensors"


@runtime_checkable
class RewardModel(Protocol):
    """Moments in, a number for each out. One of your own is an import path, and needs nothing but `score`."""

    def score(
        self, frames: NDArray[np.uint8], instruction: str, states: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Rewards [T] of frames uint8 [T, H, W, 3] of one episode.

        `states` [T, S] are for a model that looks at states; others ignore them.
        """


class FittedReward:
    """An ensemble with the features that it was fitted to."""

    def __init__(
        self, ensemble: RewardEnsemble, features: MomentFeatures, camera: str | None, about: Mapping[str, Any]
    ) -> None:
        """`about` is what its folder says of it: how it was made, from which labels and dataset."""
        self.ensemble, self.features, self.camera, self.about = ensemble, features, camera, dict(about)

    def score(
        self, frames: NDArray[np.uint8], instruction: str, states: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """The mean of the members, [T]. Raises `ReflexError` when it looks at states and is given none."""
        return self.ensemble.mean_score(self._seen(frames, instruction, states))

    def score_members(self, frames: NDArray[np.uint8], instruction: str) -> NDArray[np.float32]:
        """What each member says of frames [T, H, W, 3]: [members, T]. Raises `ReflexError` when it looks at states."""
        return self.ensemble.score_features(self._seen(frames, instruction, None))

    def _seen(self, frames: NDArray[np.uint8], instruction: str, states: NDArray[np.float32] | None) -> NDArray[Any]:
        given = np.zeros((len(frames), 0), np.float32) if states is None else states
        observed = ObservationBatch(
            images={self.camera or "image": frames}, state=given, instruction=[instruction] * len(frames)
        )
        return self.features.of(observed)

    def score_episode(self, episode: Episode) -> NDArray[np.float32]:
        """The same of every observation that an episode kept, [N]; policies see all of their cameras."""
        return self.ensemble.mean_score(self.features.of(observations_at(episode, all_moments(episode))))

    def member_scores(self, episode: Episode) -> NDArray[np.float32]:
        """What each member says, [members, N]."""
        return self.ensemble.score_features(self.features.of(observations_at(episode, all_moments(episode))))


def score_episode(model: RewardModel, episode: Episode) -> NDArray[np.float32]:
    """Rewards [N] of every observation that an episode kept, from its first camera where a model does not say which.

    Raises `ReflexError` when a model of the user's own gives something else than a finite number for each moment.
    """
    own = getattr(model, "score_episode", None)
    if own is not None:
        scores = own(episode)
    else:
        camera: str | None = getattr(model, "camera", None) or next(iter(episode.images), None)
        if camera is None or camera not in episode.images:
            raise ReflexError(f"{type(model).__name__} looks at pictures of {camera or 'a camera'}; the data has none")
        scores = model.score(np.asarray(episode.images[camera]), episode.instruction, episode.states)
    found = np.asarray(scores, dtype=np.float32)
    if found.shape != (len(episode.observation_steps),) or not np.isfinite(found).all():
        raise ReflexError(
            f"{type(model).__name__} gave rewards of shape {list(found.shape)} (finite: "
            f"{bool(np.isfinite(found).all())}) for {len(episode.observation_steps)} moments; one finite number for "
            "each is needed"
        )
    return found


def all_moments(episode: Episode) -> NDArray[np.int64]:
    """Positions of everything an episode kept."""
    return np.arange(len(episode.observation_steps))


def save_reward_model(
    folder: Path,
    ensemble: RewardEnsemble,
    features: Mapping[str, Any],
    about: Mapping[str, Any],
) -> None:
    """Write a folder that `load_reward_model` reads, atomically.

    Args:
        folder: where; an earlier one is replaced.
        ensemble: the networks.
        features: `name`, `camera`, `size` and `identity` of the features that they were fitted to.
        about: how it was made, JSON-ready.
    """

    def fill(temporary: Path) -> None:
        state = {name: value.detach().cpu().contiguous() for name, value in ensemble.network.state_dict().items()}
        save_file(state, str(temporary / WEIGHTS_FILE))
        write_json(temporary / MODEL_FILE, {**ensemble.describe(), "features": dict(features), **about})

    replace_folder(folder, fill)


def load_reward_model(name: str | Path, device: str = "auto") -> RewardModel:
    """A reward model: a folder that `vla reward` wrote, or "package.module:Class" of your own.

    Raises `ReflexError` when there is none, a file is damaged, or the features are not those that it was fitted to.
    """
    folder = Path(name)
    if not (folder / MODEL_FILE).exists():
        if folder.is_dir() or ":" not in str(name):
            raise ReflexError(
                f"{folder} holds no reward model ({MODEL_FILE}); give a folder that vla reward wrote, or "
                "package.module:Class of your own"
            )
        model: RewardModel = load_object(str(name), {}, "reward")()
        return model
    content = read_json_object(folder / MODEL_FILE)
    place = resolve_device(device)
    try:
        shape = EnsembleShape(**(content["shape"] | {"inputs": tuple(content["shape"]["inputs"])}))
        network = shape.build()
        network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        said = content["features"]
        size = None if said["size"] is None else (int(said["size"][0]), int(said["size"][1]))
        features = load_features(said["name"], said["camera"], size, str(place))
    except (KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ReflexError(f"{folder} is damaged ({error}); fit the reward again (vla reward)") from error
    if features.identity != said["identity"]:
        raise ReflexError(
            f"{folder} was fitted to features of {said['identity']!r}, and {said['name']} is now "
            f"{features.identity!r}; restore that encoder or fit the reward again"
        )
    ensemble = RewardEnsemble(shape, network.to(place), content["record"])
    return FittedReward(ensemble, features, said["camera"], content)


def model_hash(folder: Path) -> str:
    """SHA-256 of a model's weights and shape: equal for models that score alike."""
    content = read_json_object(folder / MODEL_FILE)
    digest = hashlib.sha256(json.dumps([content["shape"], content["features"]["identity"]], sort_keys=True).encode())
    digest.update((folder / WEIGHTS_FILE).read_bytes())
    return digest.hexdigest()
