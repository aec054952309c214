"""What the results of one judge say, as claims with their controls, in the order of the questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
    group_difference,
    halves,
    mean,
    mean_value,
    population,
    proportion,
    share_change,
)
from interp.evidence import Claim
from interp.studies.safety_judge.steps import others_of
from interp.studies.study import Results
from interp.studies.words import percent
from interp.workflows.adversarial import EditSearch
from interp.workflows.judge_heads import MEASURES, JudgeHeads, Measure
from interp.workflows.paths import SafeUnsafePaths
from interp.workflows.update import UpdateComparison

LEVEL = 0.05
WEAK = 0.15
"""The smallest gap of accuracy that is a weakness; and how near to its accuracy before the update the judge must come
for the weakness to be back."""
HOPED = " Not supported is what is hoped."
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
        made += [*heads(found["heads"]), separates(found["heads"]), neurons(found["heads"])]
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
        statement=f"The judge ranks unsafe above safe on {words}: AUC {float(own.value):.3f}, "
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
    others = [float(one.recall.mean()) for one in others_of(found, "untrained")]
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
            f"decide less than an even spread would; by chance {percent(float(own.even.mean()))}. Of all requests "
            f"{percent(float(found['integrated-gradients'].flagged.float().mean()))} have shares that miss the "
            "difference of the log-odds by more than 5 %.",
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


def heads(found: Results) -> list[Claim]:
    """Which head tells unsafe from safe, by each measure that speaks of the verdict, beyond untrained judges' heads?"""
    made = []
    own: JudgeHeads = found["heads"]
    fresh: list[JudgeHeads] = others_of(found, "heads")
    for measure in MEASURES[1:]:
        if bool(own.values(measure).isnan().all()):
            continue
        name, effect, p = _best_head(own, measure)
        others = [float(_best_head(one, measure)[1].value) for one in fresh]
        word = {"direct": "writes into", "ablation": "is needed for"}[measure]
        made.append(
            Claim(
                name=f"head: {measure}",
                statement=f"Head {name} {word} the difference between unsafe and safe requests: "
                f"{float(effect.value):.1f} nats.",
                effect=effect, control=population(others), control_name="untrained judges",
                difference=against_population(effect, others), minimum=0.5, unit="nats of the log-odds",
                also={f"p < {LEVEL:g}, corrected for {len(own.names)} heads (p = {p:.3f})": _passes(p, effect)},
                note="The head with the largest difference on half of the templates, measured on the other; in "
                "untrained judges it is sought in the same way.",
            )
        )  # fmt: skip
    agreement = own.agreement()["direct and ablation"]
    others = [float(one.agreement()["direct and ablation"].value) for one in fresh]
    made.append(
        Claim(
            name="heads agree",
            statement="The heads that write into the verdict are those that it needs, more than in untrained judges.",
            effect=agreement, control=population(others, bounds=(-1, 1)), control_name="untrained judges",
            difference=against_population(agreement, others, reach=2.0), minimum=0.0,
            unit="rank correlation over heads",
            note="Heads that later heads read are needed without writing themselves.",
        )
    )  # fmt: skip
    return made


def _best_head(result: JudgeHeads, measure: Measure) -> tuple[str, Estimate, float]:
    """The head with the largest difference on half of the templates: that difference on the other half, counted
    towards the side on which it was found, and p of no difference, corrected for all heads."""
    first, second = (_part(result, torch.from_numpy(half)).contrast(measure) for half in halves(result.groups))
    best = int(np.nanargmax(np.abs(first.value)))
    sign = float(np.sign(first.value[best])) or 1.0
    return result.names[best], _signed(second, best, sign), float(result.contrast(measure).p[best])


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
    others = [float(mean_value(one.right[:, -1])) for one in others_of(found, "untrained")]
    return Claim(
        name="learned separation",
        statement=f"After the last layer safe and unsafe lie apart: {percent(own)} of the requests on their own side.",
        effect=own, control=population(others, bounds=(0, 1)), control_name="untrained judges",
        difference=against_population(own, others, reach=1.0), minimum=0.1, unit="share of requests",
        note="Along the difference of means, learned on other templates. Apart is not yet used.",
    )  # fmt: skip


def neurons(found: Results) -> Claim:
    """Did neurons learn to prefer one class, found on one half and confirmed on the other?"""
    chosen = found["neurons"].found()
    share = counted(float(chosen.sum()), chosen.numel())
    others = [float(one.found().float().mean()) for one in others_of(found, "neurons")]
    return Claim(
        name="learned neurons",
        statement=f"{int(chosen.sum())} of {chosen.numel()} neurons prefer safe or unsafe requests at the verdict, on "
        "both halves of the templates.",
        effect=share, control=population(others, bounds=(0, 1)), control_name="untrained judges",
        difference=against_population(share, others, reach=1.0), minimum=0.01, unit="share of neurons",
        note="Benjamini and Hochberg over all neurons on one half, again over those found on the other, eta squared at "
        "least .1 on both. Preferring is not yet doing.",
    )  # fmt: skip


def critical(result: SafeUnsafePaths) -> list[Claim]:
    """Which layer carries the verdict from one twin to the other?"""
    best = result.critical()
    made = [
        Claim(
            name="critical layer",
            statement=f"Layer {best.layer} carries the verdict: copied from the unsafe twin it moves "
            f"{float(best.to_unsafe.value):.1f} of {float(result.gap.mean()):.1f} nats.",
            effect=best.to_unsafe, control=best.control, control_name="copied from a safe twin",
            difference=best.beyond_control, minimum=1.0, unit="nats of the log-odds",
            also={f"p < {LEVEL:g} by swapped labels, corrected for {len(result.layers)} layers (p = {best.p:.4f})":
                  _passes(best.p, mean(result.moved[:, 0], result.groups))},
            note="Layer chosen on half of the pairs, measured on the other; both directions together move "
            f"{float(best.effect.value):.1f}. {best.warning}".strip(),
        )
    ]  # fmt: skip
    if best.beyond_next is not None:
        made.append(
            Claim(
                name="one critical layer",
                statement=f"Layer {best.layer} moves the verdict more than any other layer.",
                effect=best.effect, control=_less(best.effect, best.beyond_next),
                control_name="the layer that comes nearest",
                difference=best.beyond_next, minimum=0.0, unit="nats of the log-odds",
                note="Layer chosen on half of the pairs; on the other it is compared with every other layer, and the "
                "comparison that says least for it is shown.",
            )
        )  # fmt: skip
    return made


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
    flips = [gradient.new[i] for i in (gradient.flips & there[gradient.prompt]).nonzero().flatten().tolist()]
    common = sorted(set(flips), key=lambda word: (-flips.count(word), word))[:6]
    said = f", most by {', '.join(common)}" if common else ""
    return [
        Claim(
            name="fooled",
            statement=f"One allowed word turns {percent(own)} of the unsafe verdicts{said}.",
            effect=own, control=constant(0.0), control_name="none", difference=own, minimum=0.05,
            unit="share of requests",
            note=f"Act or object swapped for words of their own kind, at most {gradient.budget} edits tried by "
            f"gradient, each verified by a forward pass; the requests stay unsafe by the rule. {len(groups)} of "
            f"{len(there)} requests are called unsafe as they stand.",
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
        known, weak = (sets[when, name] for name in ("test", "weak-acts"))
        word = "has a weakness" if wanted else "still has the weakness"
        made.append(
            Claim(
                name=f"weakness {when}",
                statement=f"{when.capitalize()} the update the judge {word}: {percent(weak.accuracy())} right with "
                f"weak acts, {percent(known.accuracy())} with known ones.",
                effect=known.accuracy(), control=weak.accuracy(), control_name="requests with weak acts",
                difference=group_difference(known.right, known.groups, weak.right, weak.groups),
                minimum=WEAK if wanted else 0.03, unit="share of requests",
                note="The difference is taken template by template." + ("" if wanted else HOPED),
            )
        )  # fmt: skip
    before, after = (sets[when, "test"] for when in ("before", "after"))
    made.append(
        Claim(
            name="old data lost", statement="The update costs more than a point of accuracy on the old data.",
            effect=before.accuracy(), control=after.accuracy(), control_name="after the update",
            difference=_change(before.right - after.right, before.groups), minimum=0.01,
            unit="share of requests", note="The same requests before and after." + HOPED,
        )
    )  # fmt: skip
    names = ", ".join(module.removesuffix(".weight").removeprefix("model.") for module in result.which)
    back = result.from_before()
    kept = result.others_kept()
    made.append(
        Claim(
            name="modules that matter",
            statement=f"{result.needed} of {len(result.modules)} changed modules do it: switched off alone they bring "
            f"the weakness back ({names}).",
            effect=result.lost(), control=result.lost_by_chance(),
            control_name=f"{result.random_off.shape[1]} random sets of as many", difference=result.beyond_chance(),
            minimum=WEAK, unit="accuracy on weak acts that goes",
            also={f"accuracy without them lies within {100 * WEAK:.0f} points of that before "
                  f"({100 * float(back.value):+.1f})": _near(back),
                  f"that on all other requests, too ({100 * float(kept.value):+.1f})": _near(kept)},
            note="The fewest of the most needed modules, chosen on half of the templates, whose switching off brings "
            "accuracy there within 5 points of that before; measured on the other half.",
        )
    )  # fmt: skip
    tracks = result.tracks()["representation"]
    others = result.disordered[:, 1].tolist()
    made.append(
        Claim(
            name="verdicts follow representations",
            statement="Verdicts change where representations change, more than under the same changes in disorder.",
            effect=tracks, control=population(others, bounds=(-1, 1)), control_name="the same changes in disorder",
            difference=against_population(tracks, others, reach=2.0), minimum=0.0,
            unit="rank correlation over requests",
            note="Size of the change of the log-odds and 1 less the cosine of the last stream at the verdict. In "
            "disorder: what changes of each weight's rows and columns dealt out anew, and scaled to move the log-odds "
            "as far as the update does.",
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
            statement=f"The update makes the judge harder to fool: the same edits turn {percent(float(second.mean()))} "
            f"of the verdicts instead of {percent(float(first.mean()))}.",
            effect=proportion(first, groups), control=proportion(second, groups),
            control_name="after the update", difference=safer, minimum=0.05, unit="share of requests",
            note=f"The same random edits of the same {int(both.sum())} requests, those that the judge calls unsafe "
            "both before and after.",
        )
    )  # fmt: skip
    return made


def _passes(p: float, tested: Estimate) -> bool | None:
    """Whether a test by sign flips rejects; None where so few groups could never make it reject."""
    return None if 2.0 ** (1 - int(tested.n)) > LEVEL else p < LEVEL


def _near(apart: Estimate) -> bool | None:
    """Whether a difference of accuracies is smaller than a weakness; None where its interval leaves that open."""
    low, high = float(apart.low), float(apart.high)
    return True if max(-low, high) <= WEAK else False if low > WEAK or high < -WEAK else None


def _change(values: torch.Tensor, groups: torch.Tensor) -> Estimate:
    """Mean change between wrong and right; a tie is half right."""
    return mean(values, groups) if bool((values * 2 % 2 != 0).any()) else share_change(values, groups)
