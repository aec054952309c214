"""Claims about the cause: adding, projecting out and copying, doses, generated text, side effects, other directions."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyses.deltas import DeltaNorms
from interp.analyses.halting import FEWEST_RANDOM, CausalGrid, Dose, Halting, SideEffects, Transfer
from interp.estimates import Estimate, difference, mean, mean_value
from interp.estimates import share_change as changed
from interp.evidence import Claim
from interp.studies.kill_switch.trace_claims import LEVEL
from interp.studies.words import percent
from interp.twins import FEWEST_NEUTRAL


def causes(norms: DeltaNorms, add: CausalGrid) -> Claim:
    """The claim of the study: a direction that causes halting. It needs the trace and the causal effect."""
    p = norms.p_value()
    rivals = add.random.shape[1]
    beyond, among = add.p_value("random"), add.p_value("neutral")
    which, rival, where = _rival(add)
    return _of_grid(
        add,
        rival,
        name="causes halting",
        statement=f"A direction causes halting: adding {norms.token}'s trace in {_cell(add)} to texts without it "
        f"raises the probability of the end by {float(add.effect().value):.2f}.",
        control_name=f"the strongest of {rivals} random and {add.neutral.shape[1]} neutral directions of its length (a "
        f"{which} one), at its own best cell ({where})",
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
        "that the model needs it: see the claims on projecting out.",
    )


def strongest(*rivals: Float[Tensor, "prompt _"]) -> Float[Tensor, " prompt"] | None:
    """The rival with the largest mean; None where there is none."""
    table = torch.cat(rivals, 1)
    center = np.nan_to_num(mean_value(table), nan=-np.inf)
    return table[:, int(center.argmax())] if len(center) and np.isfinite(center).any() else None


def _of_grid(
    grid: CausalGrid, rival: Float[Tensor, " prompt"], *, unit: str = "change of probability", **words: Any
) -> Claim:
    """A claim on the chosen cell of a grid beside a rival."""
    return Claim(
        effect=grid.effect(), control=mean(rival, grid.groups), minimum=0.1, unit=unit,
        difference=difference(grid.change()[:, *grid.chosen], rival, grid.groups), **words,
    )  # fmt: skip


def _rival(grid: CausalGrid) -> tuple[str, Float[Tensor, " prompt"], str]:
    """The rival direction that does most, and where."""
    kinds: tuple[Literal["random", "neutral"], ...] = ("random", "neutral")
    found = {which: grid.strongest(which) for which in kinds if getattr(grid, which).shape[1]}
    which, (change, where) = max(found.items(), key=lambda item: float(mean_value(item[1][0])))
    return which, change, where


def _cell(grid: CausalGrid) -> str:
    return f"{grid.depths[grid.chosen[0]]} at {grid.offsets[grid.chosen[1]]}"


def adding(result: CausalGrid) -> Claim:
    """Does adding the direction end more texts than adding neutral tokens' directions?"""
    rival, where = result.strongest("neutral")
    p = result.p_value("neutral")
    return _of_grid(
        result,
        rival,
        name="adding",
        statement=f"Adding the token's direction in {_cell(result)} ends texts that a neutral token's does not end: "
        f"the probability of the end rises by {float(result.effect().value):.2f}.",
        control_name=f"the neutral direction of its length that does most, at its own best cell ({where})",
        also={f"p < {LEVEL:g} among {result.neutral.shape[1]} neutral directions (p = {p:.3f})": p < LEVEL},
        note="Norm-matched random directions are the control of the claim on causes.",
    )


def needed(result: CausalGrid) -> Claim:
    """Does projecting the direction out keep texts from ending?"""
    which, rival, where = _rival(result)
    return _of_grid(
        result,
        rival,
        name="needed",
        statement=f"The direction contributes: projecting it out in {_cell(result)} lowers the probability of the end "
        f"by {float(result.effect().value):.2f}.",
        control_name=f"the strongest {which} direction, at its own best cell ({where})",
        unit="fall of probability",
        note="One depth and position at a time; what other depths write again is not prevented. Projecting out removes "
        "more of the stream along this direction than along a random one, whose part in the stream is small.",
    )


def copying(result: CausalGrid) -> Claim:
    """Does the place carry the difference at all?"""
    rival, where = result.strongest("neutral")
    return _of_grid(
        result,
        rival,
        name="copying",
        statement=f"The stream carries the signal: copied from the twin with the token in {_cell(result)} it raises "
        f"the probability of the end by {float(result.effect().value):.2f}.",
        control_name=f"the stream of another neutral twin, at its own best cell ({where})",
        note="Copies everything that the twins differ in, not one direction: an upper end for the tests above.",
    )


def doses(result: Dose) -> Claim | None:
    """Does more of the direction do more?"""
    positive = sorted((dose, i) for i, dose in enumerate(result.doses) if 0 < dose <= 1)
    low, high = (positive[i][1] for i in (0, -1)) if positive else (0, 0)
    own = result.values[:, high] - result.values[:, low]
    rival = strongest(*(other[..., high] - other[..., low] for other in (result.random, result.neutral)))
    if rival is None or low == high:
        return None
    course = ", ".join(
        f"{dose:g}: {value:.2f}" for dose, value in zip(result.doses, mean_value(result.values), strict=True)
    )
    return Claim(
        name="dose",
        statement=f"The effect grows with the dose in {result.where}: from {result.doses[low]:g} to "
        f"{result.doses[high]:g} times the direction the probability of the end rises by {float(mean_value(own)):.2f}.",
        effect=mean(own, result.groups),
        control=mean(rival, result.groups),
        control_name=f"the one of {result.random.shape[1]} random and {result.neutral.shape[1]} neutral directions "
        "that gains most in the same cell",
        difference=difference(own, rival, result.groups),
        minimum=0.1,
        unit="change of probability",
        note=f"Probability of the end by dose: {course}.",
    )


def side_effects(result: SideEffects) -> list[Claim]:
    """Do the edits change other text more than a random direction does?"""
    made = []
    for i, edit in enumerate(result.edits):
        own, others = result.values[:, i], result.random[..., i]
        if not others.shape[1]:
            continue
        what = "Projecting the direction out at every depth" if edit == "project out" else "Adding the direction once"
        made.append(
            Claim(
                name=f"side effects: {edit}",
                statement=f"{what} changes texts without the token more than random directions do: by "
                f"{float(mean_value(own)):.2g} nats a token (random: {float(mean_value(others).mean()):.2g}).",
                effect=mean(own, result.groups),
                control=mean(others.mean(1), result.groups),
                control_name=f"the mean of {others.shape[1]} random directions",
                difference=difference(own, others.mean(1), result.groups),
                minimum=0.01,
                unit="nats (KL divergence from the unedited model) a token",
                note="Here a supported claim is the harm. One that is not supported is no proof that there is none: "
                "the texts are few and short, and no text that should end is among them.",
            )
        )
    return made


def generated(result: Halting) -> list[Claim]:
    """Do generated texts end, or go on, with the edits in force?"""
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
        control = strongest(others)
        if control is None:
            continue
        made.append(
            Claim(
                name=name,
                statement=f"{statement}: {percent(changed(own, result.groups))} of {len(own)} texts.",
                effect=changed(own, result.groups),
                control=changed(control, result.groups),
                control_name=f"the strongest of {others.shape[1]} random directions",
                difference=_changed_by(own, control, result.groups),
                minimum=0.1,
                unit="share of texts that change",
                note=f"At the token, {result.where} (adding) or every depth (projecting out); random directions alone "
                "are tried while the model writes, neutral ones above; greedy, the edits hold while the text is "
                "written.",
            )
        )
    return made


def _changed_by(own: Tensor, control: Tensor, groups: Tensor) -> Estimate:
    """Mean paired difference of two changes between -1 and 1; no interval where the bootstrap knows nothing."""
    gap = own - control
    if bool(torch.isin(gap, torch.tensor([-1.0, 0.0, 1.0])).all()):
        return changed(gap, groups)
    return difference(own, control, groups)


def transfers(result: Transfer) -> list[Claim]:
    """Does a direction from elsewhere work here? One claim for each source."""
    change = result.values - result.base[:, None]
    rival = strongest(*(other - result.base[:, None] for other in (result.random, result.neutral)))
    if rival is None:
        return []
    return [
        Claim(
            name=f"transfer: {source}",
            statement=f"The direction of {source} works here: added in {result.where} it raises the probability of the "
            f"end by {float(mean_value(change[:, i])):.2f}.",
            effect=mean(change[:, i], result.groups),
            control=mean(rival, result.groups),
            control_name=f"the strongest of {result.random.shape[1]} random and {result.neutral.shape[1]} neutral "
            "directions in the same cell",
            difference=difference(change[:, i], rival, result.groups),
            minimum=0.1,
            unit="change of probability",
            note="All directions have the length of the model's own. The place was chosen for that one, on other "
            "prompts.",
        )
        for i, source in enumerate(result.sources)
    ]
