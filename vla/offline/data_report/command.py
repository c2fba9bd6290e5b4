"""`vla data report`: a data set's report card, as JSON and as a page."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla.data.lerobot_reader import LeRobotDataset
from vla.errors import ReflexError
from vla.evaluation.charts import histogram
from vla.evaluation.report import page_environment
from vla.offline.data_report.card import Contents, make_card, read_contents, returns_of
from vla.offline.data_report.measures import concatenated
from vla.offline.data_report.pictures import FRAMES, Strip, check_pictures, make_strips, map_of, telling_episodes
from vla.run.files import write_json, write_text
from vla.run.run_folder import dated_folder
from vla.run.settings import Checks

CARD, PAGE = "report.json", "report.html"


@dataclass(frozen=True)
class DataReportConfig:
    """Which data set to look at, and what to compare it with."""

    dataset: str
    """LeRobot v3 dataset: a local folder or a hub id."""
    output: str = field(default_factory=partial(dated_folder, "data_report"))
    """Folder for report.json and report.html; must not hold a report yet. It has the date where none is given."""
    reference: str | None = None
    """Another data set of the same robot, against whose state-action pairs coverage is counted; null for this one's."""
    discount: float = 0.99
    """Discount per control step of the returns, so that a quick success is better than a slow one."""
    worst_return: float | None = None
    """Return of a policy that knows nothing; null takes the random episodes', or no reward at all."""
    best_return: float | None = None
    """Return of an expert; null takes the expert's episodes, or the greatest return."""
    bins: int = 10
    """Bins of each number when different state-action pairs are counted; the published code has 100."""
    checked_pictures: int = 200
    """Episodes, spread over the data set, whose pictures are looked through for frozen ones; 0 for none."""

    def __post_init__(self) -> None:
        check = Checks(self)
        check.shared()
        check.within(0, 1, "discount")
        check.at_least(2, "bins")
        check.at_least(0, "checked_pictures")
        if None not in (self.worst_return, self.best_return) and not self.best_return > self.worst_return:  # type: ignore[operator]
            raise ReflexError(f"best_return={self.best_return} must be above worst_return={self.worst_return}")


def data_report(config: DataReportConfig) -> Path:
    """Write the report and return its page.

    Raises:
        ReflexError: the output holds a report, the data set or the reference cannot be read or is of another robot.
    """
    output = Path(config.output)
    if (output / CARD).exists():
        raise ReflexError(f"{output} already holds a report; choose another output folder or delete it")
    dataset = LeRobotDataset(config.dataset, must_be_finite=False)
    contents = read_contents(dataset)
    reference = None if config.reference is None else _reference_pairs(config.reference, dataset)
    checked = check_pictures(dataset, contents, config.checked_pictures)
    returns = returns_of([contents.episodes[index] for index in contents.usable], config.discount)
    strips = make_strips(dataset, contents, telling_episodes(contents, returns))
    card = make_card(
        dataset,
        contents,
        reference,
        discount=config.discount,
        bins=config.bins,
        worst_return=config.worst_return,
        best_return=config.best_return,
    )
    card |= {"episodes_with_checked_pictures": checked, "settings": dataclasses.asdict(config)}
    page = render(card, strips)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / PAGE, page)
    write_json(output / CARD, card)
    return output / PAGE


def render(card: dict[str, Any], strips: list[Strip]) -> str:
    """The page as text."""
    page = page_environment("vla.offline.data_report")
    page.filters["histogram"] = histogram
    grid = map_of(card["coverage"]["grid"])
    return page.get_template("data_report.html").render(card=card, strips=strips, grid=grid, frames=FRAMES)


def _reference_pairs(source: str, dataset: LeRobotDataset) -> NDArray[np.float64]:
    other = LeRobotDataset(source, must_be_finite=False)
    ours, theirs = dataset.embodiment, other.embodiment
    if (ours.state.size, ours.action.size) != (theirs.state.size, theirs.action.size):
        raise ReflexError(
            f"reference={source} is of another robot: {theirs.describe()}, where the data set has {ours.describe()}"
        )
    contents: Contents = read_contents(other)
    episodes = [contents.episodes[index] for index in contents.usable]
    return concatenated([episode.states for episode in episodes], [episode.actions for episode in episodes])
