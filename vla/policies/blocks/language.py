"""The language model: prompt, vision tokens and action queries in one sequence, decoded in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from transformers import LlamaConfig, LlamaModel

from vla.policies.blocks.text import InstructionTokenizer

Attention = Literal["bidirectional", "causal_prefix"]


def build_language_model(values: Mapping[str, Any], tokenizer: InstructionTokenizer | None) -> LlamaModel:
    """A Llama with random weights from LlamaConfig's arguments; `vocab_size` is the tokenizer's when absent."""
    arguments = dict(values)
    if tokenizer is not None:
        arguments.setdefault("vocab_size", tokenizer.vocab_size)
    return LlamaModel(LlamaConfig(**arguments, use_cache=False))


def set_attention_for(language_model: LlamaModel, precision: str, device: torch.device) -> None:
    """Choose the fastest attention for a precision on a device."""
    # In bfloat16 on a CPU the fused attention's backward pass is slower than all matrix products together.
    slow = precision == "bfloat16" and device.type == "cpu"
    language_model.set_attn_implementation("eager" if slow else "sdpa")


def decode(
    language_model: LlamaModel,
    prefix: Sequence[tuple[torch.Tensor, torch.Tensor | None]],
    queries: torch.Tensor,
    attention: Attention,
) -> torch.Tensor:
    """Hidden states [B, L + Q, D] of a prefix of L embeddings and Q queries.

    Args:
        language_model: of width D.
        prefix: embeddings [B, l, D] and which of them are no padding [B, l]; None for all.
        queries: [B, Q, D].
        attention: see `attention_mask`.
    """
    batch, device = len(queries), queries.device
    sequence = torch.cat([*(part for part, _ in prefix), queries], dim=1)
    everything = [
        torch.ones(batch, part.shape[1], dtype=torch.bool, device=device) if known is None else known
        for part, known in (*prefix, (queries, None))
    ]
    valid = torch.cat(everything, dim=1)
    mask = attention_mask(valid, queries.shape[1], attention)
    if language_model.config._attn_implementation != "sdpa":
        # transformers' eager attention adds its mask to the scores, so a boolean one would mask nothing
        hidden_from = torch.finfo(sequence.dtype).min
        mask = torch.zeros(mask.shape, dtype=sequence.dtype, device=device).masked_fill(~mask, hidden_from)
    hidden: torch.Tensor = language_model(
        inputs_embeds=sequence, attention_mask=mask, position_ids=valid.long().cumsum(1) - 1
    ).last_hidden_state
    return hidden


def attention_mask(valid: torch.Tensor, num_queries: int, kind: Attention) -> torch.Tensor:
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
