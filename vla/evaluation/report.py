"""``report.html``: one self-contained page per run, readable without network, server or script."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml

from vla.evaluation.charts import (
    CurvePoint,
    dumbbell,
    interval_bar,
    learning_curve,
    number,
    percent,
    share_bar,
    sparkline,
)
from vla.evaluation.report_data import Arm, RunData, Series, arm_name, load_run
from vla.evaluation.results import TaskResult
from vla.evaluation.videos import Video
from vla.run.files import write_text

__all__ = ["render_report", "write_report"]

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


def render_report(data: RunData) -> str:
    """The page as text."""
    template = Template(resources.files("vla.evaluation").joinpath("report_template.html").read_text(encoding="utf-8"))
    sections = [_headline(data), _curve(data), _tasks(data), _films(data), _telemetry(data), _profile(data)]
    sections.append(_settings(data))
    return template.substitute(
        title=escape(_title(data)),
        lead=escape(_lead(data)),
        sections="\n".join(section for section in sections if section),
        footer=_footer(data),
    )


def _title(data: RunData) -> str:
    suite = data.config.get("suite") or data.protocol.get("suite")
    return f"{data.name} on {suite}" if suite else data.name


def _lead(data: RunData) -> str:
    if len(data.arms) > 1:
        first, last = data.arms[0], data.arms[-1]
        gain = 100 * (last.success_rate - first.success_rate)
        text = f"{last.name} reaches {percent(last.success_rate)} success"
        return f"{text}, {gain:+.1f} points from {percent(first.success_rate)} ({first.name})."
    if data.arms:
        arm = data.arms[0]
        return f"{arm.name} succeeds in {percent(arm.success_rate)} of {arm.episodes} episodes."
    return "No evaluation has been recorded yet."


def _headline(data: RunData) -> str:
    if not data.arms:
        return ""
    accent = len(data.arms) - 1
    tiles = [_arm_tile(arm, index == accent) for index, arm in enumerate(data.arms)]
    if len(data.arms) > 1:
        tiles.append(_difference_tile(data))
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _arm_tile(arm: Arm, accent: bool) -> str:
    interval = f"95 % interval {percent(arm.low)} to {percent(arm.high)}, {arm.episodes} episodes"
    return (
        f'<div class="card tile"><div class="name">{escape(arm.name)}</div>'
        f'<div class="number{" accent" if accent else ""}">{percent(arm.success_rate)}</div>'
        f"{interval_bar(arm.success_rate, arm.low, arm.high, accent)}"
        f'<div class="detail">{interval}</div></div>'
    )


def _difference_tile(data: RunData) -> str:
    gain = 100 * (data.arms[-1].success_rate - data.arms[0].success_rate)
    detail = "difference of the two success rates"
    if data.difference is not None:
        paired = data.difference
        probability = "p &lt; 0.001" if paired.p_value < 0.001 else f"p = {paired.p_value:.3f}"
        detail = (
            f"paired on {paired.pairs} initial states: {100 * paired.low:+.1f} to {100 * paired.high:+.1f}, "
            f"McNemar {probability}; {paired.only_b} newly solved, {paired.only_a} lost"
        )
    return (
        f'<div class="card tile"><div class="name">Gain</div><div class="number">{gain:+.1f}</div>'
        f'<div class="name">percentage points</div><div class="detail">{detail}</div></div>'
    )


def _curve(data: RunData) -> str:
    if len(data.curve) < 2:
        return ""
    points = [_curve_point(line) for line in data.curve]
    return (
        "<section><h2>Learning curve</h2>"
        '<p class="note">Success on initial states that training never saw. The band is the 95 % Wilson interval.</p>'
        f'<div class="card">{learning_curve(points)}</div></section>'
    )


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


def _tasks(data: RunData) -> str:
    if not data.first_tasks:
        return ""
    last = {task.task_id: task for task in data.last_tasks}
    names = ("First", "Last", "Change") if last else ("Success",)
    columns = "".join(f'<th class="n">{name}</th>' for name in names)
    rows = "".join(_task_row(task, last.get(task.task_id)) for task in data.first_tasks)
    return (
        '<section><h2>Tasks</h2><p class="note">Success per task with its 95 % Wilson interval'
        f"{'; grey is the first policy, blue the last' if last else ''}.</p>"
        '<div class="card scroll"><table><thead><tr><th class="n">#</th><th>Instruction</th>'
        f"{columns}<th></th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _task_row(first: TaskResult, last: TaskResult | None) -> str:
    cells = _rate_cell(first)
    plot = interval_bar(first.success_rate, first.wilson_low, first.wilson_high, True, 200, 20)
    if last is not None:
        change = 100 * (last.success_rate - first.success_rate)
        cells += _rate_cell(last) + f'<td class="n">{change:+.0f}</td>'
        plot = dumbbell(first.success_rate, last.success_rate)
    instruction = escape(first.instruction)
    return f'<tr><td class="n">{first.task_id}</td><td>{instruction}</td>{cells}<td class="plot">{plot}</td></tr>'


def _rate_cell(task: TaskResult) -> str:
    interval = f"{100 * task.wilson_low:.0f} to {100 * task.wilson_high:.0f}, {task.successes}/{task.episodes}"
    return f'<td class="n">{percent(task.success_rate)}<span class="interval-text">{interval}</span></td>'


def _films(data: RunData) -> str:
    pairs = _choose_films(data)
    if not pairs:
        return ""
    names = {task.task_id: task.instruction for task in data.first_tasks}
    cards = []
    for films in pairs:
        figures = "".join(_figure(video) for video in films)
        name = escape(names.get(films[0].task_id, f"Task {films[0].task_id}"))
        cards.append(f'<div class="card film"><h3>{name}</h3><div class="pair">{figures}</div></div>')
    note = "The same initial state, first policy and last." if len(pairs[0]) > 1 else "One rollout per task."
    left_out = len({video.task_id for video in data.videos}) - len(pairs)
    more = f" {left_out} more in <code>videos/</code>." if left_out > 0 else ""
    return (
        f'<section><h2>Rollouts</h2><p class="note">{note} Third-person camera on the left, wrist camera on the right.'
        f'{more}</p><div class="films">{"".join(cards)}</div></section>'
    )


def _choose_films(data: RunData) -> list[list[Video]]:
    """Per task the videos of the first and last phase from one initial state, most telling first, within the budget.

    An initial state that the first policy failed and the last one solved shows what training did.
    """
    phases = [data.phases[0], data.phases[-1]] if len(data.phases) > 1 else data.phases
    chosen: list[list[Video]] = []
    spent = 0
    for task in sorted({video.task_id for video in data.videos}):
        states = sorted({video.init_state_id for video in data.videos if video.task_id == task})
        candidates = [
            [video for phase in phases for video in data.videos if _is(video, phase, task, state)] for state in states
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


def _is(video: Video, phase: str, task: int, state: int) -> bool:
    return (video.phase, video.task_id, video.init_state_id) == (phase, task, state)


def _figure(video: Video) -> str:
    content = base64.b64encode(video.path.read_bytes()).decode("ascii")
    outcome = "success" if video.success else "failure"
    return (
        f'<figure><video src="data:video/mp4;base64,{content}" autoplay loop muted playsinline controls></video>'
        f"<figcaption>{escape(arm_name(video.phase))}, initial state {video.init_state_id}: "
        f'<span class="outcome {outcome}">{outcome}</span></figcaption></figure>'
    )


def _telemetry(data: RunData) -> str:
    shown, rest = data.telemetry[:MAX_TELEMETRY], data.telemetry[MAX_TELEMETRY:]
    if not shown:
        return ""
    charts = "".join(_multiple(series) for series in shown)
    more = ""
    if rest:
        names = ", ".join(f"<code>{escape(series.key)}</code>" for series in rest)
        more = f'<p class="note" style="margin-top:12px">Also in <code>metrics.jsonl</code>: {names}.</p>'
    return (
        '<section><h2>Training</h2><p class="note">What the trainer recorded, by iteration; the number is the last.</p>'
        f'<div class="multiples">{charts}</div>{more}</section>'
    )


def _profile(data: RunData) -> str:
    total = sum(part.seconds for part in data.profile)
    if total <= 0:
        return ""
    rows = "".join(
        f'<tr><td>{escape(part.name)}</td><td class="n">{number(part.seconds / part.times)} s</td>'
        f'<td class="n">{part.seconds / 60:.1f} min</td><td class="n">{percent(part.seconds / total)}</td>'
        f'<td class="plot">{share_bar(part.seconds / total)}</td></tr>'
        for part in data.profile
    )
    return (
        '<section><h2>Where the time went</h2><p class="note">Of iterations and evaluations; preparations before the '
        'first iteration are left out.</p><div class="card scroll"><table><thead><tr><th></th><th class="n">Each time'
        '</th><th class="n">In all</th><th class="n">Share</th><th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _multiple(series: Series) -> str:
    return (
        f'<div class="card"><div class="key">{escape(series.key)}</div>'
        f'<div class="value">{number(series.values[-1])}</div>{sparkline(series.steps, series.values)}'
        f'<div class="range">{number(min(series.values))} to {number(max(series.values))}</div></div>'
    )


def _settings(data: RunData) -> str:
    blocks: Sequence[tuple[str, str]] = (
        ("Configuration", yaml.safe_dump(data.config, sort_keys=False, allow_unicode=True) if data.config else ""),
        ("Evaluation protocol", json.dumps(data.protocol, indent=2) if data.protocol else ""),
        ("Summary", json.dumps(data.summary, indent=2) if data.summary else ""),
    )
    details = "".join(
        f'<details class="card"><summary>{name}</summary><pre>{escape(text)}</pre></details>'
        for name, text in blocks
        if text
    )
    digest = data.protocol.get("hash")
    note = f'<p class="note">Protocol <code>{escape(str(digest))}</code></p>' if digest else ""
    return f"<section><h2>Settings</h2>{note}{details}</section>" if details else ""


def _footer(data: RunData) -> str:
    seconds = data.summary.get("wall_seconds")
    spent = f" Wall time {seconds / 60:.1f} minutes." if isinstance(seconds, int | float) else ""
    return (
        "Raw data: <code>metrics.jsonl</code> and <code>episodes.jsonl</code> beside this page; made again by "
        f"<code>vla report</code>.{spent}"
    )
