"""The steps of the arithmetic study that ask what parts do: ablation, direct attribution, wiring, probes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from interp.analyses.ablation import Ablation, StepAblation, ablation, step_ablation
from interp.analyses.attribution import logit_attribution
from interp.analyses.circuits import cumulative_ablation
from interp.analyses.weights import Through, composition
from interp.estimates import halves, mean_value
from interp.figures import plot
from interp.figures.curves import plot_accumulated
from interp.figures.parts import plot_importance
from interp.metrics import at_each
from interp.models.load import info, load_model
from interp.models.replacement import Parts
from interp.prompts import Prompts
from interp.studies.arithmetic.subject import OPERATORS, ArithmeticSubject
from interp.studies.study import Picture, Report, Results, Step

FEWEST = 60
"""Problems of an operator below which its steps are not ablated."""
THROUGH: tuple[Through, ...] = ("Q", "K", "V")


def interventions_step(subject: ArithmeticSubject) -> Step:
    """Heads and layers ablated one by one, heads in order of importance, and the steps that write each digit.

    The order is found on other problems than it is tried on.
    """
    settings = subject.settings
    prompts = subject.prompts.take(range(len(subject.problems)))
    order_from, taken_from = halves(prompts.groups, seed=settings.seed)

    def compute(report: Report) -> Results:
        computed: Results = {}
        for name, site in (("heads", "z"), ("attention-layers", "attn_out"), ("mlp-layers", "mlp_out")):
            report(name)
            computed[name] = ablation(
                subject.model, prompts, site=site, kind=settings.ablation, layers=subject.layers, seed=settings.seed
            )
        report("heads in order of importance")
        computed["cumulative"] = cumulative_ablation(
            subject.model, prompts.take(taken_from), by_importance(computed["heads"], order_from),
            kind=settings.ablation, metrics=["exact_match", "log_prob"], random_orders=10, seed=settings.seed,
        )  # fmt: skip
        for operator in subject.operators:
            report(f"steps of {OPERATORS[operator]}")
            result = _steps(subject, operator)
            if result is not None:
                computed[f"steps-{OPERATORS[operator]}"] = result
        return computed

    return Step(
        "interventions",
        compute,
        subject.key("interventions", settings.ablation, settings.problems, settings.seed, subject.layers),
        lambda found: _intervention_pictures(found, splits(prompts)),
        text="A part whose absence costs nothing may be idle or have a stand-in.",
    )


def _steps(subject: ArithmeticSubject, operator: str) -> StepAblation | None:
    """Every position that writes a digit ablated, each digit scored by itself; None where there are too few."""
    prompts = subject.more.prompts
    kept = np.flatnonzero(prompts.labels["operator"].to_numpy() == operator)[: 2 * subject.settings.problems]
    digits = [name for name in prompts.read_names if name.endswith(".digit") or name.startswith("answer.")]
    chosen = prompts.take(kept).reading(digits)
    # The leading 1 of a carry is the same in every problem of a layout: a mean over them writes it as well.
    told = [name for i, name in enumerate(digits) if len(chosen.answers[:, i].unique()) > 2]
    if len(kept) < FEWEST or len(told) < 2:
        return None
    chosen = chosen.reading(told)
    return step_ablation(
        subject.model, chosen, [f"predict.{name}" for name in told], kind=subject.settings.ablation,
        metrics=at_each("exact_match", chosen), seed=subject.settings.seed,
    )  # fmt: skip


def splits(prompts: Prompts) -> dict[str, np.ndarray]:
    """Which problems: all, without (base-add alone) and with a carry (borrow), of each sub-task, of each operator."""
    carries, operator = (prompts.labels[name].to_numpy() for name in ("carries", "operator"))
    found = {"all": np.ones(len(prompts), dtype=bool), "no carry": carries == 0, "a carry": carries > 0}
    for task in ("make-nine", "use-carry", "use-nine"):  # make-carry is "a carry"
        found[task] = prompts.labels.filter(like=f"{task}.").eq(True).any(axis=1).to_numpy()
    present = [o for o in OPERATORS if (operator == o).any()]
    if len(present) > 1:
        found |= {OPERATORS[o]: operator == o for o in present}
    return {name: kept for name, kept in found.items() if kept.any()}


def _intervention_pictures(found: Results, groups: Mapping[str, np.ndarray]) -> list[Picture]:
    shown = (
        ("cumulative", "Heads taken away, the most important first.", True),
        ("heads", "What each head's absence costs.", False),
        ("attention-layers", "What each attention layer's absence costs.", False),
        ("mlp-layers", "What each MLP layer's absence costs.", False),
    )
    made = [Picture(name, caption, lambda r=found[name]: plot(r), headline) for name, caption, headline in shown]
    made.append(
        Picture(
            "heads-by-carry", "What each head's absence costs, by carry, sub-task and operator.",
            lambda: plot_importance(found["heads"], groups, "exact_match"), True,
        )
    )  # fmt: skip
    for name, result in found.items():
        if isinstance(result, StepAblation):
            operator = name.removeprefix("steps-")
            made.append(
                Picture(
                    name, f"Which digits break when one step of an {operator} stops computing.",
                    lambda r=result: plot(r), operator != "subtraction",
                )
            )  # fmt: skip
    return made


def importance_tables(found: Results, groups: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Importance of layers and heads in each metric, also with and without a carry; and the cumulative curve."""
    own, control, difference = found["cumulative"].curve()
    steps = ["whole model", *(f"without {part} too" for part in found["cumulative"].parts)]
    return {
        "layer-importance": {
            "about": _DROP.format(found["mlp-layers"].kind),
            "parts": _importance(found["attention-layers"], groups, "attention {layer}")
            | _importance(found["mlp-layers"], groups, "mlp {layer}"),
        },
        "head-importance": {
            "about": _DROP.format(found["heads"].kind),
            "parts": _importance(found["heads"], groups, "L{layer}H{column}"),
        },
        "cumulative-ablation": {
            "about": "mean of the metric as heads are ablated one after the other, in the order of their drop in "
            "log_prob on the other half of the problems, beside random orders of the same heads; p: of a mean of zero",
            "metric": found["cumulative"].metrics[0],
            "steps": [
                {
                    "step": step,
                    "by importance": own[i].as_dict(),
                    "random order": control[i].as_dict(),
                    "difference": difference[i].as_dict(),
                }
                for i, step in enumerate(steps)
            ],
        },
    }


_DROP = (
    "drop of each metric under {} ablation of the part alone, on all problems and subsets; value, 95 % interval, n "
    "groups; p: of no drop, by flipping signs"
)


def _importance(result: Ablation, groups: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """By part, metric and subset of the problems: the drop without the part."""
    drops = {
        metric: {which: result.importance(kept, metric=metric) for which, kept in groups.items()}
        for metric in result.metrics
    }
    return {
        name.format(layer=layer, column=column): {
            metric: {which: drop[row, place].as_dict() for which, drop in by_subset.items()}
            for metric, by_subset in drops.items()
        }
        for row, layer in enumerate(result.layers)
        for place, column in enumerate(result.columns)
    }


def by_importance(heads: Ablation, prompts: np.ndarray) -> Parts:
    """Heads by their mean drop in log-probability on some prompts, the largest first."""
    drop = mean_value(heads.drop("log_prob")[torch.from_numpy(prompts)])
    order = np.argsort(-np.nan_to_num(drop), axis=None, kind="stable")
    rows, columns = np.unravel_index(order, drop.shape)
    return [(heads.layers[r], int(heads.columns[c])) for r, c in zip(rows.tolist(), columns.tolist(), strict=True)]


def attribution_step(subject: ArithmeticSubject) -> Step:
    """What each layer and head adds to the answer's logit, directly."""

    def compute(report: Report) -> Results:
        found = subject.on_prompts
        return {
            "layers": logit_attribution(found, subject.model, split="layer"),
            "heads": logit_attribution(found, subject.model, split="head"),
        }

    return Step(
        "attribution",
        compute,
        subject.key("attribution", subject.settings.problems),
        lambda found: [
            Picture("layers", "What each layer itself adds to the answer.", lambda: plot(found["layers"]), True),
            Picture("heads", "What each head itself adds to the answer.", lambda: plot(found["heads"])),
            Picture(
                "accumulated", "The answer's logit as the stream fills.", lambda: plot_accumulated(found["layers"])
            ),
        ],
        text="Direct effects only: what a part does through later ones is counted as theirs.",
    )


def weights_step(subject: ArithmeticSubject) -> Step:
    """Which later heads are wired to read from which earlier ones."""
    known = info(subject.model)

    def compute(report: Report) -> Results:
        model = subject.model
        if known.weights != "processed":
            model = load_model(known.name, weights="processed", device=known.device)
        return {f"{t}-composition": composition(model, t, seed=subject.settings.seed) for t in THROUGH}

    return Step(
        "weights",
        compute,
        subject.key("weights", subject.settings.seed),
        lambda found: [
            Picture(name, f"{name}, beyond random rotations.", lambda r=result: plot(r))
            for name, result in found.items()
        ],
        text="What heads could pass on to each other, from the weights alone.",
    )
