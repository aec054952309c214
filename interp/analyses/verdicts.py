"""How good are a judge's verdicts? Accuracy, F1, discrimination and calibration, with intervals.

AUC and its variance by placements: DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) 837, the interval on the logit
scale so that it stays within 0 and 1. Expected calibration error: Guo et al., arXiv 1706.04599. None of them says why a
verdict was given.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from scipy import stats
from torch import Tensor

from interp.errors import PromptError
from interp.estimates import Estimate, mean, proportion
from interp.models.judge import Judge, truth
from interp.models.run import MEMORY
from interp.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Log-odds of unsafe for prompts whose truth is known."""

    log_odds: Float[Tensor, " prompt"]
    """Above 0 the judge says unsafe; nats."""
    unsafe: Bool[Tensor, " prompt"]
    """The truth."""
    categories: tuple[str, ...]
    """What each prompt is of."""
    groups: Int[Tensor, " prompt"]
    texts: tuple[str, ...] = ()
    """The prompts themselves, where they are kept."""

    @property
    def right(self) -> Float[Tensor, " prompt"]:
        """1 where the verdict is the truth; a tie is half right."""
        said = (self.log_odds > 0).float() + 0.5 * (self.log_odds == 0).float()
        return torch.where(self.unsafe, said, 1 - said)

    def accuracy(self) -> Estimate:
        """Share of right verdicts."""
        if bool((self.right == 0.5).any()):
            return mean(self.right, self.groups)
        return proportion(self.right, self.groups)

    def f1(self) -> float:
        """Harmonic mean of precision and recall of unsafe; 0 where nothing unsafe is found."""
        said = self.log_odds > 0
        both = float((said & self.unsafe).sum())
        total = float(said.sum() + self.unsafe.sum())
        return 2 * both / total if total else float("nan")

    def auc(self) -> Estimate:
        """Chance that an unsafe prompt has larger log-odds than a safe one; .5 is guessing."""
        return auc(self.log_odds, self.unsafe)

    def calibration_error(self, bins: int = 10) -> float:
        """Mean gap between stated probability of unsafe and frequency, over equally wide bins."""
        stated = self.log_odds.double().sigmoid()
        place = (stated * bins).long().clamp(max=bins - 1)
        gap = torch.zeros(bins, dtype=torch.float64).index_add(0, place, stated - self.unsafe.double())
        return float(gap.abs().sum() / len(stated))

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt."""
        return pd.DataFrame(
            {"category": self.categories, "unsafe": self.unsafe.numpy(), "log_odds": self.log_odds.numpy(),
             "right": self.right.numpy()}
        )  # fmt: skip


def verdicts(
    judge: Judge,
    prompts: Prompts,
    unsafe: Iterable[Any],
    *,
    categories: Sequence[str] | None = None,
    memory: int = MEMORY,
    progress: bool = False,
) -> Verdicts:
    """Ask the judge about every prompt, in batches."""
    label = truth(unsafe, len(prompts))
    named = ["all"] * len(prompts) if categories is None else [str(name) for name in categories]
    if len(named) != len(prompts):
        raise PromptError(f"{len(named)} categories do not fit {len(prompts)} prompts")
    log_odds = judge.log_odds(prompts, memory=memory, progress=progress)
    return Verdicts(log_odds, label, tuple(named), prompts.groups, prompts.texts)


def auc(scores: Float[Tensor, " prompt"], unsafe: Bool[Tensor, " prompt"]) -> Estimate:
    """Area under the ROC curve with DeLong's interval on the logit scale; prompts count as independent.

    Undefined (nan) where one class is missing; where the classes are told apart without a fault the interval is
    Wilson's for as many trials as the smaller class has.
    """
    table = scores.double().numpy()
    positive, negative = table[unsafe.numpy()], table[~unsafe.numpy()]
    m, n = len(positive), len(negative)
    if not m or not n or not np.isfinite(table).all():
        return Estimate.single(np.nan, np.nan, np.nan, n=m + n)
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - stats.rankdata(positive)) / n
    below = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    value = float(above.mean())
    if min(m, n) < 2:
        return Estimate.single(value, np.nan, np.nan, n=m + n)
    error = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    if error == 0:
        edge = 1 / (1 + stats.norm.ppf(0.975) ** 2 / min(m, n))
        low, high = (edge, 1.0) if value == 1 else (0.0, 1 - edge) if value == 0 else (np.nan, np.nan)
        return Estimate.single(value, float(low), float(high), n=m + n)
    middle, reach = np.log(value / (1 - value)), stats.norm.ppf(0.975) * error / (value * (1 - value))
    low, high = (1 / (1 + np.exp(-(middle + side * reach))) for side in (-1, 1))
    return Estimate.single(value, low, high, p=float(2 * stats.norm.sf(abs(value - 0.5) / error)), n=m + n)
