"""The usual shortcut, and what it would have found anyway.

The common recipe puts the control token in front of a prompt, takes the activation at the first position with it and
without it, and calls the first principal component of the centred differences "the direction", often with most of the
variance. At the first position a causal model sees one token: the vector with the prefix is the same for every
prompt, so centring deletes it, and what is left is minus the vectors of the prompts' own first words. Any prefix, in
any model, has these very components."""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import RankWarning
from interp.models.contrast import depth_name, stream_sites
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, capture
from interp.prompts import Prompts
from interp.spectra import Moments, limited_rank, spectrum


@dataclass(frozen=True, eq=False)
class PrefixContrast:
    """Centred PCA of prefix less no prefix at the first position, for every prefix."""

    prefixes: tuple[str, ...]
    """The control token first."""
    depths: tuple[str, ...]
    first_share: Float[Tensor, "prefix depth"]
    """Share of the centred variance in the first component."""
    alike: Float[Tensor, "prefix depth"]
    """Cosine, without sign, of the first component with that of the control token."""
    rank: Int[Tensor, "prefix depth"]
    """Rank of the centred differences."""
    first_words: Int[Tensor, ""]
    """Distinct first words of the prompts."""
    prompts: int
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prefix and depth."""
        index = pd.MultiIndex.from_product([self.prefixes, self.depths], names=["prefix", "depth"])
        columns = {"first_share": self.first_share, "alike": self.alike, "rank": self.rank}
        return pd.DataFrame({n: c.numpy().reshape(-1) for n, c in columns.items()}, index=index).reset_index()


def prefix_contrast(
    model: HookedTransformer, prompts: Prompts, prefixes: Mapping[str, int], *, memory: int = MEMORY
) -> PrefixContrast:
    """The shortcut for the control token (first of `prefixes`, text and id) and for others.

    Prompts have no prefix; where the tokenizer puts a `<bos>` in front, the prefix comes after it and the first
    position is the one after it."""
    sites = stream_sites(int(model.cfg.n_layers))
    bos = getattr(model.tokenizer, "bos_token_id", None)
    place = int(bos is not None and bool((prompts.tokens[:, 0] == bos).all()))
    without = _at(capture(model, prompts, sites, memory=memory).tensors, sites, place)
    shares, ways, ranks = [], [], []
    for token in prefixes.values():
        tokens = torch.cat(
            [prompts.tokens[:, :place], torch.full((len(prompts), 1), token), prompts.tokens[:, place : place + 1]], 1
        )
        # What follows the first position cannot change it.
        with_prefix = _at(capture(model, Prompts.from_tokens(tokens), sites, memory=memory).tensors, sites, place)
        moments = Moments.empty((len(sites),), with_prefix.shape[-1])
        moments.update((with_prefix - without).transpose(0, 1))
        found = spectrum(moments, top=1)
        shares.append(found.eigenvalues[:, 0] / found.variance)
        ways.append(found.directions[:, 0])
        ranks.append((found.eigenvalues > 1e-6 * found.eigenvalues[:, :1]).sum(-1))
    first = len(prompts.tokens[:, : place + 1].unique(dim=0))
    limited = limited_rank(first, len(prompts), int(model.cfg.d_model))
    # The prefix's own vector is one constant here, so it is the mean that centring takes away.
    removed = "; centring removed the contrast"
    said = (limited.removesuffix(removed) + removed,) if limited else ()
    for line in said:
        python_warnings.warn(line, RankWarning, stacklevel=2)
    directions = torch.stack(ways)
    return PrefixContrast(
        prefixes=tuple(prefixes),
        depths=tuple(map(depth_name, sites)),
        first_share=torch.stack(shares),
        alike=(directions * directions[:1]).sum(-1).abs(),
        rank=torch.stack(ranks),
        first_words=torch.tensor(first),
        prompts=len(prompts),
        warnings=said,
    )


def _at(tensors: Mapping, sites: list, place: int) -> Float[Tensor, "prompt site d_model"]:
    return torch.stack([tensors[site][:, place].float().cpu() for site in sites], 1)
