"""Where does a control token leave a trace? Norm of the delta by site and position, beside every neutral token's.

The usual contrast, a prompt with a prefix against one without, differs for any prefix whatever (positions shift, a
token is there or not). Here the same prompt with another token in the place is the baseline, and each neutral token
treated as the control token is the null (token identity permuted). A large norm says that the model represents the
token as special; not that it acts on it: the causal tests say that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.estimates import Estimate, mean, mean_value, rank_p
from interp.models.contrast import TwinRuns, all_sites, depth_name, offset_name
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.results import grid_frame
from interp.sites import Site
from interp.twins import TOKEN, Twins

Measure = Literal["L2", "relative", "cosine"]
MEASURES: tuple[Measure, ...] = ("L2", "relative", "cosine")
Form = Literal["early", "gradual", "late", "flat"]


@dataclass(frozen=True, eq=False)
class DeltaNorms:
    """Size of the control token's delta, and of every neutral token's."""

    token: str
    neutral: tuple[str, ...]
    sites: tuple[str, ...]
    depths: tuple[str, ...]
    """The sites in words; those of the stream are `embed` and `layer N`."""
    offsets: tuple[str, ...]
    measures: tuple[str, ...]
    """`L2`; `relative` to the norm of the stream there (of the neutral twins' mean); `cosine` of the token's vector
    with the neutral twins' mean: 1 is no difference."""
    values: Float[Tensor, "prompt site offset measure"]
    null: Float[Tensor, "prompt neutral site offset measure"]
    """The same of each neutral token against the other neutral tokens."""
    groups: Int[Tensor, " prompt"]

    def estimate(self, measure: Measure = "relative") -> Estimate:
        """Mean over prompts [site, offset]; p is that of `p_value` in each cell by itself."""
        found = mean(self.values[..., MEASURES.index(measure)], self.groups)
        cells = rank_p(*self._deviations(measure), largest=False)
        return Estimate(found.value, found.low, found.high, cells, found.n)

    def band(self, measure: Measure = "relative") -> Float[np.ndarray, "quantile site offset"]:
        """2.5, 50 and 97.5 % quantiles of the neutral tokens' means over prompts."""
        null = torch.from_numpy(mean_value(self.null[..., MEASURES.index(measure)]))
        # As numpy's, but silent where no prompt reaches a place.
        return null.nanquantile(torch.tensor([0.025, 0.5, 0.975], dtype=null.dtype), dim=0).numpy()

    def p_value(self, measure: Measure = "relative") -> float:
        """Chance that a neutral token's largest deviation, over all sites and positions, is as large as this
        token's."""
        return float(rank_p(*self._deviations(measure)))

    def _deviations(self, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
        """Means over prompts of the token and of the neutral ones, larger where the delta is: a small cosine is a
        large one."""
        sign = -1.0 if measure == "cosine" else 1.0
        own, null = (mean_value(part[..., MEASURES.index(measure)]) for part in (self.values, self.null))
        return sign * own, sign * null

    def form(self) -> tuple[Form, str]:
        """The course of the delta over the depth of the stream at the token, and the rule that decided.

        What exceeds the median neutral token's relative norm, as a share of its maximum: *flat* where no depth leaves
        the neutral tokens' band or all depths lie within a quarter of the maximum; *early* where the first third of
        the layers reaches 80 %; *late* where 80 % is first reached in the last third; else *gradual*."""
        stream = [i for i, name in enumerate(self.depths) if " " not in name.removeprefix("layer ")]
        if TOKEN not in self.offsets:
            raise ConfigError("the form is the course at the token itself; take offset 0 among the offsets")
        here = self.offsets.index(TOKEN)
        value = mean_value(self.values[..., MEASURES.index("relative")])[stream, here]
        _, middle, high = self.band()[:, stream, here]
        excess = value - middle
        if not (value > high).any() or excess.max() <= 0:
            return "flat", "no depth of the stream leaves the band of the neutral tokens"
        share = excess / excess.max()
        if share.min() >= 0.75:
            return "flat", f"the excess over neutral tokens stays within a quarter of its maximum ({share.min():.0%})"
        reached = int(np.argmax(share >= 0.8)) / (len(share) - 1)
        said = f"80 % of the largest excess is reached at {self.depths[stream[int(np.argmax(share >= 0.8))]]}"
        return ("early" if reached <= 1 / 3 else "late" if reached > 2 / 3 else "gradual"), said

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, site, offset and measure; `null` is the mean over neutral tokens."""
        axes = {"site": self.sites, "offset": self.offsets, "measure": self.measures}
        frame = grid_frame(axes, value=self.values, null=self.null.mean(1))
        return frame.assign(group=self.groups[torch.tensor(frame["prompt"].to_numpy())].numpy())


def delta_norms(
    model: HookedTransformer,
    twins: Twins,
    *,
    sites: Sequence[Site] | None = None,
    offsets: Sequence[int] = (0, 1, 2, 3),
    memory: int = MEMORY,
    progress: bool = False,
) -> DeltaNorms:
    """Size of the delta at every site of the stream's width, at the token and after it (`offsets` in tokens)."""
    wanted = all_sites(int(model.cfg.n_layers)) if sites is None else list(sites)
    return norms_of(TwinRuns(model, twins, wanted, offsets=offsets, memory=memory, progress=progress))


def norms_of(runs: TwinRuns) -> DeltaNorms:
    """The same from vectors that are there already."""
    twins, parts = runs.twins, []
    scale_of = [_stream_of(site, runs.sites) for site in runs.sites]
    for batch in runs:
        center = batch.center
        stream = center[:, scale_of].norm(dim=-1)
        deltas = batch.deltas
        length = deltas.norm(dim=-1)
        length = length.masked_fill(length < 1e-6 * stream, 0.0)  # rounding, where the token has not been seen yet
        # A neutral token is compared with the others alone, as the control token is.
        cosine = torch.cosine_similarity(batch.vectors, batch.vectors - deltas, dim=-1)
        parts.append(torch.stack([length, length / stream, cosine], -1))
    found = torch.cat(parts, 1)
    return DeltaNorms(
        token=twins.token,
        neutral=twins.names,
        sites=tuple(map(str, runs.sites)),
        depths=tuple(map(depth_name, runs.sites)),
        offsets=tuple(map(offset_name, runs.offsets)),
        measures=MEASURES,
        values=found[0].clone(),
        null=found[1:].transpose(0, 1).contiguous(),
        groups=twins.prompts.groups,
    )


def _stream_of(site: Site, sites: Sequence[Site]) -> int:
    """Place of the stream that a site belongs to: its own, or for a block's output the one it is written into."""
    if site.name.startswith("resid"):
        return list(sites).index(site)
    after = Site("resid_post", site.layer)
    if after not in sites:
        raise ConfigError(f"the size of {site} is relative to {after}; name that site too")
    return list(sites).index(after)
