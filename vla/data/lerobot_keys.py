"""Names, templates and limits of the LeRobotDataset v3.0 layout, and the columns that this project writes beside it."""

from __future__ import annotations

from typing import Any

CODEBASE_VERSION = "v3.0"
ROBOT_TYPE = "panda"

IMAGE = "observation.images.image"
WRIST_IMAGE = "observation.images.image2"
CAMERAS = (IMAGE, WRIST_IMAGE)
STATE = "observation.state"
ACTION = "action"
REWARD = "next.reward"
DONE = "next.done"
SUCCESS = "next.success"
TRUNCATED = "next.truncated"
COST = "next.cost"
PROGRESS = "next.progress"
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

STATE_NAMES = ["x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "finger_left", "finger_right"]
ACTION_NAMES = ["x", "y", "z", "axis_angle_x", "axis_angle_y", "axis_angle_z", "gripper"]


def numeric_features() -> dict[str, dict[str, Any]]:
    """Every column of the data files, in order, as `info.json` describes it."""
    features: dict[str, dict[str, Any]] = {
        STATE: {"dtype": "float32", "shape": [len(STATE_NAMES)], "names": STATE_NAMES},
        ACTION: {"dtype": "float32", "shape": [len(ACTION_NAMES)], "names": ACTION_NAMES},
    }
    scalars = {
        "float32": (REWARD, COST, PROGRESS),
        "bool": (DONE, SUCCESS, TRUNCATED),
    }
    for dtype, keys in scalars.items():
        for key in keys:
            features[key] = {"dtype": dtype, "shape": [1], "names": None}
    features[TIMESTAMP] = {"dtype": "float32", "shape": [1], "names": None}
    for key in (FRAME_INDEX, EPISODE_INDEX, INDEX, TASK_INDEX):
        features[key] = {"dtype": "int64", "shape": [1], "names": None}
    return features


def video_feature(image_size: int, fps: int, pixel_format: str) -> dict[str, Any]:
    """One camera, as `info.json` describes it."""
    return {
        "dtype": "video",
        "shape": [image_size, image_size, 3],
        "names": ["height", "width", "channels"],
        "info": {
            "video.height": image_size,
            "video.width": image_size,
            "video.codec": "h264",
            "video.pix_fmt": pixel_format,
            "video.is_depth_map": False,
            "video.fps": fps,
            "video.channels": 3,
            "has_audio": False,
        },
    }


def file_place(number: int) -> dict[str, int]:
    """The chunk of file `number` (from 0) and its place there: what the templates of paths ask for."""
    chunk_index, file_index = divmod(number, CHUNKS_SIZE)
    return {"chunk_index": chunk_index, "file_index": file_index}
