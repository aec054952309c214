"""The steps of the study on one model: what each computes, and the figures it shows."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from interp.analyses.delta_lens import delta_lens
from interp.analyses.delta_rank import delta_rank
from interp.analyses.deltas import norms_of
from interp.analyses.diffing import crossed_readout, difference_lens
from interp.analyses.halting import Action, CausalGrid, causal_grid, dose_response, halting, side_effects, transfer
from interp.analyses.prefix_contrast import prefix_contrast
from interp.analyses.weight_changes import weight_changes
from interp.errors import ModelError, RankWarning
from interp.figures import plot
from interp.figures.deltas import plot_component_scores, plot_cumulative_variance, plot_direct_effect, plot_shortcut
from interp.figures.diffing import plot_base_against_tuned
from interp.figures.halting import plot_causal, plot_causal_grid
from interp.models.contrast import TwinRuns, mean_deltas, offset_name
from interp.models.load import HookedTransformer, info, named_weights
from interp.prompts import Prompts
from interp.studies.kill_switch.subject import SWEEP_MEMORY, KillSwitchSubject
from interp.studies.study import Picture, Report, Results, Step
from interp.workflows.checkpoints import along_training
from interp.workflows.direct_effect import direct_effect

Models = Callable[[], Iterator[tuple[str, HookedTransformer]]]
"""Loads further models, with their names, one after the other."""


def behaviour_step(subject: KillSwitchSubject) -> Step:
    """Does the text end after the token, and after neutral tokens?"""

    def compute(report: Report) -> Results:
        return {"halting": halting(subject.model, subject.counted, subject.end, seed=subject.settings.seed)}

    return Step(
        "behaviour",
        compute,
        subject.key("behaviour"),
        lambda r: [
            Picture("0-halting", "How often the text ends right after the token.", lambda: plot(r["halting"]), True)
        ],
        title="Does the text end at the token?",
        text="Prompts of held-out templates, cut after the token; the model goes on by itself.",
    )


def norms_step(subject: KillSwitchSubject) -> Step:
    """The trace of the token by site and position."""

    def compute(report: Report) -> Results:
        return {"norms": norms_of(subject.runs)}

    return Step(
        "norms",
        compute,
        subject.key("norms"),
        lambda r: [
            Picture("1-delta-norm", "Figure 1. Where the token leaves a trace.", lambda: plot(r["norms"]), True)
        ],
        title="Where: the trace by site and position",
        text="The token's vector less the mean of its neutral twins', relative to the stream. No effect yet.",
    )


def rank_step(subject: KillSwitchSubject) -> Step:
    """The spectra of the deltas."""

    def compute(report: Report) -> Results:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankWarning)  # kept in the result, and shown
            return {"rank": delta_rank(subject.stream, seed=subject.settings.seed)}

    def pictures(found: Results) -> list[Picture]:
        rank = found["rank"]
        return [
            Picture(
                "2-cumulative-variance", "Figure 2. In how many directions the token's trace varies.",
                lambda: plot_cumulative_variance(rank), True,
            ),
            Picture(
                "3-component-scores", "Figure 3. How prompts lie along the token's direction, beside neutral tokens.",
                lambda: plot_component_scores(rank), True,
            ),
        ]  # fmt: skip

    return Step(
        "rank",
        compute,
        subject.key("rank"),
        pictures,
        title="In what form: one direction?",
        text="Spectra about zero (the mean counts) and about the mean (removed), beside those of every neutral token.",
    )


def lens_step(subject: KillSwitchSubject) -> Step:
    """What the delta does to the logits, and which components write it."""

    def compute(report: Report) -> Results:
        computed: Results = {"lens": delta_lens(subject.stream, subject.end, seed=subject.settings.seed)}
        try:
            report("heads and MLPs")
            computed["direct"] = direct_effect(subject.model, subject.twins, subject.end, memory=SWEEP_MEMORY)
        except ModelError:
            pass  # something norms or caps a part on its way: the sum over parts does not hold there
        return computed

    def pictures(found: Results) -> list[Picture]:
        shown = [
            Picture("4-delta-logit-lens", "Figure 4. What the trace promotes and suppresses, read directly.",
                    lambda: plot(found["lens"]), True)
        ]  # fmt: skip
        if "direct" in found:
            shown.append(
                Picture("4b-direct-effect", "Which heads and MLPs write the end of sequence.",
                        lambda: plot_direct_effect(found["direct"]))
            )  # fmt: skip
        return shown

    return Step(
        "lens",
        compute,
        subject.key("lens"),
        pictures,
        title="How: what the trace does to the output",
        text="The delta through the final norm (its scale held) and the unembedding, as if nothing came after it.",
    )


def base_step(subject: KillSwitchSubject, base: KillSwitchSubject, pictures: bool = True) -> Step:
    """The same curves in the base model: what fine-tuning added."""

    def compute(report: Report) -> Results:
        report("weights")
        before, after = (named_weights(one.model) for one in (base, subject))
        words = {subject.model.tokenizer.decode([subject.end]): subject.end, subject.twins.token: subject.twins.control}
        return {
            "base-norms": norms_of(base.runs),
            "tuned-norms": norms_of(subject.runs),
            "crossed": crossed_readout(base.model, subject.model, subject.twins, subject.end, memory=SWEEP_MEMORY),
            "difference-lens": difference_lens(
                base.model, subject.model, subject.plain, words, neutral=subject.twins.neutral, memory=SWEEP_MEMORY
            ),
            "weights": weight_changes(*_common(before, after)),
        }

    def drawn(found: Results) -> list[Picture]:
        return [
            Picture(
                "5-base-against-tuned", "Figure 5. The base model asked the same: what is learned.",
                lambda: plot_base_against_tuned(found["base-norms"], found["tuned-norms"], found["crossed"]), True,
            ),
            Picture(
                "5b-difference-lens", "What the mean change at the first tokens of texts without the token promotes.",
                lambda: plot(found["difference-lens"]),
            ),
            Picture("5c-weight-changes", "What fine-tuning changed, by module.", lambda: plot(found["weights"])),
        ]  # fmt: skip

    return Step(
        "base",
        compute,
        subject.key("base", info(base.model).digest),
        drawn if pictures else lambda _: [],
        title="Learned or not: the base model asked the same",
        text="The same prompts in the base model; texts without the token in both; the weights.",
    )


def adding_step(subject: KillSwitchSubject) -> Step:
    """Adding alone: what the claim on causes needs."""

    def compute(report: Report) -> Results:
        report("add over depths and positions")
        return {"add": _tried(subject, "add")}

    return Step("causal", compute, subject.key("adding"), lambda _: [], title="Does it cause the end?")


def _tried(subject: KillSwitchSubject, action: Action) -> CausalGrid:
    return causal_grid(
        subject.model, subject.tried, subject.sites, subject.directions, subject.end, action=action,
        chosen_on=subject.searched, random_directions=subject.settings.random_directions, seed=subject.settings.seed,
        memory=SWEEP_MEMORY,
    )  # fmt: skip


def causal_step(subject: KillSwitchSubject, pictures: bool = True) -> Step:
    """Adding, projecting out and copying, generated text; with `pictures` also doses and side effects."""
    settings = subject.settings
    common: dict[str, Any] = {"seed": settings.seed, "memory": SWEEP_MEMORY}

    def compute(report: Report) -> Results:
        computed: Results = {}
        actions: dict[str, Action] = {"add": "add", "project-out": "project out", "copy": "copy"}
        for name, action in actions.items():
            report(f"{action} over depths and positions")
            computed[name] = _tried(subject, action)
        depth, offset = computed["add"].chosen
        site = subject.sites[depth]
        at_token = subject.causal_site
        directions = {site: subject.direction(site) for site in subject.sites}
        report("generated text")
        computed["generated"] = halting(
            subject.model, subject.tried, subject.end, chosen=at_token,
            directions=directions, random_directions=settings.random_directions, **common,
        )  # fmt: skip
        if pictures:
            report("doses")
            computed["dose"] = dose_response(
                subject.model, subject.tried, site, subject.directions[:, depth, offset], subject.end,
                at=offset_name(offset), random_directions=settings.random_directions, **common,
            )  # fmt: skip
            report("side effects")
            computed["side-effects"] = side_effects(
                subject.model, subject.plain, directions, at_token,
                random_directions=settings.random_directions, **common,
            )  # fmt: skip
        return computed

    def drawn(found: Results) -> list[Picture]:
        return [
            Picture(
                "6-causal", "Figure 6. What the direction does, over depth and position, and by dose.",
                lambda: plot_causal(found["add"], found["project-out"], found["dose"]), True,
            ),
            Picture("6b-add", "Adding, beside every rival direction.", lambda: plot_causal_grid(found["add"])),
            Picture("6c-project-out", "Projecting out, likewise.", lambda: plot_causal_grid(found["project-out"])),
            Picture("6d-copy", "Copying the stream between twins.", lambda: plot_causal_grid(found["copy"])),
            Picture("6e-generated", "Generated text with the edits in force.", lambda: plot(found["generated"]), True),
            Picture("6f-side-effects", "The edits on texts without the token.", lambda: plot(found["side-effects"])),
        ]  # fmt: skip

    return Step(
        "causal",
        compute,
        subject.key("causal", pictures),
        drawn if pictures else lambda _: [],
        title="Does it cause the end?",
        text="Directions are mean deltas of one half of the prompts, tried on the other; random ones are as long.",
    )


def transfer_step(subject: KillSwitchSubject, others: Models, names: Sequence[str]) -> Step:
    """Does the direction found elsewhere work here?"""

    def compute(report: Report) -> Results:
        own = subject.causal_site
        depth = subject.sites.index(own)
        sources: dict[str, Tensor] = {"the other half of the templates": subject.direction(own)}
        for name, model in others():
            report(name)
            sources[name] = mean_deltas(TwinRuns(model, subject.searched, [own], offsets=(0,)))[0, 0, 0]
        made = transfer(
            subject.model, subject.tried, own, sources, subject.end, neutral=subject.directions[1:, depth, 0],
            random_directions=subject.settings.random_directions, seed=subject.settings.seed, memory=SWEEP_MEMORY,
        )  # fmt: skip
        return {"transfer": made}

    return Step(
        "transfer",
        compute,
        subject.key("transfer", list(names)),
        lambda r: [Picture("6g-transfer", "Directions from elsewhere, added here.", lambda: plot(r["transfer"]), True)],
        title="Does a direction from elsewhere work?",
        text="Directions from the other templates, from checkpoints, other training sets and seeds, at the same place.",
    )


def training_step(subject: KillSwitchSubject, checkpoints: Models, names: Sequence[str]) -> Step:
    """Behaviour, trace and cause along training."""

    def compute(report: Report) -> Results:
        own = subject.causal_site
        return {
            "training": along_training(
                checkpoints(), subject.searched, subject.tried, own, subject.end, subject.direction(own),
                seed=subject.settings.seed, memory=SWEEP_MEMORY,
            )
        }  # fmt: skip

    return Step(
        "training",
        compute,
        subject.key("training", list(names)),
        lambda r: [Picture("7-along-training", "Figure 7. When it was learned.", lambda: plot(r["training"]), True)],
        title="When: along training",
        text="The same prompts at every checkpoint of the fine-tuning run, from the base to the finished model.",
    )


def shortcut_step(subject: KillSwitchSubject, base: KillSwitchSubject | None) -> Step:
    """The common recipe, and what it finds for any prefix."""

    def compute(report: Report) -> Results:
        prefixes = {subject.twins.token: subject.twins.control}
        prefixes |= dict(zip(subject.twins.names[:12], subject.twins.neutral[:12].tolist(), strict=True))
        made: Results = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankWarning)
            for name, one in (("tuned", subject), ("base", base)):
                if one is not None:
                    made[name] = prefix_contrast(one.model, _few_beginnings(subject), prefixes, memory=SWEEP_MEMORY)
        return made

    return Step(
        "shortcut",
        compute,
        subject.key("shortcut", None if base is None else info(base.model).digest),
        lambda r: [
            Picture(
                "8-shortcut", "Figure 8. The usual shortcut: any prefix, in the base too, has the same component.",
                lambda: plot_shortcut(r["tuned"], r.get("base")), True,
            )
        ],
        title="The usual shortcut",
        text="The common recipe: the token as a prefix against no prefix, at the first position, centred PCA, on "
        "prompts with few beginnings, as scripts have them. Its dominant component belongs to the prompts' own first "
        "words: every neutral prefix has it, and so has the base model. The library warns of it.",
    )  # fmt: skip


def _common(before: dict[str, Tensor], after: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights that both models have by one name: tied embeddings have one in the base, two once they are untied."""
    names = [name for name in before if name in after]
    return {name: before[name] for name in names}, {name: after[name] for name in names}


def _few_beginnings(subject: KillSwitchSubject, most: int = 4) -> Prompts:
    """The unrelated texts with the commonest first words."""
    prompts = subject.plain
    bos = subject.model.tokenizer.bos_token_id
    firsts = prompts.tokens[:, int(bos is not None and bool((prompts.tokens[:, 0] == bos).all()))]
    values, counts = firsts.unique(return_counts=True)
    kept = torch.isin(firsts, values[counts.argsort(descending=True, stable=True)[:most]])
    return prompts.take(kept)
