"""Instruction text to token ids."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from vla.errors import ReflexError
from vla.policies.blocks.vocabulary import MANIPULATION_WORDS

TOKENIZER_FILE = "tokenizer.json"

_WORD = re.compile(r"[a-z0-9_]+")


class InstructionTokenizer(Protocol):
    """Instruction text to token ids."""

    @property
    def vocab_size(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Token ids of a text."""

    def save(self, folder: Path) -> None:
        """Write the tokenizer's files into a folder."""


class WordTokenizer:
    """Lower-case words; an unknown word falls into one of `num_buckets` hash buckets, so new nouns stay distinct.

    Ids: 0 padding, 1 beginning of text, then the buckets, then the vocabulary.
    """

    FIRST_BUCKET = 2

    def __init__(self, words: Sequence[str] = MANIPULATION_WORDS, num_buckets: int = 64) -> None:
        self.words = tuple(words)
        self.num_buckets = num_buckets
        first_word = self.FIRST_BUCKET + num_buckets
        self._ids = {word: first_word + index for index, word in enumerate(self.words)}

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return self.FIRST_BUCKET + self.num_buckets + len(self.words)

    def encode(self, text: str) -> list[int]:
        """[1] followed by one id per word; punctuation is dropped."""
        ids = [1]
        for word in _WORD.findall(text.lower()):
            known = self._ids.get(word)
            # crc32 rather than hash(): the same in every process and on every machine
            ids.append(known if known is not None else self.FIRST_BUCKET + zlib.crc32(word.encode()) % self.num_buckets)
        return ids

    def save(self, folder: Path) -> None:
        """Write tokenizer.json."""
        content = {"type": "words", "num_buckets": self.num_buckets, "words": list(self.words)}
        (folder / TOKENIZER_FILE).write_text(json.dumps(content, indent=1))

    @classmethod
    def load(cls, folder: Path) -> WordTokenizer:
        """Read tokenizer.json. Raises `ReflexError` naming the file when it is missing or malformed."""
        path = folder / TOKENIZER_FILE
        try:
            content = json.loads(path.read_text())
            return cls(content["words"], content["num_buckets"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ReflexError(f"{path}: cannot read the tokenizer ({error}); copy the whole folder again") from error


class HuggingFaceTokenizer:
    """A Hugging Face tokenizer folder or hub id, for checkpoints that bring their own."""

    def __init__(self, source: str | Path) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(str(source))
        except (OSError, ValueError) as error:
            raise ReflexError(f"{source}: cannot load the tokenizer ({error})") from error

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self._tokenizer)

    def encode(self, text: str) -> list[int]:
        """Ids with the tokenizer's own special tokens (a beginning-of-text token for Llama)."""
        return [int(token) for token in self._tokenizer(text)["input_ids"]]

    def save(self, folder: Path) -> None:
        """Write the tokenizer's own files."""
        self._tokenizer.save_pretrained(str(folder))
