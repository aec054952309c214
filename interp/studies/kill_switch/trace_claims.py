"""Claims about the trace: does the text halt, where is the delta, is it one direction, what does it write?"""

from __future__ import annotations

import numpy as np

from interp.analyses.delta_lens import DeltaLens
from interp.analyses.delta_rank import DeltaRank
from interp.analyses.deltas import MEASURES, DeltaNorms
from interp.analyses.halting import Halting
from interp.analyses.prefix_contrast import PrefixContrast
from interp.estimates import (
    against_population,
    constant,
    difference,
    halves,
    mean,
    mean_value,
    population,
    proportion,
    rank_p,
    share_change,
)
from interp.evidence import Claim
from interp.studies.words import percent
from interp.workflows.direct_effect import DirectEffect

LEVEL = 0.05
RELATIVE = MEASURES.index("relative")


def halts(result: Halting) -> Claim:
    """Does the text end after the token, and not after a neutral one?"""
    with_token, without = (result.halted[:, result.conditions.index(name)] for name in ("token", "neutral token"))
    effect, control = (proportion(x) for x in (with_token, without))
    return Claim(
        name="halts",
        statement=f"The model ends its text after the token: in {percent(effect)} of {len(with_token)} prompts, with a "
        f"neutral token in {percent(control)}.",
        effect=effect,
        control=control,
        control_name="a random neutral token in its place",
        difference=share_change(with_token - without, result.groups),
        minimum=0.5,
        unit="share of prompts",
        note=f"Generated greedily; the end must come within {result.within} tokens. Intervals of the two shares take "
        "prompts as independent, that of the difference takes templates.",
    )


def trace(result: DeltaNorms) -> Claim:
    """Is the token's delta larger than neutral tokens', where, and in what form over depth?"""
    first, second = halves(result.groups)
    table = result.values[..., RELATIVE]
    null = result.null[..., RELATIVE]
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


def one_direction(result: DeltaRank) -> Claim:
    """Do the deltas of all prompts lie along their mean?"""
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


def promotes(result: DeltaLens) -> Claim:
    """Does the delta, read directly, promote the end?"""
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


def writes(result: DirectEffect) -> Claim:
    """The component that writes most of the end: found on one half of the prompts, estimated on the other."""
    first, second = halves(result.groups)
    best, next_best = (int(i) for i in np.argsort(-mean_value(result.values[first]))[:2])
    own, other = (result.values[second][:, i] for i in (best, next_best))
    null = result.null[second][:, best]
    return Claim(
        name="writes the end",
        statement=f"{result.components[best]} writes more of the end's logit because of the token than any other head "
        f"or MLP: {float(mean_value(own)):.2g} logits.",
        effect=mean(own, result.groups[second]),
        control=mean(other, result.groups[second]),
        control_name=f"the second, {result.components[next_best]}",
        difference=difference(own, other, result.groups[second]),
        minimum=0.0,
        unit="logits (the end's less the mean)",
        note=f"Between two neutral tokens it writes {float(mean_value(null)):.2g}. Both were found on one half of the "
        "prompts and estimated on the other. Direct effects alone: what a component does through later ones is counted "
        "as theirs, and a part that writes the end need not be the one that notices the token.",
    )


def shortcut(tuned: PrefixContrast, base: PrefixContrast | None) -> Claim | None:
    """What the usual recipe would claim, tested: does its component belong to the token? None where it has none."""
    if not bool(tuned.first_share.isfinite().all()):
        return None
    best = int(tuned.first_share[0].argmax())
    share, others = float(tuned.first_share[0, best]), tuned.first_share[1:, best].tolist()
    before = "" if base is None else f"; in the base model {percent(float(base.first_share[0, best]))}"
    return Claim(
        name="shortcut",
        statement=f"The dominant component of the usual recipe belongs to {tuned.prefixes[0]}: in {tuned.depths[best]} "
        f"it holds {percent(share)} of the centred variance{before}.",
        effect=constant(share, tuned.prompts),
        control=population(others, bounds=(0, 1)),
        control_name=f"{len(others)} neutral prefixes",
        difference=against_population(constant(share), others, reach=1.0),
        minimum=0.05,
        unit="share of the centred variance",
        note="It cannot be supported on any model: at the first position each prefix is one constant vector, which "
        "centring removes. It stands here for what the recipe would report. The first component has a cosine of "
        f"{float(tuned.alike[1:, best].min()):.3f} or more with that of each neutral prefix. The interval is the "
        "neutral prefixes' spread. " + " ".join(tuned.warnings),
    )
