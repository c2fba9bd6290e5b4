"""Embedding rollouts as they end, so that their frames can be dropped, while others are still played."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from vla.data.episode import Episode
from vla.rewards.reward import Reward

EMBEDDING_BATCH = 32
"""Rollouts embedded together."""


class EmbeddingQueue:
    """Embeds rollouts in batches, in the order in which they end; batches do not depend on timing.

    With `beside`, in a thread and a CUDA stream of its own: the card then encodes while the cores simulate and the
    policy decides. Without, at once, which is right where all share the same cores. Use as a context manager.
    """

    def __init__(self, reward: Reward, beside: bool) -> None:
        self._reward = reward
        self._worker = ThreadPoolExecutor(1, "embedding") if beside else None
        make_stream: Any = torch.cuda.Stream  # without annotations in torch
        self._stream = make_stream() if beside and torch.cuda.is_available() else None
        self._waiting: list[tuple[int, Episode]] = []
        self._batches: list[Future[dict[int, NDArray[np.float32]]]] = []
        self.seconds = 0.0
        """For which the caller has waited for embeddings."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)

    def add(self, index: int, episode: Episode) -> None:
        """Take a rollout; without `beside`, raises what the reward raises."""
        self._waiting.append((index, episode))
        if len(self._waiting) == EMBEDDING_BATCH:
            self._send()

    def results(self) -> dict[int, NDArray[np.float32]]:
        """Embeddings [D] of all rollouts so far, by index. Raises what the reward raises."""
        if self._waiting:
            self._send()
        started = time.perf_counter()
        rows: dict[int, NDArray[np.float32]] = {}
        for batch in self._batches:
            rows |= batch.result()
        self.seconds += time.perf_counter() - started
        return rows

    def _send(self) -> None:
        batch, self._waiting = self._waiting, []
        if self._worker is not None:
            self._batches.append(self._worker.submit(self._embed, batch))
            return
        started = time.perf_counter()
        done: Future[dict[int, NDArray[np.float32]]] = Future()
        done.set_result(self._embed(batch))
        self._batches.append(done)
        self.seconds += time.perf_counter() - started

    def _embed(self, batch: list[tuple[int, Episode]]) -> dict[int, NDArray[np.float32]]:
        if self._stream is None:
            rows = self._reward.embed([episode for _, episode in batch])
        else:
            self._stream.wait_stream(torch.cuda.default_stream())  # what episodes hold may still be on its way there
            with torch.cuda.stream(self._stream):
                rows = self._reward.embed([episode for _, episode in batch])
        return {index: row for (index, _), row in zip(batch, rows, strict=True)}
