"""How does a control token act on the output, directly? Its delta read through the final norm and the unembedding.

The delta at a depth is read as if nothing came after it, with the norm's scale held at that of the neutral twins'
stream at that depth: the lens is then linear, and a logit's change is a dot product. Raw changes mean little: what
counts is how far the end of sequence stands out over the vocabulary (z), and whether neutral tokens' deltas do the
same. Softmax does not see a change that all tokens share: "content is suppressed" and "the end is promoted" can be
one and the same.

Source: nostalgebraist, "interpreting GPT: the logit lens" (LessWrong, 2020).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.models.contrast import TwinRuns, depth_name, offset_name
from interp.models.readout import LinearReadout
from interp.results import grid_frame


@dataclass(frozen=True, eq=False)
class DeltaLens:
    """What the control token's delta adds to the logits at its own column, depth by depth."""

    token: str
    end: str
    """The token whose promotion is asked about: the end of sequence."""
    neutral: tuple[str, ...]
    depths: tuple[str, ...]
    offset: str
    logits: Float[Tensor, "depth vocab"]
    """Mean over prompts of the change of every logit."""
    value: Float[Tensor, "prompt depth"]
    """Change of the end's logit, less the mean change over the vocabulary."""
    z: Float[Tensor, "prompt depth"]
    """The same in standard deviations of the changes over the vocabulary."""
    rank: Float[Tensor, "prompt depth"]
    """Tokens that are promoted more than the end; 0 is the most promoted."""
    null_z: Float[Tensor, "prompt neutral depth"]
    spread: Float[Tensor, "prompt depth"]
    """Standard deviation of the changes over the content tokens (all but the end and the special ones)."""
    slope: Float[Tensor, "prompt depth"]
    """Slope of the content tokens' changes on their logits without the token: 0 where suppression is uniform, negative
    where likely tokens are suppressed more."""
    null_slope: Float[Tensor, "prompt depth"]
    """Of one neutral token for each prompt."""
    promoted: Int[Tensor, "depth k"]
    suppressed: Int[Tensor, "depth k"]
    words: Mapping[str, str]
    """Text of the token ids above, and of the end."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and depth."""
        frame = grid_frame(
            {"depth": self.depths}, value=self.value, z=self.z, rank=self.rank, null_z=self.null_z.mean(1),
            spread=self.spread, slope=self.slope, null_slope=self.null_slope,
        )  # fmt: skip
        return frame.assign(group=self.groups[torch.tensor(frame["prompt"].to_numpy())].numpy())


def delta_lens(runs: TwinRuns, end: int, *, offset: int = 0, top: int = 10, seed: int = 0) -> DeltaLens:
    """The lens on the deltas of every site of `runs` (the stream), for the token with id `end`."""
    if offset not in runs.offsets:
        raise ConfigError(f"there is no offset {offset} in these runs; they have {runs.offsets}")
    place, model, twins = runs.offsets.index(offset), runs.model, runs.twins
    readout = LinearReadout.of(model)
    here = readout.unembedding.device
    covariance = readout.covariance()
    towards = readout.directions(torch.tensor(end, device=here)) - readout.mean_direction()
    vocabulary = readout.unembedding.shape[1]
    constants = readout.constants(torch.arange(vocabulary, device=here))
    content = torch.ones(vocabulary, dtype=torch.bool, device=here)
    special = getattr(model.tokenizer, "all_special_ids", None) or []
    content[[end, *(i for i in special if i < vocabulary)]] = False
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros(len(runs.sites), vocabulary, dtype=torch.float64)
    counted, rows, parts = 0, [], []
    for batch in runs:
        deltas = batch.deltas[:, :, :, place].to(here)
        center = batch.center[:, :, place].to(here)
        scale = readout.scale(center)
        scaled = deltas / scale[..., None]
        value = scaled @ towards
        sd = ((scaled @ covariance) * scaled).sum(-1).clamp(min=0).sqrt()
        z = value / sd
        for i in range(len(batch.rows)):  # whole vocabularies, one prompt at a time
            before = readout.logits(center[i] / scale[i][:, None]) + constants
            other = 1 + int(torch.randint(len(twins.neutral), (1,), generator=generator))
            change = readout.logits(scaled[[0, other], i])
            rank = (change[0] > change[0][:, end, None]).sum(-1).float()
            slopes = _slope(before[:, content], change[..., content])
            gone = scaled[0, i].isnan().any(-1)
            apart = change[0][:, content].std(-1, correction=0)
            parts.append([x.masked_fill(gone, torch.nan).cpu() for x in (rank, apart, *slopes)])
            if not bool(gone.any()):
                total += change[0].double().cpu()
                counted += 1
        rows.append((value[0].cpu(), z.transpose(0, 1).cpu()))
    mean = (total / counted).float()
    rank, spread, slope, null_slope = (torch.stack(list(column)) for column in zip(*parts, strict=True))
    every_z = torch.cat([z for _, z in rows])
    order = mean.argsort(-1, descending=True)
    top = min(top, vocabulary // 2)
    chosen = {end, *order[:, :top].flatten().tolist(), *order[:, -top:].flatten().tolist()}
    decode = getattr(model.tokenizer, "decode", None)
    return DeltaLens(
        token=twins.token,
        end=str(decode([end])) if decode else str(end),
        neutral=twins.names,
        depths=tuple(map(depth_name, runs.sites)),
        offset=offset_name(offset),
        logits=mean,
        value=torch.cat([value for value, _ in rows]),
        z=every_z[:, 0].clone(),
        rank=rank,
        null_z=every_z[:, 1:].clone(),
        spread=spread,
        slope=slope,
        null_slope=null_slope,
        promoted=order[:, :top].clone(),
        suppressed=order[:, -top:].flip(-1).clone(),
        words={str(i): str(decode([i])) if decode else str(i) for i in sorted(chosen)},
        groups=twins.prompts.groups,
    )


def _slope(
    before: Float[Tensor, "depth content"], change: Float[Tensor, "two depth content"]
) -> Float[Tensor, "two depth"]:
    """Least-squares slope of the changes on the logits before."""
    x = before - before.mean(-1, keepdim=True)
    return (change * x).sum(-1) / x.square().sum(-1)
