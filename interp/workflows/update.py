"""What did an update change, and which of its parts did it? A judge before and after, prompt by prompt.

Verdicts, attention and representations are described on the same prompts. Which modules matter is asked of the model:
each module's change is switched on alone and off alone, and the most needed ones are switched off together, beside
random sets of as many. Any change of the weights moves verdicts where it moves representations; so the same is asked
with the changes in disorder (the changed rows and columns of each dealt out anew, the whole scaled to move as far).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import comb
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from rich.progress import track
from torch import Tensor

from interp.analyses.similarity import cka
from interp.errors import ModelError, PromptError
from interp.estimates import Estimate, halves, mean, mean_value, rank_correlation, rank_correlation_value, share_change
from interp.models.judge import LOG_ODDS, Judge, truth
from interp.models.run import MEMORY, batches, capture
from interp.models.switching import Changes, changes_between, layer_of, switched_on
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
    random_off: Float[Tensor, "prompt set"]
    """Log-odds with random other sets of `needed` modules switched off; no column where there is no other set."""
    disordered: Float[Tensor, "draw track"]
    """What `tracks` gives (attention, representation) for changes in disorder."""
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
        size = self.change.abs()
        return {name: rank_correlation(size, moved, self.groups) for name, moved in self._moved.items()}

    @property
    def needed(self) -> int:
        """How many modules must be switched off until the weakness is back on the searching half: its accuracy within
        5 points of that before. All of them where nothing less does it."""
        return _needed(self.right(self.most_off), self.right(self.before), self.target & self.searched)

    @property
    def which(self) -> tuple[str, ...]:
        """The modules that matter: the fewest whose switching off brings the weakness back."""
        return tuple(self.modules[i] for i in self.order[: self.needed])

    def off(self) -> Float[Tensor, " prompt"]:
        """Log-odds without the modules that matter."""
        return self.most_off[:, self.needed - 1]

    def held(self) -> Bool[Tensor, " prompt"]:
        """The target prompts that the choice of modules did not see."""
        return self.target & ~self.searched

    def lost(self) -> Estimate:
        """Accuracy on `held` that goes with the modules that matter."""
        kept = self.held()
        return share_change(self.right(self.after)[kept] - self.right(self.off())[kept], self.groups[kept])

    def lost_by_chance(self) -> Estimate:
        """The mean of the same over random sets of as many modules; nan where there is no other set."""
        kept = self.held()
        return mean(self.right(self.after)[kept] - self._by_chance(kept), self.groups[kept])

    def beyond_chance(self) -> Estimate:
        """`lost` less `lost_by_chance`, prompt by prompt."""
        kept = self.held()
        return mean(self._by_chance(kept) - self.right(self.off())[kept], self.groups[kept])

    def from_before(self) -> Estimate:
        """Accuracy on `held` without the modules that matter, less that before the update: 0 where the weakness is
        back whole."""
        return self._from_before(self.held())

    def others_kept(self) -> Estimate:
        """Accuracy on all but the target prompts without the modules that matter, less that before: a switch that
        wrecks the judge would bring any weakness back."""
        return self._from_before(~self.target)

    def _from_before(self, kept: Bool[Tensor, " prompt"]) -> Estimate:
        return share_change(self.right(self.off())[kept] - self.right(self.before)[kept], self.groups[kept])

    def _by_chance(self, kept: Bool[Tensor, " prompt"]) -> Float[Tensor, " held"]:
        # The mean over no set is nan, which is what is meant.
        return self.right(self.random_off)[kept].mean(1)

    @property
    def _moved(self) -> dict[str, Float[Tensor, " prompt"]]:
        return {"attention": self.attention.flatten(1).mean(1), "representation": self.representation[:, -1]}

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
    unsafe: Iterable[Any],
    *,
    categories: Sequence[str] | None = None,
    target: str | None = None,
    draws: int = 16,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> UpdateComparison:
    """Compare two judges of one architecture on prompts that either made (they must share tokenizer and template).

    `target` is the category that the update was for; by default all unsafe prompts. `draws` is how many random sets of
    modules and how many disordered updates are asked.
    """
    label = truth(unsafe, len(prompts))
    named = tuple("all" for _ in range(len(prompts))) if categories is None else tuple(map(str, categories))
    if len(named) != len(prompts):
        raise PromptError(f"{len(named)} categories do not fit {len(prompts)} prompts")
    if (before.template, before.safe, before.unsafe) != (after.template, after.safe, after.unsafe):
        raise ModelError("the judges are asked differently; compare two forms of one judge")
    aimed = torch.tensor([target is None or name == target for name in named]) & label
    if not bool(aimed.any()):
        raise PromptError(f"no unsafe prompt is of the category {target!r}; there are: {', '.join(sorted(set(named)))}")
    searched = _searched(prompts.groups, aimed, seed)
    changes = changes_between(before.model, after.model)
    if not changes:
        raise ModelError("the update changes no weight; there is nothing to compare")
    names = tuple(changes)
    looks, streams, (own, other) = zip(*(_described(judge, prompts, memory) for judge in (before, after)), strict=True)
    steps = 3 * len(names) + 2 * len({layer_of(name) for name in names}) + draws
    bar: Iterator[int] = iter(track(range(steps), "switching modules", disable=not progress, transient=True))

    def with_changes(on: Sequence[str]) -> Float[Tensor, " prompt"]:
        next(bar, None)
        with switched_on(before.model, changes, on):
            return before.log_odds(prompts, memory=memory)

    if not float((with_changes(names) - other).abs().max()) <= TOLERANCE * max(1.0, float(other.abs().max())):
        raise ModelError(
            "the weights do not tell the whole update: with every change switched on the judge differs from the "
            "updated one; give it as a merged model"
        )
    only, without = _each([[name] for name in names], names, with_changes)
    layers = sorted({-1 if (at := layer_of(name)) is None else at for name in names})
    of_layer = [[name for name in names if (-1 if (at := layer_of(name)) is None else at) == layer] for layer in layers]
    layer_only, layer_without = _each(of_layer, names, with_changes)
    towards = (other - own)[:, None].sign()
    lost = (towards * (other[:, None] - without))[aimed & searched]
    order = np.argsort(-mean_value(lost), kind="stable").tolist()
    ways = accumulate([[names[i]] for i in order])
    most = torch.stack([with_changes([name for name in names if name not in off]) for off in ways], 1)
    wanted = label[:, None]
    needed = _needed(((most > 0) == wanted).float(), ((own > 0) == label).float(), aimed & searched)
    chance = [
        with_changes([names[i] for i in range(len(names)) if i not in off])
        for off in _other_sets(len(names), frozenset(order[:needed]), draws, seed)
    ]
    disordered = [
        _in_disorder(
            before,
            prompts,
            looks[0],
            streams[0],
            own,
            changes,
            wanted=float((other - own).abs().mean()),
            seed=seed * draws + draw,
            memory=memory,
        )
        for draw in range(draws)
    ]
    ends = [cka(one, two, prompts.groups) for one, two in zip(*(part.unbind(1) for part in streams), strict=True)]
    return UpdateComparison(
        before=own, after=other, unsafe=label, categories=named,
        attention=_looks_apart(*looks), representation=_streams_apart(*streams),
        alignment=torch.tensor([[float(e.value), float(e.low), float(e.high)] for e in ends]),
        modules=names, only=only, without=without, layers=tuple(layers), layer_only=layer_only,
        layer_without=layer_without, order=tuple(order), most_off=most, target=aimed,
        random_off=torch.stack(chance, 1) if chance else torch.zeros(len(prompts), 0),
        disordered=torch.tensor(disordered).reshape(draws, 2),
        searched=searched, groups=prompts.groups,
    )  # fmt: skip


def _searched(groups: Int[Tensor, " prompt"], aimed: Bool[Tensor, " prompt"], seed: int) -> Bool[Tensor, " prompt"]:
    """Half of the groups, so that both halves hold as many groups of the target as can be."""
    own = groups[aimed].unique()
    if len(own) < 2:
        raise PromptError("the target prompts are of one group; modules are chosen on half of the groups: give more")
    first = halves(own, seed=seed)[0]
    others = groups[~torch.isin(groups, own)].unique()
    chosen = own[torch.from_numpy(first)]
    if len(others) > 1:
        chosen = torch.cat([chosen, others[torch.from_numpy(halves(others, seed=seed)[0])]])
    return torch.isin(groups, chosen)


def _needed(
    off: Float[Tensor, "prompt module"], before: Float[Tensor, " prompt"], kept: Bool[Tensor, " prompt"]
) -> int:
    back = np.abs(mean_value(off[kept]) - mean_value(before[kept][:, None]))
    return int(np.argmax(np.append(back[:-1] <= 0.05, True))) + 1


def _other_sets(n: int, chosen: frozenset[int], draws: int, seed: int) -> list[frozenset[int]]:
    """Random sets of as many modules as are chosen, none of them twice and none the chosen one."""
    rng = np.random.default_rng(seed)
    wanted = min(draws, comb(n, len(chosen)) - 1)
    found: dict[frozenset[int], None] = {}
    while len(found) < wanted:
        drawn = frozenset(rng.choice(n, size=len(chosen), replace=False).tolist())
        if drawn != chosen:
            found[drawn] = None
    return list(found)


def _in_disorder(
    before: Judge,
    prompts: Prompts,
    looks: Float[Tensor, "prompt layer head key"],
    streams: Float[Tensor, "prompt depth d_model"],
    own: Float[Tensor, " prompt"],
    changes: Changes,
    *,
    wanted: float,
    seed: int,
    memory: int,
) -> list[float]:
    """Rank correlations of `tracks` for the update with the changed rows and columns of every weight dealt out anew.

    The whole is scaled, in a few steps, until the log-odds move on the average as far as `wanted`: correlations grow
    with the size of a change.
    """
    generator = torch.Generator().manual_seed(seed)
    dealt = {name: _dealt(change, generator) for name, change in changes.items()}
    for _ in range(2):
        with switched_on(before.model, dealt, tuple(dealt)):
            moved = float((before.log_odds(prompts, memory=memory) - own).abs().mean())
        dealt = {name: change * (wanted / moved if moved > 0 else 1.0) for name, change in dealt.items()}
    with switched_on(before.model, dealt, tuple(dealt)):
        there, then, odds = _described(before, prompts, memory)
    size, apart = (odds - own).abs(), (_looks_apart(looks, there).flatten(1).mean(1), _streams_apart(streams, then))
    return [rank_correlation_value(size, moved) for moved in (apart[0], apart[1][:, -1])]


def _dealt(change: Tensor, generator: torch.Generator) -> Tensor:
    """The rows that are not zero exchanged among each other, then the columns."""
    for axis in range(change.ndim):
        others = [other for other in range(change.ndim) if other != axis]
        there = ((change != 0).sum(others) if others else change != 0).nonzero().flatten()
        order = there[torch.randperm(len(there), generator=generator).to(there.device)]
        change = change.index_copy(axis, there, change.index_select(axis, order))
    return change


def _looks_apart(
    one: Float[Tensor, "prompt layer head key"], other: Float[Tensor, "prompt layer head key"]
) -> Float[Tensor, "prompt layer head"]:
    return (one - other).abs().sum(-1) / 2


def _streams_apart(
    one: Float[Tensor, "prompt depth d_model"], other: Float[Tensor, "prompt depth d_model"]
) -> Float[Tensor, "prompt depth"]:
    return 1 - torch.nn.functional.cosine_similarity(one, other, dim=-1)


def _each(
    parts: Sequence[Sequence[str]], names: Sequence[str], run: Callable[[Sequence[str]], Tensor]
) -> tuple[Float[Tensor, "prompt part"], Float[Tensor, "prompt part"]]:
    """Log-odds with each part's changes alone, and with all but each part's."""
    alone = [run(part) for part in parts]
    others = [run([name for name in names if name not in part]) for part in parts]
    return torch.stack(alone, 1), torch.stack(others, 1)


def _described(
    judge: Judge, prompts: Prompts, memory: int
) -> tuple[Float[Tensor, "prompt layer head key"], Float[Tensor, "prompt depth d_model"], Float[Tensor, " prompt"]]:
    """Attention and streams at the verdict's position, and the log-odds, in one pass; no more is kept of it."""
    known = int(judge.model.cfg.n_layers)
    sites = ["pattern", "resid_pre", Site("resid_post", known - 1), "logits"]
    looks, streams, odds = [], [], []
    parts = batches(judge.model, prompts, memory // known)
    for rows in parts:
        some = prompts.take(rows)
        found, here = capture(judge.model, some, sites, memory=memory), torch.arange(len(rows))
        at = some.columns("verdict")
        look = found.stack("pattern").float().cpu()[here, :, :, at].nan_to_num()
        looks.append(torch.nn.functional.pad(look, (0, prompts.tokens.shape[1] - look.shape[-1])))
        streams.append(found.residual().float().cpu()[here, :, at])
        odds.append(LOG_ODDS.score(found["logits"], judge.targets(some)).cpu())
    back = torch.cat(parts).argsort()
    look, stream, odd = (torch.cat(one)[back] for one in (looks, streams, odds))
    return look, stream, odd
