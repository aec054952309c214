"""Prompts on their way through the network's functions, and what is read from them at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.models.load import HookedTransformer
from interp.models.run import capture, check_memory, embedded, model_device, undisturbed
from interp.models.sweeps.blocks import Network, UnknownForm, network
from interp.models.sweeps.grid import Readout, unlike
from interp.prompts import Prompts
from interp.sites import Site
from interp.tensors import Activations

_LOGITS = Site("logits")
_FIRST = Site("resid_pre", 0)

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
    def of(
        cls,
        model: HookedTransformer,
        prompts: Prompts,
        *,
        memory: int,
        check: bool = True,
        known: Activations | None = None,
    ) -> Runs:
        """Embed the prompts. Raises UnknownForm where the network's functions do not stand for the model.

        They are checked against the model's own logits of the two longest prompts. `known` may hold such logits of
        other prompts; they serve where these are as long.
        """
        check_memory(memory)
        torch.empty(_KEPT_BYTES, dtype=torch.uint8)
        found = cls._entering(network(model), model, prompts)
        if not check:
            return found
        if known is None or int(known.prompts.lengths.max()) < int(prompts.lengths.max()):
            some = prompts.lengths.argsort(descending=True)[:2]
            logits = capture(model, prompts.take(some), [_LOGITS], memory=memory)[_LOGITS]
            sample = found._take(some)
        else:
            some = known.prompts.lengths.argsort(descending=True)[:2]
            logits = known[_LOGITS][some.to(known[_LOGITS].device)]
            sample = cls._entering(found.net, model, known.prompts.take(some), _entry_of(known, some))
        with undisturbed(model):
            sample._check(logits)
        return found

    @classmethod
    def _entering(
        cls,
        net: Network,
        model: HookedTransformer,
        prompts: Prompts,
        entry: Float[Tensor, "prompt pos d_model"] | None = None,
    ) -> Runs:
        here = model_device(model)
        ends = torch.minimum(prompts.lengths, prompts.reads.amax(1) + 1).clamp(min=1)
        entry = embedded(model, prompts) if entry is None else entry.to(here)
        return cls(net, prompts, entry, prompts.reads.to(here), ends.to(here))

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

    def _take(self, some: Int[Tensor, " prompt"]) -> Runs:
        here = some.to(self.entry.device)
        return Runs(self.net, self.prompts.take(some), self.entry[here], self.reads[here], self.ends[here])

    def _check(self, wanted: Float[Tensor, "prompt read vocab"]) -> None:
        """Whether the functions give the model's own logits."""
        stream = self.entry
        for block in self.net.blocks:
            stream = self.net.layer(block, stream).after
        absent = (self.reads < 0)[..., None]
        every = torch.arange(len(stream), device=stream.device)
        found = self.net.logits(self.at_reads(stream, every)).masked_fill(absent, torch.nan)
        if unlike(found, wanted.to(found.device).masked_fill(absent, torch.nan)):
            raise UnknownForm("its functions do not give the model's own logits")


def _entry_of(known: Activations, some: Int[Tensor, " prompt"]) -> Float[Tensor, "prompt pos d_model"] | None:
    """What enters the first block, where that was captured; as wide as the longest of these prompts."""
    if _FIRST not in known.tensors:
        return None
    whole = known[_FIRST]
    width = int(known.prompts.lengths[some].max())
    return whole[some.to(whole.device), :width].nan_to_num()
