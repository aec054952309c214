"""What a sweep is asked and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.metrics import Metric, Targets, named
from interp.models.edits import Edit
from interp.models.load import HookedTransformer, require_weights
from interp.prompts import PromptPairs, Prompts
from interp.sites import every

_ROUNDING = {torch.float32: 32, torch.float64: 32}
"""Differences of so many units in the last place, of a number and of the token's median one, are no change. A unit of
the shorter formats is so large that an edit may change less."""


@dataclass(frozen=True, eq=False)
class Edits:
    """The prompts that are run and the cells of the grid; the edits of one cell are in force together."""

    prompts: Prompts
    cells: Sequence[Sequence[Edit]]

    def __post_init__(self) -> None:
        if not self.cells or not all(self.cells):
            raise ConfigError("a sweep needs at least one cell, and every cell at least one edit")


@dataclass(frozen=True, eq=False)
class Readout:
    """What is read from each run: metrics of the logits at the prompts' read columns."""

    metrics: tuple[Metric, ...]
    targets: Targets

    @classmethod
    def of(
        cls, prompts: Prompts | PromptPairs, metrics: Sequence[Metric | str], targets: Targets | None = None
    ) -> Readout:
        """Metrics (or their names) against `targets`.

        By default against the prompts' answers, with the corrupted answers as foils where there are pairs.
        """
        chosen = tuple(named([m])[0] if isinstance(m, str) else m for m in metrics)
        for one in chosen:
            if not isinstance(one, Metric):
                raise ConfigError(f"a metric is a name or a Metric, not {one!r}")
        return cls(chosen, Targets.of(prompts) if targets is None else targets)

    def check(self, model: HookedTransformer, prompts: Prompts) -> None:
        """Raise where the readout cannot be made from this model or these prompts."""
        if not self.metrics:
            raise ConfigError("a sweep needs at least one metric")
        if self.targets.answers.shape != prompts.reads.shape:
            raise PromptError("the readout's answers do not fit the prompts' read columns")
        for metric in self.metrics:
            if not bool(metric.present(self.targets).any()):
                raise PromptError(f"no prompt has an answer that {metric.name} could score; give answers")
            if metric.weights == "processed":
                require_weights(model, "processed", f"the metric {metric.name!r}")

    def score(
        self, logits: Float[Tensor, "row read vocab"], prompts: Int[Tensor, " row"]
    ) -> Float[Tensor, "row metric"]:
        """Every metric of every row; row r belongs to prompt `prompts[r]`."""
        targets = self.targets.take(prompts)
        return torch.stack([metric.score(logits, targets) for metric in self.metrics], dim=1)

    @property
    def narrow(self) -> bool:
        """Whether the metrics look at the logits of answers and foils alone."""
        return all(metric.narrow for metric in self.metrics)

    def score_of(
        self,
        logits_of: Callable[[Int[Tensor, "row read token"]], Float[Tensor, "row read token"]],
        prompts: Int[Tensor, " row"],
        absent: Bool[Tensor, "row read #one"],
    ) -> Float[Tensor, "row metric"]:
        """As `score`, from the logits of answers and foils alone: a vocabulary of two."""
        targets = self.targets.take(prompts)
        foils = targets.answers if targets.foils is None else targets.foils
        logits = logits_of(torch.stack([targets.answers, foils], -1).clamp(min=0)).masked_fill(absent, torch.nan)
        answers = torch.where(targets.answers < 0, -1, 0)
        others = torch.where(foils < 0, -1, (foils != targets.answers).long())
        two = Targets(answers, None if targets.foils is None else others)
        return torch.stack([metric.score(logits, two) for metric in self.metrics], dim=1)


@dataclass(frozen=True, eq=False)
class Sweep:
    """Scores of a sweep."""

    values: Float[Tensor, "prompt cell metric"]
    base: Float[Tensor, "prompt metric"]
    """The same metrics without any edit."""
    metrics: tuple[str, ...]
    path: str
    """How the values were computed."""
    reason: str
    """Why in this way."""


def start_layer(cell: Sequence[Edit], n_layers: int) -> int:
    """The first block that must be recomputed. An edit of resid_post touches only the blocks above."""
    every([edit.site for edit in cell], n_layers)
    return min(min(e.site.layer + 1, n_layers - 1) if e.site.name == "resid_post" else e.site.layer for e in cell)


def longest_read(prompts: Prompts) -> Int[Tensor, " prompt"]:
    """The two longest prompts of those that are read: what is tried out is tried on them."""
    read = (prompts.reads >= 0).any(1).nonzero().flatten()
    return read[prompts.lengths[read].argsort(descending=True)[:2]]


def unlike(found: Float[Tensor, "row read vocab"], wanted: Float[Tensor, "row read vocab"]) -> bool:
    """Whether logits made in another way are not the model's own, beyond rounding."""
    spread = float((wanted - wanted.mean(-1, keepdim=True)).nan_to_num().abs().max())
    tolerance = 1e-4 if wanted.dtype in (torch.float32, torch.float64) else 5e-2
    apart = (found.float() - wanted.float()).nan_to_num(posinf=torch.inf, neginf=torch.inf).abs().max()
    return not torch.equal(found.isnan(), wanted.isnan()) or not float(apart) <= tolerance * max(1.0, spread)


def changed(tokens: Float[Tensor, "token ..."], base: Float[Tensor, "token ..."]) -> Bool[Tensor, " token"]:
    """Which tokens differ from the base run's."""
    apart, size = (part.flatten(1).abs() for part in (tokens - base, base))
    unit = _ROUNDING.get(tokens.dtype, 0) * torch.finfo(tokens.dtype).eps
    found = (apart > unit * (size + size.amax(1, keepdim=True))).any(1)  # sure, and most are
    left = (~found).nonzero().flatten()
    if len(left):
        apart, size = apart[left], size[left]
        # Some few dimensions of a stream can be a thousand times as large as all others: they hide nothing here.
        found[left] = ~(apart <= unit * (size + size.median(1, keepdim=True).values)).all(1)
    return found
