"""What the records of a training decide: claims with their controls, and what to say of them.

An untrained model is no zero: what training made is the last snapshot less the first, on the same texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from interp.errors import PromptError
from interp.estimates import Estimate, constant, difference, halves, mean, mean_value, share_change
from interp.evidence import Claim
from interp.monitoring.learning import Course, Part, balanced, course, depth_names, simultaneous, told, unchanged
from interp.monitoring.records import Recording


def claims(recording: Recording, *, seed: int = 0) -> list[Claim]:
    """Everything that the records decide, in the order in which a reader asks."""
    found = course(recording, seed=seed)
    made = [_above_chance(recording, found)]
    if len(recording) > 1:
        made.append(_taught(recording, found))
        made += _specialised(recording, seed)
        made += _critical(recording, seed) + _looking(recording, seed) + _apart(recording, found, seed)
    return made


def sentences(recording: Recording, found: Course, rows: Sequence[Part], verdicts: Mapping[str, str]) -> list[str]:
    """The findings in words; `verdicts` are those of the claims, by their names."""
    if len(recording) == 1:
        return ["There is one snapshot so far, so nothing can be said of learning."]
    if unchanged(recording):
        return ["Nothing changed: the first and the last snapshot are of the same judge, text by text."]
    said = []
    accuracy, last = float(found.accuracy.value[-1]), recording.steps[-1]
    if verdicts["judges"] == "supported":
        at = recording.steps[found.converged]
        when = (
            f"it comes within two points of that, and stays, from step {at:,} on"
            if found.converged < len(recording) - 1
            else "it still moves by more than two points at the last snapshot"
        )
        said.append(f"At step {last:,} the judge is right on {accuracy:.1%} of the texts, beyond chance; {when}.")
    else:
        said.append(
            f"At step {last:,} the judge is right on {accuracy:.1%} of the texts, and there is no evidence that this "
            "is beyond chance: it has not converged on anything."
        )
    better = [
        name for depth, name in enumerate(depth_names(recording)) if verdicts.get(f"specialised-{depth}") == "supported"
    ]
    worded = ", ".join(better[:6]) + (f" and {len(better) - 6} more" if len(better) > 6 else "")
    said.append(
        f"Layers that came to tell safe from unsafe: {worded}."
        if better
        else "No layer came to tell safe from unsafe better than before training, as far as these texts show."
    )
    timed = [row for row in rows[1:] if row.half is not None and verdicts["judges"] == "supported"]
    for column in dict.fromkeys(row.column for row in timed):
        own = [row for row in timed if row.column == column]
        verdict = verdicts.get(f"apart-{column}")
        if len(own) < 2 or verdict is None:
            continue
        early, late = own[0], own[-1]
        if early.half == late.half:
            said.append(f"By {column}: all are half-way at step {early.half:,}.")
            continue
        span = f"half-way at steps {early.half:,} ({early.value}) to {late.half:,} ({late.value})"
        said.append(
            f"By {column} it is learned at different times: {span}."
            if verdict == "supported"
            else f"By {column}: {span}; that they differ is {verdict}, so the general pattern may come for all at once."
        )
    return said


def _above_chance(recording: Recording, found: Course) -> Claim:
    last = found.accuracy[-1]
    low, high = np.quantile(found.chance, [0.025, 0.975])
    chance = Estimate.single(float(found.chance.mean()), float(low), float(high), n=len(found.chance))
    ends = [float(end) - float(chance.value) for end in (last.value, last.low, last.high)]
    return Claim(
        "judges",
        f"At its last snapshot (step {recording.steps[-1]:,}) the judge is right more often than by chance",
        last, chance, "shuffled labels", Estimate.single(*ends, p=found.p, n=int(last.n)), 0.1, "share of texts",
        f"{len(recording.probe.texts)} fixed texts; n counts groups; p of {len(found.chance)} shuffles: {found.p:.3g}.",
        also={"fewer than 5 % of the shuffles do as well": found.p < 0.05},
    )  # fmt: skip


def _taught(recording: Recording, found: Course) -> Claim:
    first, last = found.right[:, 0], found.right[:, -1]
    ties = bool(np.isin([first, last], 0.5).any())
    apart = (mean if ties else share_change)(last - first, recording.groups)
    return Claim(
        "taught", f"The judge became right more often between steps {recording.steps[0]:,} and {recording.steps[-1]:,}",
        found.accuracy[-1], found.accuracy[0], "first snapshot", _or_none(recording, apart), 0.05, "share of texts",
        "The same texts at both snapshots.",
    )  # fmt: skip


def _specialised(recording: Recording, seed: int) -> list[Claim]:
    table, groups = told(recording), recording.groups
    first, last = (simultaneous(table[:, i], groups, seed=seed) for i in (0, -1))
    apart = simultaneous(table[:, -1] - table[:, 0], groups, seed=seed)
    return [
        Claim(
            f"specialised-{depth}",
            f"After {name} the stream tells safe from unsafe better than before training",
            last[depth], first[depth], "first snapshot", _or_none(recording, apart[depth]), 0.1, "share of texts",
            "Texts on their own side of the classes' midpoint, learned on other groups; intervals hold for all "
            f"{recording.layers} layers together. A layer that tells them apart need not be used.",
        )
        for depth, name in enumerate(depth_names(recording))
        if depth > 0
    ]  # fmt: skip


def _critical(recording: Recording, seed: int) -> list[Claim]:
    moved = recording.moved[-1]
    if not len(moved) or np.isnan(moved).any():
        return []
    groups = recording.pair_groups
    try:
        search, confirm = halves(groups, seed=seed)
    except PromptError:
        return []
    order = np.argsort(-mean_value(moved[search]), kind="stable")
    best = moved[confirm][:, order[0]]
    before = recording.moved[0][confirm][:, order[0]]
    apart = difference(best, before, groups[confirm])
    runner = f"; the runner-up is layer {order[1]}" if len(order) > 1 else ""
    return [
        Claim(
            "critical",
            f"Training made layer {order[0]} carry the verdict: its output, copied between twins, moves the log-odds",
            mean(best, groups[confirm]), mean(before, groups[confirm]), "first snapshot", _or_none(recording, apart),
            0.5, "nats of the log-odds",
            f"The layer of {recording.layers} that moves most on half of the pairs{runner}; measured on the other "
            f"{len(best)}, mean of both directions.",
        )
    ]  # fmt: skip


def _looking(recording: Recording, seed: int) -> list[Claim]:
    table = recording.head_attention
    if not table.shape[1]:
        return []
    groups = recording.groups[recording.head_rows]
    try:
        search, confirm = halves(groups, seed=seed)
    except PromptError:
        return []
    gain = table[-1] - table[0]
    if np.isnan(gain).any():
        return []
    layer, head = np.unravel_index(np.nanargmax(mean_value(gain[search])), gain.shape[1:])
    last, first = (mean(table[i][confirm][:, layer, head], groups[confirm]) for i in (-1, 0))
    apart = mean(gain[confirm][:, layer, head], groups[confirm])
    return [
        Claim(
            "looking", f"Training made head L{layer}H{head} look from the verdict at the words that decide it",
            last, first, "first snapshot", _or_none(recording, apart), 0.05, "share of attention beyond uniform",
            f"The head of {table.shape[2] * table.shape[3]} that gained most on half of {table.shape[1]} texts, "
            "measured on the other half.",
        )
    ]  # fmt: skip


def _apart(recording: Recording, found: Course, seed: int) -> list[Claim]:
    """Whether one category is learned before another, or all together."""
    made = []
    groups, unsafe = recording.groups, recording.unsafe
    for column, values in recording.probe.labels.items():
        names = np.array(values)
        both = [str(one) for one in np.unique(names) if len(np.unique(unsafe[names == one])) == 2]
        if len(both) < 2:
            continue
        try:
            search, confirm = halves(groups, seed=seed)
        except PromptError:
            continue
        # What is still to come, so that a category that is harder for good is not taken for a late one.
        lacking = found.right[:, -1:] - found.right
        shares = np.stack([balanced(lacking, unsafe, search & (names == one)) for one in both])
        if np.isnan(shares).all():
            continue
        high, low = (np.where(np.isnan(shares), other, shares) for other in (-np.inf, np.inf))
        at = int(np.argmax(high.max(0) - low.min(0)))
        late, early = both[int(np.argmax(high[:, at]))], both[int(np.argmin(low[:, at]))]
        here = lacking[confirm, at], unsafe[confirm]
        parts = [_linear(*here, names[confirm] == one) for one in (late, early)]
        one, other, apart = (
            _within(mean(table, groups[confirm]), -1.0) for table in (parts[0], parts[1], parts[0] - parts[1])
        )
        made.append(
            Claim(
                f"apart-{column}",
                f"The values of {column} are learned at different times: at step {recording.steps[at]:,} the judge "
                f"lacks more of its final accuracy on {late} than on {early}",
                one, other, early, _or_none(recording, apart), 0.05, "balanced share of texts still to be learned",
                f"Step and {column} chosen on half of the groups as the widest gap, measured on the other half. Where "
                "this is not supported there is no sign that the general pattern was learned later than any part.",
            )
        )  # fmt: skip
    return made


def _linear(
    right: Float[np.ndarray, " prompt"], unsafe: Bool[np.ndarray, " prompt"], chosen: Bool[np.ndarray, " prompt"]
) -> Float[np.ndarray, " prompt"]:
    """Values whose mean is the balanced accuracy of the chosen prompts, for resampling (its linear approximation)."""
    sides = [chosen & (unsafe == side) for side in (True, False)]
    if not all(side.any() for side in sides):
        return np.full(len(right), np.nan)
    values = np.full(len(right), np.mean([right[side].mean() for side in sides]))
    for side in sides:
        values[side] += (right[side] - right[side].mean()) * len(right) / (2 * side.sum())
    return values


def _within(found: Estimate, low: float) -> Estimate:
    """The interval cut to the values that there can be."""
    ends = np.asarray(np.maximum(found.low, low)), np.asarray(np.minimum(found.high, 1.0))
    return Estimate(found.value, *ends, found.p, found.n)


def _or_none(recording: Recording, apart: Estimate) -> Estimate:
    """The difference; exactly none where both snapshots are the same judge, which no bootstrap can tell."""
    return constant(0.0, n=int(apart.n)) if unchanged(recording) else apart
