"""Perceptrons with ReLUs as functions of their weights, one or several at once.

Weights are a mapping, so that an optimiser's step, a target network and an ensemble are arithmetic on mappings. Several
networks of one shape have a leading axis M and are one batched product instead of M small ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

Parameters = dict[str, Tensor]
"""Weights of layer k: "weight_k" [(M,) in, out] and "bias_k" [(M,) 1, out]."""


def new_perceptron(sizes: Sequence[int], members: int | None = None) -> Parameters:
    """Random weights of layers from `sizes[k]` to `sizes[k + 1]`, as torch's own linear layers have them.

    Uniform within 1 / sqrt(in), from torch's global generator. `members` (M) networks, or one without the axis M.
    """
    parameters: Parameters = {}
    axis = () if members is None else (members,)
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        bound = 1.0 / math.sqrt(inputs)
        parameters[f"weight_{layer}"] = torch.empty(*axis, inputs, outputs).uniform_(-bound, bound)
        parameters[f"bias_{layer}"] = torch.empty(*axis, 1, outputs).uniform_(-bound, bound)
    return parameters


def hidden_layers(parameters: Mapping[str, Tensor], inputs: Tensor, bfloat16: bool = False) -> Tensor:
    """[(M,) B, in] or [B, in] -> the last hidden layer, [(M,) B, width].

    With `bfloat16` the products of hidden layers, nearly all of the arithmetic, are of bfloat16; inputs, outputs, sums
    and weights stay float32.
    """
    values = inputs
    for layer in range(_layers(parameters) - 1):
        weight = parameters[f"weight_{layer}"]
        if bfloat16 and layer > 0:
            product = torch.matmul(values.bfloat16(), weight.bfloat16()).float()
        else:
            product = torch.matmul(values, weight)
        values = torch.relu(product + parameters[f"bias_{layer}"])
    return values


def perceptron(parameters: Mapping[str, Tensor], inputs: Tensor, bfloat16: bool = False) -> Tensor:
    """[(M,) B, in] or [B, in] -> [(M,) B, out]; `bfloat16` as of `hidden_layers`."""
    last = _layers(parameters) - 1
    hidden = hidden_layers(parameters, inputs, bfloat16)
    return torch.matmul(hidden, parameters[f"weight_{last}"]) + parameters[f"bias_{last}"]


def _layers(parameters: Mapping[str, Tensor]) -> int:
    return sum(name.startswith("weight_") for name in parameters)
