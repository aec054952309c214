"""Prompts on their way through the network's functions, and what is read from them at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.features import NAME
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, capture, check_context, check_memory, gathered, model_device, undisturbed
from interp.models.sweeps.blocks import FIELDS, Network, UnknownForm, network
from interp.models.sweeps.grid import Readout, longest_read, unlike
from interp.models.sweeps.state import are_alike, forget, found_alike, state_of
from interp.prompts import Prompts
from interp.sites import Site, every
from interp.tensors import Activations

_LOGITS = Site("logits")

_KEPT_BYTES = (1 << 24) - (1 << 14)
"""The C library hands small freed blocks back to the system, and gets them anew page by page, until a program has once
freed one of nearly 16 MB: small models feel that in every layer."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Prompts as they enter the first block, and the network that carries them up."""

    net: Network
    prompts: Prompts
    entry: Float[Tensor, "prompt pos d_model"]
    """Zero at padding."""
    reads: Int[Tensor, "prompt read"]
    ends: Int[Tensor, " prompt"]
    """Columns up to the last that is read: nothing after it can change what is read."""

    @classmethod
    def of(cls, model: HookedTransformer, prompts: Prompts, *, memory: int, like: Runs | None = None) -> Runs:
        """Embed the prompts. Raises UnknownForm where the network's functions do not stand for the model.

        They are checked against the model's own logits of the two longest prompts, once for as long as the model stays
        as it is. `like` are runs that the same model made just now, of prompts as long: their functions serve again.
        """
        check_memory(memory)
        if like is not None and int(prompts.lengths.max()) <= int(like.prompts.lengths.max()):
            return cls._entering(like.net, model, prompts)
        torch.empty(_KEPT_BYTES, dtype=torch.uint8)
        found = cls._entering(network(model), model, prompts)
        found._check(model, memory)
        return found

    @classmethod
    def _entering(cls, net: Network, model: HookedTransformer, prompts: Prompts) -> Runs:
        here = model_device(model)
        ends = torch.minimum(prompts.lengths, prompts.reads.amax(1) + 1).clamp(min=1)
        with torch.inference_mode():
            entry = net.embed(prompts.tokens.to(here)).masked_fill_(~prompts.mask[..., None].to(here), 0.0)
        return cls(net, prompts, entry, prompts.reads.to(here), ends.to(here))

    def kept(
        self, sites: Sequence[Site], prompts: Int[Tensor, " row"], columns: int
    ) -> dict[Site, Float[Tensor, "row ..."]]:
        """What stands at the sites on the way up, and the logits where asked for."""
        index = prompts.to(self.entry.device)
        stream, found = self.entry[index, :columns], {}
        height = len(self.net.blocks) if _LOGITS in sites else 1 + max((site.layer for site in sites), default=-1)
        for layer, block in enumerate(self.net.blocks[:height]):
            here = [site for site in sites if site.layer == layer]
            names = {site.name for site in here}
            one = self.net.layer(block, stream, keep_pattern="pattern" in names, keep_neurons="mlp_post" in names)
            found |= {site: getattr(one, FIELDS.get(site.name, site.name)) for site in here}
            stream = one.after
        if _LOGITS in sites:
            absent = (self.reads[index] < 0)[..., None]
            found[_LOGITS] = self.net.logits(self.at_reads(stream, index)).masked_fill_(absent, torch.nan)
        return found

    def scores(
        self, readout: Readout, at_reads: Float[Tensor, "row read d_model"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, "row metric"]:
        """Every metric, from the last layer's stream at the columns that are read; row r is of prompt `prompts[r]`."""
        absent = (self.reads[prompts] < 0)[..., None]
        if readout.narrow:
            return readout.score_of(lambda tokens: self.net.logits_of(at_reads, tokens), prompts, absent)
        return readout.score(self.net.logits(at_reads).masked_fill(absent, torch.nan), prompts)

    def rows_scored(self, readout: Readout, memory: int) -> int:
        """Rows whose logits fit the budget."""
        vocabulary, d_model = self.net.unembedding.shape
        tokens = 2 * d_model if readout.narrow else vocabulary
        return max(1, memory // (4 * self.reads.shape[1] * tokens * max(4, self.net.unembedding.element_size())))

    def at_reads(
        self, stream: Float[Tensor, "row pos d_model"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, "row read d_model"]:
        """The stream where it is read."""
        rows = torch.arange(len(stream), device=stream.device)[:, None]
        return stream[rows, self.reads[prompts].clamp(min=0)]

    def _check(self, model: HookedTransformer, memory: int) -> None:
        """Whether the functions give the model's own logits. Raises UnknownForm."""
        some = longest_read(self.prompts)
        if not len(some):
            raise UnknownForm("no prompt is read, so there are no logits to compare")
        state, longest = state_of(model), int(self.prompts.lengths[some[0]])
        if are_alike(model, state, longest):
            return
        forget(model)
        wanted = capture(model, self.prompts.take(some), [_LOGITS], memory=memory)[_LOGITS]
        with undisturbed(model):
            if unlike(self.kept([_LOGITS], some, longest)[_LOGITS], wanted):
                raise UnknownForm("its functions do not give the model's own logits")
        found_alike(model, state, longest)


def runs_of(model: HookedTransformer, prompts: Prompts, *, memory: int = MEMORY) -> Runs | None:
    """The prompts' runs; None where the network's functions do not stand for the model."""
    check_context(model, prompts)
    try:
        return Runs.of(model, prompts, memory=memory)
    except UnknownForm:
        return None


def unedited(
    model: HookedTransformer,
    prompts: Prompts,
    sites: Sequence[str | Site],
    *,
    memory: int = MEMORY,
    runs: Runs | None = None,
) -> Activations:
    """What the model computes at some sites: `capture`, by the network's functions where these stand for the model.

    `runs` are those of the prompts, where they were made before. Working memory is bounded as in a sweep.
    """
    wanted = every(sites, int(model.cfg.n_layers))
    runs = runs or runs_of(model, prompts, memory=memory)
    if runs is None or any(site.name == NAME for site in wanted):
        return capture(model, prompts, wanted, memory=memory)

    def run(rows: Int[Tensor, " row"], span: int) -> dict[Site, Tensor]:
        with undisturbed(model):
            return runs.kept(wanted, rows, span)

    return gathered(model, prompts, wanted, run, memory=memory)
