"""What breaks without a part? Zero, mean and resample ablation over a grid, in order, and of all but a circuit.

A part whose ablation lowers the metric was needed on these prompts; one whose ablation does not may be redundant
(McGrath et al., "The Hydra Effect", arXiv 2307.15771). Zero ablation moves the model off its own distribution; mean
and resample ablation keep to it (Chan et al., "Causal Scrubbing", 2022). Means and resampled values come from prompts
of the same layout, place by place: what is erased is what distinguishes the prompts, not where tokens stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.estimates import Estimate, difference, mean, ratio
from interp.metrics import Metric, Targets, named
from interp.models.edits import Copy, Edit, Value, Zero
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, capture
from interp.models.sweeps import Axis, Edits, Readout, Sweep, places, sweep, unit_count
from interp.prompts import Position, Prompts
from interp.results import grid_frame
from interp.sites import Site
from interp.tensors import Activations

Kind = Literal["zero", "mean", "resample"]


@dataclass(frozen=True, eq=False)
class Ablation:
    """Metrics of every prompt without each part."""

    site: str
    kind: Kind
    layers: tuple[int, ...]
    axis: Axis
    columns: tuple[str, ...]
    """Names along the column axis: positions, heads or neurons; `all` for a whole block output."""
    metrics: tuple[str, ...]
    ablated: Float[Tensor, "prompt layer column metric"]
    """Metric without the part; nan where a prompt lacks the position or has no partner of its layout."""
    base: Float[Tensor, "prompt metric"]
    groups: Int[Tensor, " prompt"]

    def drop(self, metric: str | None = None) -> Float[Tensor, "prompt layer column"]:
        """How much lower a metric (by default the first) is without each part; positive where the part helped."""
        which = _index(self.metrics, metric)
        return self.base[:, None, None, which] - self.ablated[..., which]

    def importance(self, prompts: Any = slice(None), *, metric: str | None = None) -> Estimate:
        """Mean drop over prompts (a mask or slice), [layer, column]."""
        return mean(self.drop(metric)[prompts], self.groups[prompts])

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, layer, column and metric."""
        axes = {"layer": self.layers, self.axis: self.columns, "metric": self.metrics}
        frame = grid_frame(axes, ablated=self.ablated)
        index = torch.tensor(frame["prompt"].to_numpy())
        which = torch.tensor([self.metrics.index(name) for name in frame["metric"]])
        return frame.assign(base=self.base[index, which].numpy(), group=self.groups[index].numpy())


@dataclass(frozen=True, eq=False)
class CumulativeAblation:
    """Metrics of every prompt without the first 0, 1, 2, ... parts of an order, and of random orders."""

    site: str
    kind: Kind
    parts: tuple[str, ...]
    """The parts in the order in which they are taken away, as L0H1."""
    metrics: tuple[str, ...]
    values: Float[Tensor, "prompt step metric"]
    """Step 0 is the whole model."""
    random: Float[Tensor, "prompt order step metric"]
    """The same for random orders of the same parts: the control."""
    groups: Int[Tensor, " prompt"]

    def curve(self, metric: str | None = None) -> tuple[Estimate, Estimate, Estimate]:
        """Metric at every step, its mean over random orders, and the paired difference of the two."""
        which = _index(self.metrics, metric)
        own, control = self.values[..., which], self.random[..., which].mean(1)
        return mean(own, self.groups), mean(control, self.groups), difference(own, control, self.groups)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, step and metric."""
        return grid_frame(
            {"step": range(self.values.shape[1]), "metric": self.metrics},
            value=self.values, random=self.random.mean(1),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class CircuitTest:
    """Metrics with only a circuit left, and without it, beside random circuits of the same size."""

    site: str
    kind: Kind
    kept: tuple[str, ...]
    metrics: tuple[str, ...]
    whole: Float[Tensor, "prompt metric"]
    """The model as it is."""
    empty: Float[Tensor, "prompt metric"]
    """All parts ablated."""
    alone: Float[Tensor, "prompt metric"]
    """All parts but the circuit ablated."""
    without: Float[Tensor, "prompt metric"]
    """The circuit ablated."""
    random_alone: Float[Tensor, "prompt circuit metric"]
    random_without: Float[Tensor, "prompt circuit metric"]
    groups: Int[Tensor, " prompt"]

    def faithfulness(self, metric: str | None = None) -> tuple[Estimate, Estimate]:
        """How much of the metric the circuit alone keeps, and how much random circuits of its size keep.

        (m(C) - m(empty)) / (m(model) - m(empty)) with means over prompts, as Marks et al. define it (arXiv 2403.19647,
        section 4): 1 is all, 0 is nothing.
        """
        return self._kept(self.alone, self.random_alone, metric)

    def completeness(self, metric: str | None = None) -> tuple[Estimate, Estimate]:
        """The faithfulness of the circuit's complement, and that of random circuits (Marks et al., section 4).

        Near 0 the circuit holds all that counts; well above 0 the rest of the model does the job as well.
        """
        return self._kept(self.without, self.random_without, metric)

    def _kept(
        self, left: Float[Tensor, "prompt metric"], random: Float[Tensor, "prompt circuit metric"], metric: str | None
    ) -> tuple[Estimate, Estimate]:
        which = _index(self.metrics, metric)
        empty, whole = self.empty[:, which], (self.whole - self.empty)[:, which]
        own = ratio(left[:, which] - empty, whole, self.groups)
        return own, ratio(random[..., which].mean(1) - empty, whole, self.groups)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and metric."""
        return grid_frame(
            {"metric": self.metrics}, whole=self.whole, empty=self.empty, alone=self.alone, without=self.without,
            random_alone=self.random_alone.mean(1), random_without=self.random_without.mean(1),
        )  # fmt: skip


Parts = Sequence[tuple[int, int]]
"""Heads or neurons, as (layer, number)."""


def ablation(
    model: HookedTransformer,
    prompts: Prompts,
    *,
    site: str = "z",
    kind: Kind = "mean",
    metrics: Sequence[Metric | str] = ("log_prob", "exact_match"),
    layers: Sequence[int] | None = None,
    positions: Sequence[Position] | None = None,
    units: Sequence[int] | None = None,
    at: Position | None = None,
    targets: Targets | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Ablation:
    """Ablate every cell of a grid alone: heads (`z`), neurons (`mlp_post`), or a block output (`attn_out`, `mlp_out`).

    A block output is ablated at every token of the prompt, or at each of `positions` alone. `mean` writes the mean over
    the other prompts of the same layout at the same place, `resample` what one of them had there.
    """
    grid = places(model, prompts, site, layers=layers, positions=positions, units=units, at=at)
    whole = grid.axis == "position" and positions is None
    value, missing = replacement(model, prompts, grid.sites, kind, seed=seed, memory=memory)
    cells = [[Edit(s, value)] for s in grid.sites] if whole else grid.cells([value])
    found = _sweep(model, prompts, cells, metrics, targets, memory, progress)
    ablated = found.values.reshape(len(prompts), len(grid.sites), -1, len(found.metrics))
    ablated = ablated.masked_fill(missing[:, None, None, None], torch.nan)
    if not whole:
        ablated = ablated.masked_fill(grid.absent(prompts)[:, None, :, None], torch.nan)
    names = ("all",) if whole else grid.names
    return Ablation(site, kind, grid.layers, grid.axis, names, found.metrics, ablated, found.base, prompts.groups)


def cumulative_ablation(
    model: HookedTransformer,
    prompts: Prompts,
    order: Parts,
    *,
    site: str = "z",
    kind: Kind = "mean",
    metrics: Sequence[Metric | str] = ("log_prob", "exact_match"),
    random_orders: int = 20,
    targets: Targets | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> CumulativeAblation:
    """Take away parts one after the other, in `order` (by importance, say) and in random orders of the same parts.

    An order that was found on the same prompts is fitted to them: rank on one half and take away on the other.
    """
    parts = _checked(model, site, order)
    if not parts:
        raise ConfigError("an order of parts needs at least one part")
    generator = torch.Generator().manual_seed(seed)
    orders = [
        parts,
        *([parts[i] for i in torch.randperm(len(parts), generator=generator)] for _ in range(random_orders)),
    ]
    sites = [Site(site, layer) for layer in sorted({layer for layer, _ in parts})]
    value, missing = replacement(model, prompts, sites, kind, seed=seed, memory=memory)
    cells = [together(site, value, steps[:n]) for steps in orders for n in range(1, len(parts) + 1)]
    found = _sweep(model, prompts, cells, metrics, targets, memory, progress)
    grid = found.values.reshape(len(prompts), len(orders), len(parts), -1)
    grid = torch.cat([found.base[:, None, None].expand(-1, len(orders), 1, -1), grid], 2)
    grid = grid.masked_fill(missing[:, None, None, None], torch.nan)
    return CumulativeAblation(
        site, kind, tuple(map(spelled, parts)), found.metrics, grid[:, 0], grid[:, 1:], prompts.groups
    )


def circuit_test(
    model: HookedTransformer,
    prompts: Prompts,
    kept: Parts,
    *,
    site: str = "z",
    kind: Kind = "mean",
    metrics: Sequence[Metric | str] = ("log_prob", "exact_match"),
    random_circuits: int = 20,
    targets: Targets | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> CircuitTest:
    """Ablate all heads (or neurons) but `kept`, and `kept` alone; the same for random sets of the same size.

    Only the parts of one site are ablated: a circuit of heads is tested with every MLP in place.
    """
    circuit = _checked(model, site, kept)
    count = places(model, prompts, site).columns
    everything = [(layer, int(unit)) for layer in range(int(model.cfg.n_layers)) for unit in count]
    if not 0 < len(circuit) < len(everything):
        raise ConfigError(
            f"a circuit keeps some parts and leaves others out; {len(circuit)} of {len(everything)} does not"
        )
    generator = torch.Generator().manual_seed(seed)
    circuits = [circuit]
    for _ in range(random_circuits):
        chosen = torch.randperm(len(everything), generator=generator)[: len(circuit)]
        circuits.append([everything[i] for i in chosen])
    sites = [Site(site, layer) for layer in range(int(model.cfg.n_layers))]
    value, missing = replacement(model, prompts, sites, kind, seed=seed, memory=memory)
    cells = [together(site, value, everything)]
    for one in circuits:
        cells += [together(site, value, [p for p in everything if p not in set(one)]), together(site, value, one)]
    found = _sweep(model, prompts, cells, metrics, targets, memory, progress)
    values = found.values.masked_fill(missing[:, None, None], torch.nan)
    alone, without = values[:, 1::2], values[:, 2::2]
    return CircuitTest(
        site=site,
        kind=kind,
        kept=tuple(map(spelled, circuit)),
        metrics=found.metrics,
        whole=found.base.masked_fill(missing[:, None], torch.nan),
        empty=values[:, 0],
        alone=alone[:, 0],
        without=without[:, 0],
        random_alone=alone[:, 1:],
        random_without=without[:, 1:],
        groups=prompts.groups,
    )


def replacement(
    model: HookedTransformer,
    prompts: Prompts,
    sites: Sequence[Site],
    kind: Kind,
    *,
    seed: int = 0,
    memory: int = MEMORY,
) -> tuple[Value, Bool[Tensor, " prompt"]]:
    """What an ablation writes, and which prompts it has nothing for (none other is of their layout)."""
    if kind not in ("zero", "mean", "resample"):
        raise ConfigError(f"ablation is zero, mean or resample, not {kind!r}")
    if kind == "zero":
        return Zero(), torch.zeros(len(prompts), dtype=torch.bool)
    if kind == "resample":
        rows = prompts.partners(seed)
        if bool((rows < 0).all()):
            raise PromptError("no two prompts have the same layout, so there is nothing to resample from; use zero")
        return Copy(capture(model, prompts, sites, memory=memory), rows.clamp(min=0)), rows < 0
    layout = prompts.layout
    missing = torch.bincount(layout)[layout] < 2
    if bool(missing.all()):
        raise PromptError("no two prompts have the same layout, so there is no mean to write; use zero")
    kept = capture(model, prompts, sites, memory=memory)
    means = {site: _mean_of_others(kept[site], layout) for site in sites}
    return Copy(Activations(prompts, means, kept.n_layers)), missing


def together(site: str, value: Value, parts: Parts) -> list[Edit]:
    """The edits that ablate several heads or neurons at once."""
    layers = sorted({layer for layer, _ in parts})
    return [Edit(Site(site, at), value, units=sorted(unit for layer, unit in parts if layer == at)) for at in layers]


def spelled(part: tuple[int, int]) -> str:
    """A head or neuron as text: L0H1. Neurons read the same way, H then being their number."""
    return f"L{part[0]}H{part[1]}"


def _sweep(
    model: HookedTransformer,
    prompts: Prompts,
    cells: list[list[Edit]],
    metrics: Sequence[Metric | str],
    targets: Targets | None,
    memory: int,
    progress: bool,
) -> Sweep:
    chosen = tuple(named([m])[0] if isinstance(m, str) else m for m in metrics)
    readout = Readout(chosen, Targets.of(prompts) if targets is None else targets)
    return sweep(model, Edits(prompts, cells), readout, memory=memory, progress=progress)


def _checked(model: HookedTransformer, site: str, parts: Parts) -> list[tuple[int, int]]:
    if Site(site, 0).unit_axis is None:
        raise ConfigError(f"{site} has no heads or neurons to take away one by one; choose z or mlp_post")
    found = [(int(layer), int(unit)) for layer, unit in parts]
    if len(set(found)) < len(found):
        raise ConfigError("a head or neuron is named twice; name each once")
    for layer, unit in found:
        if not 0 <= layer < int(model.cfg.n_layers) or not 0 <= unit < unit_count(model, site):
            raise ConfigError(f"there is no {spelled((layer, unit))} at {site}: look at the model's layers and heads")
    return found


def _index(metrics: tuple[str, ...], metric: str | None) -> int:
    if metric is None:
        return 0
    if metric not in metrics:
        raise ConfigError(f"the metric {metric!r} was not measured; there are: {', '.join(metrics)}")
    return metrics.index(metric)


def _mean_of_others(tensor: Float[Tensor, "prompt ..."], layout: Int[Tensor, " prompt"]) -> Float[Tensor, "prompt ..."]:
    """For each prompt the mean over the others of its layout, place by place."""
    index = layout.to(tensor.device)
    sums = torch.zeros(int(layout.max()) + 1, *tensor.shape[1:], dtype=tensor.dtype, device=tensor.device)
    sums.index_add_(0, index, tensor)
    others = torch.bincount(index)[index].sub(1).clamp(min=1)
    return (sums[index] - tensor) / others.reshape(-1, *[1] * (tensor.ndim - 1)).to(tensor.dtype)
