"""What the results of one judge say, as claims with their controls, in the order of the questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from interp.analyses.faithfulness import Faithfulness
from interp.analyses.verdicts import Verdicts
from interp.estimates import (
    Estimate,
    against_population,
    constant,
    counted,
    difference,
    halves,
    mean,
    mean_value,
    population,
    proportion,
    proportion_difference,
    share_change,
)
from interp.evidence import Claim
from interp.studies.safety_judge.steps import untrained_results
from interp.studies.study import Results
from interp.studies.words import percent
from interp.workflows.adversarial import EditSearch
from interp.workflows.judge_heads import MEASURES, JudgeHeads
from interp.workflows.paths import SafeUnsafePaths
from interp.workflows.update import UpdateComparison

LEVEL = 0.05
IG = "faithfulness-integrated-gradients"


def claims(found: Mapping[str, Results]) -> list[Claim]:
    """Every claim that the finished steps allow."""
    made: list[Claim] = []
    if "training" in found:
        made += [replace(one, name=f"training: {one.name}") for one in found["training"]["watched"].claims()]
    if "verdicts" in found:
        made += [judges(name, one) for name, one in found["verdicts"].items()]
    if "tokens" in found:
        made += tokens(found["tokens"])
    if "heads" in found:
        made += [*heads(found["heads"]["heads"]), separates(found["heads"])]
        made.append(neurons(found["heads"]["neurons"]))
    if "paths" in found:
        made += critical(found["paths"]["paths"])
    if "attack" in found:
        made += attack(found["attack"]["gradient"], found["attack"]["random"])
    if "update" in found:
        made += update(found["update"])
    return made


def judges(name: str, result: Verdicts) -> Claim:
    """Does the judge tell unsafe from safe on a set?"""
    own = result.auc()
    ends = [float(getattr(own, end)) - 0.5 for end in ("value", "low", "high")]
    words = {"test": "held-out requests", "labelled": "the set of one's own"}.get(name, name.replace("-", " "))
    return Claim(
        name=f"judges {name}",
        statement=f"The judge tells unsafe from safe on {words}: AUC {float(own.value):.3f}, "
        f"{percent(result.accuracy())} right, F1 {result.f1():.2f}.",
        effect=own,
        control=constant(0.5, int(own.n)),
        control_name="chance",
        difference=Estimate.single(ends[0], ends[1], ends[2], p=float(own.p), n=int(own.n)),
        minimum=0.1,
        unit="area under the ROC curve",
        note=f"Expected calibration error {result.calibration_error():.3f}. DeLong's interval takes prompts as "
        "independent.",
    )


def tokens(found: Results) -> list[Claim]:
    """Do attributions find the words that decide, and was that learned?"""
    own: Faithfulness = found[IG]
    others = [float(one.recall.mean()) for one in untrained_results(found)]
    recall = mean(own.recall, own.groups)
    made = [
        Claim(
            name="learned tokens",
            statement=f"The verdicts hang on the words that decide: integrated gradients put {percent(recall)} of them "
            "first.",
            effect=recall, control=population(others, bounds=(0, 1)), control_name="untrained judges",
            difference=against_population(_certain(recall, own.recall), others, reach=1.0), minimum=0.2,
            unit="recall at k, k the number of words that decide",
            note=f"{len(own.recall)} requests with a pair, {int(own.ignored.sum())} of which give the words that "
            f"decide less than an even spread would; by chance {percent(float(own.even.mean()))}.",
        )
    ]  # fmt: skip
    for name in ("gradient x input", "raw attention"):
        other: Faithfulness = found[f"faithfulness-{name.replace(' ', '-')}"]
        gap = difference(own.recall, other.recall, own.groups)
        made.append(
            Claim(
                name=f"better than {name}",
                statement=f"Integrated gradients find more of the words that decide than {name}.",
                effect=recall, control=mean(other.recall, own.groups), control_name=name, difference=gap, minimum=0.02,
                unit="recall at k", note="Both on the same requests, at one k.",
            )
        )  # fmt: skip
    kept = mean(own.comprehensiveness, own.groups)
    made.append(
        Claim(
            name="comprehensive",
            statement="Without the words that integrated gradients put first the log-odds fall by "
            f"{float(kept.value):.1f} nats.",
            effect=kept, control=mean(own.random_comprehensiveness, own.groups), control_name="as many random words",
            difference=difference(own.comprehensiveness, own.random_comprehensiveness, own.groups), minimum=1.0,
            unit="nats of the log-odds", note="Words are replaced by the token for a word that is not there.",
        )
    )  # fmt: skip
    return made


def _certain(estimate: Estimate, values: torch.Tensor) -> Estimate:
    """An interval also where all prompts agree: Wilson's for as many groups."""
    n = int(estimate.n)
    if not np.isnan(estimate.low) or n < 8:
        return estimate
    share = counted(float(values.mean()) * n, n)
    return Estimate.single(float(estimate.value), float(share.low), float(share.high), n=n)


def heads(result: JudgeHeads) -> list[Claim]:
    """Which head tells unsafe from safe, by each measure that speaks of the verdict?"""
    made = []
    first, second = (torch.from_numpy(half) for half in halves(result.groups))
    for measure in MEASURES[1:]:
        if bool(result.values(measure).isnan().all()):
            continue
        both = [_part(result, half).contrast(measure) for half in (first, second)]
        best = int(np.nanargmax(np.abs(both[0].value)))
        sign = float(np.sign(both[0].value[best])) or 1.0
        effect = _signed(both[1], best, sign)
        rest = (
            mean_value(np.abs(np.delete(both[1].value, best))[:, None]) if both[1].value.size > 1 else np.array([0.0])
        )
        p = float(result.contrast(measure).p[best])
        word = {"direct": "writes most into", "ablation": "is needed most for"}[measure]
        made.append(
            Claim(
                name=f"head: {measure}",
                statement=f"Head {result.names[best]} {word} the difference between unsafe and safe requests: "
                f"{float(effect.value):.1f} nats.",
                effect=effect, control=constant(0.0, int(effect.n)), control_name="no difference", difference=effect,
                minimum=0.5, unit="nats of the log-odds",
                also={f"p < {LEVEL:g}, corrected for {both[0].value.size} heads (p = {p:.3f})": p < LEVEL},
                note="Chosen on half of the templates, measured on the other; the other heads' mean size there is "
                f"{float(rest[0]):.1f}. An untrained judge has such heads too where its verdicts happen to differ.",
            )
        )  # fmt: skip
    agreement = result.agreement()["direct and ablation"]
    made.append(
        Claim(
            name="heads agree",
            statement="Heads that write into the verdict are those that it needs: the two order the heads alike.",
            effect=agreement, control=constant(0.0, int(agreement.n)), control_name="no relation", difference=agreement,
            minimum=0.5, unit="rank correlation over heads",
            note="Heads that later heads read are needed without writing themselves.",
        )
    )  # fmt: skip
    return made


def _part(result: JudgeHeads, rows: torch.Tensor) -> JudgeHeads:
    names = ("attention", "uniform", "direct", "ablation", "log_odds", "unsafe", "groups")
    return replace(result, **{name: getattr(result, name)[rows] for name in names})


def _signed(estimate: Estimate, at: int, sign: float) -> Estimate:
    ends = sorted([sign * float(estimate.low[at]), sign * float(estimate.high[at])])
    return Estimate.single(sign * float(estimate.value[at]), *ends, p=float(estimate.p[at]), n=int(estimate.n[at]))


def separates(found: Results) -> Claim:
    """Was it learned to hold safe and unsafe apart where the verdict is read?"""
    result = found["separation"]
    own = proportion(result.right[:, -1], result.groups)
    others = [float(mean_value(one.right[:, -1])) for one in untrained_results(found)]
    return Claim(
        name="learned separation",
        statement=f"After the last layer safe and unsafe lie apart: {percent(own)} of the requests on their own side.",
        effect=own, control=population(others, bounds=(0, 1)), control_name="untrained judges",
        difference=against_population(own, others, reach=1.0), minimum=0.1, unit="share of requests",
        note="Along the difference of means, learned on other templates. Apart is not yet used.",
    )  # fmt: skip


def neurons(result: Any) -> Claim:
    """Are there neurons that prefer one class, found on one half and confirmed on the other?"""
    found = result.found()
    share = counted(float(found.sum()), found.numel())
    return Claim(
        name="neurons",
        statement=f"{int(found.sum())} of {found.numel()} neurons prefer safe or unsafe requests at the verdict, on "
        "both halves of the templates.",
        effect=share, control=constant(0.0), control_name="none", difference=share, minimum=0.01,
        unit="share of neurons",
        note="Benjamini and Hochberg over all neurons on one half, again over those found on the other, eta squared at "
        "least .1 on both. Untrained judges have such neurons too; preferring is not yet doing.",
    )  # fmt: skip


def critical(result: SafeUnsafePaths) -> list[Claim]:
    """Which layer carries the verdict from one twin to the other?"""
    best = result.critical()
    made = [
        Claim(
            name="critical layer",
            statement=f"Layer {best.layer} carries the verdict: copied between twins it moves "
            f"{float(best.effect.value):.1f} of {float(result.gap.mean()):.1f} nats.",
            effect=best.effect, control=_control(result, best.layer), control_name="copied from a safe twin",
            difference=best.beyond_control, minimum=1.0, unit="nats of the log-odds",
            also={f"p < {LEVEL:g} by swapped labels, corrected for {len(result.layers)} layers (p = {best.p:.4f})":
                  best.p < LEVEL},
            note=f"Layer chosen on half of the pairs, measured on the other. {best.warning}".strip(),
        )
    ]  # fmt: skip
    if best.beyond_next is not None:
        made.append(
            Claim(
                name="one critical layer",
                statement=f"Layer {best.layer} moves the verdict more than any other layer.",
                effect=best.effect, control=_less(best.effect, best.beyond_next), control_name="the runner-up",
                difference=best.beyond_next, minimum=0.0, unit="nats of the log-odds",
                note="Both chosen on half of the pairs, measured on the other.",
            )
        )  # fmt: skip
    return made


def _control(result: SafeUnsafePaths, layer: int) -> Estimate:
    return mean(result.control[:, result.layers.index(layer)], result.groups)


def _less(one: Estimate, gap: Estimate) -> Estimate:
    """The value behind a difference; its interval is not known."""
    return Estimate.single(float(one.value) - float(gap.value), np.nan, np.nan, n=int(one.n))


def attack(gradient: EditSearch, chance: EditSearch) -> list[Claim]:
    """Is the judge fooled by words of the same kind, and does the gradient find them better than chance?"""
    # What the judge calls safe already it cannot be fooled about.
    there = gradient.base > 0
    if not bool(there.any()):
        return []
    groups = gradient.groups[there]
    own, other = (proportion(search.flipped[there], groups) for search in (gradient, chance))
    tries = [_tries(search)[there] for search in (gradient, chance)]
    flips = [gradient.new[i] for i in gradient.flips.nonzero().flatten().tolist()]
    common = sorted(set(flips), key=lambda word: (-flips.count(word), word))[:6]
    said = f", most by {', '.join(common)}" if common else ""
    return [
        Claim(
            name="fooled",
            statement=f"One allowed word turns {percent(own)} of the unsafe verdicts{said}.",
            effect=own, control=constant(0.0), control_name="none", difference=own, minimum=0.05,
            unit="share of requests",
            note=f"Act or object swapped for words of their own kind, at most {gradient.budget} edits tried by "
            "gradient, each verified by a forward pass; the requests stay unsafe by the rule. "
            f"{len(groups)} of {len(there)} requests are called unsafe as they stand.",
        ),
        Claim(
            name="gradient finds more",
            statement="Edits chosen by gradient flip more verdicts than as many random ones: "
            f"{percent(float(tries[0].nanmean()))} instead of {percent(float(tries[1].nanmean()))}.",
            effect=mean(tries[0], groups), control=mean(tries[1], groups),
            control_name="random edits of the same number", minimum=0.05, unit="share of requests, mean over tries",
            difference=difference(tries[0], tries[1], groups),
            note=f"Mean over 1 to {gradient.budget} tries; at the last of them {percent(own)} and {percent(other)}.",
        ),
    ]  # fmt: skip


def _tries(search: EditSearch) -> torch.Tensor:
    """Share of the numbers of tries, up to the budget, within which a text is flipped."""
    return torch.stack([search.flipped_within(tries) for tries in range(1, search.budget + 1)]).mean(0)


def update(found: Results) -> list[Claim]:
    """Is the weakness there, is it mended, is anything lost, and which modules do it?"""
    result: UpdateComparison = found["comparison"]
    sets = {(when, name): found[f"{when}-{name}"] for when in ("before", "after") for name in ("test", "weak-acts")}
    made = []
    for when, wanted in (("before", True), ("after", False)):
        known, weak = (sets[when, name].accuracy() for name in ("test", "weak-acts"))
        gap = proportion_difference(*(_independent(sets[when, name]) for name in ("test", "weak-acts")))
        word = "has a weakness" if wanted else "still has the weakness"
        made.append(
            Claim(
                name=f"weakness {when}",
                statement=f"{when.capitalize()} the update the judge {word}: {percent(weak)} right with weak acts, "
                f"{percent(known)} with known ones.",
                effect=known, control=weak, control_name="requests with weak acts", difference=gap,
                minimum=0.15 if wanted else 0.03, unit="share of requests",
                note="Independent requests; Newcombe's interval."
                + ("" if wanted else " Not supported is what is hoped."),
            )
        )  # fmt: skip
    before, after = (sets[when, "test"] for when in ("before", "after"))
    lost = share_change(before.right - after.right)
    made.append(
        Claim(
            name="old data lost", statement="The update costs more than a point of accuracy on the old data.",
            effect=before.accuracy(), control=after.accuracy(), control_name="after the update", difference=lost,
            minimum=0.01, unit="share of requests",
            note="The same requests, taken as independent. Not supported is what is hoped.",
        )
    )  # fmt: skip
    names = ", ".join(module.removesuffix(".weight").removeprefix("model.") for module in result.which)
    lost_by, lost_least = result.lost(), result.lost(least=True)
    made.append(
        Claim(
            name="modules that matter",
            statement=f"{result.needed} of {len(result.modules)} changed modules do it: switched off alone they bring "
            f"the weakness back ({names}).",
            effect=lost_by, control=lost_least, control_name="as many of the least needed", difference=_gap(result),
            minimum=0.15, unit="accuracy on weak acts that goes",
            note="The fewest of the most needed modules, chosen on half of the templates, whose switching off brings "
            "accuracy there within 5 points of that before; measured on the other half.",
        )
    )  # fmt: skip
    tracks = result.tracks()["representation"]
    made.append(
        Claim(
            name="verdicts follow representations",
            statement="Verdicts change where representations change.",
            effect=tracks, control=constant(0.0, int(tracks.n)), control_name="no relation", difference=tracks,
            minimum=0.2, unit="rank correlation over requests",
            note="Size of the change of the log-odds and 1 less the cosine of the last stream at the verdict.",
        )
    )  # fmt: skip
    # A judge that calls a request safe already cannot be fooled about it: only those that both call unsafe count.
    both = (found["edits-before"].base > 0) & (found["edits-after"].base > 0)
    if not bool(both.any()):
        return made
    groups = found["edits-before"].groups[both]
    first, second = (found[f"edits-{when}"].flipped[both] for when in ("before", "after"))
    safer = share_change(first - second, groups)
    made.append(
        Claim(
            name="harder to fool",
            statement="The update makes the judge harder to fool: the same edits turn "
            f"{percent(float(second.mean()))} of the verdicts instead of {percent(float(first.mean()))}.",
            effect=proportion(first, groups), control=proportion(second, groups),
            control_name="after the update", difference=safer, minimum=0.05, unit="share of requests",
            note=f"The same random edits of the same {int(both.sum())} requests, those that the judge calls unsafe "
            "both before and after.",
        )
    )  # fmt: skip
    return made


def _independent(result: Verdicts) -> Estimate:
    return proportion(result.right)


def _gap(result: UpdateComparison) -> Estimate:
    """What goes with the modules that matter beyond what goes with as many of the least needed."""
    kept = result.target & ~result.searched
    column = min(result.needed, len(result.modules)) - 1
    most, least = (result.right(table[:, column])[kept] for table in (result.most_off, result.least_off))
    return share_change(least - most, result.groups[kept])
