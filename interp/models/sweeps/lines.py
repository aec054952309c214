"""Gradients between two runs: at the one, or as a mean over the straight line from it to the other.

`FunctionLines` goes through the network's functions, `BridgeLines` through the bridge, for every other architecture
and for the features of transcoders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.features import NAME
from interp.models.load import HookedTransformer
from interp.models.run import Change, batch_rows, check_memory, embedded, forward, numbers
from interp.models.sweeps.blocks import FIELDS, UnknownForm
from interp.models.sweeps.gradients import Place, climbed, differentiable, row_bytes, scored, slopes
from interp.models.sweeps.grid import Readout
from interp.models.sweeps.runs import Runs
from interp.prompts import Prompts
from interp.sites import Site

_LOGITS = Site("logits")

Means = list[Tensor]
Gradients = Callable[[Tensor, int], Means]
"""The gradients at points of the line: all prompts at the first point, then all at the next; and how many points."""


@dataclass(frozen=True, eq=False)
class FunctionLines:
    """Two runs of the same prompts, through the network's functions."""

    base: Runs
    source: Runs
    readout: Readout

    path = "packed"

    def rows(self, steps: int, memory: int) -> int:
        """Prompts that may be asked at once."""
        return max(1, memory // (row_bytes(self.base.net, int(self.base.ends.max())) * min(steps, 4)))

    def run(
        self, rows: Int[Tensor, " pair"], sites: Sequence[Site], *, other: bool
    ) -> tuple[list[Tensor], Float[Tensor, " pair"]]:
        """What stands at the sites in one of the runs, and the metric."""
        with torch.no_grad():
            return self._climbed(self.entry(rows)[other], sites, rows)

    def by_inputs(self, rows: Int[Tensor, " pair"], sites: Sequence[Site]) -> Gradients:
        """The gradient at each site, where these embeddings enter."""

        def gradients(stream: Tensor, count: int) -> Means:
            found, scores = self._climbed(stream.requires_grad_(), sites, rows.repeat(count))
            return _by(scores, found)

        return gradients

    def by_site(self, rows: Int[Tensor, " pair"], site: Site) -> Gradients:
        """The gradient at a site, where these activations stand there and all before them is the base run's."""
        with torch.no_grad():
            below = self._climbed(self.entry(rows)[0], [Site("resid_pre", site.layer)], rows)[0][0]

        def gradients(put: Tensor, count: int) -> Means:
            put = put.requires_grad_()
            if site.name == "resid_pre":
                stream, inside = put, None
            else:
                stream, inside = below.repeat(count, 1, 1), {FIELDS.get(site.name, site.name): put}
            places = climbed(self.base.net, stream, layer=site.layer, put=inside)
            return _by(scored(self.base, self.readout, places, self._index(rows).repeat(count)), [put])

        return gradients

    def _climbed(
        self, stream: Float[Tensor, "row pos d_model"], sites: Sequence[Site], rows: Int[Tensor, " row"]
    ) -> tuple[list[Tensor], Float[Tensor, " row"]]:
        names = {site.name for site in sites}
        places = climbed(self.base.net, stream, keep_pattern="pattern" in names, keep_neurons="mlp_post" in names)
        wanted: list[Place] = [(FIELDS.get(site.name, site.name), site.layer) for site in sites]
        return [places[place] for place in wanted], scored(self.base, self.readout, places, self._index(rows))

    def entry(self, rows: Int[Tensor, " pair"]) -> tuple[Tensor, Tensor]:
        """What enters the first block in both runs, up to the last column that is read."""
        index = self._index(rows)
        columns = int(self.base.ends[index].max())
        return self.base.entry[index, :columns], self.source.entry[index, :columns]

    def _index(self, rows: Int[Tensor, " row"]) -> Int[Tensor, " row"]:
        return rows.to(self.base.entry.device)


@dataclass(frozen=True, eq=False)
class BridgeLines:
    """The same through the bridge."""

    model: HookedTransformer
    base: Prompts
    entries: tuple[Float[Tensor, "pair pos d_model"], Float[Tensor, "pair pos d_model"]]
    readout: Readout
    sites: tuple[Site, ...]
    """The sites that are asked for."""

    path = "generic"

    def rows(self, steps: int, memory: int) -> int:
        """Prompts that may be asked at once."""
        width, reads = self.base.tokens.shape[1], self.base.reads.shape[1]
        # Features outnumber all else in a block: what they are, what is added to them, and its gradient.
        features = sum(3 * numbers(self.model, site, width) for site in self.sites if site.name == NAME)
        n_layers = 2 * int(self.model.cfg.n_layers)
        return max(1, batch_rows(self.model, width, reads, memory // n_layers, features // n_layers))

    def run(
        self, rows: Int[Tensor, " pair"], sites: Sequence[Site], *, other: bool
    ) -> tuple[list[Tensor], Float[Tensor, " pair"]]:
        """What stands at the sites in one of the runs, and the metric."""
        found, scores = self._forward(self.entry(rows)[other], sites, rows)
        return [found[site] for site in sites], scores

    def by_inputs(self, rows: Int[Tensor, " pair"], sites: Sequence[Site]) -> Gradients:
        """The gradient at each site, where these embeddings enter."""

        def gradients(stream: Tensor, count: int) -> Means:
            # What a hook sees may be a view that nothing further on reads; what it adds is read.
            added: dict[Site, Tensor] = {}

            def add(site: Site, old: Tensor) -> Tensor:
                added[site] = torch.zeros_like(old, requires_grad=True)
                return old + added[site]

            changes = {site: [partial(add, site)] for site in sites}
            scores = self._forward(stream, [], rows.repeat(count), changes)[1]
            return _by(differentiable(scores, self.readout), [added[site] for site in sites])

        return gradients

    def by_site(self, rows: Int[Tensor, " pair"], site: Site) -> Gradients:
        """The gradient at a site, where these activations stand there and all before them is the base run's."""
        entry = self.entry(rows)[0]

        def gradients(put: Tensor, count: int) -> Means:
            put = put.requires_grad_()
            scores = self._forward(entry.repeat(count, 1, 1), [], rows.repeat(count), {site: [lambda _: put]})[1]
            return _by(differentiable(scores, self.readout), [put])

        return gradients

    def entry(self, rows: Int[Tensor, " pair"]) -> tuple[Tensor, Tensor]:
        """What enters the first block in both runs, up to the last column that is read."""
        ends = torch.minimum(self.base.lengths, self.base.reads.amax(1) + 1)[rows]
        here, other = (entry[rows.to(entry.device), : max(1, int(ends.max()))] for entry in self.entries)
        return here, other

    def _forward(
        self,
        stream: Float[Tensor, "row pos d_model"],
        keep: Sequence[Site],
        rows: Int[Tensor, " row"],
        changes: Mapping[Site, Sequence[Change]] | None = None,
    ) -> tuple[dict[Site, Tensor], Float[Tensor, " row"]]:
        found = forward(
            self.model,
            self.base.tokens[rows, : stream.shape[1]],
            keep=[*keep, _LOGITS],
            changes=changes,
            reads=self.base.reads[rows],
            residual=stream,
            gradients=changes is not None,
        )
        return found, self.readout.score(found[_LOGITS], rows.to(stream.device))[:, 0]


Lines = FunctionLines | BridgeLines


def at_inputs(
    lines: Lines,
    rows: Int[Tensor, " pair"],
    sites: Sequence[Site],
    alphas: Float[Tensor, " step"],
    shares: Float[Tensor, " step"],
    memory: int,
) -> Means:
    """For each site the mean gradient while the embeddings go from the base run's to the other's."""
    start, end = lines.entry(rows)
    at_once = lines.rows(1, memory) // len(rows)
    return _mean(start, end - start, alphas, shares, at_once, lines.by_inputs(rows, sites))


def at_site(
    lines: Lines,
    rows: Int[Tensor, " pair"],
    site: Site,
    start: Float[Tensor, "pair ..."],
    step: Float[Tensor, "pair ..."],
    alphas: Float[Tensor, " step"],
    shares: Float[Tensor, " step"],
    memory: int,
) -> Tensor:
    """The mean gradient while the activations at the site go from `start` on by `step`, all before them held."""
    at_once = lines.rows(1, memory) // len(rows)
    return _mean(start, step, alphas, shares, at_once, lines.by_site(rows, site))[0]


def lines_between(
    model: HookedTransformer, base: Prompts, source: Prompts, readout: Readout, sites: Sequence[Site], *, memory: int
) -> Lines:
    """Both runs, through the network's functions where these stand for the model and have the sites."""
    check_memory(memory)
    try:
        if any(site.name == NAME for site in sites):
            raise UnknownForm("features are read and changed through the bridge")
        own = Runs.of(model, base, memory=memory)
    except UnknownForm:
        entries = embedded(model, base), embedded(model, source)
        return BridgeLines(model, base, entries, readout, tuple(sites))
    return FunctionLines(own, Runs.of(model, source, memory=memory, like=own), readout)


def _by(scores: Float[Tensor, " row"], places: Sequence[Tensor]) -> Means:
    found = slopes(scores, {("", i): one for i, one in enumerate(places)}, [("", i) for i in range(len(places))])
    return list(found.values())


def _mean(
    start: Tensor,
    step: Tensor,
    alphas: Float[Tensor, " step"],
    shares: Float[Tensor, " step"],
    at_once: int,
    gradients: Gradients,
) -> Means:
    """Gradients at points of the line, added up by their shares."""
    means: Means = []
    for part in torch.arange(len(alphas)).split(max(1, at_once)):
        along = alphas[part].to(step).reshape(-1, *[1] * step.ndim)
        found = gradients((start + along * step).flatten(0, 1), len(part))
        weights = shares[part].to(step)
        summed = [torch.tensordot(weights, one.unflatten(0, (len(part), -1)), 1) for one in found]
        means = summed if not means else [a + b for a, b in zip(means, summed, strict=True)]
    return means
