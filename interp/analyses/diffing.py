"""What did fine-tuning change in what the model computes? Two models on the same prompts, and on unrelated text.

*Crossed readout*: the stream of one model through the final norm and unembedding of the other says whether a behaviour
came with the body or with the head. *Activation-difference lens*: the mean difference of the two models' streams at the
first tokens of unrelated text, read through the unembedding; it shows traces of what a narrow fine-tuning was about,
without a prompt that has to do with it (Minder et al., arXiv 2510.13900). Both compare vectors of two models in one
basis, which holds for a model and its fine-tuned copy, not for two training runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ModelError
from interp.metrics import Targets, largest_prob
from interp.models.contrast import depth_name, reading_end, stream_sites
from interp.models.load import HookedTransformer, info
from interp.models.readout import LinearReadout
from interp.models.run import MEMORY, capture, unembed
from interp.prompts import Prompts
from interp.results import grid_frame
from interp.sites import Site
from interp.tensors import gather_positions
from interp.twins import Twins

BODIES = ("base", "fine-tuned")


@dataclass(frozen=True, eq=False)
class CrossedReadout:
    """Probability of the end with the stream of one model and the final norm and unembedding of another."""

    bodies: tuple[str, ...]
    heads: tuple[str, ...]
    values: Float[Tensor, "prompt body head"]
    """On prompts with the token: largest probability of the end at the token or up to three tokens after it."""
    neutral: Float[Tensor, "prompt body head"]
    """On twins with a random neutral token."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, body and head."""
        return grid_frame({"body": self.bodies, "head": self.heads}, value=self.values, neutral=self.neutral)


@dataclass(frozen=True, eq=False)
class DifferenceLens:
    """Mean difference of two models' streams (fine-tuned less base) at the first tokens of unrelated text."""

    depths: tuple[str, ...]
    positions: tuple[str, ...]
    relative: Float[Tensor, "prompt depth position"]
    """Norm of the difference over the norm of the base's stream."""
    shared: Float[Tensor, "depth position"]
    """Squared norm of the mean difference over the mean squared norm: 1 where all texts shift alike."""
    promotion: Float[Tensor, "prompt depth position word"]
    """What each text's difference adds to the words asked about, in standard deviations over the vocabulary of what
    the mean difference adds: their mean is `z`."""
    neutral: Float[Tensor, "prompt token depth position"]
    """The same for words that the fine-tuning was not about: the control."""
    rank: Int[Tensor, "depth position word"]
    """Tokens promoted more; 0 is the most promoted."""
    words: tuple[str, ...]
    top: Int[Tensor, "depth position k"]
    names: Mapping[str, str]
    """Text of the token ids above."""
    groups: Int[Tensor, " prompt"]

    @property
    def z(self) -> Float[Tensor, "depth position word"]:
        """How far the lens on the mean difference promotes the words asked about."""
        return self.promotion.mean(0)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, depth and position."""
        return grid_frame({"depth": self.depths, "position": self.positions}, relative=self.relative)


def crossed_readout(
    base: HookedTransformer, tuned: HookedTransformer, twins: Twins, end: int, *, seed: int = 0, memory: int = MEMORY
) -> CrossedReadout:
    """Both bodies through both heads, on the prompts with the token and on neutral twins."""
    _same_shape(base, tuned)
    last = Site("resid_post", int(base.cfg.n_layers) - 1)

    def run(prompts: Prompts) -> Tensor:
        asked = reading_end(prompts, end)
        rows = []
        for body in (base, tuned):
            stream = capture(body, asked, [last], memory=memory)[last]
            kept = gather_positions(stream, asked, list(asked.read_names)).nan_to_num()
            absent = (asked.reads < 0)[..., None]
            heads = [unembed(head, kept).cpu().float().masked_fill(absent, torch.nan) for head in (base, tuned)]
            rows.append(torch.stack([largest_prob().score(one, Targets.of(asked)) for one in heads], 1))
        return torch.stack(rows, 1)

    return CrossedReadout(BODIES, BODIES, run(twins.prompts), run(twins.partners(seed)[0]), twins.prompts.groups)


def difference_lens(
    base: HookedTransformer,
    tuned: HookedTransformer,
    prompts: Prompts,
    words: Mapping[str, int],
    *,
    neutral: Sequence[int] | Int[Tensor, " token"] = (),
    first: int = 5,
    top: int = 8,
    memory: int = MEMORY,
) -> DifferenceLens:
    """The lens on the mean difference at the first tokens, through the fine-tuned model's norm and unembedding.

    `words` are the tokens (text and id) whose promotion is asked about: the end of sequence, the control token;
    `neutral` the ids of others, which the fine-tuning was not about.
    """
    _same_shape(base, tuned)
    sites = stream_sites(int(base.cfg.n_layers))
    found = [capture(model, prompts, sites, memory=memory) for model in (base, tuned)]
    positions: Sequence[int] = range(min(first, int(prompts.lengths.min())))
    readout = LinearReadout.of(tuned)
    ids = torch.tensor([*words.values(), *(int(i) for i in neutral)])
    relative, shared, promotion, rank, best = [], [], [], [], []
    for site in sites:
        before, after = (gather_positions(part[site], prompts, list(positions)).float() for part in found)
        apart = after - before
        relative.append((apart.norm(dim=-1) / before.norm(dim=-1)).cpu())
        mean = apart.mean(0)
        shared.append((mean.square().sum(-1) / apart.square().sum(-1).mean(0)).cpu())
        # Up to the norm's scale, of which all that is told here is free.
        change = readout.logits(mean)
        change = (change - change.mean(-1, keepdim=True)).cpu()
        read = (readout.directions(ids.to(apart.device)) - readout.mean_direction()).to(apart)
        promotion.append((apart @ read.T).cpu() / change.std(-1, correction=0, keepdim=True))
        rank.append((change[:, None] > change[:, list(words.values()), None]).sum(-1))
        best.append(change.topk(min(top, change.shape[-1]), -1).indices)
    promoted, others = torch.stack(promotion, 1).split([len(words), len(ids) - len(words)], -1)
    highest = torch.stack(best)
    decode = getattr(tuned.tokenizer, "decode", None)
    return DifferenceLens(
        depths=tuple(map(depth_name, sites)),
        positions=tuple(map(str, positions)),
        relative=torch.stack(relative, 1),
        shared=torch.stack(shared),
        promotion=promoted.clone(),
        neutral=others.movedim(-1, 1).contiguous(),
        rank=torch.stack(rank),
        words=tuple(words),
        top=highest,
        names={str(i): str(decode([i])) if decode else str(i) for i in highest.unique().tolist()},
        groups=prompts.groups,
    )


def _same_shape(base: HookedTransformer, tuned: HookedTransformer) -> None:
    shapes = [(int(m.cfg.n_layers), int(m.cfg.d_model), int(m.cfg.d_vocab)) for m in (base, tuned)]
    if shapes[0] != shapes[1]:
        names = " and ".join(info(m).name for m in (base, tuned))
        raise ModelError(
            f"{names} differ in layers, width or vocabulary ({shapes[0]} and {shapes[1]}); compare a model with its "
            "fine-tuned copy"
        )
