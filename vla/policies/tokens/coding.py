"""Between actions and tokens, as a part of a policy's network: the bins, and the quantiles that map to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from sim.embodiments import Embodiment
from vla.errors import ReflexError
from vla.policies.normalisation import Normalisation, ScaleFrom, normalise, quantiles, unnormalise
from vla.policies.tokens.configuration import TokenPolicyConfig
from vla.policies.tokens.tokenizer import ActionTokenizer, BinLayout


class ActionCoding(nn.Module):
    """What a token policy needs besides its network; quantiles of states are buffers, since the network reads them."""

    state_low: torch.Tensor
    state_high: torch.Tensor

    def __init__(self, config: TokenPolicyConfig, embodiment: Embodiment, bin_layout: BinLayout) -> None:
        super().__init__()
        self.embodiment, self._shape, self._state_size = embodiment, config.chunk_shape, config.state_size
        self._unnormalised = list(config.unnormalised_dimensions)
        self.action_tokenizer = ActionTokenizer(config.num_bins, bin_layout)
        self.register_buffer("state_low", torch.empty(config.state_size), persistent=False)
        self.register_buffer("state_high", torch.empty(config.state_size), persistent=False)
        self.normalisation = Normalisation.identity(config.action_size, config.state_size)
        self._apply_normalisation(self.normalisation)
        self.has_normalisation = False

    def set_normalisation(self, action_q01: Any, action_q99: Any, state_q01: Any, state_q99: Any) -> None:
        """Set the quantiles ([A], [A], [S], [S]) that map actions and states to [-1, 1]."""
        normalisation = Normalisation.create(action_q01, action_q99, state_q01, state_q99)
        sizes = (len(normalisation.action_q01), len(normalisation.state_q01))
        if sizes != (self._shape[1], self._state_size):
            raise ReflexError(
                f"normalisation has {sizes[0]} action and {sizes[1]} state dimensions; "
                f"the policy has {self._shape[1]} and {self._state_size}"
            )
        self._apply_normalisation(normalisation)
        self.has_normalisation = True

    def fit_normalisation(
        self, actions: NDArray[np.float32], states: NDArray[np.float32], scale: ScaleFrom = "quantiles"
    ) -> None:
        """Set the quantiles by actions [N, A] and states [N, S]."""
        state_low, state_high = quantiles(states, scale)
        size = self._state_size
        self.set_normalisation(*quantiles(actions, scale), state_low[:size], state_high[:size])

    def _apply_normalisation(self, normalisation: Normalisation) -> None:
        self.normalisation = normalisation
        low, high = normalisation.action_q01.copy(), normalisation.action_q99.copy()
        low[self._unnormalised], high[self._unnormalised] = -1.0, 1.0
        self._action_low, self._action_high = low, high
        if not self.state_low.is_meta:
            self.state_low.copy_(torch.from_numpy(normalisation.state_q01))
            self.state_high.copy_(torch.from_numpy(normalisation.state_q99))

    def normalised_state(self, state: torch.Tensor, clip: float) -> torch.Tensor:
        """States [B, S] with their quantiles at -1 and 1, clipped to +- `clip`."""
        low, high = self.state_low, self.state_high
        return (2.0 * (state - low) / (high - low + 1e-8) - 1.0).clamp(-clip, clip)

    def tokenize_actions(self, actions: NDArray[Any]) -> NDArray[np.int64]:
        """Actions [B, H, A] -> tokens [B, H * A]; step-major, dimension-minor."""
        tokens = self.action_tokenizer.encode(self.to_normalised(actions))
        return tokens.reshape(len(tokens), -1)

    def detokenize(self, tokens: NDArray[Any]) -> NDArray[np.float32]:
        """Tokens [B, H * A] -> actions [B, H, A], within the embodiment's limits."""
        values = self.action_tokenizer.decode(np.asarray(tokens))
        return self.from_normalised(values.reshape(len(values), *self._shape))

    def to_normalised(self, actions: NDArray[Any]) -> NDArray[np.float64]:
        """Actions [B, H, A] with their quantiles at -1 and 1, not clipped. Raises `ReflexError` for another shape."""
        actions = np.asarray(actions, dtype=np.float64)
        expected = self._shape
        if actions.ndim != 3 or actions.shape[1:] != expected:
            raise ReflexError(f"actions: expected [B, {expected[0]}, {expected[1]}], got {list(actions.shape)}")
        return normalise(actions, self._action_low, self._action_high)

    def from_normalised(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Inverse of `to_normalised`, within the embodiment's limits."""
        return self.embodiment.action.clip(unnormalise(values, self._action_low, self._action_high))
