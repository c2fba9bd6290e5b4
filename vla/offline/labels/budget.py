"""What calls may cost, what they are expected to cost, and what they have cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vla.run.settings import Checks

LEAST_PICTURE_TOKENS = 258
"""Of a small picture at the vendors that count tiles; Qwen-VL's count of 28 px squares is less up to 448 px a side."""
CHARACTERS_PER_TOKEN = 3
"""English has four and more; a forecast should not be too low."""
EXPECTED_REPLY_TOKENS = {"analysis": 150, "answer": 10}
"""Tokens of a reply before any was seen."""
EXPECTED_STRUCTURED_TOKENS = 120
"""The same of a prompt whose one call asks for sentences and the answer."""
MILLION = 1_000_000


@dataclass(frozen=True)
class Budget:
    """Caps over everything that is in the cache, earlier runs included; null is no cap."""

    max_calls: int | None = None
    """Calls, each attempt counted."""
    max_tokens: int | None = None
    """Tokens in and out."""
    max_money: float | None = None
    """Money, in the currency of the prices."""
    price_input: float = 0.0
    """Price of a million tokens that are sent."""
    price_output: float = 0.0
    """Price of a million tokens of replies."""

    def __post_init__(self) -> None:
        check = Checks(self, "budget.")
        check.at_least(0, "max_calls", "max_tokens", "max_money", "price_input", "price_output")
        if self.max_money is not None and not self.price_input + self.price_output > 0:
            check.positive("price_input")

    def price(self, input_tokens: int, output_tokens: int) -> float:
        """Money for so many tokens."""
        return (input_tokens * self.price_input + output_tokens * self.price_output) / MILLION


@dataclass(frozen=True)
class Cost:
    """Calls, tokens and money."""

    calls: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.calls + other.calls, self.tokens + other.tokens, self.money + other.money)

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.calls - other.calls, self.tokens - other.tokens, self.money - other.money)

    def cap_exceeded(self, budget: Budget) -> str | None:
        """The first cap that this is beyond, e.g. "budget.max_calls=100"; None within all."""
        for name, value in (("max_calls", self.calls), ("max_tokens", self.tokens), ("max_money", self.money)):
            cap = getattr(budget, name)
            if cap is not None and value > cap:
                return f"budget.{name}={cap}"
        return None


def picture_tokens(height: int, width: int) -> int:
    """Tokens that a picture is reckoned as."""
    return max(LEAST_PICTURE_TOKENS, math.ceil(height / 28) * math.ceil(width / 28))


def text_tokens(text: str) -> int:
    """Tokens that a text is reckoned as."""
    return math.ceil(len(text.encode("utf-8")) / CHARACTERS_PER_TOKEN)


@dataclass
class Seen:
    """What the calls of one stage took so far."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    largest_input: int = 0
    largest_output: int = 0

    def add(self, input_tokens: int, output_tokens: int) -> None:
        """One more call."""
        self.calls += 1
        self.input_tokens += input_tokens
        self.output_tokens += output_tokens
        self.largest_input = max(self.largest_input, input_tokens)
        self.largest_output = max(self.largest_output, output_tokens)


@dataclass(frozen=True)
class Forecast:
    """What is still to be asked, and about what it will cost."""

    pairs: int
    questions: int
    """Orders of pairs that are put to the model."""
    recorded: int
    """Questions that the cache answers already."""
    cost: Cost
    """Of the rest, without attempts that fail."""
    spent: Cost
    """By the cache's calls so far."""

    def text(self, budget: Budget) -> str:
        """Some lines to read before it starts."""
        lines = [
            f"{self.pairs} pairs, {self.questions} questions, {self.recorded} of them answered in the cache",
            f"forecast: {self.cost.calls} calls, about {self.cost.tokens:,} tokens, {_money(self.cost, budget)}",
        ]
        if self.spent.calls:
            lines.append(f"spent before: {self.spent.calls} calls, {self.spent.tokens:,} tokens")
        cap = (self.cost + self.spent).cap_exceeded(budget)
        if cap:
            lines.append(f"{cap} will end it before all pairs are asked")
        return "\n".join(lines)


def _money(cost: Cost, budget: Budget) -> str:
    if budget.price_input + budget.price_output == 0:
        return "no price set (budget.price_input, budget.price_output)"
    return f"{cost.money:.2f} in the currency of the prices"


@dataclass
class Expectation:
    """Expected tokens of a call, by stage: what was seen, or a rule of thumb."""

    seen: Mapping[str, Seen] = field(default_factory=dict)

    def tokens(self, stage: str, input_guess: int, structured: bool) -> tuple[int, int]:
        """(in, out) of one call of a stage."""
        seen = self.seen.get(stage)
        if seen is not None and seen.calls:
            return round(seen.input_tokens / seen.calls), round(seen.output_tokens / seen.calls)
        return input_guess, EXPECTED_STRUCTURED_TOKENS if structured else EXPECTED_REPLY_TOKENS[stage]
