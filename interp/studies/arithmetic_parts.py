"""The steps of the arithmetic study that ask what parts do: ablation, direct attribution, wiring, probes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from interp.analyses.ablation import Ablation, Parts, ablation, cumulative_ablation
from interp.analyses.attribution import logit_attribution
from interp.analyses.probing import probing
from interp.analyses.weights import Through, composition
from interp.datasets.arithmetic import PLACES
from interp.estimates import halves, mean_value
from interp.figures import plot
from interp.models.load import info, load_model
from interp.studies.arithmetic import ArithmeticSubject, accuracy_step, patching_step
from interp.studies.settings import Probe
from interp.studies.steps import attention_step, lens_step
from interp.studies.study import Picture, Report, Results, Step

THROUGH: tuple[Through, ...] = ("Q", "K", "V")


def interventions_step(subject: ArithmeticSubject) -> Step:
    """Heads and layers ablated one by one, and heads in order of importance; the order is found on other problems."""
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
            kind=settings.ablation, metrics=["exact_match", "log_prob"], seed=settings.seed,
        )  # fmt: skip
        return computed

    return Step(
        "interventions",
        compute,
        subject.key("interventions", settings.ablation, settings.problems, settings.seed, subject.layers),
        _intervention_pictures,
        text="A part whose absence costs nothing may be idle or have a stand-in.",
    )


def _intervention_pictures(found: Results) -> list[Picture]:
    shown = (
        ("cumulative", "Heads taken away, the most important first.", True),
        ("heads", "What each head's absence costs.", True),
        ("attention-layers", "What each attention layer's absence costs.", False),
        ("mlp-layers", "What each MLP layer's absence costs.", False),
    )
    return [Picture(name, caption, lambda r=found[name]: plot(r), headline) for name, caption, headline in shown]


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


def probing_step(subject: ArithmeticSubject) -> Step:
    """Linear probes for carries, digits and the operator, and for the user's own labels."""
    probes = [*own_probes(subject), *subject.settings.probes]
    seed = subject.settings.seed

    def compute(report: Report) -> Results:
        everything, computed = subject.on_prompts, {}
        sums = everything.prompts.labels["operator"].to_numpy() == "+"
        for probe in probes:
            report(probe.label)
            # A carry of a product is another thing, with more values.
            found = everything.take(sums) if probe.label.startswith("carry.") and sums.any() else everything
            computed[probe.label] = probing(found, probe.label, at=probe.at, key=probe.key, seed=seed)
        return computed

    return Step(
        "probing",
        compute,
        subject.key("probing", [probe.model_dump() for probe in probes], seed),
        lambda found: [
            Picture(
                name.replace(".", "-"), f"Probes for {name}, by depth and position.", lambda r=result: plot(r),
                name.startswith("carry"),
            )
            for name, result in found.items()
        ],
        text="What can be read linearly. That it is there does not say that the model uses it.",
    )  # fmt: skip


def steps_for(subject: ArithmeticSubject) -> list[Step]:
    """The steps that the settings ask for."""
    made = {
        "attention": attention_step,
        "logit-lens": lens_step,
        "patching": patching_step,
        "interventions": interventions_step,
        "attribution": attribution_step,
        "weights": weights_step,
        "probing": probing_step,
    }
    return [accuracy_step(subject), *(make(subject) for name, make in made.items() if subject.settings.wants(name))]


def own_probes(subject: ArithmeticSubject) -> list[Probe]:
    """A carry where the next digit is predicted, a digit of the answer where it is, the operator at the equals sign.

    The control task hangs on the digit pair of the column, which comes again with other operands.
    """
    known = subject.prompts.roles
    made: list[Probe] = []
    places: Sequence[str] = PLACES[: subject.digits]
    for place, above in pairwise(places):
        reads = [f"predict.answer.{above}", f"predict.answer.{place}", "="]
        at: list[str | int] = [role for role in reads if role in known]
        if "+" in subject.operators:
            made.append(Probe(label=f"carry.{place}", at=at, key=[f"a.{place}", f"b.{place}"]))
    tens: list[str | int] = [r for r in ("predict.answer.tens", "predict.answer.ones", "=") if r in known]
    made.append(Probe(label="answer.tens", at=tens, key=["a.tens", "b.tens"]))
    if len(subject.operators) > 1:
        at = [role for role in ("=", "predict.answer.tens", "predict.answer.ones") if role in known]
        made.append(Probe(label="operator", at=at, key=["a.ones", "b.ones"]))
    return made
