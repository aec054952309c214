"""Which edges carry the behaviour? A first-order estimate of every edge's patch, from two runs and one gradient.

Edge attribution patching (Syed et al., arXiv 2310.10348): what a part would write in the other run instead, times the
gradient of the metric by what the reader reads. With integrated gradients (Hanna et al., arXiv 2403.17806) the
gradient is a mean over a straight line between the runs, here at Gauss-Legendre nodes: of the *inputs* (the embeddings,
so that all edges from the embedding sum to the whole difference) or of the *activations* (the heads of one layer, or an
MLP, at a time, all else as in the base run).

It is an estimate, not an effect: where attention or a norm saturates the gradient says nothing of what a patch would do
(Kramár et al., arXiv 2403.00745). `interp.verified` patches the edges that matter, and random ones, exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.errors import ConfigError, ModelError
from interp.estimates import Estimate, ratio
from interp.metrics import Metric
from interp.models.load import HookedTransformer, info
from interp.models.run import MEMORY, check_context, undisturbed
from interp.models.sweeps import Readout
from interp.models.sweeps.blocks import Network, UnknownForm
from interp.models.sweeps.edges import Graph, by_reader, readers_from, written
from interp.models.sweeps.gradients import Place, climbed, row_bytes, scored, slopes
from interp.models.sweeps.runs import Runs
from interp.prompts import PatchDirection, PromptPairs

Integrate = Literal["inputs", "activations"]
TOLERANCE = 0.01
"""Largest error of completeness at which integrated gradients stop taking more steps."""


@dataclass(frozen=True, eq=False)
class EdgeAttribution:
    """How far the patch of each edge would move the metric towards the source run, to first order."""

    direction: PatchDirection
    metric: str
    unit: str
    integrate: Integrate | None
    sources: tuple[str, ...]
    """The part that writes, edge by edge: embed, L0H1, mlp0."""
    targets: tuple[str, ...]
    """The part that reads: L1H2.q, mlp1, logits."""
    values: Float[Tensor, "pair edge"]
    """In units of the metric; nan where a pair has nothing to score."""
    steps: Int[Tensor, " pair"]
    """Points at which gradients were taken on each line."""
    clean: Float[Tensor, " pair"]
    corrupted: Float[Tensor, " pair"]
    groups: Int[Tensor, " pair"]

    @property
    def error(self) -> Float[Tensor, " pair"]:
        """What all edges from the embedding lack of the clean-corrupted difference, as a share of it.

        Only integrated gradients over the inputs promise that it is near 0.
        """
        apart = self.clean - self.corrupted
        first = torch.tensor([source == "embed" for source in self.sources])
        return (self.values[:, first].sum(1) - apart).abs() / apart.abs()

    def share(self, pairs: Any = slice(None)) -> Estimate:
        """Each edge's estimate as a share of the clean-corrupted difference: a ratio of means over pairs."""
        return ratio(self.values[pairs], (self.clean - self.corrupted)[pairs], self.groups[pairs])

    def largest(self, count: int) -> Int[Tensor, " edge"]:
        """Numbers of the edges whose mean estimate over pairs is largest in size, the largest first."""
        return self.values.nanmean(0).abs().argsort(descending=True, stable=True)[:count]

    def to_frame(self) -> pd.DataFrame:
        """One row for each edge, means over pairs, the largest first."""
        frame = pd.DataFrame({"source": self.sources, "target": self.targets, "value": self.values.nanmean(0).numpy()})
        return frame.loc[self.largest(len(frame)).numpy()].reset_index(drop=True)


def edge_attribution(
    model: HookedTransformer,
    pairs: PromptPairs,
    *,
    metric: Metric | str = "logit_diff",
    direction: PatchDirection = "denoising",
    integrate: Integrate | None = None,
    steps: int = 8,
    most_steps: int = 128,
    memory: int = MEMORY,
    progress: bool = False,
) -> EdgeAttribution:
    """Score every edge of a GPT-2, Llama (Mistral, Qwen2) or Gemma-2 form; q, k and v of each head read apart.

    The base run is the corrupted one for denoising, the clean one for noising; scores are kept pair by pair and summed
    over positions. Without `integrate` the gradient is the base run's. With "inputs" the number of `steps` is doubled,
    up to `most_steps`, for pairs whose edges from the embedding miss the metric's difference by over 1 %; with
    "activations" it is `steps` for each layer's heads and each MLP. Raises ModelError for another architecture.
    """
    if integrate not in (None, "inputs", "activations"):
        raise ConfigError(f"integrate is None, 'inputs' or 'activations', not {integrate!r}")
    if steps < 1 or most_steps < steps:
        raise ConfigError(f"steps must be at least 1 and at most most_steps, not {steps} and {most_steps}")
    source, base = pairs.source_and_base(direction)
    readout = Readout.of(pairs, [metric])
    chosen = readout.metrics[0]
    check_context(model, base)
    readout.check(model, base)
    try:
        own = Runs.of(model, base, memory=memory)
    except UnknownForm as error:
        raise ModelError(f"the edges of {info(model).name} cannot be told apart: {error}") from None
    runs = _Sides(own, Runs.of(model, source, memory=memory, like=own), readout)
    sign = 1.0 if direction == "denoising" else -1.0
    graph = Graph.of(runs.base.net)
    values = torch.full((len(pairs), len(graph.edges)), torch.nan)
    scores = torch.full((len(pairs), 2), torch.nan)
    count = 1 if integrate is None else steps
    todo, taken = torch.arange(len(pairs)), torch.full((len(pairs),), count)
    with undisturbed(model, gradients=True), Progress(transient=True, disable=not progress) as bar:
        while len(todo):
            task = bar.add_task(f"edges, {count} steps", total=len(todo))
            for some in runs.tiles(todo, memory):
                found, scores[some] = runs.edges(some, integrate, count, memory)
                values[some] = sign * found
                bar.advance(task, len(some))
            taken[todo] = count
            if integrate != "inputs" or 2 * count > most_steps:
                break
            apart = sign * (scores[:, 1] - scores[:, 0])[todo]
            missed = values[todo][:, graph.edges[:, 0] == 0].sum(1) - apart
            todo, count = todo[missed.abs() > TOLERANCE * apart.abs()], 2 * count
    names = graph.sources, graph.targets
    sources, targets = (tuple(names[i][j] for j in graph.edges[:, i].tolist()) for i in range(2))
    return EdgeAttribution(
        direction=direction,
        metric=chosen.name,
        unit=chosen.unit,
        integrate=integrate,
        sources=sources,
        targets=targets,
        values=values.masked_fill(scores.isnan().any(1, keepdim=True), torch.nan),
        steps=taken,
        clean=scores[:, 1 if direction == "denoising" else 0],
        corrupted=scores[:, 0 if direction == "denoising" else 1],
        groups=pairs.clean.groups,
    )


@dataclass(frozen=True, eq=False)
class _Line:
    """Where the stream is moved from the base run's to the other's, and the sources whose writing moves it."""

    sources: slice
    layer: int
    middle: bool
    start: Float[Tensor, "pair pos d_model"]
    step: Float[Tensor, "pair pos d_model"]


@dataclass(frozen=True, eq=False)
class _Sides:
    """Both runs of all pairs."""

    base: Runs
    source: Runs
    readout: Readout

    def tiles(self, pairs: Int[Tensor, " pair"], memory: int) -> Iterator[Int[Tensor, " pair"]]:
        """Pairs of like length whose parts fit the budget side by side."""
        ordered = pairs[self.base.ends[pairs].argsort(stable=True).cpu()]
        columns = int(self.base.ends.max())
        size = self._pair_bytes(columns) + self._step_bytes(columns)
        yield from ordered.split(max(1, memory // size))

    def edges(
        self, pairs: Int[Tensor, " pair"], integrate: Integrate | None, steps: int, memory: int
    ) -> tuple[Float[Tensor, "pair edge"], Float[Tensor, "pair both"]]:
        """Every edge's part in the metric's change from the base run to the other, and the metric in both."""
        net, graph = self.base.net, Graph.of(self.base.net)
        index = pairs.to(self.base.entry.device)
        columns = int(self.base.ends[index].max())
        entries = [side.entry[index, :columns] for side in (self.base, self.source)]
        with torch.set_grad_enabled(integrate is None):
            base = climbed(net, entries[0].clone().requires_grad_(integrate is None))
            score = scored(self.base, self.readout, base, index)
        with torch.no_grad():
            other = climbed(net, entries[1])
            whole = torch.stack([score, scored(self.base, self.readout, other, index)], 1)
            apart = written(net, other, entries[1]) - written(net, base, entries[0])
        table = apart.new_zeros(len(pairs), len(graph.targets), len(graph.sources))

        def add(read: slice, means: Mapping[int, Tensor]) -> None:
            for first, slope in means.items():
                seen = slice(read.start, min(read.stop, graph.seen(first)))
                table[:, first : first + slope.shape[1], seen] = einsum(
                    slope, apart[:, seen], "p v x d, p s x d -> p v s"
                )

        if integrate is None:
            found = slopes(score, base, readers_from(net, 0))
            with torch.no_grad():
                add(slice(0, len(graph.sources)), dict(by_reader(net, base, found)))
        else:
            nodes, weights = (torch.from_numpy(part).to(apart) for part in np.polynomial.legendre.leggauss(steps))
            room = (memory - len(pairs) * self._pair_bytes(columns)) // (len(pairs) * self._step_bytes(columns))
            for line in _lines(net, base, other, entries, activations=integrate == "activations"):
                means: dict[int, Tensor] = {}
                for part in torch.arange(steps).split(max(1, room)):
                    for first, slope in self._slopes(line, index, (nodes[part] + 1) / 2, weights[part] / 2):
                        means[first] = slope if first not in means else means[first] + slope
                add(line.sources, means)
        source, target = graph.edges.unbind(1)
        return table[:, target, source].float().cpu(), whole.detach().float().cpu()

    def _slopes(
        self, line: _Line, index: Int[Tensor, " pair"], alphas: Float[Tensor, " step"], shares: Float[Tensor, " step"]
    ) -> Iterator[tuple[int, Float[Tensor, "pair target pos d_model"]]]:
        """Gradients by what some targets read, the first of them and on, summed over some steps of a line."""
        net, n = self.base.net, len(index)
        stream = (line.start + alphas[:, None, None, None] * line.step).flatten(0, 1).requires_grad_()
        places = climbed(net, stream, layer=line.layer, middle=line.middle)
        scores = scored(self.base, self.readout, places, index.repeat(len(alphas)))
        found = slopes(scores, places, readers_from(net, line.layer, line.middle))
        with torch.no_grad():
            for first, slope in by_reader(net, places, found, layer=line.layer):
                yield first, einsum(slope.unflatten(0, (len(alphas), n)), shares, "s p v x d, s -> p v x d")

    def _pair_bytes(self, columns: int) -> int:
        net = self.base.net
        parts = 4 * len(Graph.of(net).sources) + len(Graph.of(net).targets)
        return columns * parts * net.unembedding.shape[1] * max(4, net.unembedding.element_size())

    def _step_bytes(self, columns: int) -> int:
        net = self.base.net
        readers = 4 * Graph.of(net).readers * columns * net.unembedding.shape[1]
        return row_bytes(net, columns) + readers * max(4, net.unembedding.element_size())


def _lines(
    net: Network,
    base: Mapping[Place, Tensor],
    other: Mapping[Place, Tensor],
    entries: Sequence[Tensor],
    *,
    activations: bool,
) -> Iterator[_Line]:
    total = len(Graph.of(net).sources)
    if not activations:
        yield _Line(slice(0, total), 0, False, entries[0], entries[1] - entries[0])
        return
    yield _Line(slice(0, 1), 0, False, entries[0], entries[1] - entries[0])
    for layer in range(len(net.blocks)):
        first = 1 + layer * (net.n_heads + 1)
        attn, mlp = (other[name, layer] - base[name, layer] for name in ("attn_out", "mlp_out"))
        yield _Line(slice(first, first + net.n_heads), layer, True, base["mid", layer], attn)
        yield _Line(slice(first + net.n_heads, first + net.n_heads + 1), layer + 1, False, base["after", layer], mlp)
