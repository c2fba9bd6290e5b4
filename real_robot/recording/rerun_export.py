"""An episode as a Rerun recording: what the cameras saw, the joints did and the filter decided, on one time line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.errors import ReflexError, require_module, writing
from vla.safety.log import Row

JPEG_QUALITY = 90


def export_episode(episode: Episode, rows: Sequence[Row], path: Path) -> None:
    """Write the episode and its T rows of the control log to an .rrd file, for `rerun FILE`.

    Raises `ReflexError` without the extra `rerun`, where rows and episode differ in length, or where it cannot write.
    """
    rerun: Any = require_module("rerun", "rerun=...", "pip install 'reflex-vla[rerun]'")
    if len(rows) != episode.length:
        raise ReflexError(f"the log has {len(rows)} control steps of the episode, and the dataset {episode.length}")
    controls = [row["control"] for row in rows]
    seconds = np.array([control["sent_time"] for control in controls]) - controls[0]["sent_time"]

    def column(places: NDArray[np.int64] | slice = slice(None)) -> list[Any]:
        return [rerun.TimeColumn("time", duration=seconds[places])]

    recording = rerun.RecordingStream("reflex", recording_id=f"{episode.policy_id}_{path.stem}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        recording.save(path)
    try:
        for name, frames in episode.images.items():
            images = rerun.EncodedImage.columns(
                blob=[jpeg(frame) for frame in frames], media_type=["image/jpeg"] * len(frames)
            )
            recording.send_columns(f"cameras/{name}", column(), images)
        for name, values in joint_curves(episode, rows).items():
            places = np.flatnonzero(np.isfinite(values))
            recording.send_columns(f"joints/{name}", column(places), rerun.Scalars.columns(scalars=values[places]))
        for name, words in remarks(rows).items():
            places = np.array(sorted(words), np.int64)
            texts = rerun.TextLog.columns(text=[words[place] for place in places.tolist()])
            recording.send_columns(name, column(places), texts)
    finally:
        recording.disconnect()


def joint_curves(episode: Episode, rows: Sequence[Row]) -> dict[str, NDArray[np.float64]]:
    """ "joint/asked", "joint/sent" and "joint/measured" of each joint, [T]; NaN where nothing was asked."""
    names = episode.embodiment.action.names
    nothing = [np.nan] * len(names)
    asked = [nothing if row["control"]["raw"] is None else row["control"]["raw"]["values"] for row in rows]
    measured = [nothing if row["measured"] is None else row["measured"]["values"] for row in rows]
    curves = {
        "asked": np.array(asked, np.float64),  # the log writes what is not finite as a word, which numpy reads
        "sent": np.array([row["control"]["commanded"] for row in rows], np.float64),
        "measured": np.array(measured, np.float64),
    }
    return {
        f"{name.removesuffix('.pos')}/{kind}": values[:, index]
        for index, name in enumerate(names)
        for kind, values in curves.items()
    }


def remarks(rows: Sequence[Row]) -> dict[str, dict[int, str]]:
    """ "filter" and "driver" -> step -> what changed there: the filter's decision with its reasons, and who drives."""
    found: dict[str, dict[int, str]] = {"filter": {}, "driver": {}}
    before: dict[str, str] = {}
    for step, row in enumerate(rows):
        reasons = [reason for reason in (row["control"]["problem"], *row["reasons"]) if reason]
        words = {"filter": " ".join([row["decision"], *reasons]), "driver": row["control"].get("source", "policy")}
        for name, said in words.items():
            if before.get(name) != said:
                found[name][step] = before[name] = said
    return found


def jpeg(frame: NDArray[np.uint8]) -> bytes:
    """An RGB frame [H, W, 3] as a JPEG."""
    done, data = cv2.imencode(".jpg", frame[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "OpenCV encodes any uint8 picture"
    return data.tobytes()
