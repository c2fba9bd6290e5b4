"""A policy that decides in another process or on another machine: ours (`vla serve`) or openpi's."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sim.contract import Observation, ObservationBatch
from vla.data.feature_map import SAME_NAMES, FeatureMap
from vla.errors import ReflexError
from vla.policies.base import camera_frames, finite_states
from vla.policies.observations import greedy_chunk
from vla.policies.protocol import PolicyOutput, PolicySpec, TrainablePolicy
from vla.policies.remote.address import RemoteAddress, RemoteSettings, parse_address
from vla.policies.remote.announcement import Announcement, is_ours
from vla.policies.remote.client import RemoteClient, RemoteError
from vla.policies.remote.codec import encode
from vla.policies.remote.keys import PRESETS
from vla.policies.sampling import GREEDY, Sampling

ENVELOPE_BYTES = 64 * 1024
"""Of a message beside its pictures, generously."""
LONGEST_TEXT = 4096
"""Characters of an instruction; a longer one is a mistake."""


class NotTrainableError(ReflexError, AttributeError):
    """A policy behind a wire has none of what training needs; an `AttributeError`, so that `hasattr` says so too."""


class RemotePolicy:
    """Satisfies `vla.policies.protocol.Policy`. It decides greedily, and its decisions cannot be scored again.

    A batch goes to a server of ours as one request, so that it decides on the same batch as a policy in this process
    would and gives the same numbers; to a server of openpi's as one request for each environment.
    """

    def __init__(self, address: RemoteAddress) -> None:
        """Connect to the server at an address.

        Raises:
            RemoteError: there is no server, or it refuses.
            ReflexError: neither the server nor `keys` says what the policy takes, or settings contradict it.
        """
        self._address = address
        self._client = RemoteClient(address)
        try:
            self._announcement, self._spec, self.policy_id = self._described()
        except BaseException:
            self._client.close()
            raise
        self.feature_map: FeatureMap = SAME_NAMES
        self.server_timing: dict[str, float] = {}
        """What the server says of the last decision's time, in milliseconds."""

    @classmethod
    def open(cls, address: str) -> RemotePolicy:
        """The policy at `ws://host:port?setting=value` (`RemoteSettings`). Raises as the constructor does."""
        return cls(parse_address(address))

    @property
    def spec(self) -> PolicySpec:
        """What the served policy sees and emits."""
        return self._spec

    @property
    def fingerprint(self) -> str:
        """Of the served policy (`Announcement.fingerprint`); of a foreign server, of its address and first frame."""
        if self._announcement is not None:
            return self._announcement.fingerprint
        known = {
            "address": self._address.uri,
            "keys": self._address.settings.keys,
            "first_frame": self._client.identity,
        }
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode("utf-8")).hexdigest()

    def describe(self) -> dict[str, Any]:
        """JSON-ready, for a run's summary: where it is, and which policy."""
        announced = self._announcement
        return {
            "address": self._address.uri,
            "keys": self._address.settings.keys,
            "policy_id": self.policy_id,
            "policy_sha256": self.fingerprint,
            "protocol_hash": None if announced is None else announced.protocol_hash,
            "execute_steps": self._spec.execute_steps,
        }

    def act(
        self,
        observations: ObservationBatch,
        sampling: Sampling = GREEDY,
        generators: Sequence[np.random.Generator] | None = None,
    ) -> PolicyOutput:
        """Decide for B environments; see `Policy.act`. The decision and its log-probabilities are empty [B, 0].

        Raises:
            RemoteError: no answer in time, the server's error, or an answer that does not fit the policy's spec.
            ReflexError: bad observations, or a sampling that is not greedy.
        """
        if not sampling.greedy:
            raise ReflexError(
                f"policy {self.policy_id} at {self._address.uri} decides greedily; over a wire nothing is sampled "
                "(mode=greedy)"
            )
        batch = len(observations["instruction"])
        for instruction in observations["instruction"]:
            if len(instruction) > LONGEST_TEXT:
                raise ReflexError(f"an instruction has {len(instruction)} characters; at most {LONGEST_TEXT} are sent")
        rows = [slice(row, row + 1) for row in range(batch)]
        if self._announcement is not None:
            rows = list(_pieces(batch, self._announcement))
        messages = [encode(message) for message in self._requests(observations, rows)]
        answers = self._client.ask(messages)
        actions = np.concatenate(
            [self._actions(answer, piece.stop - piece.start) for answer, piece in zip(answers, rows, strict=True)]
        )
        empty = np.zeros((batch, 0), np.float32)
        return PolicyOutput(actions, empty.astype(np.int64), empty)

    def select_action(self, observation: Observation | Mapping[str, Any]) -> NDArray[np.float32]:
        """The chunk [H, A] after one observation, ours or a LeRobot dataset's (`as_observation`)."""
        return greedy_chunk(self, observation)

    def save_pretrained(self, folder: Path) -> None:
        """Raises `ReflexError`: the weights are the server's."""
        raise ReflexError(f"policy {self.policy_id} is at {self._address.uri}; save it where it is served, not here")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def __getattr__(self, name: str) -> Any:
        """Only called for what is not there: a trainer asks for it."""
        if not name.startswith("_") and hasattr(TrainablePolicy, name):
            raise NotTrainableError(
                "a policy behind a websocket acts and cannot be trained; give the folder of its weights instead"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def _described(self) -> tuple[Announcement | None, PolicySpec, str]:
        """What the server says of its policy, what that policy sees and emits, and its name."""
        uri, settings = self._address.uri, self._address.settings
        if settings.keys is None:
            if not is_ours(self._client.metadata):
                known = ", ".join(map(str, self._client.metadata)) or "nothing"
                raise ReflexError(
                    f"{uri} does not say what its policy takes (its first frame says {known}); say it with "
                    f"?keys= and one of {', '.join(PRESETS)}"
                )
            announced = Announcement.from_metadata(self._client.metadata, uri)
            return announced, _with(announced.spec, settings, uri), settings.name or announced.policy_id
        preset = PRESETS[settings.keys]
        spec = PolicySpec(
            embodiment=preset.embodiment,
            uses_state=True,
            chunk_horizon=settings.chunk_horizon or preset.chunk_horizon,
            execute_steps=settings.execute_steps
            or min(preset.execute_steps, settings.chunk_horizon or preset.chunk_horizon),
            unit_steps=(),
        )
        return None, _with(spec, settings, uri), settings.name or f"openpi_{settings.keys}"

    def _requests(self, observations: ObservationBatch, rows: Sequence[slice]) -> Iterator[dict[str, Any]]:
        """The messages about the rows of a batch."""
        spec, embodiment = self._spec, self._spec.embodiment
        batch = len(observations["instruction"])
        states = np.zeros((batch, 0), np.float32)
        if spec.uses_state:
            states = finite_states(observations, embodiment.state.size).numpy()
        if self._address.settings.keys is not None:
            preset = PRESETS[self._address.settings.keys]
            named = {camera: self._pictures(observations, camera) for camera in embodiment.camera_names}
            for row in range(batch):
                yield preset.write(
                    Observation(
                        images={camera: frames[row] for camera, frames in named.items()},
                        state=states[row],
                        instruction=observations["instruction"][row],
                    )
                )
            return
        frames = {
            camera.name: camera_frames(
                observations["images"], camera.name, self.feature_map, camera.height, camera.width
            ).numpy()
            for camera in embodiment.cameras
        }
        for piece in rows:
            # One alone is sent without a batch axis: the server may then decide on it together with other clients'.
            at: Any = piece.start if piece.stop - piece.start == 1 else piece
            yield {
                "images": {camera: pictures[at] for camera, pictures in frames.items()},
                "state": states[at],
                "instruction": observations["instruction"][at],
            }

    def _pictures(self, observations: ObservationBatch, camera: str) -> NDArray[np.uint8]:
        """Pictures [B, H, W, 3] of the policy's camera, as large as they are."""
        seen = observations["images"].get(self.feature_map.camera(camera))
        height, width = (1, 1) if seen is None else seen.shape[1:3]
        frames: NDArray[np.uint8] = camera_frames(
            observations["images"], camera, self.feature_map, height, width
        ).numpy()
        return frames

    def _actions(self, answer: Mapping[str, Any], count: int) -> NDArray[np.float32]:
        """The actions [count, H, A] of an answer, checked and within the limits."""
        spec, where = self._spec, f"{self._address.uri} answered with actions"
        actions = answer.get("actions")
        if not isinstance(actions, np.ndarray) or actions.dtype.kind not in "iuf":
            raise RemoteError(f"{where} that are no array of numbers")
        if actions.ndim == 2 and count == 1:
            actions = actions[None]
        if actions.ndim != 3 or actions.shape[0] != count or actions.shape[2] != spec.embodiment.action.size:
            expected = [count, spec.chunk_horizon, spec.embodiment.action.size]
            raise RemoteError(f"{where} of shape {list(actions.shape)}; {expected} were expected")
        if actions.shape[1] < spec.chunk_horizon:
            raise RemoteError(
                f"{where} for {actions.shape[1]} steps, and {spec.chunk_horizon} were expected; set "
                f"?chunk_horizon={actions.shape[1]}"
            )
        if not np.isfinite(actions).all():
            raise RemoteError(f"{where} that hold NaN or infinity")
        timing = answer.get("server_timing")
        if isinstance(timing, dict):
            self.server_timing = {str(key): float(ms) for key, ms in timing.items() if isinstance(ms, int | float)}
        return spec.embodiment.action.clip(actions[:, : spec.chunk_horizon])


def _pieces(batch: int, announced: Announcement) -> Iterator[slice]:
    """Rows that fit one request each."""
    per_row = announced.embodiment.frame_bytes + 4 * announced.embodiment.state.size + LONGEST_TEXT * 4
    most = min(announced.max_batch, max(1, (announced.max_message_bytes - ENVELOPE_BYTES) // per_row))
    return (slice(first, min(first + most, batch)) for first in range(0, batch, most))


def _with(spec: PolicySpec, settings: RemoteSettings, uri: str) -> PolicySpec:
    """The spec with what the settings say otherwise. Raises `ReflexError` where that cannot be."""
    horizon = settings.chunk_horizon or spec.chunk_horizon
    steps = settings.execute_steps or min(spec.execute_steps, horizon)
    if steps > horizon or (settings.keys is None and horizon > spec.chunk_horizon):
        raise ReflexError(
            f"{uri}: a chunk has {spec.chunk_horizon} actions, so chunk_horizon={horizon} with execute_steps={steps} "
            "cannot be"
        )
    return dataclasses.replace(spec, chunk_horizon=horizon, execute_steps=steps)
