"""What a policy calls a camera, a number of its state or of its action -> what a dataset or an environment calls it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sim.embodiments import Camera, Embodiment
from vla.data.camera_names import SYNONYMS, find_camera
from vla.errors import ReflexError

SETTING = "feature_map"
"""Setting that overrides what is inferred, as `feature_map.cameras.wrist=observation.images.gripper`."""

Side = Literal["dataset", "suite", "robot"]
Entry = str | int
"""A number of a vector: its name, or its place from 0."""


@dataclass(frozen=True)
class FeatureMap:
    """Names on the other side for each of a policy's names. What is absent has the same name on both sides.

    Where a vector has a name twice, the second is called `name#2`.
    """

    cameras: Mapping[str, str] = field(default_factory=dict)
    """Policy's camera -> the other side's."""
    state: Mapping[str, Entry] = field(default_factory=dict)
    """Number of the policy's state -> the other side's."""
    action: Mapping[str, Entry] = field(default_factory=dict)
    """Number of the policy's action -> the other side's."""

    def camera(self, name: str) -> str:
        """What the other side calls the policy's camera `name`."""
        return self.cameras.get(name, name)

    def cameras_to_read(self, policy: Embodiment) -> tuple[Camera, ...]:
        """The other side's cameras that the policy looks through, with the sizes that it wants."""
        return tuple(Camera(self.camera(camera.name), camera.height, camera.width) for camera in policy.cameras)

    def states_for(self, policy: Embodiment, other: Embodiment, states: NDArray[np.float32]) -> NDArray[np.float32]:
        """The other side's states [..., S] as the policy's [..., P]. Raises `ReflexError` for a name it lacks."""
        chosen: NDArray[np.float32] = states[..., _places(policy.state.names, other.state.names, self.state)]
        return chosen

    def actions_for(self, policy: Embodiment, other: Embodiment, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """The other side's actions [..., A] as the policy's [..., P]. Raises `ReflexError` for a name it lacks."""
        chosen: NDArray[np.float32] = actions[..., _places(policy.action.names, other.action.names, self.action)]
        return chosen

    def actions_to(self, policy: Embodiment, other: Embodiment, actions: NDArray[np.float32]) -> NDArray[np.float32]:
        """A policy's actions [..., P] as the other side's [..., A], which must have the same length."""
        turned = np.empty_like(actions)
        turned[..., _places(policy.action.names, other.action.names, self.action)] = actions
        return turned

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {name: dict(value) for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FeatureMap:
        """Inverse of `to_dict`; also takes `{"cameras.wrist": "gripper"}`, as a command line gives it.

        Raises `ReflexError` naming what is not of that form.
        """
        parts: dict[str, dict[str, Any]] = {"cameras": {}, "state": {}, "action": {}}
        for key, value in values.items():
            part, _, name = str(key).partition(".")
            entries = {name: value} if name else value
            if part not in parts or not isinstance(entries, Mapping):
                raise ReflexError(
                    f"{SETTING}.{key}={value!r} is none of {SETTING}.cameras.NAME=CAMERA, "
                    f"{SETTING}.state.NAME=NUMBER and {SETTING}.action.NAME=NUMBER"
                )
            parts[part] |= _flat(entries)
        cameras = {name: str(theirs) for name, theirs in parts["cameras"].items()}
        return cls(cameras, _entries(parts["state"]), _entries(parts["action"]))


SAME_NAMES = FeatureMap()


def infer(
    policy: Embodiment, other: Embodiment, overrides: Mapping[str, Any] | None = None, side: Side = "dataset"
) -> FeatureMap:
    """What `other` calls the features of a policy: what `overrides` say, names that agree, then known synonyms.

    Numbers of a vector agree by name; those of two vectors of one length by place too, unless a name says otherwise.
    `overrides` are as `FeatureMap.from_dict` takes them, with a dataset's full keys or bare names.
    Raises `ReflexError` showing both sides and what to set for what does not fit (`check_fits`).
    """
    chosen = FeatureMap.from_dict(overrides or {})
    cameras = _chosen_cameras(policy, other, chosen.cameras)
    cameras |= _matching_cameras(policy, other, cameras)
    found = FeatureMap(
        {ours: theirs for ours, theirs in cameras.items() if ours != theirs},
        _matching_entries(policy.state.names, other.state.names, chosen.state),
        _matching_entries(policy.action.names, other.action.names, chosen.action),
    )
    check_fits(policy, other, found, side)
    return found


def check_fits(policy: Embodiment, other: Embodiment, feature_map: FeatureMap, side: Side = "dataset") -> None:
    """Raise one `ReflexError` that shows both sides and what to set when a policy cannot use a dataset or a suite.

    Every camera must be there, every number of state and action, the kind of action and the rate the same.
    """
    problems = [*_camera_problems(policy, other, feature_map)]
    for part, ours, theirs, entries in (
        ("state", policy.state.names, other.state.names, feature_map.state),
        ("action", policy.action.names, other.action.names, feature_map.action),
    ):
        try:
            places = _places(ours, theirs, entries)
        except ReflexError as error:
            problems.append(f"{part}: {error}")
            continue
        if part == "action" and side != "dataset" and len(set(places.tolist())) != len(theirs):
            problems.append(f"action: the policy commands {len(set(places.tolist()))} of {len(theirs)} numbers")
    kinds = {policy.action.kind, other.action.kind} - {"unknown"}
    if len(kinds) == 2:
        problems.append(f"action: {policy.action.kind} and {other.action.kind} are not the same command")
    if abs(policy.control_frequency / other.control_frequency - 1) > 0.01:
        problems.append(f"rate: {policy.control_frequency:g} Hz and {other.control_frequency:g} Hz")
    if problems:
        remedy = "set embodiment=dataset to make the policy one for that robot" if side == "dataset" else ""
        choose = "a suite of the policy's robot" if side == "suite" else "a policy of this robot"
        remedy = remedy or f"choose {choose}, or fine-tune the policy on data of this one"
        raise ReflexError(
            f"the policy and the {side} do not fit: {'; '.join(problems)}. The policy is for {policy.describe()}. "
            f"The {side} is of {other.describe()}. {remedy[0].upper()}{remedy[1:]}, or where only names differ, "
            f"{SETTING}.cameras.NAME=..., {SETTING}.state.NAME=... or {SETTING}.action.NAME=..."
        )


def one_embodiment(embodiments: Iterable[Embodiment]) -> Embodiment:
    """The one that all of them are, apart from the sizes of pictures. Raises `ReflexError` showing two that differ."""
    first: Embodiment | None = None
    for embodiment in embodiments:
        if first is None:
            first = embodiment
        elif embodiment is not first and embodiment.with_image_size(1) != first.with_image_size(1):
            raise ReflexError(
                f"episodes of two robots cannot be trained on together: {first.describe()}; and {embodiment.describe()}"
                + ("" if first.describe() != embodiment.describe() else ", with other names or limits")
            )
    if first is None:
        raise ReflexError("there is no episode, so no robot; check the dataset and the chosen tasks")
    return first


def _chosen_cameras(policy: Embodiment, other: Embodiment, chosen: Mapping[str, str]) -> dict[str, str]:
    """The cameras of an override, by both sides' own names."""
    cameras = {}
    for ours, theirs in chosen.items():
        found = [find_camera(ours, policy.camera_names), find_camera(theirs, other.camera_names)]
        for name, camera, side in zip((ours, theirs), found, (policy, other), strict=True):
            if camera is None:
                raise ReflexError(
                    f"{SETTING}.cameras.{ours}={theirs}: there is no camera {name!r}; the policy is for "
                    f"{policy.describe()}, the other side is {other.describe()}: {side.name} has "
                    f"{', '.join(side.camera_names) or 'no camera'}"
                )
        cameras[str(found[0])] = str(found[1])
    return cameras


def _matching_cameras(policy: Embodiment, other: Embodiment, chosen: Mapping[str, str]) -> dict[str, str]:
    """Cameras with the same name, then those that alone on both sides show the same by `SYNONYMS`."""
    ours = [name for name in policy.camera_names if name not in chosen]
    theirs = [name for name in other.camera_names if name not in chosen.values()]
    matched = {name: name for name in ours if name in theirs}
    for group in SYNONYMS.values():
        left = [name for name in ours if name.lower() in group and name not in matched]
        right = [name for name in theirs if name.lower() in group and name not in matched.values()]
        if len(left) == len(right) == 1:
            matched[left[0]] = right[0]
    return matched


def _camera_problems(policy: Embodiment, other: Embodiment, feature_map: FeatureMap) -> Iterable[str]:
    for name in policy.camera_names:
        if feature_map.camera(name) not in other.camera_names:
            known = ", ".join(other.camera_names)
            remedy = f"set {SETTING}.cameras.{name}= one of {known}" if known else "the other side has no camera"
            yield f"no camera {feature_map.camera(name)!r} for the policy's {name!r} ({remedy})"


def _matching_entries(ours: Sequence[str], theirs: Sequence[str], chosen: Mapping[str, Entry]) -> dict[str, Entry]:
    """An override, and the places of numbers that go by place.

    Those are of two vectors of one length with other names for the same things: what names they share are in the same
    places.
    """
    shared = set(ours) & set(theirs)
    by_place = len(ours) == len(theirs) and all(list(ours).index(name) == list(theirs).index(name) for name in shared)
    labels = zip(_unique(ours), _unique(theirs), strict=by_place)
    places: dict[str, Entry] = {mine: at for at, (mine, yours) in enumerate(labels) if by_place and mine != yours}
    return places | dict(chosen)


def _places(ours: Sequence[str], theirs: Sequence[str], entries: Mapping[str, Entry]) -> NDArray[np.int64]:
    """Where each of the policy's numbers is in the other side's vector. Raises `ReflexError` for what is not there."""
    wanted, known = _unique(ours), _unique(theirs)
    strange = [name for name in entries if name not in wanted]
    if strange:
        raise ReflexError(f"the policy has no number {strange[0]!r} (it has {', '.join(wanted) or 'none'})")
    places = []
    for name in wanted:
        entry = entries.get(name, name)
        place = entry if isinstance(entry, int) else known.index(entry) if entry in known else -1
        if not 0 <= place < len(known):
            raise ReflexError(
                f"no number {entry!r} for the policy's {name!r}; {len(ours)} are needed ({', '.join(ours)}) and "
                f"{len(theirs)} are there ({', '.join(theirs) or 'none'})"
            )
        places.append(place)
    return np.array(places, dtype=np.int64)


def _unique(names: Sequence[str]) -> list[str]:
    """LIBERO's copies call both fingers "gripper": the second becomes "gripper#2"."""
    return [
        name if names.index(name) == at else f"{name}#{names[: at + 1].count(name)}" for at, name in enumerate(names)
    ]


def _flat(values: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """A command line makes groups of names with dots: {"jaw": {"pos": 5}} is {"jaw.pos": 5}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


def _entries(values: Mapping[str, Any]) -> dict[str, Entry]:
    """Places may come as text from a command line."""
    return {
        name: int(value) if isinstance(value, int) or str(value).isdigit() else str(value)
        for name, value in values.items()
    }
