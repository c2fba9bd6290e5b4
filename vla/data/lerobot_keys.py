"""Names, templates and limits of the LeRobotDataset v3.0 layout, and the columns that this project writes beside it."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from sim.embodiments import Camera, Embodiment

CODEBASE_VERSION = "v3.0"

CAMERA_PREFIX = "observation.images."
STATE = "observation.state"
ACTION = "action"
REWARD = "next.reward"
DONE = "next.done"
SUCCESS = "next.success"
TRUNCATED = "next.truncated"
COST = "next.cost"
PROGRESS = "next.progress"
INTERVENTION = "intervention"
"""Whether a person made the action: the column that LeRobot's own rollouts with corrections have."""
INTERVENTION_KEYS = (INTERVENTION, "complementary_info.is_intervention")
"""What datasets call it, in order of preference; the latter is numbers, 1 for a person."""
TIMESTAMP = "timestamp"
FRAME_INDEX = "frame_index"
EPISODE_INDEX = "episode_index"
INDEX = "index"
TASK_INDEX = "task_index"

INFO_PATH = "meta/info.json"
STATS_PATH = "meta/stats.json"
TASKS_PATH = "meta/tasks.parquet"
EPISODES_FOLDER = "meta/episodes"
PROVENANCE_PATH = "meta/reflex_episodes.parquet"
"""Where an episode came from. A file of its own: LeRobot's tools append to the episode tables with a fixed schema."""
EMBODIMENT_PATH = "meta/reflex_embodiment.json"
"""What info.json has no place for: kind, limits, units and gripper of the action. A file of its own: LeRobot's tools
write info.json anew, without what they do not know."""
RECORDING_MARKER = "reflex-recording"
"""In the folder where a recording is kept until it is whole: what has none is the user's own."""
COLLECTION_PATH = "meta/reflex_collection.json"
"""How `vla collect` made the dataset: its settings, attempts and the success rate of the policy that acted."""

FILE_TEMPLATE = "chunk-{chunk_index:03d}/file-{file_index:03d}"
DATA_PATH = "data/" + FILE_TEMPLATE + ".parquet"
EPISODES_PATH = EPISODES_FOLDER + "/" + FILE_TEMPLATE + ".parquet"
VIDEO_PATH = "videos/{video_key}/" + FILE_TEMPLATE + ".mp4"

CHUNKS_SIZE = 1000
"""Files in one chunk folder."""
DATA_FILE_MEGABYTES = 100
"""Size at which a data or episode file is full."""
VIDEO_FILE_MEGABYTES = 200
"""LeRobot's own limit, for its tools that append to a dataset; here every episode is a video file of its own."""
MEGABYTE = 1024**2

LIBERO_CAMERAS = {"image": "image", "wrist_image": "image2"}
"""Third-person and wrist camera here -> in LIBERO's copies on the hub. Both ways, for exactly these two names."""


def camera_keys(names: tuple[str, ...]) -> dict[str, str]:
    """Camera name -> the feature that it is written as."""
    known = LIBERO_CAMERAS if set(names) == set(LIBERO_CAMERAS) else {}
    return {name: CAMERA_PREFIX + known.get(name, name) for name in names}


def exact_rate(frequency: float) -> Fraction:
    """Frames per second as a ratio that video containers can hold (29.97 is 30000/1001)."""
    return Fraction(frequency).limit_denominator(1001)


def plain_number(value: float) -> int | float:
    """A whole number as an int: LeRobot's own files say 20, not 20.0."""
    return int(value) if float(value).is_integer() else float(value)


def numeric_features(embodiment: Embodiment, interventions: bool = False) -> dict[str, dict[str, Any]]:
    """Every column of the data files, in order, as `info.json` describes it.

    `interventions`: whether there is one that says which actions a person made.
    """
    features: dict[str, dict[str, Any]] = {}
    for name, names in ((STATE, embodiment.state.names), (ACTION, embodiment.action.names)):
        if names:
            features[name] = {"dtype": "float32", "shape": [len(names)], "names": list(names)}
    scalars = {
        "float32": (REWARD, COST, PROGRESS),
        "bool": (DONE, SUCCESS, TRUNCATED, *((INTERVENTION,) if interventions else ())),
    }
    for dtype, keys in scalars.items():
        for key in keys:
            features[key] = {"dtype": dtype, "shape": [1], "names": None}
    features[TIMESTAMP] = {"dtype": "float32", "shape": [1], "names": None}
    for key in (FRAME_INDEX, EPISODE_INDEX, INDEX, TASK_INDEX):
        features[key] = {"dtype": "int64", "shape": [1], "names": None}
    return features


def video_feature(camera: Camera, fps: float, pixel_format: str) -> dict[str, Any]:
    """One camera, as `info.json` describes it."""
    return {
        "dtype": "video",
        "shape": [camera.height, camera.width, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": camera.height,
            "video.width": camera.width,
            "video.codec": "h264",
            "video.pix_fmt": pixel_format,
            "video.is_depth_map": False,
            "video.fps": plain_number(fps),
            "video.channels": 3,
            "has_audio": False,
        },
    }


def file_place(number: int) -> dict[str, int]:
    """The chunk of file `number` (from 0) and its place there: what the templates of paths ask for."""
    chunk_index, file_index = divmod(number, CHUNKS_SIZE)
    return {"chunk_index": chunk_index, "file_index": file_index}
