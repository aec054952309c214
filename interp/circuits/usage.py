"""Which features does a model use on which kind of prompt? Frequency, strength, importance and influence.

Prompts are the units, not tokens: a feature that is active at ten tokens of one prompt is active on one prompt. These
are descriptions; whether a difference between groups is more than chance is for `feature_contrast` to say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.circuits.activity import Activity, feature_name
from interp.errors import ConfigError, PromptError
from interp.estimates import Estimate, proportion, ratio


@dataclass(frozen=True, eq=False)
class Usage:
    """Features over groups of prompts. All estimates are [group, feature]; n counts prompts."""

    groups: tuple[str, ...]
    prompts: tuple[int, ...]
    """Prompts of each group."""
    features: Int[np.ndarray, "feature two"]
    """Layer and number."""
    frequency: Estimate
    """Share of prompts in which the feature is active, with Wilson's interval."""
    mean: Estimate
    """Mean over the prompts in which it is active of its largest activation; bootstrap interval, nan below eight."""
    influence: Estimate
    """Mean over all prompts of the total effect on the answer (`answer_effects`), in logits; nan where not given."""
    min_activation: float

    @cached_property
    def importance(self) -> Float[np.ndarray, "group feature"]:
        """Frequency times mean activation: the mean over all prompts, 0 where it is never active."""
        return self.frequency.value * np.nan_to_num(self.mean.value)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """`L0_F123` for each feature."""
        return tuple(map(feature_name, *self.features.T.tolist())) if len(self.features) else ()

    def ranked(self, group: str) -> Int[np.ndarray, " feature"]:
        """Columns of the features by their importance in a group, the most important first."""
        return np.argsort(-self.importance[self.groups.index(group)], kind="stable")

    def to_frame(self) -> pd.DataFrame:
        """One row for each group and feature."""
        index = pd.MultiIndex.from_product([self.groups, range(len(self.features))], names=["group", "feature"])
        numbers: dict[str, np.ndarray] = {"importance": self.importance.ravel()}
        for name in ("frequency", "mean", "influence"):
            part: Estimate = getattr(self, name)
            numbers |= {name: part.value.ravel(), f"{name}_low": part.low.ravel(), f"{name}_high": part.high.ravel()}
        frame = pd.DataFrame(numbers, index=index).reset_index()
        frame["feature"] = np.array(self.names)[frame["feature"]]
        return frame


def feature_usage(
    activity: Activity,
    groups: Mapping[str, Int[np.ndarray, " row"]],
    *,
    effects: Float[np.ndarray, "prompt feature"] | None = None,
    min_activation: float = 0.0,
    min_frequency: float = 0.0,
    seed: int = 0,
) -> Usage:
    """Features over groups of prompts, given by their rows (`Triples.groups`), each prompt an independent unit.

    A feature is active on a prompt where its largest activation is above `min_activation`. Kept are features that are
    active in at least `min_frequency` of the prompts of some group, which saves intervals of what is hardly ever seen.
    """
    if not groups or any(not len(rows) for rows in groups.values()):
        raise PromptError("every group needs at least one prompt")
    if min_activation < 0 or not 0 <= min_frequency <= 1:
        raise ConfigError("an activation is at least 0, and a frequency a share between 0 and 1")
    active = activity.largest > min_activation
    often = np.stack([active[rows].mean(0) for rows in groups.values()]).max(0)
    kept = np.flatnonzero((often >= min_frequency) & (often > 0))
    parts: list[list[Estimate]] = []
    for rows in groups.values():
        here = active[np.ix_(rows, kept)]
        size = np.where(here, activity.largest[np.ix_(rows, kept)], np.nan)
        effect = np.full(here.shape, np.nan) if effects is None else effects[np.ix_(rows, kept)].astype(float)
        counts = np.ones(here.shape)
        parts.append(
            [proportion(here.astype(float)), ratio(size, np.where(here, 1.0, np.nan), seed=seed),
             ratio(effect, counts, seed=seed)]
        )  # fmt: skip
    frequency, mean, influence = (_stacked(list(some)) for some in zip(*parts, strict=True))
    sizes = tuple(len(rows) for rows in groups.values())
    return Usage(tuple(groups), sizes, activity.features[kept], frequency, mean, influence, min_activation)


def _stacked(parts: list[Estimate]) -> Estimate:
    return Estimate(*(np.stack([getattr(one, name) for one in parts]) for name in ("value", "low", "high", "p", "n")))
