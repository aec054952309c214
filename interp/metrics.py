"""Metrics: from logits to one number per prompt, never a batch mean.

A prompt may be read at several answer tokens (the digits of a number). Each metric says how it scores one of them
(`per_token`) and how it joins them (`join`). A metric is nan where a prompt has nothing to score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.prompts import PromptPairs, Prompts


@dataclass(frozen=True, eq=False)
class Targets:
    """What the logits at the read columns are compared with."""

    answers: Int[Tensor, "prompt read"]
    """Correct token ids; -1 where there is nothing to read."""
    foils: Int[Tensor, "prompt read"] | None = None
    """Wrong token ids to compare with (the corrupted answer); -1 where there is none."""
    reference: Float[Tensor, "prompt read vocab"] | None = None
    """Log-probabilities to compare whole distributions with."""

    def take(self, rows: Int[Tensor, " row"]) -> Targets:
        """Targets of these prompts, on the device of `rows`."""
        answers, foils, reference = (
            None if part is None else part.to(rows.device)[rows] for part in (self.answers, self.foils, self.reference)
        )
        assert answers is not None
        return Targets(answers, foils, reference)

    def to(self, device: torch.device) -> Targets:
        """The same targets on a device."""
        return self.take(torch.arange(len(self.answers), device=device))

    @classmethod
    def of(cls, prompts: Prompts | PromptPairs) -> Targets:
        """The prompts' answers; for pairs the clean answers with the corrupted ones as foils."""
        if isinstance(prompts, Prompts):
            return cls(prompts.answers)
        return cls(prompts.clean.answers, prompts.corrupted.answers)


Join = Literal["sum", "mean", "product", "all", "max"]


@dataclass(frozen=True)
class Metric:
    """A named number per prompt with its unit."""

    name: str
    unit: str
    per_token: Callable[[Tensor, Targets], Tensor]
    """(logits [prompt, read, vocab], targets) -> [prompt, read]; nan where there is nothing to read."""
    join: Join
    """How the answer tokens of a prompt become one number; absent ones are left out."""
    uses_foils: bool = False
    """Whether answer tokens without a foil, or equal to it, are left out."""
    weights: Literal["any", "processed"] = "any"
    """`processed` where the number means nothing on a model whose unembedding is not centred."""
    narrow: bool = False
    """Whether the logits of answers and foils are all that it looks at."""
    read: int | None = None
    """The one answer token that is scored, by its place among the prompts' reads; None for all of them."""

    def score(self, logits: Float[Tensor, "prompt read vocab"], targets: Targets) -> Float[Tensor, " prompt"]:
        """One number per prompt, in float32 at least; nan where a prompt has nothing to score or its logits are nan."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        targets = targets.to(logits.device)
        return join(self.per_token(logits, targets), self.join, self.present(targets))

    def present(self, targets: Targets) -> Bool[Tensor, "prompt read"]:
        """Which answer tokens there are to score."""
        here = targets.answers >= 0
        if self.read is not None:
            here = here & (torch.arange(here.shape[1], device=here.device) == self.read)
        if not self.uses_foils or targets.foils is None:
            return here
        return here & (targets.foils >= 0) & (targets.foils != targets.answers)


def join(
    values: Float[Tensor, "prompt read"], how: Join, present: Bool[Tensor, "prompt read"]
) -> Float[Tensor, " prompt"]:
    """Join the answer tokens that are present; nan where there is none, or where one of them is nan."""
    if how == "max":
        joined = values.masked_fill(~present, -torch.inf).amax(1)
    elif how == "all":
        joined = values.masked_fill(~present, 1.0).amin(1)
    elif how == "product":
        joined = values.masked_fill(~present, 1.0).prod(1)
    else:
        joined = values.masked_fill(~present, 0.0).sum(1)
        if how == "mean":
            joined = joined / present.sum(1)
    return joined.masked_fill(~present.any(1), torch.nan)


def _pick(values: Float[Tensor, "prompt read vocab"], ids: Int[Tensor, "prompt read"]) -> Tensor:
    return values.gather(-1, ids.clamp(min=0)[..., None])[..., 0]


def _log_prob(logits: Tensor, targets: Targets) -> Tensor:
    found = _pick(logits, targets.answers) - logits.logsumexp(-1)
    return found.masked_fill(targets.answers < 0, torch.nan)


def _logit(logits: Tensor, targets: Targets) -> Tensor:
    return _pick(logits, targets.answers).masked_fill(targets.answers < 0, torch.nan)


def _logit_diff(logits: Tensor, targets: Targets) -> Tensor:
    if targets.foils is None:
        raise PromptError("logit_diff needs a wrong answer to compare with: give pairs, or use log_prob")
    same = (targets.answers < 0) | (targets.foils < 0) | (targets.answers == targets.foils)
    return (_pick(logits, targets.answers) - _pick(logits, targets.foils)).masked_fill(same, torch.nan)


def _rank(logits: Tensor, targets: Targets) -> Tensor:
    above = (logits >= _pick(logits, targets.answers)[..., None]).sum(-1).to(logits.dtype) - 1
    return above.masked_fill((targets.answers < 0) | logits.isnan().any(-1), torch.nan)


def _exact(logits: Tensor, targets: Targets) -> Tensor:
    right = (logits.argmax(-1) == targets.answers).to(logits.dtype)
    return right.masked_fill((targets.answers < 0) | logits.isnan().any(-1), torch.nan)


def _kl(logits: Tensor, targets: Targets) -> Tensor:
    if targets.reference is None:
        raise PromptError("kl needs a reference distribution: give Targets(reference=log-probabilities)")
    found = divergence(targets.reference.to(logits.dtype), logits.log_softmax(-1))
    return found.masked_fill(targets.answers < 0, torch.nan)


def divergence(reference: Float[Tensor, "*row vocab"], log_probs: Float[Tensor, "*row vocab"]) -> Float[Tensor, "*row"]:
    """Kullback-Leibler divergence from a reference's log-probabilities to others, in nats."""
    each = reference.exp() * (reference - log_probs)
    return each.masked_fill(reference == -torch.inf, 0.0).sum(-1)  # 0 log 0 is 0


logit_diff = Metric("logit_diff", "logits", _logit_diff, "mean", uses_foils=True, narrow=True)
"""Logit of the answer minus logit of the foil, mean over the answer tokens that differ."""
log_prob = Metric("log_prob", "nats", _log_prob, "sum")
"""Log-probability of the whole answer, its earlier tokens given."""
prob = Metric("prob", "probability", lambda logits, t: _log_prob(logits, t).exp(), "product")
"""Probability of the whole answer, its earlier tokens given."""
rank = Metric("rank", "tokens above", _rank, "max")
"""Number of other tokens with at least the answer's logit; the worst of the answer's tokens. 0 is the top, alone."""
exact_match = Metric("exact_match", "share", _exact, "all")
"""1 where every answer token is the top one. With the earlier tokens given, that is the same as greedy
generation being right."""
kl = Metric("kl", "nats", _kl, "mean")
"""Kullback-Leibler divergence from the reference to the model's distribution, mean over the answer's tokens."""
logit = Metric("logit", "logits", _logit, "mean", weights="processed", narrow=True)
"""The answer's logit, mean over the answer's tokens. Raw logits carry an arbitrary shift, so this needs a centred
unembedding."""

METRICS = {m.name: m for m in (logit_diff, log_prob, prob, rank, exact_match, kl, logit)}


def named(names: Sequence[str]) -> list[Metric]:
    """Metrics by name. Raises ConfigError for an unknown one."""
    for name in names:
        if name not in METRICS:
            raise ConfigError(f"there is no metric {name!r}; choose from {', '.join(METRICS)}")
    return [METRICS[name] for name in names]


def at_each(metric: Metric | str, prompts: Prompts) -> list[Metric]:
    """A metric of each answer token by itself: `exact_match answer.tens`, in the order of the prompts' reads."""
    base = named([metric])[0] if isinstance(metric, str) else metric
    return [replace(base, name=f"{base.name} {name}", read=i) for i, name in enumerate(prompts.read_names)]


def which(names: Sequence[str], metric: str | None) -> int:
    """The place of a metric among those that were measured, by default the first."""
    if metric is None:
        return 0
    if metric not in names:
        raise ConfigError(f"the metric {metric!r} was not measured; there are: {', '.join(names)}")
    return list(names).index(metric)


def largest_prob(name: str = "largest_prob") -> Metric:
    """Largest probability of the answer among the read columns: does it come at any of these places?"""
    return Metric(name, "probability", prob.per_token, "max")
