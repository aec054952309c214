"""What training with worked steps changes: the same problems solved with and without them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from interp.estimates import difference, halves, mean, mean_value, proportion, share_change
from interp.evidence import Claim
from interp.studies.study import Results
from interp.studies.words import CONFIRMED, percent

Found = Mapping[str, Mapping[str, Results]]


def steps_claims(without: str, steps: str) -> Callable[[Found], list[Claim]]:
    """The claims on two parts, of a model without worked steps and of one with them."""

    def claims(found: Found) -> list[Claim]:
        return [_solved(found, without, steps), _readable(found, without, steps)]

    return claims


def _solved(found: Found, without: str, steps: str) -> Claim:
    one, other = (found[name]["accuracy"]["accuracy"] for name in (without, steps))
    groups = one.groups.numpy()
    left, right = (proportion(result.right, groups) for result in (one, other))
    return Claim(
        name="solved",
        statement=f"Worked steps cost nothing: {percent(right)} of the same problems are solved with them, "
        f"{percent(left)} without.",
        effect=right,
        control=left,
        control_name="the model without steps",
        difference=share_change(other.right - one.right, groups),
        minimum=-0.02,
        unit="share of problems with every answer token right, steps included",
        note="Supported means not worse by more than 2 points. Two models of one seed: the interval is over problems.",
    )


def _readable(found: Found, without: str, steps: str) -> Claim:
    """Is more of the answer readable at some depth before the last?"""
    one, other = (found[name]["logit-lens"]["prompts"] for name in (without, steps))
    places = [name for name in one.positions if name.startswith("answer.") and name in other.positions]
    left, right = (
        np.nanmean(x.right[:, :-1, [x.positions.index(name) for name in places]].numpy(), axis=2) for x in (one, other)
    )
    groups = one.groups.numpy()
    search, confirm = halves(groups)
    depth = int(np.nanargmax(mean_value((right - left)[search])))
    own, control = (mean(table[confirm][:, depth], groups[confirm]) for table in (right, left))
    return Claim(
        name="readable earlier",
        statement=f"With worked steps the answer is readable earlier: after {one.depths[depth]} {percent(own)} of its "
        f"digits are on top, without steps {percent(control)}.",
        effect=own,
        control=control,
        control_name="the model without steps",
        difference=difference(right[confirm][:, depth], left[confirm][:, depth], groups[confirm]),
        minimum=0.1,
        unit="share of answer digits on top of the logit lens",
        note=f"The depth was {CONFIRMED.format(left.shape[1])}, all before the last.",
    )
