"""Does the model use the features? They are switched off, or added, and what it answers is compared with matched sets.

On triples that had no part in finding the features: their ablation on harmful prompts (at all tokens), their boost on
safe contrasts (at the answer position, by what they have on harmful prompts). The control are many sets of other
features of the same layers, alike in how often they are active and in how much they write; a set that says no more than
these is not special. Beside them stands the refusal direction, a difference of means at one layer taken out of all that
is written (Arditi et al., arXiv 2406.11717), with random directions as its control.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.circuits.activity import Activity
from interp.circuits.attached import transcoders_attached
from interp.circuits.transcoders import Transcoders
from interp.circuits.triples import Triples
from interp.errors import ConfigError
from interp.estimates import Estimate, mean, proportion
from interp.evidence import Claim
from interp.metrics import Metric, Targets, logit_diff
from interp.models.directions import Direction
from interp.models.edits import Add, Edit, Zero
from interp.models.harvest import harvest
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY
from interp.models.sweeps import Edits, Readout, sweep
from interp.prompts import Prompts
from interp.sites import Site, every

Way = Literal["ablation", "boost", "direction"]
Set = tuple[int, ...]
"""Columns of an activity."""


@dataclass(frozen=True, eq=False)
class Intervention:
    """What one intervention did to the answers, beside its controls.

    Log-odds are logit(refuse) - logit(comply) at the answer position; `said` is the first token of a greedy answer: 1
    refuse, -1 comply, 0 another.
    """

    way: Way
    what: str
    """What was changed, in words."""
    control_name: str
    base: Float[np.ndarray, " prompt"]
    """Log-odds of the model as it is."""
    own: Float[np.ndarray, " prompt"]
    controls: Float[np.ndarray, "prompt control"]
    said_base: Float[np.ndarray, " prompt"]
    said_own: Float[np.ndarray, " prompt"]
    said_controls: Float[np.ndarray, "prompt control"]
    groups: Int[np.ndarray, " prompt"]
    sign: Literal[1, -1]
    """Direction of the expected change of the log-odds."""
    minimum: float
    likeness: tuple[float, ...]
    """Mean frequency and size (`feature_likeness`) of the features, then of the matched ones; empty for directions.
    Where these differ much, the control is a poor one."""

    def effect(self) -> Estimate:
        """Mean change of the log-odds in the expected direction, over prompts."""
        return mean(self.sign * (self.own - self.base), self.groups)

    def control(self) -> Estimate:
        """The same on the mean over all controls."""
        return mean(self.sign * (self.controls.mean(1) - self.base), self.groups)

    @property
    def p(self) -> float:
        """(1 + controls with at least the mean change) / (1 + controls)."""
        own = float(np.mean(self.sign * (self.own - self.base)))
        others = (self.sign * (self.controls - self.base[:, None])).mean(0)
        return float((1 + (others >= own - 1e-9).sum()) / (1 + len(others)))

    @property
    def above_all(self) -> bool:
        """Whether no control changes the log-odds as much."""
        return self.p <= 1 / (1 + self.controls.shape[1]) + 1e-12

    def flips(self, *, generated: bool = False) -> tuple[Estimate, Estimate]:
        """Share of prompts whose verdict flips: by the intervention, and by its controls on the mean over all of them.

        The verdict is the likelier of the two answers; with `generated` what the model says first.
        """
        base, own, others = (
            (self.said_base, self.said_own, self.said_controls)
            if generated
            else (np.sign(self.base), np.sign(self.own), np.sign(self.controls))
        )
        changed = (others != base[:, None]).mean(1)
        return proportion((own != base).astype(float), self.groups), mean(changed, self.groups)

    def claim(self) -> Claim:
        """That it changes the answers more than its controls do: by `minimum` at least, and more than any of them.

        Fewer than 19 controls cannot tell the latter.
        """
        change, others = self.sign * (self.own - self.base), self.sign * (self.controls.mean(1) - self.base)
        beyond = (None if self.controls.shape[1] < 19 else True) if self.above_all else False
        return Claim(
            f"{self.way} changes the answer",
            f"{self._told()}; {100 * self.flips()[0].value:.0f} % of verdicts flip",
            self.effect(), self.control(), self.control_name, mean(change - others, self.groups), self.minimum,
            "logits",
            note=f"on prompts that had no part in the choice; p = {self.p:.2g} among {self.controls.shape[1]} controls",
            also={f"it changes more than each of the {self.control_name}": beyond},
        )  # fmt: skip

    def _told(self) -> str:
        way = "lowers" if self.sign < 0 else "raises"
        own, others = _shown(self.effect()), _shown(self.control())
        return f"{self.what} {way} the log-odds of refusal by {own}, the {self.control_name} by {others}"

    def sentence(self) -> str:
        """What it did, in words."""
        flips, others = self.flips()
        return (
            f"{self._told()} (p = {self.p:.2g}); {100 * flips.value:.0f} % of verdicts flip, "
            f"{100 * others.value:.0f} % with the controls: {self.claim().verdict}"
        )


def causal_tests(
    model: HookedTransformer,
    transcoders: Transcoders,
    prompts: Prompts,
    activity: Activity,
    triples: Triples,
    features: Sequence[int] | Int[np.ndarray, " some"],
    refuse: int,
    comply: int,
    *,
    category: str | None = None,
    sets: int = 50,
    near: int = 8,
    minimum: float = 0.5,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> dict[Way, Intervention]:
    """Ablation and boost of features (columns of `activity`: those that are `harm_specific`), and the direction.

    Run on the causal part of the triples (of a category, or of all); what features are like, and the direction, come
    from the other parts. `sets` are the matched sets, and the random directions; each feature of one is drawn from the
    `near` features of its layer that are most like it. `minimum` is in logits. The model is left without transcoders.
    """
    chosen = [int(one) for one in features]
    if not chosen or len(set(chosen)) < len(chosen) or not 0 <= min(chosen) <= max(chosen) < len(activity.features):
        raise ConfigError("name at least one feature to change, each once, by its column in the activity")
    if sets < 1 or near < 2:
        raise ConfigError("a causal test needs at least one matched set, and two features to draw from")
    first = prompts.reading(prompts.read_names[:1])
    seen = np.concatenate([triples.prompts("harmful", category, part) for part in ("discovery", "confirmation")])
    rows = {kind: triples.prompts(kind, category, "causal") for kind in ("harmful", "safe_contrast")}
    if not len(seen) or not len(rows["harmful"]):
        raise ConfigError("a causal test needs triples in its own part and in the others")
    likeness = feature_likeness(activity, transcoders, seen)
    others = matched_sets(activity, likeness, chosen, sets=sets, near=near, seed=seed)
    level = _levels(activity, seen)
    frequency, size = likeness.tolist()
    drawn = [at for one in others for at in one]
    alike = tuple(float(np.mean([part[i] for i in some])) for some in (chosen, drawn) for part in (frequency, size))
    names = _listed([activity.names[one] for one in chosen])
    found: dict[Way, Intervention] = {}
    with transcoders_attached(model, transcoders):
        some = first.take(rows["harmful"])
        found["ablation"] = _tried(
            model, some, [_cell(activity, one) for one in (chosen, *others)], refuse, comply, "ablation",
            f"ablation of {names} on harmful prompts", "matched sets", -1, minimum, alike, memory, progress,
        )  # fmt: skip
        some = first.take(rows["safe_contrast"])
        at = torch.arange(some.tokens.shape[1]) == some.reads[:, :1]
        found["boost"] = _tried(
            model, some, [_cell(activity, one, level, at) for one in (chosen, *others)], refuse, comply, "boost",
            f"boost of {names} on safe contrasts", "matched sets", 1, minimum, alike, memory, progress,
        )  # fmt: skip
    refusal = refusal_direction(
        model, first, seen, np.concatenate([triples.prompts("safe_contrast", category, part)
                                            for part in ("discovery", "confirmation")]),
        refuse, comply, memory=memory,
    )  # fmt: skip
    n_layers = int(model.cfg.n_layers)
    cells = [everywhere(one, n_layers) for one in (refusal, *refusal.random(sets, seed=seed))]
    found["direction"] = _tried(
        model, first.take(rows["harmful"]), cells, refuse, comply, "direction",
        f"ablation of {refusal.source} on harmful prompts", "random directions", -1, minimum, (), memory, progress,
    )  # fmt: skip
    return found


def feature_likeness(
    activity: Activity, transcoders: Transcoders, rows: Int[np.ndarray, " row"]
) -> Float[np.ndarray, "two feature"]:
    """Of each feature: the share of these prompts in which it is active, and the norm of what it writes where it is
    (largest activation times decoder)."""
    norms = np.array([float(transcoders.layers[layer].decoder[number].norm()) for layer, number in activity.features])
    return np.stack([(activity.largest[rows] > 0).mean(0), _levels(activity, rows) * norms])


def matched_sets(
    activity: Activity,
    likeness: Float[np.ndarray, "two feature"],
    chosen: Sequence[int],
    *,
    sets: int = 50,
    near: int = 8,
    seed: int = 0,
) -> list[Set]:
    """Sets of other features, one for each of the chosen: of its layer, drawn from the `near` most like it in frequency
    and in the logarithm of the size (each over its spread in the layer). None comes twice in a set.

    Raises ConfigError where a layer has fewer others than the chosen ones.
    """
    rng = np.random.default_rng(seed)
    layer = activity.features[:, 0]
    place = np.stack([likeness[0], np.log(np.maximum(likeness[1], 1e-12))])
    pools: dict[int, np.ndarray] = {}
    for at in {int(layer[one]) for one in chosen}:
        pool = np.flatnonzero((layer == at) & (likeness[0] > 0))
        pools[at] = np.setdiff1d(pool, chosen)
        wanted = sum(int(layer[one]) == at for one in chosen)
        if len(pools[at]) < wanted:
            raise ConfigError(
                f"layer {at} has {len(pools[at])} features beside the {wanted} chosen: none to match them"
            )
    order: dict[int, np.ndarray] = {}
    for one in chosen:
        pool = pools[int(layer[one])]
        spread = place[:, pool].std(1, keepdims=True)
        apart = np.divide(place[:, pool] - place[:, [one]], spread, out=np.zeros((2, len(pool))), where=spread > 0)
        order[one] = pool[np.argsort((apart**2).sum(0), kind="stable")]
    found = []
    for _ in range(sets):
        drawn: dict[int, int] = {}
        for one in rng.permutation(np.array(chosen)).tolist():
            free = [other for other in order[one].tolist() if other not in drawn.values()][:near]
            drawn[one] = int(rng.choice(free))
        found.append(tuple(drawn[one] for one in chosen))
    return found


def refusal_direction(
    model: HookedTransformer,
    prompts: Prompts,
    harmful: Int[np.ndarray, " row"],
    harmless: Int[np.ndarray, " row"],
    refuse: int,
    comply: int,
    *,
    memory: int = MEMORY,
) -> Direction:
    """The difference of the means of both sides at the answer position whose removal lowers refusal of these harmful
    prompts most; of the first four fifths of the layers, as in its source, for at the last it is the answer itself."""
    first = prompts.reading(prompts.read_names[:1])
    n_layers = int(model.cfg.n_layers)
    sites = every(["resid_post"], n_layers, range(max(1, int(0.8 * n_layers))))
    sides = [_mean_at_answer(model, first.take(rows), sites, memory) for rows in (harmful, harmless)]
    candidates = [
        Direction(site, one - other, f"the refusal direction of layer {site.layer}")
        for site, one, other in zip(sites, *sides, strict=True)
        if float((one - other).norm()) > 0
    ]
    if not candidates:
        raise ConfigError("harmful and harmless prompts do not differ at the answer position below the last layer")
    some = first.take(harmful)
    cells = [everywhere(one, n_layers) for one in candidates]
    found = sweep(model, Edits(some, cells), Readout((logit_diff,), _targets(some, refuse, comply)), memory=memory)
    return candidates[int(found.values[..., 0].mean(0).argmin())]


def _mean_at_answer(
    model: HookedTransformer, prompts: Prompts, sites: Sequence[Site], memory: int
) -> Float[Tensor, "site d_model"]:
    total = torch.zeros(len(sites), int(model.cfg.d_model), dtype=torch.float64)
    for part in harvest(model, prompts, sites, memory=memory, device="cpu"):
        rows, columns = torch.arange(len(part.prompts)), part.prompts.reads[:, 0]
        total += torch.stack([part[site][rows, columns].double().sum(0) for site in sites])
    return (total / len(prompts)).float()


def everywhere(direction: Direction, n_layers: int) -> list[Edit]:
    """The edits that take a direction out of all that is written to the stream."""
    sites = [Site("resid_pre", 0), *(Site(name, at) for at in range(n_layers) for name in ("attn_out", "mlp_out"))]
    return [Direction(site, direction.vector, direction.source).project_out() for site in sites]


def _tried(
    model: HookedTransformer,
    prompts: Prompts,
    cells: list[list[Edit]],
    refuse: int,
    comply: int,
    way: Way,
    what: str,
    control_name: str,
    sign: Literal[1, -1],
    minimum: float,
    likeness: tuple[float, ...],
    memory: int,
    progress: bool,
) -> Intervention:
    """The first cell, and the others as its controls."""
    readout = Readout((logit_diff, SAID), _targets(prompts, refuse, comply))
    found = sweep(model, Edits(prompts, cells), readout, memory=memory, progress=progress)
    values, base = found.values.double().numpy(), found.base.double().numpy()
    return Intervention(
        way, what, control_name, base[:, 0], values[:, 0, 0], values[:, 1:, 0], base[:, 1], values[:, 0, 1],
        values[:, 1:, 1], prompts.groups.numpy(), sign, minimum, likeness,
    )  # fmt: skip


def _cell(
    activity: Activity, chosen: Sequence[int], level: np.ndarray | None = None, at: Tensor | None = None
) -> list[Edit]:
    """Edits that switch features off, or add to each its level."""
    edits = []
    for layer in sorted({int(activity.features[one, 0]) for one in chosen}):
        mine = sorted(
            (one for one in chosen if activity.features[one, 0] == layer), key=lambda one: activity.features[one, 1]
        )
        value = Zero() if level is None else Add(torch.tensor(level[mine], dtype=torch.float32))
        edits.append(
            Edit(Site("features", layer), value, at=at, units=[int(activity.features[one, 1]) for one in mine])
        )
    return edits


def _levels(activity: Activity, rows: Int[np.ndarray, " row"]) -> Float[np.ndarray, " feature"]:
    """Mean of the largest activations over the prompts in which a feature is active; 0 where it is in none."""
    values = activity.largest[rows]
    count = (values > 0).sum(0)
    return np.divide(values.sum(0), count, out=np.zeros(values.shape[1]), where=count > 0)


def _targets(prompts: Prompts, refuse: int, comply: int) -> Targets:
    if refuse == comply:
        raise ConfigError("refusing and complying must begin with different tokens")
    return Targets(torch.full_like(prompts.reads, refuse), torch.full_like(prompts.reads, comply))


def _said(logits: Tensor, targets: Targets) -> Tensor:
    first = logits.argmax(-1)
    assert targets.foils is not None
    return (first == targets.answers).to(logits) - (first == targets.foils).to(logits)


SAID = Metric("said", "1 refuse, -1 comply", _said, "mean", uses_foils=True)
"""What a greedy answer begins with."""


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{len(names)} features ({', '.join(names[:3])}, ...)"


def _shown(one: Estimate) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
