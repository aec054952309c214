"""Does the gradient tell the truth? The estimates that matter, and random ones, beside the patches themselves.

First-order estimates miss what is not linear (Kramár et al., arXiv 2403.00745). The cells or edges with the largest
estimates, those that are flagged as saturated, and random ones of all are patched exactly; the random ones say how well
the estimate does where nothing was chosen, which the largest ones, chosen by their own estimate, cannot.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyses.attribution_patching import AttributionPatching
from interp.analyses.edge_attribution import EdgeAttribution
from interp.errors import ConfigError
from interp.estimates import Estimate, proportion, rank_correlation, ratio
from interp.metrics import Metric
from interp.models.edits import Copy
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import Edits, Readout, places, sweep, unedited
from interp.models.sweeps.circuits import Replacements
from interp.prompts import Position, PromptPairs, Prompts


@dataclass(frozen=True, eq=False)
class Verified:
    """Estimated and real effects of some cells or edges, in units of the metric, towards the source run."""

    metric: str
    unit: str
    names: tuple[str, ...]
    why: tuple[str, ...]
    """largest, saturated or random."""
    estimated: Float[Tensor, "pair place"]
    exact: Float[Tensor, "pair place"]
    clean: Float[Tensor, " pair"]
    corrupted: Float[Tensor, " pair"]
    groups: Int[Tensor, " pair"]

    def chosen(self, why: str) -> Bool[Tensor, " place"]:
        """Which places were asked for one reason."""
        return torch.tensor([one == why for one in self.why])

    def agreement(self, why: str = "random") -> dict[str, Estimate]:
        """How means over pairs agree over the places that were asked for one reason: Spearman's correlation, the share
        of one sign, and the mean of |estimated - exact| over the mean of |exact|.

        Intervals take places as independent, so for the random ones they speak of all places; the largest are all
        there are.
        """
        if why not in ("largest", "saturated", "random"):
            raise ConfigError(f"places are asked for as largest, saturated or random, not {why!r}")
        own = self.chosen(why)
        estimated, exact = (part[:, own].nanmean(0) for part in (self.estimated, self.exact))
        nothing = (estimated - exact).isnan() | ((estimated == 0) & (exact == 0))
        same = (estimated.sign() == exact.sign()).double().masked_fill(nothing, torch.nan)
        return {
            "rank correlation": rank_correlation(estimated, exact),
            "same sign": proportion(same),
            "relative error": ratio((estimated - exact).abs(), exact.abs()),
        }

    def to_frame(self) -> pd.DataFrame:
        """One row for each place, means over pairs."""
        return pd.DataFrame(
            {"place": self.names, "why": self.why, "estimated": self.estimated.nanmean(0).numpy(),
             "exact": self.exact.nanmean(0).numpy()}
        )  # fmt: skip


def verified(
    model: HookedTransformer,
    pairs: PromptPairs,
    attribution: AttributionPatching | EdgeAttribution,
    *,
    metric: Metric | str | None = None,
    top: int = 20,
    saturated: int = 20,
    random: int = 20,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Verified:
    """Patch the `top` places by mean estimate, `saturated` flagged cells, and `random` places of all, exactly.

    Of the cells flagged in any pair those whose activations differ most are taken. A place may come for several
    reasons; it is patched once. `pairs` and `metric` (by default the one of that name) are those that the attribution
    was made with; where the metric without any patch says otherwise, ConfigError.
    """
    if min(top, saturated, random) < 0 or top + saturated + random == 0:
        raise ConfigError("verifying needs at least one place: top, saturated and random are counts")
    if not isinstance(attribution, AttributionPatching | EdgeAttribution):
        raise ConfigError(f"attribution_patching and edge_attribution are verified, not {type(attribution).__name__}")
    size = attribution.values.nanmean(0).flatten().abs()
    known = (~size.isnan()).nonzero().flatten()
    ranked = known[size[known].argsort(descending=True, stable=True)]
    first, flagged = ranked[:top], ranked[:0]
    if isinstance(attribution, AttributionPatching):
        apart = attribution.apart.masked_fill(~attribution.saturated, torch.nan).nanmean(0).flatten()[known]
        flagged = known[apart.nan_to_num(-1.0).argsort(descending=True, stable=True)][: int((~apart.isnan()).sum())]
        flagged = flagged[:saturated]
    drawn = known[torch.randperm(len(known), generator=torch.Generator().manual_seed(seed))[:random]]
    picked, place = torch.cat([first, flagged, drawn]).unique(return_inverse=True)
    why = ("largest",) * len(first) + ("saturated",) * len(flagged) + ("random",) * len(drawn)
    source, base = pairs.source_and_base(attribution.direction)
    readout = Readout.of(pairs, [attribution.metric if metric is None else metric])
    if isinstance(attribution, EdgeAttribution):
        runs = Replacements.of(model, base, source, readout, memory=memory)
        asked = torch.zeros(len(picked) + 1, len(size), dtype=torch.bool)
        asked[torch.arange(len(picked)), picked] = True
        found = runs.scores(asked, progress=progress)[..., 0]
        before = found[:, -1]
        moved = found[:, :-1] - before[:, None]
        names = tuple(f"{attribution.sources[i]} to {attribution.targets[i]}" for i in picked.tolist())
    else:
        moved, before, names = _patched(model, pairs, attribution, picked, readout, memory, progress)
    if readout.metrics[0].name != attribution.metric:
        raise ConfigError(f"the attribution is of {attribution.metric}, not of {readout.metrics[0].name}")
    told = attribution.corrupted if attribution.direction == "denoising" else attribution.clean
    close = 1e-4 if model.cfg.dtype in (torch.float32, torch.float64) else 1e-2
    reach = close * max(1.0, float(told.abs().nan_to_num().max()))
    if before.shape != told.shape or not torch.allclose(before, told.to(before), atol=reach, rtol=0, equal_nan=True):
        raise ConfigError("without any patch the metric is not the attribution's: give its own pairs and metric")
    sign = 1.0 if attribution.direction == "denoising" else -1.0
    return Verified(
        metric=attribution.metric,
        unit=attribution.unit,
        names=tuple(names[i] for i in place.tolist()),
        why=why,
        estimated=attribution.values.flatten(1)[:, picked[place]],
        exact=sign * moved[:, place],
        clean=attribution.clean,
        corrupted=attribution.corrupted,
        groups=attribution.groups,
    )


def _position(name: str, prompts: Prompts) -> Position:
    """A role, or else an index."""
    return int(name) if name not in prompts.roles and name.lstrip("-").isdigit() else name


def _patched(
    model: HookedTransformer,
    pairs: PromptPairs,
    attribution: AttributionPatching,
    picked: Int[Tensor, " place"],
    readout: Readout,
    memory: int,
    progress: bool,
) -> tuple[Float[Tensor, "pair place"], Float[Tensor, " pair"], tuple[str, ...]]:
    """How far the patch of some cells moves the metric, the metric without it, and their names."""
    source, base = pairs.source_and_base(attribution.direction)
    columns = [_position(name, base) for name in attribution.columns]
    at = _position(attribution.at, base) if attribution.at else None
    by_position = attribution.axis == "position"
    grid = places(
        model, base, attribution.site, layers=attribution.layers, positions=columns if by_position else None,
        units=None if by_position else [int(one) for one in columns], at=at,
    )  # fmt: skip
    copy = Copy(unedited(model, source, list(grid.sites), memory=memory))
    where = [divmod(place, len(grid.columns)) for place in picked.tolist()]
    cells = [[grid.edit(grid.sites[layer], grid.columns[column], copy)] for layer, column in where]
    found = sweep(model, Edits(base, cells), readout, memory=memory, progress=progress)
    moved = (found.values - found.base[:, None])[..., 0]
    absent = grid.absent(base)[:, [column for _, column in where]]
    names = tuple(f"{grid.sites[layer]} {grid.columns[column]}" for layer, column in where)
    return moved.masked_fill(absent, torch.nan), found.base[:, 0], names
