"""``report.html``: one self-contained page per run, readable without network, server or script."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from vla.evaluation.charts import CurvePoint, learning_curve, number, percent, sparkline
from vla.evaluation.report_data import RunData, arm_name, load_run
from vla.evaluation.videos import Video
from vla.run.files import write_text

__all__ = ["page_environment", "render_report", "write_report"]

MAX_VIDEO_BYTES = 24 << 20
"""Videos are embedded until they reach this size together, so that the page still opens at once."""

MAX_TELEMETRY = 16
"""Charts shown; the rest are named, and are in metrics.jsonl and TensorBoard."""

MAX_FILMS = 12
"""Tasks whose videos are shown."""


def write_report(run: Path) -> Path:
    """Write ``report.html`` of a run folder, atomically.

    Returns:
        Its path.

    Raises:
        ReflexError: the folder is no run folder, one of its files is damaged, or the report cannot be written.
    """
    path = Path(run) / "report.html"
    write_text(path, render_report(load_run(Path(run))))
    return path


def page_environment(*packages: str) -> Environment:
    """Where templates of pages are found: in these packages and in this one, which has the style sheet `report.css`."""
    found = Environment(
        loader=ChoiceLoader([PackageLoader(package, "") for package in (*packages, "vla.evaluation")]),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {"number": number, "percent": percent}
    return found


def render_report(data: RunData) -> str:
    """The page as text."""
    page = page_environment()
    page.filters |= {"arm_name": arm_name, "base64": _base64}
    page.filters["sparkline"] = lambda series: sparkline(series.steps, series.values)
    films = _choose_films(data)
    settings = {
        "Configuration": data.config and yaml.safe_dump(data.config, sort_keys=False, allow_unicode=True),
        "Evaluation protocol": data.protocol and json.dumps(data.protocol, indent=2),
        "Summary": data.summary and json.dumps(data.summary, indent=2),
    }
    return page.get_template("report.html").render(
        run=data,
        curve=learning_curve([_curve_point(line) for line in data.curve]) if len(data.curve) > 1 else "",
        last_tasks={task.task_id: task for task in data.last_tasks},
        instructions={task.task_id: task.instruction for task in data.first_tasks},
        films=films,
        cameras=_camera_caption(data.protocol),
        films_left_out=len({video.task_id for video in data.videos}) - len(films),
        max_telemetry=MAX_TELEMETRY,
        settings={name: text for name, text in settings.items() if text},
    )


def _camera_caption(protocol: Mapping[str, Any]) -> str:
    """Which camera is where in a film, as far as the protocol's facts name them."""
    facts = protocol.get("facts") or {}
    cameras = facts.get("cameras") or (facts.get("embodiment") or {}).get("cameras") or ()
    names = [str(camera["name"] if isinstance(camera, Mapping) else camera) for camera in cameras]
    if len(names) == 1:
        return f"Camera: {names[0]}."
    return f"Cameras, from left to right: {', '.join(names)}." if names else "All cameras, side by side."


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")


def _curve_point(line: dict[str, Any]) -> CurvePoint:
    rate = float(line["eval/success_rate"] or 0.0)
    low, high = line.get("eval/wilson_low"), line.get("eval/wilson_high")
    note = f"iteration {line['step']}: {percent(rate)}"
    if line.get("eval/episodes"):
        note += f" of {line['eval/episodes']:g} episodes"
    trained = line.get("train/episodes") or line.get("progress/episodes")
    if trained:
        note += f", after {trained:g} training episodes"
    return CurvePoint(
        int(line["step"]), rate, rate if low is None else float(low), rate if high is None else float(high), note
    )


def _choose_films(data: RunData) -> list[list[Video]]:
    """Per task the videos of the first and last phase from one initial state, most telling first, within the budget.

    An initial state that the first policy failed and the last one solved shows what training did.
    """
    phases = list(dict.fromkeys([data.phases[0], data.phases[-1]])) if data.phases else []
    found = {(video.task_id, video.init_state_id, video.phase): video for video in data.videos}
    chosen: list[list[Video]] = []
    spent = 0
    for task in sorted({video.task_id for video in data.videos}):
        states = sorted({video.init_state_id for video in data.videos if video.task_id == task})
        candidates = [
            [found[task, state, phase] for phase in phases if (task, state, phase) in found] for state in states
        ]
        whole = [films for films in candidates if len(films) == len(phases)]
        if not whole:
            continue
        films = max(whole, key=lambda item: (not item[0].success, item[-1].success))
        spent += sum(video.path.stat().st_size for video in films)
        if spent > MAX_VIDEO_BYTES or len(chosen) == MAX_FILMS:
            break
        chosen.append(films)
    return chosen
