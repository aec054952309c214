"""Parts together: taken away in order, a set taken away, and all but a circuit taken away.

Each beside random orders and random sets of the same parts: any set of some size breaks a model somewhat.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError
from interp.estimates import Estimate, difference, mean, ratio
from interp.metrics import Metric, Targets, which
from interp.models.load import HookedTransformer
from interp.models.replacement import Kind, Parts, replacement, together
from interp.models.run import MEMORY
from interp.models.sweeps import Edits, Readout, places, sweep, unit_count
from interp.prompts import Prompts
from interp.results import grid_frame
from interp.sites import Site


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
        index = which(self.metrics, metric)
        own, control = self.values[..., index], self.random[..., index].mean(1)
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
        index = which(self.metrics, metric)
        empty, whole = self.empty[:, index], (self.whole - self.empty)[:, index]
        own = ratio(left[:, index] - empty, whole, self.groups)
        return own, ratio(random[..., index].mean(1) - empty, whole, self.groups)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and metric."""
        return grid_frame(
            {"metric": self.metrics}, whole=self.whole, empty=self.empty, alone=self.alone, without=self.without,
            random_alone=self.random_alone.mean(1), random_without=self.random_without.mean(1),
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class SetAblation:
    """Metrics of every prompt without a set of parts, beside random sets of as many other parts of each layer."""

    site: str
    kind: Kind
    parts: tuple[str, ...]
    metrics: tuple[str, ...]
    without: Float[Tensor, "prompt metric"]
    random: Float[Tensor, "prompt set metric"]
    base: Float[Tensor, "prompt metric"]
    groups: Int[Tensor, " prompt"]

    def drop(self, metric: str | None = None) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """How much lower a metric is, prompt by prompt, without the set, and on average without a random one."""
        index = which(self.metrics, metric)
        base = self.base[:, index]
        return base - self.without[:, index], base - self.random[..., index].mean(1)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and metric."""
        return grid_frame({"metric": self.metrics}, base=self.base, without=self.without, random=self.random.mean(1))


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
    gone = [frozenset(steps[:n]) for steps in orders for n in range(1, len(parts) + 1)]
    distinct = {one: i for i, one in enumerate(dict.fromkeys(gone))}  # orders begin alike and all end alike
    cells = [together(site, value, sorted(one)) for one in distinct]
    found = sweep(model, Edits(prompts, cells), Readout.of(prompts, metrics, targets), memory=memory, progress=progress)
    grid = found.values[:, [distinct[one] for one in gone]].reshape(len(prompts), len(orders), len(parts), -1)
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
    found = sweep(model, Edits(prompts, cells), Readout.of(prompts, metrics, targets), memory=memory, progress=progress)
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


def set_ablation(
    model: HookedTransformer,
    prompts: Prompts,
    parts: Parts,
    *,
    site: str = "mlp_post",
    kind: Kind = "mean",
    metrics: Sequence[Metric | str] = ("log_prob", "exact_match"),
    random_sets: int = 20,
    targets: Targets | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> SetAblation:
    """Ablate a set of neurons (or heads) at once, and random sets that take as many others from each layer.

    A set that costs no more than the random ones is not needed as such. Raises ConfigError where a layer has too few
    others.
    """
    chosen = _checked(model, site, parts)
    if not chosen:
        raise ConfigError("a set of parts needs at least one part")
    generator = torch.Generator().manual_seed(seed)
    layers = sorted({layer for layer, _ in chosen})
    sets = [chosen]
    for _ in range(random_sets):
        drawn: list[tuple[int, int]] = []
        for layer in layers:
            own = {unit for at, unit in chosen if at == layer}
            others = [unit for unit in range(unit_count(model, site)) if unit not in own]
            if len(others) < len(own):
                raise ConfigError(
                    f"{len(own)} of {len(own) + len(others)} parts of layer {layer} leave too few others for a control"
                )
            picked = torch.randperm(len(others), generator=generator)[: len(own)]
            drawn += [(layer, others[i]) for i in picked.tolist()]
        sets.append(drawn)
    value, missing = replacement(
        model, prompts, [Site(site, layer) for layer in layers], kind, seed=seed, memory=memory
    )
    cells = [together(site, value, one) for one in sets]
    found = sweep(model, Edits(prompts, cells), Readout.of(prompts, metrics, targets), memory=memory, progress=progress)
    values = found.values.masked_fill(missing[:, None, None], torch.nan)
    names = tuple(map(spelled, chosen))
    return SetAblation(site, kind, names, found.metrics, values[:, 0], values[:, 1:], found.base, prompts.groups)


def spelled(part: tuple[int, int]) -> str:
    """A head or neuron as text: L0H1. Neurons read the same way, H then being their number."""
    return f"L{part[0]}H{part[1]}"


def _checked(model: HookedTransformer, site: str, parts: Parts) -> list[tuple[int, int]]:
    if Site(site, 0).unit_axis is None:
        raise ConfigError(f"{site} has no heads or neurons to take away one by one; choose z or mlp_post")
    if any(isinstance(part, str) or len(part) != 2 for part in parts):
        raise ConfigError("parts are pairs of numbers, (layer, head) or (layer, neuron): (0, 1) for L0H1")
    found = [(int(layer), int(unit)) for layer, unit in parts]
    if len(set(found)) < len(found):
        raise ConfigError("a head or neuron is named twice; name each once")
    for layer, unit in found:
        if not 0 <= layer < int(model.cfg.n_layers) or not 0 <= unit < unit_count(model, site):
            raise ConfigError(f"there is no {spelled((layer, unit))} at {site}: look at the model's layers and heads")
    return found
