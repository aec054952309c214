"""Where does attention lead from the verdict? Rollout through the layers, and the last layer's attention alone.

Rollout (Abnar & Zuidema, arXiv 2005.00928) multiplies the layers' mean patterns, each half mixed with the identity for
the residual stream. Both maps are unsigned and know nothing of what is carried: they are shown as what they are, and
beside signed attributions as the weaker evidence ("Attention is not explanation", Jain & Wallace, arXiv 1902.10186).
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.prompts import Position
from interp.results import grid_frame
from interp.tensors import Activations


@dataclass(frozen=True, eq=False)
class AttentionRollout:
    """Shares of attention on every token, from one position; each row sums to 1."""

    position: str
    rollout: Float[Tensor, "prompt pos"]
    """nan at padding."""
    last: Float[Tensor, "prompt pos"]
    """The last layer's pattern, mean over heads."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and token."""
        frame = grid_frame({"column": range(self.rollout.shape[1])}, rollout=self.rollout, last=self.last)
        return frame[frame["rollout"].notna()].reset_index(drop=True)


def attention_rollout(activations: Activations, *, position: Position) -> AttentionRollout:
    """Follow attention back from a position that every prompt has. Needs `pattern` of every layer."""
    prompts = activations.prompts
    layers = activations.layers("pattern")
    if layers != list(range(activations.n_layers)):
        raise ConfigError("this needs pattern at every layer; name it in `capture`")
    patterns = torch.stack([activations["pattern", layer].float().cpu().nan_to_num().mean(1) for layer in layers], 1)
    rows = torch.arange(len(prompts))
    at = prompts.columns(position)
    identity = torch.eye(patterns.shape[-1])
    flow = (at[:, None] == torch.arange(patterns.shape[-1])).float()
    for layer in reversed(range(patterns.shape[1])):
        flow = torch.einsum("pq,pqk->pk", flow, (patterns[:, layer] + identity) / 2)
    last = patterns[rows, -1, at]
    padding = ~prompts.mask
    flow, last = (part.masked_fill(padding, torch.nan) for part in (flow, last))
    return AttentionRollout(str(position), flow, last, prompts.groups)
