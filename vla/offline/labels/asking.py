"""Puts questions to a model: each once, some at a time, again where a failure may pass, and never beyond the caps."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from vla.errors import ReflexError
from vla.offline.labels.answers import is_refusal, parse_answer, probability_second
from vla.offline.labels.backend import Backend, CallFailedError, Decoding, Reply
from vla.offline.labels.budget import Budget, Cost, Expectation, picture_tokens, text_tokens
from vla.offline.labels.endpoint import EndpointSettings
from vla.offline.labels.ledger import CapReachedError, Ledger, Recorded, call_key
from vla.offline.labels.pacing import Pace, back_off
from vla.offline.labels.prompts import Prompt, Stage
from vla.offline.labels.source import Picture
from vla.offline.preferences import Answer, Status

FAILURES_IN_A_ROW = 20
"""Questions that end in an error, one after another, before it is held to be no accident."""


@dataclass(frozen=True)
class Question:
    """Two pictures in the order in which they are shown."""

    first: Picture
    second: Picture
    goal: str


@dataclass(frozen=True)
class Outcome:
    """What came of a question; first and second are as shown."""

    status: Status
    answer: Answer | None = None
    probability_second: float | None = None
    detail: str = ""
    """Why there is no answer."""


class _StoppedError(Exception):
    """Another thread met what ends the run."""


class Asker:
    """Asks one model with one prompt, through a cache."""

    def __init__(
        self,
        prompt: Prompt,
        model: str,
        decoding: Decoding,
        ledger: Ledger,
        settings: EndpointSettings,
        accept_model: str | None = None,
    ) -> None:
        """`model` is what answers are filed under; `settings` say how often to try and how fast."""
        self.prompt, self.model, self.decoding, self.ledger = prompt, model, decoding, ledger
        self._settings, self._accepted = settings, {model, accept_model or model}
        self._stop = threading.Event()
        self._pace = Pace(settings.requests_per_minute, sleep=self._sleep)
        self._spread = random.Random()  # of waits only: no result depends on it
        self._failures = 0

    def key(self, question: Question, stage: Stage, analysis: str = "") -> tuple[str, dict[str, Any]]:
        """The key of a call, and what it is made of."""
        decoding = self.decoding
        asked: dict[str, Any] = {
            "stage": stage.name,
            "model": self.model,
            "prompt": self.prompt.version,
            "goal": question.goal,
            "images": [question.first.sha256, question.second.sha256],  # in the order shown
            "image_size": [[picture.height, picture.width] for picture in (question.first, question.second)],
            "decoding": {
                "temperature": decoding.temperature,
                "reply_tokens": decoding.reply_tokens,
                "structured": decoding.structured and stage.schema is not None,
                "log_probabilities": decoding.log_probabilities,
                "extra_body": decoding.extra_body,
            },
        }
        return call_key({**asked, "prompt_sha256": self.prompt.sha256, "analysis": analysis}), asked

    def recorded(self, question: Question) -> Outcome | None:
        """What the cache has of a question; None where a call is lacking."""
        analysis = ""
        for stage in self.prompt.stages:
            reply = self._known(self.key(question, stage, analysis)[0])
            if reply is None:
                return None
            if reply.status is not Status.OK or stage is self.prompt.stages[-1]:
                return self._outcome(stage, reply)
            analysis = reply.text
        raise ReflexError(f"the prompt {self.prompt.name} has no calls")

    def expected_cost(self, question: Question, budget: Budget) -> Cost:
        """What a question's calls that are not in the cache are expected to cost."""
        cost, analysis = Cost(), ""
        expected = Expectation(self.ledger.seen)
        for stage in self.prompt.stages:
            reply = self._known(self.key(question, stage, analysis)[0])
            if reply is not None:
                analysis = reply.text
                continue
            guess = self._input_tokens(question, stage, analysis)
            inputs, outputs = expected.tokens(stage.name, guess, stage.schema is not None)
            cost += Cost(1, inputs + outputs, budget.price(inputs, outputs))
        return cost

    def ask_all(
        self, backend: Backend, questions: Sequence[Question], on_outcome: Callable[[Question, Outcome], None]
    ) -> str | None:
        """Ask every question and hand out each outcome as it comes, from this thread.

        The first question goes alone: a wrong key, model or address costs one call. Returns the cap that ended it
        early, if one did.

        Raises:
            ReflexError: the endpoint answers under another model's name, or no call can succeed. What was answered so
                far is in the cache.
        """
        if not questions:
            return None
        with ThreadPoolExecutor(max_workers=backend.concurrency) as pool:
            try:
                for some in (questions[:1], questions[1:]):
                    self._ask_some(pool, backend, some, on_outcome)
            except CapReachedError as reached:
                return str(reached)
            finally:
                self._stop.set()
        return None

    def _ask_some(
        self,
        pool: ThreadPoolExecutor,
        backend: Backend,
        questions: Iterable[Question],
        on_outcome: Callable[[Question, Outcome], None],
    ) -> None:
        """Keep as many questions under way as the backend takes; after a cap let those under way end."""
        waiting = iter(questions)
        running: dict[Future[Outcome], Question] = {}
        reached: CapReachedError | None = None
        while True:
            while reached is None and len(running) < backend.concurrency and (question := next(waiting, None)):
                running[pool.submit(self.ask, backend, question)] = question
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                question = running.pop(future)
                try:
                    on_outcome(question, future.result())
                except CapReachedError as error:
                    reached = error
        if reached is not None:
            raise reached

    def ask(self, backend: Backend, question: Question) -> Outcome:
        """Put one question, call by call; what the cache has is not asked again.

        Raises:
            CapReachedError: a cap does not allow the next call.
            ReflexError: as `ask_all`.
        """
        analysis = ""
        for stage in self.prompt.stages:
            key, asked = self.key(question, stage, analysis)
            reply = self._known(key)
            if reply is None:
                failed = self._attempts(backend, question, stage, analysis, key, asked)
                self._count_failures(failed)
                if failed is not None:
                    return failed
                reply = self.ledger.reply(key)
                assert reply is not None  # a call that did not fail has been recorded
                self._check_model(reply.model)
            if reply.status is not Status.OK or stage is self.prompt.stages[-1]:
                return self._outcome(stage, reply)
            analysis = reply.text
        raise ReflexError(f"the prompt {self.prompt.name} has no calls")

    def _attempts(
        self, backend: Backend, question: Question, stage: Stage, analysis: str, key: str, asked: Mapping[str, Any]
    ) -> Outcome | None:
        """Call until a reply is recorded; what it failed of, if it did not come."""
        for attempt in range(1, self._settings.attempts + 1):
            try:
                self._call(backend, question, stage, analysis, key, asked, attempt)
                return None
            except CallFailedError as error:
                failed = error
            if failed.status is Status.REFUSED:  # recorded as what it is
                return None
            if failed.hopeless:
                raise ReflexError(f"model={self.model} cannot be asked: {failed.detail}; what was answered is kept")
            if not failed.again:
                break
            if failed.wait is not None:
                self._wait_for_server(failed.wait)
            elif attempt < self._settings.attempts:
                self._sleep(back_off(attempt, self._spread.random(), self._settings.first_wait))
        return Outcome(failed.status, detail=failed.detail)

    def _wait_for_server(self, seconds: float) -> None:
        if seconds > self._settings.longest_wait:
            raise ReflexError(
                f"the endpoint asks to wait {seconds:.0f} s, more than endpoint.longest_wait="
                f"{self._settings.longest_wait:g}; what was answered is kept: run the same command again later"
            )
        self._pace.pause(seconds)

    def _call(
        self,
        backend: Backend,
        question: Question,
        stage: Stage,
        analysis: str,
        key: str,
        asked: Mapping[str, Any],
        attempt: int,
    ) -> None:
        """One call, written down before and after. Raises `CallFailedError` where no reply came."""
        self._pace.wait()
        if self._stop.is_set():
            raise _StoppedError
        shown = question.first.path, question.second.path
        parts = [part if isinstance(part, str) else shown[part] for part in stage.parts(question.goal, analysis)]
        reckoned = self._reckoned(question, stage, analysis)
        call = self.ledger.begin(key, asked, attempt, reckoned)
        began = time.monotonic()
        try:
            reply = backend.call(parts, stage.schema, self.decoding)
        except CallFailedError as error:
            tokens, money = (reckoned.tokens, reckoned.money) if error.perhaps_paid else (0, 0.0)
            line: dict[str, Any] = {"status": error.status, "text": "", "model": self.model, "detail": error.detail}
            line |= {"input_tokens": tokens, "output_tokens": 0, "money": money}
            self.ledger.end(call, key, stage.name, {**line, "seconds": time.monotonic() - began})
            raise
        line = self._line(stage, reply, self._input_tokens(question, stage, analysis))
        self.ledger.end(call, key, stage.name, {**line, "seconds": time.monotonic() - began})

    def _line(self, stage: Stage, reply: Reply, input_guess: int) -> dict[str, Any]:
        """What is recorded of a reply."""
        inputs = input_guess if reply.input_tokens is None else reply.input_tokens
        outputs = text_tokens(reply.text) if reply.output_tokens is None else reply.output_tokens
        last = stage is self.prompt.stages[-1]
        structured = stage.schema is not None
        if reply.refused:
            status = Status.REFUSED
        elif last:
            status = parse_answer(reply.text, structured).status
        elif is_refusal(reply.text):
            status = Status.REFUSED
        else:
            status = Status.OK if reply.text.strip() else Status.UNPARSABLE
        return {
            "status": status,
            "text": reply.text,
            "model": reply.model,
            "input_tokens": inputs,
            "output_tokens": outputs,
            "counted": reply.input_tokens is not None,
            "money": self.ledger.budget.price(inputs, outputs),
            "probability_second": probability_second(reply.tokens, structured) if last else None,
        }

    def _outcome(self, stage: Stage, reply: Recorded) -> Outcome:
        """Texts are read anew each time, so that a better parser needs no new call."""
        said = " ".join(reply.text.split())[:200]
        if reply.status is Status.REFUSED or stage is not self.prompt.stages[-1]:
            return Outcome(reply.status, detail=said)
        parsed = parse_answer(reply.text, stage.schema is not None)
        if parsed.answer is None:
            return Outcome(parsed.status, detail=said)
        return Outcome(Status.OK, parsed.answer, reply.probability_second)

    def _input_tokens(self, question: Question, stage: Stage, analysis: str) -> int:
        shown = [picture_tokens(picture.height, picture.width) for picture in (question.first, question.second)]
        parts = stage.parts(question.goal, analysis)
        return sum(text_tokens(part) if isinstance(part, str) else shown[part] for part in parts)

    def _reckoned(self, question: Question, stage: Stage, analysis: str) -> Cost:
        """The most that a call should cost: all the tokens that a reply may have, and the largest request so far."""
        seen = self.ledger.seen.get(stage.name)
        inputs = max(self._input_tokens(question, stage, analysis), seen.largest_input if seen else 0)
        outputs = self.decoding.reply_tokens
        return Cost(1, inputs + outputs, self.ledger.budget.price(inputs, outputs))

    def _known(self, key: str) -> Recorded | None:
        """A reply in the cache, unless a model gave it that is not accepted: the endpoint may be another one by now."""
        reply = self.ledger.reply(key)
        return reply if reply is not None and reply.model in self._accepted else None

    def _check_model(self, model: str) -> None:
        if model not in self._accepted:
            raise ReflexError(
                f"model={self.model} was asked, and {model!r} says to have answered; if that is the same model, add "
                f"accept_model={model!r} (its answers are in the cache), otherwise correct model or endpoint.base_url"
            )

    def _count_failures(self, failed: Outcome | None) -> None:
        self._failures = 0 if failed is None else self._failures + 1
        if failed is not None and self._failures >= FAILURES_IN_A_ROW:
            raise ReflexError(
                f"{self._failures} questions in a row ended in an error, the last with {failed.detail!r}; what was "
                "answered is kept: run the same command again when the endpoint is well"
            )

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _StoppedError
