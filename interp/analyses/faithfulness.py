"""Are the tokens that an attribution names those that the verdict hangs on? Taken away, kept alone, and compared with
the truth.

Comprehensiveness and sufficiency (DeYoung et al., arXiv 1911.03429): how far the log-odds fall back when the k tokens
with the largest shares are replaced by the baseline, and what is missing when only they are left. Where the words that
decide are known, recall says how many of them are among the k. All three at one k for all methods, k tokens drawn by
chance beside them. A judge that hangs on everything is hurt by any loss: read the difference from chance.
"""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.models.judge import Judge
from interp.models.judge_runs import Baseline, EntryRuns
from interp.models.run import MEMORY
from interp.prompts import Prompts


@dataclass(frozen=True, eq=False)
class Faithfulness:
    """One attribution's tokens put to the test, prompt by prompt. Nats are counted towards the verdict given."""

    method: str
    k: Int[Tensor, " prompt"]
    """Tokens taken: as many as there are that decide."""
    recall: Float[Tensor, " prompt"]
    """Share of the tokens that decide which are among the k."""
    share: Float[Tensor, " prompt"]
    """Share of all absolute attribution that falls on the tokens that decide."""
    even: Float[Tensor, " prompt"]
    """The same if it were spread evenly; also the recall of k tokens drawn by chance."""
    comprehensiveness: Float[Tensor, " prompt"]
    """Fall of the log-odds without the k tokens; large is good."""
    sufficiency: Float[Tensor, " prompt"]
    """Fall of the log-odds with the k tokens alone; small is good, below 0 the others spoke against the verdict."""
    random_comprehensiveness: Float[Tensor, " prompt"]
    random_sufficiency: Float[Tensor, " prompt"]
    """The same of k tokens drawn by chance, mean over draws."""
    groups: Int[Tensor, " prompt"]

    @property
    def ignored(self) -> Bool[Tensor, " prompt"]:
        """Prompts whose tokens that decide get less than an even spread would give them."""
        return self.share < self.even

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt."""
        names = ("k", "recall", "share", "even", "comprehensiveness", "sufficiency", "random_comprehensiveness",
                 "random_sufficiency")  # fmt: skip
        return pd.DataFrame({name: getattr(self, name).numpy() for name in names} | {"ignored": self.ignored.numpy()})


def faithfulness(
    judge: Judge,
    prompts: Prompts,
    values: Float[Tensor, "prompt pos"],
    decides: Bool[Tensor, "prompt pos"],
    *,
    method: str,
    baseline: Baseline = "mean",
    draws: int = 8,
    seed: int = 0,
    memory: int = MEMORY,
) -> Faithfulness:
    """Test an attribution of any method, signed or not: tokens are ranked by the size of their value.

    `decides` marks the tokens that decide, in the texts of `judge.prompts`. Tokens outside of the texts do not count.
    """
    run = EntryRuns(judge, prompts, memory)
    if values.shape != run.inside.shape or decides.shape != run.inside.shape:
        raise PromptError(f"values and decides must have the prompts' shape {tuple(run.inside.shape)}")
    if draws < 1:
        raise ConfigError("chance needs at least one draw")
    planted = decides & run.inside
    k = planted.sum(1)
    if bool((k == 0).any()):
        raise PromptError(f"prompt {int((k == 0).nonzero()[0])} has no token that decides")
    start, _ = run.start(baseline)
    size = values.abs().nan_to_num()
    chosen = _largest(size.masked_fill(~run.inside, -1.0), k)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(draws, *size.shape, generator=generator).masked_fill(~run.inside, -1.0)
    rows = torch.arange(len(prompts))
    base = run.score(run.stream, rows)
    towards = torch.where(base >= 0, 1.0, -1.0)

    def fall(replaced: Bool[Tensor, "prompt pos"]) -> Float[Tensor, " prompt"]:
        return towards * (base - run.score(torch.where(replaced[..., None], start, run.stream), rows))

    drawn = [_largest(part, k) for part in noise]
    inside = size.masked_fill(~run.inside, 0.0)
    return Faithfulness(
        method=method,
        k=k,
        recall=(chosen & planted).sum(1) / k,
        share=(inside * planted).sum(1) / inside.sum(1),
        even=k / run.inside.sum(1),
        comprehensiveness=fall(chosen),
        sufficiency=fall(run.inside & ~chosen),
        random_comprehensiveness=torch.stack([fall(part) for part in drawn]).mean(0),
        random_sufficiency=torch.stack([fall(run.inside & ~part) for part in drawn]).mean(0),
        groups=prompts.groups,
    )


def marked(prompts: Prompts, roles: tuple[str, ...]) -> Bool[Tensor, "prompt pos"]:
    """The columns of some roles; all tokens of a span where `role.first` tells where it begins."""
    columns = torch.arange(prompts.tokens.shape[1])
    known = [role for role in roles if role in prompts.roles]
    last = prompts.table(known)[..., None]
    first = prompts.table([f"{role}.first" if f"{role}.first" in prompts.roles else role for role in known])[..., None]
    return ((first <= columns) & (columns <= last) & (last >= 0)).any(1)


def _largest(values: Float[Tensor, "prompt pos"], k: Int[Tensor, " prompt"]) -> Bool[Tensor, "prompt pos"]:
    """The k largest of each row; the earlier of two equal ones."""
    rank = values.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    return rank < k[:, None]
