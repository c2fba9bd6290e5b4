"""`vla label`: pairs of moments of a dataset, compared by a vision-language model."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console

from vla.data.lerobot_keys import PROGRESS
from vla.errors import ReflexError, writing
from vla.offline.labels.asking import Asker, Outcome, Question
from vla.offline.labels.backend import Backend
from vla.offline.labels.budget import Cost, Forecast
from vla.offline.labels.choosing import choose_pairs
from vla.offline.labels.endpoint import Endpoint
from vla.offline.labels.files import CALLS, LABELS, MOMENTS, PAIRS, SETTINGS, SUMMARY, AskedPair, Label
from vla.offline.labels.joining import counts, join, order_effects
from vla.offline.labels.ledger import FINAL, Ledger
from vla.offline.labels.oracle import oracle_preferences
from vla.offline.labels.prompts import Prompt, load_prompt
from vla.offline.labels.settings import LabelConfig
from vla.offline.labels.source import Picture, Source, open_source, read_progress, write_pictures
from vla.offline.preferences import Answer, Moment, Status
from vla.run.devices import resolve_device, set_threads
from vla.run.files import TEMPORARY_PREFIX, read_json_object, remove_temporaries, write_json
from vla.run.jsonl import read_lines, write_lines
from vla.run.progress_bar import progress_bar
from vla.run.run_folder import lock
from vla.run.settings import flat_settings

MAY_CHANGE = ("accept_model", "backend", "budget", "cache", "device", "endpoint", "output", "threads")
"""Settings that an interrupted run may go on with other values of: no label depends on them."""


def label(config: LabelConfig) -> Path:
    """Label a dataset's pairs and return the folder, which `files` describes; what is there already is not done again.

    Raises:
        ReflexError: the dataset cannot be labelled, the folder holds something else or labels of other settings, or the
            model cannot be asked. What was answered is kept.
    """
    set_threads(config.threads)
    output = Path(config.output)
    prompt = None if config.backend == "oracle" else load_prompt(config.prompt)
    backend = _backend(config)
    identity = "oracle" if prompt is None else str(config.model) if backend is None else backend.model
    _check_folder(output, config, prompt, identity)
    source = open_source(config.dataset, config.goal, config.tasks, config.camera, needs_camera=prompt is not None)
    with writing(output):
        output.mkdir(parents=True, exist_ok=True)
    descriptor = lock(output)
    try:
        remove_temporaries(output)
        asked = _pairs(output, config, source, prompt, identity)
        if prompt is None:
            _write(output, asked, _ask_oracle(config, source, asked), {})
            return output
        asker_of = partial(
            Asker, prompt, identity, config.decoding, settings=config.endpoint, accept_model=config.accept_model
        )
        _ask(output, config, source, asked, asker_of, backend)
        return output
    finally:
        os.close(descriptor)


def _backend(config: LabelConfig) -> Backend | None:
    """What answers; None where only recorded or true answers are taken."""
    if config.backend == "endpoint":
        return Endpoint(str(config.model), config.endpoint)
    if config.backend == "local":
        from vla.offline.labels.local import LocalModel  # transformers take seconds to import

        return LocalModel(str(config.model), str(resolve_device(config.device)))
    return None


def _check_folder(output: Path, config: LabelConfig, prompt: Prompt | None, identity: str) -> None:
    """Raise `ReflexError` where the folder holds something else, or labels that other settings made."""
    if output.exists() and not output.is_dir():
        raise ReflexError(f"{output} is a file; choose another output folder")
    if not (output / SETTINGS).exists():
        strangers = [entry for entry in output.glob("*") if entry.name != PAIRS]  # pairs: a kill before the settings
        if strangers and not all(entry.name.startswith(TEMPORARY_PREFIX) for entry in strangers):
            raise ReflexError(f"{output} holds something else than labels; choose another output folder")
        return
    before = read_json_object(output / SETTINGS)
    version = _version(prompt)
    if not _has_answers(output):
        return  # a command that failed, to be corrected
    if before.get("prompt_version") != version:
        raise ReflexError(
            f"{output} holds answers to the prompt {before.get('prompt_version')}, and this is {version}; answers to "
            "two prompts are not mixed: choose another output folder"
        )
    before, now = flat_settings(before), flat_settings({**_decisive(config), "model_identity": identity})
    changed = [f"{name} (was {before.get(name)!r}, now {now[name]!r})" for name in now if before.get(name) != now[name]]
    if changed:
        raise ReflexError(
            f"{output} was begun with other settings: {', '.join(changed)}; go on with those it had, or choose another "
            "output folder"
        )


def _decisive(config: LabelConfig) -> dict[str, Any]:
    """The settings that labels depend on."""
    return {name: value for name, value in dataclasses.asdict(config).items() if name not in MAY_CHANGE}


def _has_answers(output: Path) -> bool:
    """Whether any model has answered, or the oracle."""
    calls = read_lines(output / CALLS)
    labels = read_lines(output / LABELS)
    return any(line.get("status") in FINAL for line in calls) or any(row.get("status") == Status.OK for row in labels)


def _version(prompt: Prompt | None) -> str:
    return "oracle" if prompt is None else prompt.version


def _pairs(output: Path, config: LabelConfig, source: Source, prompt: Prompt | None, identity: str) -> list[AskedPair]:
    """The folder's pairs, chosen now if they are not yet, or if nothing came of those of other settings."""
    about = {"prompt_version": _version(prompt), "model_identity": identity, "camera_used": source.camera}
    settings = {**_decisive(config), **about}
    begun = (output / SETTINGS).exists()
    if not begun or (not _has_answers(output) and read_json_object(output / SETTINGS) != settings):
        for name in (SETTINGS, PAIRS, MOMENTS, LABELS, SUMMARY):
            (output / name).unlink(missing_ok=True)
        chosen = choose_pairs(config, source)
        write_lines(output / PAIRS, (pair.row() for pair in chosen))
        write_json(output / SETTINGS, settings)  # last: with it the folder is a folder of labels
    return [AskedPair.from_row(row) for row in read_lines(output / PAIRS)]


def _ask_oracle(config: LabelConfig, source: Source, asked: Sequence[AskedPair]) -> list[Label]:
    episodes = {moment.episode for one in asked for moment in (one.pair.first, one.pair.second)}
    progress = read_progress(source.dataset, episodes)
    if progress is None:
        raise ReflexError(
            f"{source.dataset.root} does not know true progress (column {PROGRESS}), which backend=oracle answers by; "
            "datasets of vla collect do"
        )
    said = oracle_preferences((one.pair for one in asked), progress, config.oracle, config.seed)
    return [Label(preference, one.kind) for preference, one in zip(said, asked, strict=True)]


def _ask(
    output: Path,
    config: LabelConfig,
    source: Source,
    asked: Sequence[AskedPair],
    asker_of: Callable[[Ledger], Asker],
    backend: Backend | None,
) -> None:
    """Ask what is not recorded, and write the labels whatever happens on the way."""
    moments = {moment for one in asked for moment in (one.pair.first, one.pair.second)}
    with progress_bar("pictures of episodes", len({moment.episode for moment in moments})) as show:
        pictures = write_pictures(source, moments, config.picture_size, output, lambda done: show(done, ""))
    questions = {one: _questions(one, pictures) for one in asked}
    ledger = Ledger(Path(config.cache) if config.cache else output / CALLS, config.budget)
    answers, cap = Answers(asker_of(ledger)), None
    try:
        missing = answers.missing(question for some in questions.values() for question in some)
        _say(answers.forecast(len(asked), missing).text(config.budget))
        try:
            if backend is not None:
                cap = answers.ask(backend, missing)
        finally:
            labels = [made for one in asked if (made := answers.label(one, questions[one])) is not None]
            spending = {"spent": dataclasses.asdict(ledger.spent), "calls_lost": ledger.lost, "stopped_by": cap}
            _write(output, asked, labels, spending)
    finally:
        ledger.close()
    if cap is not None:
        _say(f"{cap} is reached: {len(asked) - len(labels)} pairs are not asked; raise it to go on")


@dataclass
class Answers:
    """What is known of questions: from the cache at first, then from the model."""

    asker: Asker
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    """By the key of a question's first call: equal pictures are asked about once."""

    def key(self, question: Question) -> str:
        """What a question is known by."""
        return self.asker.key(question, self.asker.prompt.stages[0])[0]

    def missing(self, questions: Iterable[Question]) -> list[Question]:
        """Those that the cache does not answer, each once; the answers of the others are taken over."""
        lacking: dict[str, Question] = {}
        for question in questions:
            key = self.key(question)
            known = self.asker.recorded(question)
            if known is None:
                lacking.setdefault(key, question)
            else:
                self.outcomes[key] = known
        return list(lacking.values())

    def forecast(self, pairs: int, missing: Sequence[Question]) -> Forecast:
        """What asking will cost."""
        recorded = len(self.outcomes)
        ledger = self.asker.ledger
        costs = (self.asker.expected_cost(question, ledger.budget) for question in missing)
        return Forecast(pairs, recorded + len(missing), recorded, sum(costs, Cost()), ledger.spent)

    def ask(self, backend: Backend, missing: Sequence[Question]) -> str | None:
        """Ask; returns the cap that ended it early, if one did. Raises `ReflexError` as `Asker.ask_all`."""
        with progress_bar("questions", len(missing)) as show:

            def on_outcome(question: Question, outcome: Outcome) -> None:
                self.outcomes[self.key(question)] = outcome
                show(len(self.outcomes) - known, f"{self.asker.ledger.spent.calls} calls")

            known = len(self.outcomes)
            return self.asker.ask_all(backend, missing, on_outcome)

    def label(self, one: AskedPair, questions: Sequence[Question]) -> Label | None:
        """What came of a pair; None where it was not asked."""
        if not questions:
            return join(one, Outcome(Status.OK, Answer.TIE, detail="equal pictures, not asked"), None)
        found = [self.outcomes.get(self.key(question)) for question in questions]
        return join(one, found[0], found[1] if len(found) > 1 else None)


def _questions(one: AskedPair, pictures: Mapping[Moment, Picture]) -> list[Question]:
    """What is put to the model about a pair: as it stands and, where wanted, swapped.

    Nothing about a pair to learn from whose pictures are equal to the pixel: that is a tie.
    """
    first, second = pictures[one.pair.first], pictures[one.pair.second]
    if first.sha256 == second.sha256 and one.kind != "identical":
        return []
    plain, swapped = Question(first, second, one.pair.goal), Question(second, first, one.pair.goal)
    return [plain, swapped] if one.both_orders else [plain]


def _say(text: str) -> None:
    Console(stderr=True).print(text, highlight=False, markup=False, soft_wrap=True)


def _write(output: Path, asked: Sequence[AskedPair], labels: Sequence[Label], spending: dict[str, Any]) -> None:
    """`labels.jsonl` and `summary.json`, and the summary on the console."""
    write_lines(output / LABELS, (one.row() for one in labels))
    found = counts(labels)
    usable = found[Answer.FIRST] + found[Answer.SECOND]
    calls = spending.get("spent", {}).get("calls", 0)
    summary = {
        "pairs": len(asked),
        "labelled": sum(one.preference.status is Status.OK for one in labels),
        "not_asked": len(asked) - len(labels),
        "counts": found,
        "usable_per_1000_calls": 1000 * usable / calls if calls else None,
        **order_effects(labels),
        **spending,
    }
    write_json(output / SUMMARY, summary)
    said = ", ".join(f"{count} {name}" for name, count in found.items() if count)
    lines = [f"{len(labels)} of {len(asked)} pairs in {output}: {said or 'none'}"]
    if summary["consistent"]["of"]:
        consistent, first = (summary[name]["share"] for name in ("consistent", "first_shown"))
        bias = "" if first is None else f"; the picture shown first was named in {first:.0%} of answers"
        lines.append(f"of pairs asked in both orders {consistent:.0%} were answered alike{bias}")
    if calls:
        spent = spending["spent"]
        money = f", {spent['money']:.2f} in the currency of the prices" if spent["money"] else ""
        lines.append(f"spent: {calls} calls, {spent['tokens']:,} tokens{money}")
    _say("\n".join(lines))
