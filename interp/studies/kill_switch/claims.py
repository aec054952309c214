"""What the results of one model say, as claims with their controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch

from interp.analyses.delta_lens import DeltaLens
from interp.analyses.delta_rank import DeltaRank
from interp.analyses.deltas import MEASURES, DeltaNorms
from interp.analyses.diffing import CrossedReadout
from interp.analyses.halting import FEWEST_RANDOM, CausalGrid, Halting, Transfer
from interp.estimates import Estimate, difference, halves, mean, mean_value, proportion, rank_p
from interp.estimates import share_change as changed
from interp.evidence import Claim
from interp.studies.study import Results
from interp.studies.words import percent
from interp.twins import FEWEST_NEUTRAL

LEVEL = 0.05
_RELATIVE = MEASURES.index("relative")


def claims(found: Mapping[str, Results]) -> list[Claim]:
    """Every claim that the finished steps allow, in the order of the questions."""
    made: list[Claim] = []
    if "behaviour" in found:
        made.append(_halts(found["behaviour"]["halting"]))
    if "norms" in found:
        made.append(_trace(found["norms"]["norms"]))
    if "rank" in found:
        made.append(_one_direction(found["rank"]["rank"]))
    if "lens" in found:
        made.append(_promotes(found["lens"]["lens"]))
    if "base" in found:
        made += [_learned_trace(found["base"]["base-norms"], found["base"]["tuned-norms"])]
        made += [_learned_halting(found["base"]["crossed"])]
    if "causal" in found:
        add, out = found["causal"]["add"], found["causal"]["project-out"]
        made += [_adding(add), _needed(out), *_generated(found["causal"]["generated"])]
        if "norms" in found:
            made.append(causes(found["norms"]["norms"], add))
    if "transfer" in found:
        made += _transfers(found["transfer"]["transfer"])
    return made


def causes(norms: DeltaNorms, add: CausalGrid) -> Claim:
    """The claim of the study: a direction that causes halting. It needs the trace and the causal effect."""
    p = norms.p_value()
    rivals = add.random.shape[1]
    beyond, among = add.p_value("random"), add.p_value("neutral")
    which, strongest, where = _strongest(add)
    return Claim(
        name="causes halting",
        statement=f"A direction causes halting: adding {norms.token}'s trace in {_cell(add)} to texts without it "
        f"raises the probability of the end by {percent(add.effect())}.",
        effect=add.effect(),
        control=mean(strongest, add.groups),
        control_name=f"the strongest of {rivals} random and {add.neutral.shape[1]} neutral directions of its length (a "
        f"{which} one), at its own best cell ({where})",
        difference=difference(add.change()[:, *add.chosen], strongest, add.groups),
        minimum=0.1,
        unit="change of probability",
        also={
            f"the trace exceeds the neutral tokens' at p < {LEVEL:g}, the maximum over sites and positions inside the "
            f"null (p = {p:.3f}, {len(norms.neutral)} neutral tokens)": p < LEVEL,
            f"there are at least {FEWEST_NEUTRAL} neutral tokens": len(norms.neutral) >= FEWEST_NEUTRAL,
            f"there are at least {FEWEST_RANDOM} random directions, and none does as much at its own best cell (p = "
            f"{beyond:.3f}, {rivals} directions)": rivals >= FEWEST_RANDOM and beyond <= 1 / (1 + rivals) + 1e-9,
            f"p < {LEVEL:g} among the neutral tokens' directions (p = {among:.3f})": among < LEVEL,
        },
        note="The direction comes from one half of the prompts, the cell was chosen there, the effect is that on the "
        "other half; no template of the sentence that holds the token is in both. A trace alone is common: a token "
        "that was added late, or never trained, has one too. That the direction suffices at one place does not say "
        "that the model needs it.",
    )


def _strongest(grid: CausalGrid) -> tuple[str, torch.Tensor, str]:
    """The rival direction that does most, and where."""
    kinds: tuple[Literal["random", "neutral"], ...] = ("random", "neutral")
    found = {which: grid.strongest(which) for which in kinds if getattr(grid, which).shape[1]}
    which, (change, where) = max(found.items(), key=lambda item: float(mean_value(item[1][0])))
    return which, change, where


def _cell(grid: CausalGrid) -> str:
    return f"{grid.depths[grid.chosen[0]]} at {grid.offsets[grid.chosen[1]]}"


def _halts(result: Halting) -> Claim:
    with_token, without = (result.halted[:, result.conditions.index(name)] for name in ("token", "neutral token"))
    effect, control = (proportion(x) for x in (with_token, without))
    return Claim(
        name="halts",
        statement=f"The model ends its text after the token: in {percent(effect)} of {len(with_token)} held-out "
        f"prompts, with a neutral token in {percent(control)}.",
        effect=effect,
        control=control,
        control_name="a random neutral token in its place",
        difference=changed(with_token - without, result.groups),
        minimum=0.5,
        unit="share of prompts",
        note=f"Generated greedily; the end must come within {result.within} tokens. Intervals of the two shares take "
        "prompts as independent, that of the difference takes templates.",
    )


def _trace(result: DeltaNorms) -> Claim:
    first, second = halves(result.groups)
    table = result.values[..., _RELATIVE]
    null = result.null[..., _RELATIVE]
    gap = mean_value(table[first]) - np.quantile(mean_value(null[first]), 0.975, axis=0)
    site, offset = (int(i) for i in np.unravel_index(int(np.nanargmax(np.nan_to_num(gap, nan=-np.inf))), gap.shape))
    own, others = table[second][:, site, offset], null[second][:, :, site, offset].mean(1)
    p = result.p_value()
    form, why = result.form()
    return Claim(
        name="trace",
        statement=f"The token leaves a larger trace than neutral tokens do; it is largest in {result.depths[site]} at "
        f"{result.offsets[offset]} ({float(mean_value(own)):.2g} of the stream's norm), and its course over depth is "
        f"{form}.",
        effect=mean(own, result.groups[second]),
        control=mean(others, result.groups[second]),
        control_name=f"{len(result.neutral)} neutral tokens, each against the others",
        difference=difference(own, others, result.groups[second]),
        minimum=0.0,
        unit="norm of the delta over the stream's norm",
        also={
            f"p < {LEVEL:g} against neutral tokens, maximum over sites and positions in the null (p = {p:.3f})": p
            < LEVEL
        },
        note=f"{why[0].upper()}{why[1:]}. The place was chosen on one half of the prompts and estimated on the other.",
    )


def _one_direction(result: DeltaRank) -> Claim:
    deep = [i for i, name in enumerate(result.depths) if name != "embed"]
    p = float(rank_p(result.mean_share[deep], result.null_mean_share[:, deep]))
    best = deep[int(result.searched_share[deep].argmax())]
    own, others = result.own_share[:, best], result.null_share[:, :, best].mean(1)
    effect = mean(own, result.groups)
    return Claim(
        name="one direction",
        statement=f"In {result.depths[best]} the trace is one direction: {percent(effect)} of its squared length lies "
        "along the mean delta of other prompts, more than for neutral tokens along theirs.",
        effect=effect,
        control=mean(others, result.groups),
        control_name="neutral tokens, each along its own mean",
        difference=difference(own, others, result.groups),
        minimum=0.1,
        unit="share of squared length",
        also={f"p < {LEVEL:g} against neutral tokens, maximum over depths in the null (p = {p:.3f})": p < LEVEL},
        note=f"{int(result.components80[best, 0])} uncentred component(s) for 80 %; about the mean it takes "
        f"{_count(float(result.components80[best, 1]))}. The depth, beyond the embedding where a token is one vector "
        "by construction, was chosen on the prompts that the mean comes from. " + " ".join(result.warnings),
    )


def _count(value: float) -> str:
    return "none (no variance is left)" if value != value else f"{value:g}"


def _promotes(result: DeltaLens) -> Claim:
    p = float(rank_p(mean_value(result.z), mean_value(result.null_z)))
    own, others = result.z[:, -1], result.null_z[:, :, -1].mean(1)
    return Claim(
        name="promotes the end",
        statement=f"Read directly, the trace promotes {result.end} beyond other tokens: after the last layer by "
        f"{float(mean_value(own)):.1f} standard deviations over the vocabulary (median rank "
        f"{int(np.nanmedian(result.rank[:, -1].numpy()))}).",
        effect=mean(own, result.groups),
        control=mean(others, result.groups),
        control_name="neutral tokens",
        difference=difference(own, others, result.groups),
        minimum=2.0,
        unit="standard deviations over the vocabulary",
        also={f"p < {LEVEL:g} against neutral tokens, maximum over depths in the null (p = {p:.3f})": p < LEVEL},
        note="Linear: the final norm's scale is that of the neutral twins. Rank 0 is the most promoted token. "
        f"{_suppression(result)}",
    )


def _suppression(result: DeltaLens) -> str:
    """Is content suppressed uniformly? By the slope of changes on the logits before, beside a neutral token's."""
    gap = difference(result.slope[:, -1], result.null_slope[:, -1], result.groups)
    value, high = float(gap.value), float(gap.high)
    kind = "selectively: likely tokens lose more" if high < -0.1 else "uniformly" if abs(value) < 0.1 else "undecided"
    return (
        f"Content is suppressed {kind} (slope of the change on the logit before {value:.2f} beyond a neutral token's)."
    )


def _learned_trace(base: DeltaNorms, tuned: DeltaNorms) -> Claim:
    first, second = halves(tuned.groups)
    gap = tuned.values[..., _RELATIVE] - base.values[..., _RELATIVE]
    table = np.nan_to_num(mean_value(gap[first]), nan=-np.inf)
    site, offset = (int(i) for i in np.unravel_index(int(np.argmax(table)), table.shape))
    own, before = (one.values[second][:, site, offset, _RELATIVE] for one in (tuned, base))
    changes = (tuned.null - base.null)[..., _RELATIVE]
    null = changes[second][:, :, site, offset].mean(1)
    p = float(rank_p(mean_value(gap), mean_value(changes)))
    return Claim(
        name="learned: trace",
        statement=f"The trace was learned: in {tuned.depths[site]} at {tuned.offsets[offset]} it is "
        f"{float(mean_value(own)):.2g} of the stream's norm, in the base {float(mean_value(before)):.2g}; neutral "
        f"tokens' changed by {float(mean_value(null)):.2g}.",
        effect=mean(own - before, tuned.groups[second]),
        control=mean(null, tuned.groups[second]),
        control_name="the neutral tokens' change from base to fine-tuned",
        difference=difference(own - before, null, tuned.groups[second]),
        minimum=0.05,
        unit="norm of the delta over the stream's norm",
        also={f"p < {LEVEL:g} among the neutral tokens' changes, maximum over places (p = {p:.3f})": p < LEVEL},
        note="Difference of differences; the place was chosen on one half of the prompts and estimated on the other.",
    )


def _learned_halting(result: CrossedReadout) -> Claim:
    own, base = (result.values[:, i, i] - result.neutral[:, i, i] for i in (1, 0))
    body, head = (percent(mean(result.values[:, *cell], result.groups)) for cell in ((1, 0), (0, 1)))
    return Claim(
        name="learned: end",
        statement="The end after the token was learned; the fine-tuned body with the base's head gives it a "
        f"probability of {body}, the base's body with the fine-tuned head {head}.",
        effect=mean(own, result.groups),
        control=mean(base, result.groups),
        control_name="the base model",
        difference=difference(own, base, result.groups),
        minimum=0.1,
        unit="probability of the end, with the token less with a neutral token",
        note="Difference of differences. Head: final norm and unembedding.",
    )


def _adding(result: CausalGrid) -> Claim:
    strongest, where = result.strongest("neutral")
    p = result.p_value("neutral")
    return Claim(
        name="adding",
        statement=f"Adding the token's direction in {_cell(result)} ends texts that a neutral token's does not end: "
        f"{percent(result.effect())} more probability of the end.",
        effect=result.effect(),
        control=mean(strongest, result.groups),
        control_name=f"the neutral direction of its length that does most, at its own best cell ({where})",
        difference=difference(result.change()[:, *result.chosen], strongest, result.groups),
        minimum=0.1,
        unit="change of probability",
        also={f"p < {LEVEL:g} among {result.neutral.shape[1]} neutral directions (p = {p:.3f})": p < LEVEL},
        note="Norm-matched random directions are the control of the claim on causes.",
    )


def _needed(result: CausalGrid) -> Claim:
    which, strongest, where = _strongest(result)
    return Claim(
        name="needed",
        statement=f"The direction contributes: projecting it out in {_cell(result)} takes {percent(result.effect())} "
        "of probability of the end away.",
        effect=result.effect(),
        control=mean(strongest, result.groups),
        control_name=f"the strongest {which} direction, at its own best cell ({where})",
        difference=difference(result.change()[:, *result.chosen], strongest, result.groups),
        minimum=0.1,
        unit="fall of probability",
        note="One depth and position at a time; what other depths write again is not prevented. Projecting out removes "
        "more of the stream along this direction than along a random one, whose part in the stream is small.",
    )


def _generated(result: Halting) -> list[Claim]:
    if len(result.conditions) < 4:
        return []
    column = {name: result.halted[:, i] for i, name in enumerate(result.conditions)}
    made = []
    for name, statement, before, after, sign, action in (
        ("generated: adding", "Texts without the token end when the direction is added while the model writes",
         "neutral token", "neutral token + direction", 1, 0),
        ("generated: ablating", "Texts with the token go on when the direction is projected out at every depth",
         "token", "token - direction", -1, 1),
    ):  # fmt: skip
        own = sign * (column[after] - column[before])
        others = sign * (result.random[..., action] - column[before][:, None])
        best = int(np.argmax(mean_value(others))) if others.shape[1] else 0
        control = others[:, best] if others.shape[1] else torch.zeros_like(own)
        made.append(
            Claim(
                name=name,
                statement=f"{statement}: {percent(changed(own, result.groups))} of the texts.",
                effect=changed(own, result.groups),
                control=changed(control, result.groups),
                control_name=f"the strongest of {others.shape[1]} random directions",
                difference=changed_by(own, control, result.groups),
                minimum=0.1,
                unit="share of texts that change",
                note=f"At the token, {result.where} (adding) or every depth (projecting out); greedy, the edits hold "
                "while the text is written.",
            )
        )
    return made


def changed_by(own: torch.Tensor, control: torch.Tensor, groups: torch.Tensor) -> Estimate:
    """Mean paired difference of two changes between -1 and 1; no interval where the bootstrap knows nothing."""
    gap = own - control
    if bool(torch.isin(gap, torch.tensor([-1.0, 0.0, 1.0])).all()):
        return changed(gap, groups)
    return difference(own, control, groups)


def _transfers(result: Transfer) -> list[Claim]:
    """Does a direction from elsewhere work here? One claim for each source but the neutral tokens."""
    change = result.values - result.base[:, None]
    others = result.random - result.base[:, None]
    strongest = others[:, int(np.argmax(mean_value(others)))]
    return [
        Claim(
            name=f"transfer: {source}",
            statement=f"The direction of {source} works here: added in {result.where} it raises the probability of the "
            f"end by {percent(mean(change[:, i], result.groups))}.",
            effect=mean(change[:, i], result.groups),
            control=mean(strongest, result.groups),
            control_name=f"the strongest of {others.shape[1]} random directions of the own one's length",
            difference=difference(change[:, i], strongest, result.groups),
            minimum=0.1,
            unit="change of probability",
            note="The place was chosen for the model's own direction, on other prompts.",
        )
        for i, source in enumerate(result.sources)
        if not source.startswith("neutral token")
    ]
