"""Updates on two tables: the logs, and what was played since."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vla.offline.training import OfflineSettings, OfflineTrainer, draw
from vla.offline.transitions import Transitions
from vla.run.seeding import derive_seed


class OnlineTrainer(OfflineTrainer):
    """An offline trainer whose data grows: a fixed share of every batch is from the logs (RLPD, arXiv 2302.02948).

    Rewards and observations keep the scale of the logs. Learning rates do not fall: nobody knows which update is the
    last.
    """

    def __init__(
        self, logs: Transitions, settings: OfflineSettings, seed: int, policy_id: str, logged_share: float
    ) -> None:
        """Nothing was played yet. Raises `ReflexError` for logs that cannot be used.

        Args:
            logs: single steps, as of the offline run.
            settings: of the offline run; `updates` only says whether compiling pays.
            seed: of the batches.
            policy_id: what the policy is called.
            logged_share: how much of a batch is from the logs, rounded to whole transitions.
        """
        super().__init__(logs, settings, seed, policy_id)
        self.logged = len(self._table)
        """Transitions of the logs: the first rows of the table."""
        self._from_logs = round(logged_share * settings.batch_size)

    @property
    def played(self) -> int:
        """Transitions that were added."""
        return len(self._table) - self.logged

    def add(self, steps: Transitions) -> None:
        """Take the single steps of whole episodes into the table.

        Raises `ReflexError` where none of the episodes is as long as a chunk.
        """
        rows = self._normalised(self._chunks(self.reward_map(steps)))
        self._table = torch.cat([self._table, rows])

    def rows(self, number: int) -> Tensor:
        """[B] the rows of the table that update `number`, from 0, learns from; those below `logged` are of the logs."""
        return self._drawn(number)[0]

    def _drawn(self, number: int) -> tuple[Tensor, Tensor]:
        """The rows [B] and the noise [B, D] of an update; they depend on the seed, its number and the table's size."""
        generator = np.random.default_rng(derive_seed("online batches", self.seed, number))
        size = self.settings.batch_size
        from_logs = self._from_logs if self.played else size
        rows = draw(generator, self.logged, self._cumulative, (from_logs,))
        if from_logs < size:
            rows = np.append(rows, self.logged + draw(generator, self.played, None, (size - from_logs,)))
        noise = generator.standard_normal((size, self._noise_size), dtype=np.float32)
        return torch.from_numpy(rows).to(self.device), torch.from_numpy(noise).to(self.device)

    def _clock(self, number: int) -> Tensor:
        return torch.tensor([number + 1.0, 0.0], device=self.device)
