"""Vectors of twins: what a model computes at and after the control token, and after each neutral token in its place.

The delta of a token is its vector less the mean over the (other) neutral tokens, prompt by prompt: everything that the
prompts say besides the token cancels, and every token is compared with the same kind of others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from rich.progress import Progress
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.metrics import Targets, largest_prob
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, batch_rows, capture, check_context, forward
from interp.prompts import Prompts, Rows, chosen_rows
from interp.sites import Site
from interp.twins import TOKEN, Twins


@dataclass(frozen=True, eq=False)
class TwinBatch:
    """Vectors of some prompts; token 0 is the control token."""

    rows: Int[Tensor, " row"]
    vectors: Float[Tensor, "token row site offset d_model"]
    """nan where a prompt ends before the offset."""

    @property
    def deltas(self) -> Float[Tensor, "token row site offset d_model"]:
        """Each token's vector less the mean over the neutral tokens other than itself."""
        n = len(self.vectors) - 1
        found = self.vectors - self.center
        if n > 1:
            found[1:] *= n / (n - 1)
        return found

    @property
    def center(self) -> Float[Tensor, "row site offset d_model"]:
        """Mean over the neutral tokens."""
        return self.vectors[1:].mean(0)


class TwinRuns:
    """Batches of vectors, over and over: kept where they fit `memory`, else computed anew each time."""

    def __init__(
        self,
        model: HookedTransformer,
        twins: Twins,
        sites: Sequence[Site] | None = None,
        *,
        offsets: Sequence[int] = (0, 1, 2, 3),
        memory: int = MEMORY,
        progress: bool = False,
    ) -> None:
        if len(twins.neutral) < 2:
            raise PromptError("deltas need at least two neutral tokens")
        self.model, self.twins, self.memory, self.progress = model, twins, memory, progress
        self.sites = tuple(stream_sites(int(model.cfg.n_layers)) if sites is None else sites)
        self.offsets = tuple(offsets)
        if any(site.axes[-1] != "d_model" for site in self.sites):
            raise ConfigError("deltas are taken at sites of the residual stream's width")
        check_context(model, twins.prompts)
        check_context(model, twins.with_token(int(twins.neutral.max())))
        self._kept: list[TwinBatch] = []

    @property
    def size(self) -> int:
        """Bytes of all vectors."""
        count = len(self.twins.ids) * len(self.twins) * len(self.sites) * len(self.offsets)
        return 4 * count * int(self.model.cfg.d_model)

    def __iter__(self) -> Iterator[TwinBatch]:
        if self._kept:
            yield from self._kept
            return
        keep, found = self.size <= self.memory, []
        for batch in self._run():
            if keep:
                found.append(batch)
            yield batch
        self._kept = found

    def part(
        self, *, sites: Sequence[Site] | None = None, offsets: Sequence[int] | None = None, rows: Rows | None = None
    ) -> TwinRuns:
        """Some of the sites, offsets or prompts; from the vectors that are kept, where they are."""
        n = len(self.twins)
        chosen = torch.arange(n) if rows is None else chosen_rows(rows, n)
        made = TwinRuns(
            self.model, self.twins if rows is None else self.twins.take(chosen),
            self.sites if sites is None else sites, offsets=self.offsets if offsets is None else offsets,
            memory=self.memory, progress=self.progress,
        )  # fmt: skip
        unknown = [site for site in made.sites if site not in self.sites] or set(made.offsets) - set(self.offsets)
        if unknown or self.size > self.memory:
            return made
        at = [self.sites.index(site) for site in made.sites]
        places = [self.offsets.index(offset) for offset in made.offsets]
        whole = torch.cat([batch.vectors for batch in self], 1)[:, chosen][:, :, at][..., places, :]
        made._kept = [TwinBatch(torch.arange(len(chosen)), whole)]
        return made

    def _run(self) -> Iterator[TwinBatch]:
        twins, prompts = self.twins, self.twins.prompts
        n_tokens, width = len(twins.ids), prompts.tokens.shape[1]
        fits = batch_rows(self.model, width, 1, self.memory // 2)
        per_row = 4 * n_tokens * len(self.sites) * len(self.offsets) * int(self.model.cfg.d_model)
        chunk = max(1, min(len(prompts), max(fits // n_tokens, 1), max(1, self.memory // (4 * per_row))))
        with Progress(transient=True, disable=not self.progress) as bar:
            task = bar.add_task("running twins", total=len(prompts))
            for rows in torch.arange(len(prompts)).split(chunk):
                yield TwinBatch(rows, self._vectors(rows, fits))
                bar.advance(task, len(rows))

    def _vectors(self, rows: Tensor, fits: int) -> Tensor:
        twins, prompts = self.twins, self.twins.prompts
        span = int(prompts.lengths[rows].max())
        tokens = prompts.tokens[rows, :span].repeat(len(twins.ids), 1)
        at = prompts.roles[TOKEN][rows]
        tokens[torch.arange(len(tokens)), at.repeat(len(twins.ids))] = twins.ids.repeat_interleave(len(rows))
        columns = at[:, None] + torch.tensor(self.offsets)
        absent = ((columns < 0) | (columns >= prompts.lengths[rows][:, None])).repeat(len(twins.ids), 1)
        columns = columns.clamp(0, span - 1).repeat(len(twins.ids), 1)
        parts = []
        for some, where, gone in zip(tokens.split(fits), columns.split(fits), absent.split(fits), strict=True):
            found = forward(self.model, some, keep=self.sites)
            index = torch.arange(len(some))[:, None]
            picked = torch.stack([found[site].cpu().float()[index, where] for site in self.sites], 1)
            parts.append(picked.masked_fill(gone[:, None, :, None], torch.nan))
        return torch.cat(parts).reshape(len(twins.ids), len(rows), len(self.sites), len(self.offsets), -1)


def stream_sites(n_layers: int) -> list[Site]:
    """The stream depth by depth: before layer 0, after each layer."""
    return [Site("resid_pre", 0), *(Site("resid_post", layer) for layer in range(n_layers))]


def all_sites(n_layers: int) -> list[Site]:
    """The stream and what each attention and MLP writes into it, in the order of computation."""
    found = [Site("resid_pre", 0)]
    for layer in range(n_layers):
        found += [Site("attn_out", layer), Site("mlp_out", layer), Site("resid_post", layer)]
    return found


def depth_name(site: Site) -> str:
    """A site in words: embed, layer 0 attention, layer 0 MLP, layer 0."""
    if site == Site("resid_pre", 0):
        return "embed"
    part = {"attn_out": " attention", "mlp_out": " MLP", "resid_mid": " after attention", "resid_pre": " before"}
    return f"layer {site.layer}{part.get(site.name, '')}"


def offset_name(offset: int) -> str:
    """A place relative to the control token."""
    return TOKEN if offset == 0 else f"{TOKEN}{offset:+d}"


def mean_deltas(runs: TwinRuns) -> Float[Tensor, "token site offset d_model"]:
    """Mean over prompts of every token's delta; nan where no prompt reaches the offset."""
    total = count = torch.zeros(())
    for batch in runs:
        deltas = batch.deltas.double()
        there = ~deltas.isnan()
        total = total + deltas.nan_to_num().sum(1)
        count = count + there.sum(1)
    return (total / count).float()


def reading_end(prompts: Prompts, end: int, offsets: Sequence[int] = (0, 1, 2, 3)) -> Prompts:
    """The prompts read at the token and after it, with the end of sequence as the answer everywhere."""
    columns = prompts.roles[TOKEN][:, None] + torch.tensor(list(offsets))
    columns = torch.where((columns >= 0) & (columns < prompts.lengths[:, None]), columns, -1)
    names = tuple(offset_name(offset) for offset in offsets)
    placed = {name: column for name, column in zip(names, columns.T, strict=True) if name != TOKEN}
    return replace(
        prompts, reads=columns, answers=torch.where(columns >= 0, end, -1), read_names=names,
        roles={**prompts.roles, **placed},
    )  # fmt: skip


def end_prob(model: HookedTransformer, prompts: Prompts, end: int, *, memory: int = MEMORY) -> Float[Tensor, " prompt"]:
    """Largest probability of the end at the token or up to three tokens after it, without any edit."""
    asked = reading_end(prompts, end)
    logits = capture(model, asked, ["logits"], memory=memory)["logits"].cpu()
    return largest_prob().score(logits, Targets.of(asked))


def cut(prompts: Prompts) -> Prompts:
    """The prompts up to the token."""
    lengths = prompts.roles[TOKEN] + 1
    return Prompts.from_tokens(
        prompts.tokens,
        torch.arange(prompts.tokens.shape[1]) < lengths[:, None],
        texts=prompts.texts,
        roles={TOKEN: prompts.roles[TOKEN]},
        groups=prompts.groups,
    )
