"""Who attends to whom: prompt, vision tokens and action queries."""

from __future__ import annotations

import torch


def attention_mask(valid: torch.Tensor, num_queries: int, kind: str) -> torch.Tensor:
    """Boolean mask [B, 1, L, L], True where row may attend to column.

    `valid` [B, L] marks real positions; the last `num_queries` are the action queries. `bidirectional` lets every
    position see every real one; `causal_prefix` keeps the prefix causal and lets queries see prefix and queries.
    """
    length = valid.shape[1]
    mask = valid[:, None, None, :].expand(-1, 1, length, length)
    if kind == "bidirectional":
        return mask
    pattern = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    pattern[length - num_queries :] = True
    # a padded row must see something, or its softmax is NaN; nobody reads it
    return (mask & pattern) | torch.eye(length, dtype=torch.bool, device=valid.device)
