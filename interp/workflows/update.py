"""What did an update change, and which of its parts did it? A judge before and after, prompt by prompt.

Verdicts, attention and representations are described on the same prompts. Which modules matter is asked of the model:
each module's change is switched on alone and off alone, and the most needed ones are switched off together, beside as
many of the least needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from rich.progress import track
from torch import Tensor

from interp.analyses.similarity import cka
from interp.errors import ModelError, PromptError
from interp.estimates import Estimate, halves, mean, mean_value, rank_correlation, share_change
from interp.models.judge import Judge
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, capture
from interp.models.switching import changes_between, layer_of, switched_on
from interp.prompts import Prompts
from interp.sites import Site

TOLERANCE = 1e-3
"""By how much (nats) the model with every change switched on may differ from the updated one."""


@dataclass(frozen=True, eq=False)
class UpdateComparison:
    """One judge before and after an update."""

    before: Float[Tensor, " prompt"]
    """Log-odds of unsafe; nats."""
    after: Float[Tensor, " prompt"]
    unsafe: Bool[Tensor, " prompt"]
    """The truth."""
    categories: tuple[str, ...]
    """What each prompt is of, for instance known or weak acts."""
    attention: Float[Tensor, "prompt layer head"]
    """Change of each head's attention from the verdict's position: total variation, 0 to 1."""
    representation: Float[Tensor, "prompt depth"]
    """1 less the cosine of the streams at the verdict's position, before layer 0 and after each layer."""
    alignment: Float[Tensor, "depth end"]
    """CKA of the streams there with the ends of its interval: value, low, high."""
    modules: tuple[str, ...]
    """Weights that the update changed."""
    only: Float[Tensor, "prompt module"]
    """Log-odds with one module's change alone."""
    without: Float[Tensor, "prompt module"]
    """Log-odds with all changes but one module's."""
    layers: tuple[int, ...]
    """Layers that have changed modules; -1 for what belongs to none."""
    layer_only: Float[Tensor, "prompt layer_changed"]
    layer_without: Float[Tensor, "prompt layer_changed"]
    order: tuple[int, ...]
    """Modules from the most to the least needed, by the searching half of the target prompts."""
    most_off: Float[Tensor, "prompt module"]
    """Log-odds with the first 1, 2, ... modules of that order switched off."""
    least_off: Float[Tensor, "prompt module"]
    """The same from the other end: as many modules, the least needed."""
    target: Bool[Tensor, " prompt"]
    """Prompts that the update was for."""
    searched: Bool[Tensor, " prompt"]
    """The half of the groups on which the order was chosen."""
    groups: Int[Tensor, " prompt"]

    @property
    def change(self) -> Float[Tensor, " prompt"]:
        """Change of the log-odds."""
        return self.after - self.before

    @property
    def flips(self) -> Bool[Tensor, " prompt"]:
        """Prompts whose verdict turned."""
        return (self.before > 0) != (self.after > 0)

    def right(self, log_odds: Float[Tensor, "prompt ..."]) -> Float[Tensor, "prompt ..."]:
        """1 where a verdict is the truth."""
        truth = self.unsafe.reshape(-1, *[1] * (log_odds.ndim - 1))
        return ((log_odds > 0) == truth).float()

    def accuracy_change(self, category: str | None = None) -> Estimate:
        """Accuracy after less before, on one category or all."""
        kept = torch.tensor([category is None or name == category for name in self.categories])
        right = self.right(self.after) - self.right(self.before)
        return mean(right[kept], self.groups[kept])

    def tracks(self) -> dict[str, Estimate]:
        """Do verdicts change where attention and representations do? Rank correlations with the size of the change."""
        size, groups = self.change.abs(), self.groups
        return {
            "attention": rank_correlation(size, self.attention.flatten(1).mean(1), groups),
            "representation": rank_correlation(size, self.representation[:, -1], groups),
        }

    @property
    def needed(self) -> int:
        """How many modules must be switched off until the weakness is back on the searching half: its accuracy within
        5 points of that before. All of them where nothing less does it."""
        kept = self.target & self.searched
        back = mean_value(self.right(self.most_off)[kept]) - mean_value(self.right(self.before)[kept][:, None])
        return int(np.argmax(np.append(back <= 0.05, True))) + 1 if len(back) else 0

    @property
    def which(self) -> tuple[str, ...]:
        """The modules that matter: the fewest whose switching off brings the weakness back."""
        return tuple(self.modules[i] for i in self.order[: self.needed])

    def lost(self, least: bool = False) -> Estimate:
        """Accuracy on the target prompts of the other half that goes with these modules (or with as many of the least
        needed)."""
        kept = self.target & ~self.searched
        off = (self.least_off if least else self.most_off)[:, min(self.needed, len(self.modules)) - 1]
        return share_change(self.right(self.after)[kept] - self.right(off)[kept], self.groups[kept])

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and module."""
        shape = self.only.shape
        return pd.DataFrame(
            {
                "prompt": np.repeat(np.arange(shape[0]), shape[1]),
                "category": np.repeat(np.asarray(self.categories, dtype=object), shape[1]),
                "module": list(self.modules) * shape[0],
                "before": np.repeat(self.before.numpy(), shape[1]),
                "after": np.repeat(self.after.numpy(), shape[1]),
                "only": self.only.numpy().reshape(-1),
                "without": self.without.numpy().reshape(-1),
            }
        )


def compare_update(
    before: Judge,
    after: Judge,
    prompts: Prompts,
    unsafe: Sequence[bool] | Bool[Tensor, " prompt"],
    *,
    categories: Sequence[str] | None = None,
    target: str | None = None,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> UpdateComparison:
    """Compare two judges of one architecture on prompts that either made (they must share tokenizer and template).

    `target` is the category that the update was for; by default all unsafe prompts.
    """
    label = torch.as_tensor(unsafe, dtype=torch.bool)
    named = tuple("all" for _ in range(len(prompts))) if categories is None else tuple(map(str, categories))
    if len(label) != len(prompts) or len(named) != len(prompts):
        raise PromptError(f"{len(label)} labels and {len(named)} categories do not fit {len(prompts)} prompts")
    if (before.template, before.safe, before.unsafe) != (after.template, after.safe, after.unsafe):
        raise ModelError("the judges are asked differently; compare two forms of one judge")
    aimed = torch.tensor([target is None or name == target for name in named]) & label
    if not bool(aimed.any()):
        raise PromptError(f"no unsafe prompt is of the category {target!r}; there are: {', '.join(sorted(set(named)))}")
    changes = changes_between(before.model, after.model)
    if not changes:
        raise ModelError("the update changes no weight; there is nothing to compare")
    names = tuple(changes)
    looks, streams = zip(*(_described(judge.model, prompts, memory) for judge in (before, after)), strict=True)
    own, other = (judge.log_odds(prompts, memory=memory) for judge in (before, after))
    steps = 4 * len(names) + 2 * len({layer_of(name) for name in names})
    bar: Iterator[int] = iter(track(range(steps), "switching modules", disable=not progress, transient=True))

    def with_changes(on: Sequence[str]) -> Float[Tensor, " prompt"]:
        next(bar, None)
        with switched_on(before.model, changes, on):
            return before.log_odds(prompts, memory=memory)

    if float((with_changes(names) - other).abs().max()) > TOLERANCE * max(1.0, float(other.abs().max())):
        raise ModelError(
            "the weights do not tell the whole update: with every change switched on the judge differs from the "
            "updated one; give it as a merged model"
        )
    only, without = _each([[name] for name in names], names, with_changes)
    layers = sorted({-1 if (at := layer_of(name)) is None else at for name in names})
    of_layer = [[name for name in names if (-1 if (at := layer_of(name)) is None else at) == layer] for layer in layers]
    layer_only, layer_without = _each(of_layer, names, with_changes)
    searched = torch.from_numpy(halves(prompts.groups, seed=seed)[0])
    towards = (other - own)[:, None].sign()
    lost = (towards * (other[:, None] - without))[aimed & searched]
    order = np.argsort(-mean_value(lost), kind="stable").tolist()
    most, least = (
        torch.stack(
            [with_changes([n for n in names if n not in off]) for off in accumulate([[names[i]] for i in way])], 1
        )
        for way in (order, order[::-1])
    )
    ends = [cka(one, two, prompts.groups) for one, two in zip(*(part.unbind(1) for part in streams), strict=True)]
    return UpdateComparison(
        before=own, after=other, unsafe=label, categories=named,
        attention=(looks[0] - looks[1]).abs().sum(-1) / 2,
        representation=1 - torch.nn.functional.cosine_similarity(*streams, dim=-1),
        alignment=torch.tensor([[float(e.value), float(e.low), float(e.high)] for e in ends]),
        modules=names, only=only, without=without, layers=tuple(layers), layer_only=layer_only,
        layer_without=layer_without, order=tuple(order), most_off=most, least_off=least, target=aimed,
        searched=searched, groups=prompts.groups,
    )  # fmt: skip


def _each(
    parts: Sequence[Sequence[str]], names: Sequence[str], run: Callable[[Sequence[str]], Tensor]
) -> tuple[Float[Tensor, "prompt part"], Float[Tensor, "prompt part"]]:
    """Log-odds with each part's changes alone, and with all but each part's."""
    alone = [run(part) for part in parts]
    others = [run([name for name in names if name not in part]) for part in parts]
    return torch.stack(alone, 1), torch.stack(others, 1)


def _described(
    model: HookedTransformer, prompts: Prompts, memory: int
) -> tuple[Float[Tensor, "prompt layer head key"], Float[Tensor, "prompt depth d_model"]]:
    """Attention and streams at the verdict's position."""
    last = int(model.cfg.n_layers) - 1
    found = capture(model, prompts, ["pattern", "resid_pre", Site("resid_post", last)], memory=memory)
    rows, at = torch.arange(len(prompts)), prompts.columns("verdict")
    looks = found.stack("pattern").float().cpu()[rows, :, :, at].nan_to_num()
    return looks, found.residual().float().cpu()[rows, :, at]
