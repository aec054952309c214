"""Which heads make the verdict? Three answers for every head, and whether they agree.

*Attention* from where the verdict is read to the words that decide: where a head looks. *Direct* logit attribution:
what it writes into the log-odds itself. *Ablation*: what the log-odds lose without it, whichever way they went (its
output replaced by its mean over all prompts and tokens). A head may look without writing, write without being needed,
and be needed only for what later heads read: so the three are shown side by side, and their agreement is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyses.attribution import logit_attribution
from interp.analyses.faithfulness import marked
from interp.errors import ModelError, PromptError
from interp.estimates import Estimate, max_t, mean, rank_correlation_value
from interp.models.edits import Constant, Edit
from interp.models.judge import Judge, truth
from interp.models.run import MEMORY, batches, capture
from interp.models.sweeps import Edits, sweep
from interp.prompts import Prompts
from interp.results import grid_frame
from interp.sites import Site
from interp.tensors import Activations

Measure = Literal["attention", "direct", "ablation"]
MEASURES: tuple[Measure, ...] = ("attention", "direct", "ablation")


@dataclass(frozen=True, eq=False)
class JudgeHeads:
    """Three measures of every head, prompt by prompt."""

    layers: tuple[int, ...]
    rule: tuple[str, ...]
    """Roles of the words that decide."""
    attention: Float[Tensor, "prompt layer head"]
    """Share of the attention from the verdict's position that falls on the words that decide."""
    uniform: Float[Tensor, " prompt"]
    """The same if attention were uniform."""
    direct: Float[Tensor, "prompt layer head"]
    """What the head writes into the log-odds of unsafe, directly; nats. nan where the parts do not add up."""
    ablation: Float[Tensor, "prompt layer head"]
    """Log-odds of unsafe less those without the head; nats, above 0 where the head speaks for unsafe."""
    log_odds: Float[Tensor, " prompt"]
    unsafe: Bool[Tensor, " prompt"]
    """The truth."""
    groups: Int[Tensor, " prompt"]

    @property
    def names(self) -> tuple[str, ...]:
        """L0H0 ..., in the order of the flattened grid."""
        return tuple(f"L{layer}H{head}" for layer in self.layers for head in range(self.direct.shape[2]))

    def values(self, measure: Measure) -> Float[Tensor, "prompt head"]:
        """One measure of all heads: attention beyond uniform, nats of the log-odds for the other two."""
        table = {"attention": self.attention - self.uniform[:, None, None], "direct": self.direct,
                 "ablation": self.ablation}[measure]  # fmt: skip
        return table.flatten(1)

    def contrast(self, measure: Measure) -> Estimate:
        """Unsafe less safe prompts: the mean over groups that have both; p corrected for all heads (max-T)."""
        unsafe, safe = self._sides(measure)
        found = mean(unsafe - safe)
        return Estimate(found.value, found.low, found.high, max_t(unsafe - safe), found.n)

    def agreement(self) -> dict[str, Estimate]:
        """Rank correlation over heads between the measures, group by group; 1: they order the heads alike.

        A head counts by its attention on the words that decide, and by the size of its contrast for the other two.
        """
        tables = {}
        for measure in MEASURES:
            unsafe, safe = self._sides(measure)
            tables[measure] = ((unsafe + safe) / 2 if measure == "attention" else (unsafe - safe).abs()).numpy()
        found = {}
        for i, one in enumerate(MEASURES):
            for other in MEASURES[i + 1 :]:
                pairs = zip(tables[one], tables[other], strict=True)
                rho = np.array([rank_correlation_value(a, b) for a, b in pairs])
                found[f"{one} and {other}"] = mean(rho)
        return found

    def _sides(self, measure: Measure) -> tuple[Float[Tensor, "group head"], Float[Tensor, "group head"]]:
        """Means over the unsafe and over the safe prompts of each group that has both."""
        values, groups = self.values(measure), self.groups
        masks = [[(groups == group) & (self.unsafe == side) for side in (True, False)] for group in groups.unique()]
        kept = [pair for pair in masks if all(bool(mask.any()) for mask in pair)]
        if not kept:
            raise PromptError("no group of prompts holds safe and unsafe ones; group them by template")
        unsafe, safe = (torch.stack([values[pair[side]].mean(0) for pair in kept]) for side in (0, 1))
        return unsafe, safe

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, layer and head."""
        axes = {"layer": self.layers, "head": range(self.direct.shape[2])}
        frame = grid_frame(axes, attention=self.attention, direct=self.direct, ablation=self.ablation)
        return frame.assign(unsafe=self.unsafe[torch.tensor(frame["prompt"].to_numpy())].numpy())


def judge_heads(
    judge: Judge,
    prompts: Prompts,
    unsafe: Iterable[Any],
    *,
    rule: Sequence[str] = ("act", "object", "context"),
    layers: Sequence[int] | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> JudgeHeads:
    """Measure every head of these layers (by default all) on prompts that `judge.prompts` made.

    `rule` names the roles of the words that decide; a prompt may lack some of them.
    """
    model = judge.model
    known = int(model.cfg.n_layers)
    chosen = tuple(range(known)) if layers is None else tuple(layers)
    label = truth(unsafe, len(prompts))
    roles = [role for role in rule if role in prompts.roles]
    if not roles:
        raise PromptError(f"the prompts have none of the roles {', '.join(rule)}; give spans to judge.prompts")
    attention, uniform, direct, means = _looked(judge, prompts, chosen, roles, memory)
    heads = attention.shape[2]
    cells = [[Edit(Site("z", at), Constant(means[at][None]), units=head)] for at in chosen for head in range(heads)]
    swept = sweep(model, Edits(prompts, cells), judge.readout(prompts), memory=memory, progress=progress)
    ablated = swept.values[..., 0].reshape(len(prompts), len(chosen), heads)
    lost = swept.base[:, :1, None] - ablated
    return JudgeHeads(
        chosen, tuple(roles), attention, uniform, direct, lost, swept.base[:, 0], label, prompts.groups,
    )  # fmt: skip


def _looked(
    judge: Judge, prompts: Prompts, layers: Sequence[int], roles: Sequence[str], memory: int
) -> tuple[
    Float[Tensor, "prompt layer head"],
    Float[Tensor, " prompt"],
    Float[Tensor, "prompt layer head"],
    dict[int, Float[Tensor, "head d_head"]],
]:
    """Attention with its uniform share, direct effects, and mean outputs, in one pass of which no more is kept."""
    known = int(judge.model.cfg.n_layers)
    sites = ["resid_pre", Site("resid_post", known - 1), "attn_out", "mlp_out", "z"]
    wanted = [*sites, *(Site("pattern", layer) for layer in layers)]
    parts = batches(judge.model, prompts, memory // known)
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    sums = {layer: torch.zeros(()) for layer in layers}
    for part in parts:
        some = prompts.take(part)
        found = capture(judge.model, some, wanted, memory=memory)
        seen = _attention(found, some, layers, roles)
        rows.append((*seen, _direct(judge, found, some, layers, seen[0].shape[2])))
        for layer in layers:
            sums[layer] = sums[layer] + found["z", layer].double().nansum((0, 1)).cpu()
    back = torch.cat(parts).argsort()
    attention, uniform, direct = (torch.cat(one)[back] for one in zip(*rows, strict=True))
    count = int(prompts.lengths.sum())
    return attention, uniform, direct, {layer: (total / count).float() for layer, total in sums.items()}


def _attention(
    found: Activations, prompts: Prompts, layers: Sequence[int], roles: Sequence[str]
) -> tuple[Float[Tensor, "prompt layer head"], Float[Tensor, " prompt"]]:
    rows = torch.arange(len(prompts))
    at, deciding = prompts.columns("verdict"), marked(prompts, tuple(roles)).float()
    looks = torch.stack([found["pattern", layer].float().cpu()[rows, :, at] for layer in layers], 1)
    return torch.einsum("plhk,pk->plh", looks.nan_to_num(), deciding), deciding.sum(1) / (at + 1)


def _direct(
    judge: Judge, found: Activations, prompts: Prompts, layers: Sequence[int], heads: int
) -> Float[Tensor, "prompt layer head"]:
    try:
        made = logit_attribution(found, judge.model, targets=judge.targets(prompts), split="head")
    except ModelError:  # something norms or caps the parts on their way
        return torch.full((len(prompts), len(layers), heads), torch.nan)
    place = {name: i for i, name in enumerate(made.components)}
    columns = [place[f"L{layer}H{head}"] for layer in layers for head in range(heads)]
    return made.values[:, columns].reshape(len(prompts), len(layers), heads)
