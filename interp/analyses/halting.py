"""Does the direction cause the halting? Add it where the token is not, take it away where it is, copy it between twins.

Directions are mean deltas of one half of the prompts; they are tried on the other half, which shares no template with
it. What a direction does is compared with what random directions of its length and neutral tokens' own deltas do at
*their* best cell of the same grid, so that having searched depths and positions is inside the null. Adding (Turner et
al., arXiv 2308.10248) shows that a direction suffices, projecting out (Arditi et al., arXiv 2406.11717) that it is
needed, copying the stream between twins (Zhang & Nanda, arXiv 2309.16042) that the place carries the difference at
all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.estimates import Estimate, difference, mean, mean_value, rank_p
from interp.metrics import METRICS, Targets, largest_prob
from interp.models.contrast import cut, depth_name, offset_name, reading_end
from interp.models.edits import Add, Copy, Edit, ProjectOut
from interp.models.generation import generate
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, capture
from interp.models.sweeps import Edits, Readout, sweep, unedited
from interp.prompts import Position, Prompts
from interp.results import grid_frame
from interp.sites import Site
from interp.twins import TOKEN, Twins

Action = Literal["add", "project out", "copy"]
FEWEST_RANDOM = 64


@dataclass(frozen=True, eq=False)
class CausalGrid:
    """Probability of the end with each direction added (projected out, copied) at each depth and position."""

    action: Action
    token: str
    end: str
    depths: tuple[str, ...]
    offsets: tuple[str, ...]
    values: Float[Tensor, "prompt depth offset"]
    """Largest probability of the end at the token or up to three tokens after it."""
    random: Float[Tensor, "prompt direction depth offset"]
    """With random directions of the same length at each cell."""
    neutral: Float[Tensor, "prompt token depth offset"]
    """With the neutral tokens' own directions, at the length of the token's (copy: with another neutral twin's
    stream)."""
    base: Float[Tensor, " prompt"]
    """Without any edit: neutral twins (add, copy), prompts with the token (project out)."""
    chosen: tuple[int, int]
    """Depth (after the embedding) and offset that were best on the prompts which the directions come from."""
    groups: Int[Tensor, " prompt"]

    @property
    def sign(self) -> float:
        """1 where the probability should rise, -1 where it should fall."""
        return -1.0 if self.action == "project out" else 1.0

    def change(self, which: str = "values") -> Float[Tensor, "prompt ..."]:
        """Change in the expected direction, as a share of probability."""
        found: Tensor = getattr(self, which)
        return self.sign * (found - self.base.reshape(-1, *[1] * (found.ndim - 1)))

    def effect(self) -> Estimate:
        """Mean change at the chosen cell."""
        return mean(self.change()[:, *self.chosen], self.groups)

    def strongest(self, which: Literal["random", "neutral"] = "random") -> tuple[Float[Tensor, " prompt"], str]:
        """The change by the other direction that does most, at the cell where it does most, and where that is."""
        table = self.change(which)
        if not table.shape[1]:
            raise ConfigError(f"no {which} direction was tried here, so there is no strongest one")
        found = torch.from_numpy(mean_value(table)).nan_to_num(-torch.inf)
        best = int(found.argmax())
        direction, depth, offset = (int(i) for i in torch.unravel_index(torch.tensor(best), found.shape))
        return table[:, direction, depth, offset], f"{self.depths[depth]}, {self.offsets[offset]}"

    def beyond(self) -> Estimate:
        """Change at the chosen cell less that of the strongest random or neutral direction at its own best cell."""
        rivals = [self.strongest(which)[0] for which in ("random", "neutral") if getattr(self, which).shape[1]]
        control = max(rivals, key=lambda rival: float(mean_value(rival)))
        return difference(self.change()[:, *self.chosen], control, self.groups)

    def p_value(self, which: Literal["random", "neutral"] = "random") -> float:
        """Chance that another direction does as much at its best cell as this one does at its own."""
        own, null = (mean_value(self.change(name)) for name in ("values", which))
        return float(rank_p(_largest(own[None])[0], _largest(null), largest=False))

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, depth and offset."""
        return grid_frame({"depth": self.depths, "offset": self.offsets}, value=self.values).assign(action=self.action)


@dataclass(frozen=True, eq=False)
class Dose:
    """Probability of the end by the multiple of the direction that is added at one cell."""

    where: str
    doses: tuple[float, ...]
    values: Float[Tensor, "prompt dose"]
    random: Float[Tensor, "prompt direction dose"]
    neutral: Float[Tensor, "prompt token dose"]
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and dose."""
        return grid_frame({"dose": self.doses}, value=self.values, random=self.random.mean(1))


@dataclass(frozen=True, eq=False)
class Halting:
    """Did the text that the model wrote itself halt, with the edits in force while it wrote?"""

    conditions: tuple[str, ...]
    """`token`, `neutral token`, `neutral token + direction`, `token - direction` (projected out at every depth)."""
    halted: Float[Tensor, "prompt condition"]
    random: Float[Tensor, "prompt direction action"]
    """With random directions added to neutral twins (0), projected out of prompts with the token (1)."""
    where: str
    within: int
    """Tokens within which the end must come."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and condition."""
        return grid_frame({"condition": self.conditions}, halted=self.halted)


@dataclass(frozen=True, eq=False)
class SideEffects:
    """Divergence of the next-token distributions on unrelated text while an edit is in force, nats."""

    edits: tuple[str, ...]
    """`project out` every direction at its depth, at every token; `add` one once, at the second token."""
    values: Float[Tensor, "prompt edit"]
    random: Float[Tensor, "prompt direction edit"]
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and edit."""
        return grid_frame({"edit": self.edits}, value=self.values, random=self.random.mean(1))


@dataclass(frozen=True, eq=False)
class Transfer:
    """Probability of the end with directions from elsewhere, added to neutral twins at one cell, all of one length."""

    where: str
    sources: tuple[str, ...]
    values: Float[Tensor, "prompt source"]
    base: Float[Tensor, " prompt"]
    random: Float[Tensor, "prompt direction"]
    neutral: Float[Tensor, "prompt token"]
    """With neutral tokens' directions; nan where the prompt holds that token."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt and source."""
        return grid_frame({"source": self.sources}, value=self.values)


def random_like(
    directions: Float[Tensor, "site offset d_model"], count: int, *, seed: int = 0
) -> Float[Tensor, "direction site offset d_model"]:
    """Random directions, each of the length of the direction at its cell."""
    drawn = torch.randn(count, *directions.shape, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True) * directions.norm(dim=-1, keepdim=True)


def matched_length(
    vectors: Float[Tensor, "vector *any d_model"], like: Float[Tensor, "*any d_model"]
) -> Float[Tensor, "vector *any d_model"]:
    """The vectors at the length of another; zero where they have no direction."""
    return torch.nan_to_num(vectors / vectors.norm(dim=-1, keepdim=True)) * like.norm(dim=-1, keepdim=True)


def causal_grid(
    model: HookedTransformer,
    twins: Twins,
    sites: Sequence[Site],
    directions: Float[Tensor, "token site offset d_model"],
    end: int,
    *,
    action: Action = "add",
    chosen_on: Twins | None = None,
    random_directions: int = FEWEST_RANDOM,
    rivals: bool = True,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> CausalGrid:
    """Try the control token's direction (0), those of the neutral tokens, and random ones in every cell.

    `directions` are mean deltas (`models.contrast.mean_deltas`) of other prompts than `twins`: of `chosen_on`, on which
    the cell is chosen whose effect is estimated. Prompts to be steered hold a random neutral token each; the direction
    of that very token is left out there. Without `rivals` the neutral tokens' directions are not tried.
    """
    if len(directions) != len(twins.ids):
        raise ConfigError(f"{len(directions)} directions do not fit {len(twins.ids)} tokens (the control token first)")
    if action != "copy" and random_directions < 1:
        raise ConfigError("the control needs at least one random direction")
    grid = _Grid(model, sites, directions.shape[2], end, memory, progress)
    random = random_like(directions[0], 0 if action == "copy" else random_directions, seed=seed)
    own = grid.run(twins, action, torch.cat([directions[:1], random]), seed)
    neutral = matched_length(directions[1:] if rivals else directions[:0], directions[0])
    others = grid.run_neutral(twins, action, neutral, seed)
    search = chosen_on if chosen_on is not None else twins
    searched = own if search is twins else grid.run(search, action, directions[:1], seed)
    table = torch.from_numpy(mean_value(searched.values[:, 0] - searched.base[:, None, None]))
    table = (-table if action == "project out" else table).nan_to_num(-torch.inf)
    if len(sites) > 1:  # at the embedding an added delta merely swaps the token in
        table[[i for i, site in enumerate(sites) if site == Site("resid_pre", 0)]] = -torch.inf
    best = int(table.argmax())
    decode = getattr(model.tokenizer, "decode", None)
    return CausalGrid(
        action=action,
        token=twins.token,
        end=str(decode([end])) if decode else str(end),
        depths=tuple(map(depth_name, sites)),
        offsets=tuple(offset_name(o) for o in range(directions.shape[2])),
        values=own.values[:, 0].clone(),
        random=own.values[:, 1:].clone(),
        neutral=others,
        base=own.base,
        chosen=(best // directions.shape[2], best % directions.shape[2]),
        groups=twins.prompts.groups,
    )


@dataclass(frozen=True, eq=False)
class _Run:
    values: Float[Tensor, "prompt direction depth offset"]
    base: Float[Tensor, " prompt"]


@dataclass(frozen=True, eq=False)
class _Grid:
    """The sweeps behind a grid."""

    model: HookedTransformer
    sites: Sequence[Site]
    n_offsets: int
    end: int
    memory: int
    progress: bool

    def run(self, twins: Twins, action: Action, directions: Tensor, seed: int) -> _Run:
        prompts = twins.prompts if action == "project out" else twins.partners(seed)[0]
        asked = reading_end(prompts, self.end)
        if action == "copy":
            return self.sweep(asked, [self.copies(twins.prompts)])
        return self.sweep(asked, [self.cells(action, one) for one in directions])

    def run_neutral(self, twins: Twins, action: Action, directions: Tensor, seed: int) -> Tensor:
        if action == "project out":
            return self.run(twins, action, directions, seed).values
        drawn = twins.partners(seed)[1]
        n = len(twins.neutral)
        if action == "copy":
            asked = reading_end(twins.with_token(twins.neutral[drawn]), self.end)
            other = twins.with_token(twins.neutral[(drawn + 1) % n])
            return self.sweep(asked, [self.copies(other)]).values
        asked = reading_end(twins.with_token(twins.neutral[drawn]), self.end)
        found = self.sweep(asked, [self.cells(action, one) for one in directions]).values
        if not len(directions):
            return found
        same = torch.arange(n) == drawn[:, None]
        return found.masked_fill(same[:, :, None, None], torch.nan)

    def cells(self, action: Action, direction: Tensor) -> list[list[Edit]]:
        made = []
        for i, site in enumerate(self.sites):
            for offset in range(self.n_offsets):
                value = (Add if action == "add" else ProjectOut)(direction[i, offset])
                made.append([Edit(site, value, at=offset_name(offset))])
        return made

    def copies(self, source: Prompts) -> list[list[Edit]]:
        there = unedited(self.model, source, list(self.sites), memory=self.memory)
        places = [(site, offset_name(offset)) for site in self.sites for offset in range(self.n_offsets)]
        return [[Edit(site, Copy(there), at=place)] for site, place in places]

    def sweep(self, asked: Prompts, cells: Sequence[Sequence[Sequence[Edit]]]) -> _Run:
        readout = Readout.of(asked, [largest_prob()])
        flat = [cell for one in cells for cell in one]
        if not flat:
            empty = torch.zeros(len(asked), 0, len(self.sites), self.n_offsets)
            return _Run(empty, torch.zeros(len(asked)))
        found = sweep(self.model, Edits(asked, flat), readout, memory=self.memory, progress=self.progress)
        values = found.values[..., 0].reshape(len(asked), len(cells), len(self.sites), self.n_offsets)
        absent = asked.table([offset_name(o) for o in range(self.n_offsets)]) < 0
        return _Run(values.masked_fill(absent[:, None, None, :], torch.nan), found.base[:, 0])


def dose_response(
    model: HookedTransformer,
    twins: Twins,
    site: Site,
    directions: Float[Tensor, "token d_model"],
    end: int,
    *,
    at: Position = TOKEN,
    doses: Sequence[float] = (-1.0, 0.25, 0.5, 1.0, 1.5, 2.0),
    random_directions: int = FEWEST_RANDOM,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Dose:
    """Add multiples of the control token's direction (0), of the neutral tokens' and of random ones to neutral
    twins."""
    prompts, drawn = twins.partners(seed)
    asked = reading_end(prompts, end)
    random = random_like(directions[:1, None], random_directions, seed=seed)[:, 0, 0]
    every = torch.cat([directions[:1], matched_length(directions[1:], directions[0]), random])
    cells = [[Edit(site, Add(one, dose), at=at)] for one in every for dose in doses]
    found = sweep(
        model, Edits(asked, cells), Readout.of(asked, [largest_prob()]), memory=memory, progress=progress
    ).values[..., 0]
    table = _where_there(found, asked, at).reshape(len(asked), len(every), len(doses))
    n = len(twins.ids)
    same = torch.arange(n - 1) == drawn[:, None]
    return Dose(
        where=f"{depth_name(site)}, {at}",
        doses=tuple(doses),
        values=table[:, 0].clone(),
        neutral=table[:, 1:n].masked_fill(same[..., None], torch.nan),
        random=table[:, n:].clone(),
        groups=twins.prompts.groups,
    )


def halting(
    model: HookedTransformer,
    twins: Twins,
    end: int,
    *,
    directions: Mapping[Site, Float[Tensor, " d_model"]] | None = None,
    chosen: Site | None = None,
    within: int = 3,
    random_directions: int = 0,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Halting:
    """Cut the prompts after the token, let the model go on, and see whether it ends within `within` tokens.

    A text in which the model writes the control token itself before it ends does not count: the token ended it.

    With directions also: that of the `chosen` site added at the token to neutral twins, and each projected out at its
    site, at the token; and random ones likewise.
    """
    with_token, without = cut(twins.prompts), cut(twins.partners(seed)[0])

    def run(prompts: Prompts, edits: Sequence[Edit]) -> Tensor:
        made = generate(model, prompts, edits=edits, new_tokens=within, stop=end, memory=memory, progress=progress)
        return (made.halted & ~(made.tokens == twins.control).any(1)).float()

    conditions = {"token": run(with_token, ()), "neutral token": run(without, ())}
    random = torch.zeros(len(twins), 0, 2)
    if (directions is None) != (chosen is None) or (directions is not None and chosen not in directions):
        raise ConfigError(f"directions by site and the chosen site go together; {chosen} is not among the directions")
    if directions is not None and chosen is not None:
        sites = list(directions)
        own = torch.stack([directions[site] for site in sites])
        tables = torch.cat([own[None], random_like(own[:, None], random_directions, seed=seed)[:, :, 0]])
        n, count = len(twins), len(tables)
        rows = torch.arange(n).repeat_interleave(count)  # every prompt with every direction, in one batch
        each = {site: tables[:, i].repeat(n, 1) for i, site in enumerate(sites)}
        added = run(without.take(rows), [Edit(chosen, Add(each[chosen]), at=TOKEN)]).reshape(n, count)
        out = run(with_token.take(rows), [Edit(site, ProjectOut(each[site]), at=TOKEN) for site in sites]).reshape(
            n, count
        )
        conditions |= {"neutral token + direction": added[:, 0], "token - direction": out[:, 0]}
        random = torch.stack([added[:, 1:], out[:, 1:]], -1)
    return Halting(
        conditions=tuple(conditions),
        halted=torch.stack(list(conditions.values()), 1),
        random=random,
        where="" if chosen is None else f"{depth_name(chosen)}, {TOKEN}",
        within=within,
        groups=twins.prompts.groups,
    )


def side_effects(
    model: HookedTransformer,
    prompts: Prompts,
    directions: Mapping[Site, Float[Tensor, " d_model"]],
    chosen: Site,
    *,
    reads: int = 12,
    random_directions: int = FEWEST_RANDOM,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> SideEffects:
    """Divergence from the unedited model at up to `reads` tokens of unrelated text, from the third on.

    All `directions` are projected out together, each at its own site; that of the `chosen` site is added.
    """
    if chosen not in directions:
        raise ConfigError(f"the chosen site {chosen} is not among the directions")
    columns = torch.arange(2, 2 + reads).expand(len(prompts), -1)
    columns = torch.where(columns < prompts.lengths[:, None], columns, -1)
    if not bool((columns >= 0).any()):
        raise PromptError("the unrelated texts are shorter than three tokens; give longer ones")
    asked = replace(
        prompts, reads=columns, answers=torch.where(columns >= 0, 0, -1),
        read_names=tuple(f"token {i}" for i in range(2, 2 + reads)),
    )  # fmt: skip
    before = capture(model, asked, ["logits"], memory=memory)["logits"].float().log_softmax(-1).cpu()
    sites = list(directions)
    own = torch.stack([directions[site] for site in sites])
    every = torch.cat([own[None], random_like(own[:, None], random_directions, seed=seed)[:, :, 0]])
    cells: list[list[Edit]] = []
    for vectors in every:
        cells.append([Edit(site, ProjectOut(one)) for site, one in zip(sites, vectors, strict=True)])
        cells.append([Edit(chosen, Add(vectors[sites.index(chosen)]), at=1)])
    readout = Readout.of(asked, [METRICS["kl"]], Targets(asked.answers, reference=before))
    found = sweep(model, Edits(asked, cells), readout, memory=memory, progress=progress).values[..., 0]
    table = found.reshape(len(asked), len(every), 2)
    return SideEffects(("project out", "add"), table[:, 0].clone(), table[:, 1:].clone(), prompts.groups)


def transfer(
    model: HookedTransformer,
    twins: Twins,
    site: Site,
    sources: Mapping[str, Float[Tensor, " d_model"]],
    end: int,
    *,
    neutral: Float[Tensor, "token d_model"] | None = None,
    at: Position = TOKEN,
    random_directions: int = FEWEST_RANDOM,
    seed: int = 0,
    memory: int = MEMORY,
) -> Transfer:
    """Add directions found elsewhere (other templates, checkpoint, training set, seed) to neutral twins.

    Every direction, also the random ones and those of the `neutral` tokens, is brought to the first source's length,
    so that directions are compared and not sizes.
    """
    prompts, drawn = twins.partners(seed)
    asked = reading_end(prompts, end)
    first = next(iter(sources.values()))
    table = torch.stack(list(sources.values()))
    table = torch.cat([table, table[:0] if neutral is None else neutral])
    every = torch.cat(
        [matched_length(table, first), random_like(first[None, None], random_directions, seed=seed)[:, 0, 0]]
    )
    cells = [[Edit(site, Add(one), at=at)] for one in every]
    found = sweep(model, Edits(asked, cells), Readout.of(asked, [largest_prob()]), memory=memory)
    values = _where_there(found.values[..., 0], asked, at)
    return Transfer(
        where=f"{depth_name(site)}, {at}",
        sources=tuple(sources),
        values=values[:, : len(sources)].clone(),
        base=found.base[:, 0],
        random=values[:, len(table) :].clone(),
        neutral=values[:, len(sources) : len(table)].masked_fill(
            torch.arange(len(table) - len(sources)) == drawn[:, None], torch.nan
        ),
        groups=twins.prompts.groups,
    )


def _where_there(values: Float[Tensor, "prompt ..."], prompts: Prompts, at: Position) -> Float[Tensor, "prompt ..."]:
    """The values; nan where a prompt lacks the position, for nothing was edited there."""
    absent = prompts.columns(at) < 0
    return values.masked_fill(absent.reshape(-1, *[1] * (values.ndim - 1)), torch.nan)


def _largest(table: object) -> Float[Tensor, " candidate"]:
    """The largest cell of each candidate."""
    return torch.as_tensor(table).flatten(1).nan_to_num(-torch.inf).amax(1)
