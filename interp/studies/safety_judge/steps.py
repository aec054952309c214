"""The steps of the study on one judge: what each computes, and the figures it shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interp.analyses.conductance import conductance
from interp.analyses.faithfulness import Faithfulness, faithfulness
from interp.analyses.rollout import attention_rollout
from interp.analyses.selectivity import selectivity
from interp.analyses.separation import separation
from interp.analyses.token_attribution import Method, TokenAttribution, token_attribution
from interp.analyses.verdicts import verdicts
from interp.datasets.judging import requests
from interp.figures import plot
from interp.figures.judge import (
    plot_change_sites,
    plot_conductance,
    plot_edits,
    plot_faithfulness,
    plot_judge_heads,
    plot_paths,
    plot_separation,
    plot_sets,
    plot_tokens,
    plot_update,
    plot_verdicts,
)
from interp.figures.scored import scored_page
from interp.models.judge import Judge
from interp.models.run import capture
from interp.prompts import Prompts
from interp.sites import Site
from interp.studies.safety_judge.recipe import SETS, judged
from interp.studies.safety_judge.settings import FAR
from interp.studies.safety_judge.subject import RULE, SWEEP_MEMORY, JudgeSubject, alike, rule_slots
from interp.studies.safety_judge.watched import Watched, watched
from interp.studies.study import Picture, Report, Results, Step
from interp.tensors import Activations
from interp.twins import group_numbers
from interp.workflows.adversarial import find_edits
from interp.workflows.judge_heads import judge_heads
from interp.workflows.paths import safe_unsafe_paths
from interp.workflows.update import compare_update

METHODS: tuple[Method, ...] = ("integrated gradients", "gradient x input", "leave one out")
NEUTRAL = "unk_token_id"
"""The small judge was trained to take the unknown token for the absence of a word: the baseline."""


def training_step(subject: JudgeSubject, checkpoints: Mapping[int, Path], marks: Sequence[str]) -> Step:
    """The checkpoints asked the same, in their order."""

    def compute(report: Report) -> Results:
        return {"watched": watched(checkpoints, seed=FAR + subject.settings.seed)}

    return Step(
        "training",
        compute,
        subject.key("training", *marks),
        lambda r: _watched_pictures(r["watched"]),
        title="When: the checkpoints asked the same",
        text="Every checkpoint on fixed held-out requests; before them a freshly drawn judge of the same architecture.",
    )


def _watched_pictures(found: Watched) -> list[Picture]:
    return [
        Picture(f"1{letter}-{name}", caption, draw, letter == "a")
        for letter, (name, caption, draw) in zip("abcdefgh", found.pictures(), strict=False)
    ]


def verdicts_step(subject: JudgeSubject) -> Step:
    """Scores on the test set and on what training lacked, and on the user's set."""
    count, seed = subject.settings.requests, FAR + 404 + subject.settings.seed

    def compute(report: Report) -> Results:
        found: Results = {}
        for name, options in SETS.items():
            report(name)
            some = requests(count, seed=seed, **options)
            prompts = judged(subject.judge, some)
            found[name.replace(" ", "-")] = verdicts(
                subject.judge, prompts, [one.unsafe for one in some], categories=[one.category for one in some]
            )
        own = subject.labelled
        if own is not None:
            prompts = subject.judge.prompts(own.texts)
            found["labelled"] = verdicts(subject.judge, prompts, own.unsafe, categories=own.categories)
        return found

    def pictures(found: Results) -> list[Picture]:
        return [
            Picture("2-sets", "How good the verdicts are, set by set.", lambda: plot_sets(found), True),
            *(
                Picture(f"2-{name}", f"Log-odds: {name}.", lambda r=one: plot_verdicts(r))
                for name, one in found.items()
            ),
        ]

    def pages(found: Results) -> dict[str, str]:
        own = found.get("labelled")
        return {} if own is None else {"labelled-prompts": scored_page(own)}

    return Step(
        "verdicts",
        compute,
        subject.key("verdicts"),
        pictures,
        pages,
        title="How good: scores on requests that training lacked",
        text="AUC of .5 is chance. Weak acts stand in training only where they are harmless.",
    )


def tokens_step(subject: JudgeSubject, pictures: bool = True) -> Step:
    """Attributions by every method, put to the test, beside untrained judges."""

    def compute(report: Report) -> Results:
        judge, prompts = subject.judge, subject.prompts
        found: Results = {}
        for method in METHODS:
            report(method)
            found[_plain(method)] = _attributed(judge, prompts, method)
        report("attention")
        found["attention"] = attention_rollout(capture(judge.model, prompts, ["pattern"]), position="verdict")
        maps = {method: found[_plain(method)].values for method in METHODS}
        maps |= {"attention rollout": found["attention"].rollout, "raw attention": found["attention"].last}
        for name, values in maps.items():
            found[f"faithfulness-{_plain(name)}"] = _tested(subject, judge, values, name)
        for seed, other in enumerate(subject.fresh()):
            report(f"untrained judge {seed + 1} of {subject.settings.untrained}")
            values = _attributed(other, prompts, METHODS[0], most_steps=64).values
            found[f"untrained-{seed}"] = _tested(subject, other, values, METHODS[0])
        report("conductance")
        found["conductance"] = conductance(
            judge, prompts.take(range(4)), baseline=neutral(judge), layers=subject.layers
        )
        return found

    def drawn(found: Results) -> list[Picture]:
        pieces, whole = _pieces(subject.judge, subject.prompts)
        tested = [one for name, one in found.items() if name.startswith("faithfulness-")]
        first: TokenAttribution = found[_plain(METHODS[0])]
        return [
            Picture("3-tokens", "Which tokens drove each verdict.", lambda: plot_tokens(first, pieces), True),
            Picture(
                "3b-faithfulness", "Do attributions name the words that the verdict hangs on?",
                lambda: plot_faithfulness(tested, others_of(found, "untrained")), True,
            ),
            *(
                Picture(f"3-{_plain(m)}", f"The same by {m}.", lambda m=m: plot_tokens(found[_plain(m)], pieces))
                for m in METHODS[1:]
            ),
            *(
                Picture(
                    f"3c-conductance-{i}", f"Where the verdict flows, layer by layer: {subject.explained[i].text}",
                    lambda n=i: plot_conductance(found["conductance"], whole[n], n),
                )
                for i in range(4)
            ),
        ]  # fmt: skip

    return Step(
        "tokens",
        compute,
        subject.key("tokens"),
        drawn if pictures else lambda _: [],
        title="Through which tokens",
        text="Signed shares in the log-odds of unsafe; the baseline is the token for a word that is not there.",
    )


def heads_step(subject: JudgeSubject, pictures: bool = True) -> Step:
    """Heads asked three ways; separation by depth; neurons that prefer one class."""

    def compute(report: Report) -> Results:
        judge, prompts, unsafe = subject.judge, subject.prompts, subject.unsafe
        last = Site("resid_post", int(judge.model.cfg.n_layers) - 1)
        found: Results = {
            "heads": judge_heads(judge, prompts, unsafe, layers=subject.layers, rule=RULE, memory=SWEEP_MEMORY)
        }
        report("separation and neurons")
        kept = capture(judge.model, prompts, ["resid_pre", last, "mlp_post"])
        found["separation"] = separation(kept, unsafe, position="verdict", seed=subject.settings.seed)
        found["neurons"] = selectivity(_labelled(kept, unsafe), "unsafe", at="verdict", seed=subject.settings.seed)
        for seed, other in enumerate(subject.fresh()):
            report(f"untrained judge {seed + 1} of {subject.settings.untrained}")
            kept = capture(other.model, prompts, ["resid_pre", last, "mlp_post"])
            found[f"untrained-{seed}"] = separation(kept, unsafe, position="verdict", seed=subject.settings.seed)
            found[f"neurons-{seed}"] = selectivity(
                _labelled(kept, unsafe), "unsafe", at="verdict", seed=subject.settings.seed
            )
            found[f"heads-{seed}"] = judge_heads(
                other, prompts, unsafe, layers=subject.layers, rule=RULE, memory=SWEEP_MEMORY
            )
        return found

    def drawn(found: Results) -> list[Picture]:
        return [
            Picture("4-heads", "The heads that tell unsafe from safe.", lambda: plot_judge_heads(found["heads"]), True),
            Picture(
                "4b-separation", "Where safe and unsafe can be told apart, beside untrained judges.",
                lambda: plot_separation(found["separation"], others_of(found, "untrained")), True,
            ),
            Picture("4c-neurons", "Neurons that prefer one class, on both halves.", lambda: plot(found["neurons"])),
        ]  # fmt: skip

    return Step(
        "heads",
        compute,
        subject.key("heads"),
        drawn if pictures else lambda _: [],
        title="Through which heads, and where classes part",
        text="Looking, writing and being needed are three things; their agreement stands in the figure.",
    )


def paths_step(subject: JudgeSubject, pictures: bool = True) -> Step:
    """Twins compared and copied between, layer by layer."""

    def compute(report: Report) -> Results:
        twins = subject.twins
        groups = group_numbers([one.template for one in twins.unsafe])
        sides = [
            subject.judge.prompts([one.text for one in some], groups=groups)
            for some in (twins.unsafe, twins.safe, twins.neutral)
        ]
        return {
            "paths": safe_unsafe_paths(
                subject.judge, sides[0], sides[1], neutral=sides[2], layers=subject.layers, memory=SWEEP_MEMORY
            )
        }

    def drawn(found: Results) -> list[Picture]:
        return [
            Picture(
                "5-paths", "Where twins part, and what moves the verdict.", lambda: plot_paths(found["paths"]), True
            )
        ]

    return Step(
        "paths",
        compute,
        subject.key("paths"),
        drawn if pictures else lambda _: [],
        title="Where safe and unsafe part, and what moves the verdict",
        text="Twins differ in one word. What a layer writes is copied from one to the other, at every token.",
    )  # fmt: skip


def attack_step(subject: JudgeSubject) -> Step:
    """Allowed words tried in the place of the act and the object, by gradient and by chance."""

    def compute(report: Report) -> Results:
        some = subject.attacked
        texts, slots, words = [one.text for one in some], rule_slots(some), alike()
        groups = judged(subject.judge, some).groups
        found: Results = {}
        for by in ("gradient", "random"):
            report(by)
            found[by] = find_edits(
                subject.judge, texts, words=words, slots=slots, groups=groups, budget=subject.settings.budget, by=by,
                seed=subject.settings.seed,
            )  # fmt: skip
        return found

    return Step(
        "attack",
        compute,
        subject.key("attack"),
        lambda r: [
            Picture("6-attack", "How often one allowed word flips the verdict.",
                    lambda: plot_edits(r["gradient"], r["random"]), True)
        ],
        title="How it can be fooled",
        text="Unsafe requests; act and object may be swapped for words of their own kind, which leaves them unsafe.",
    )  # fmt: skip


def update_step(subject: JudgeSubject, after: Callable[[], Judge], mark: str) -> Step:
    """Before and after the update: verdicts, sites, modules, and the edits of the attack asked again."""
    seed = FAR + 505 + subject.settings.seed

    def compute(report: Report) -> Results:
        updated = after()
        half = 2 * subject.settings.explained  # half of the weak ones is unsafe, and half of those chooses modules
        some = [*requests(half, seed=seed), *requests(half, seed=seed + 1, acts="weak")]
        prompts = judged(subject.judge, some)
        categories = ["known acts"] * half + ["weak acts"] * half
        unsafe = [one.unsafe for one in some]
        found: Results = {
            "comparison": compare_update(
                subject.judge, updated, prompts, unsafe, categories=categories, target="weak acts",
                seed=subject.settings.seed,
            )
        }  # fmt: skip
        for number, (name, options) in enumerate(SETS.items()):
            report(name)
            more = requests(subject.settings.requests, seed=seed + 2000 * (1 + number), **options)
            asked = judged(subject.judge, more)
            for when, judge in (("before", subject.judge), ("after", updated)):
                found[f"{when}-{name.replace(' ', '-')}"] = verdicts(judge, asked, [one.unsafe for one in more])
        report("the attack again")
        attacked = subject.attacked
        for name, judge in (("edits-before", subject.judge), ("edits-after", updated)):
            found[name] = find_edits(
                judge, [one.text for one in attacked], words=alike(), slots=rule_slots(attacked), by="random",
                groups=judged(judge, attacked).groups, budget=subject.settings.budget, seed=subject.settings.seed,
            )  # fmt: skip
        return found

    return Step(
        "update",
        compute,
        subject.key("update", mark),
        lambda r: [
            Picture("7-update", "What the update changed, and which modules do it.",
                    lambda: plot_update(r["comparison"]), True),
            Picture("7b-sites", "Where attention and representations changed.",
                    lambda: plot_change_sites(r["comparison"])),
        ],
        title="What the update changed",
        text="The adapter's change of each weight is switched on alone and off alone, with one model in memory.",
    )  # fmt: skip


def neutral(judge: Judge) -> int:
    """The token that stands for no word: unknown, else padding, else the end of text."""
    tokenizer: Any = judge.model.tokenizer
    found = (getattr(tokenizer, name, None) for name in (NEUTRAL, "pad_token_id", "eos_token_id"))
    return int(next(one for one in found if one is not None))


def others_of(found: Results, name: str) -> list[Any]:
    """The results of untrained judges among a step's: those of this name with a number."""
    return [found[f"{name}-{i}"] for i in range(sum(key.startswith("untrained-") for key in found))]


def _plain(name: str) -> str:
    return name.replace(" ", "-")


def _attributed(judge: Judge, prompts: Prompts, method: Method, most_steps: int = 512) -> TokenAttribution:
    return token_attribution(judge, prompts, method=method, baseline=neutral(judge), most_steps=most_steps)


def _tested(subject: JudgeSubject, judge: Judge, values: Any, name: str) -> Faithfulness:
    """Only requests with a pair are asked: in the others any word could go without turning the verdict."""
    kept = [i for i, one in enumerate(subject.explained) if not one.kind.startswith("no pair")]
    prompts = subject.prompts.take(kept)
    width = prompts.tokens.shape[1]
    return faithfulness(
        judge, prompts, values[kept, :width], subject.decides[kept, :width], method=name, baseline=neutral(judge),
        seed=subject.settings.seed,
    )  # fmt: skip


def _pieces(judge: Judge, prompts: Prompts) -> tuple[list[list[str]], list[list[str]]]:
    """The tokens of each text, and of each whole prompt."""
    pieces, whole = [], []
    for i in range(len(prompts)):
        row = [judge.model.tokenizer.decode([token]) for token in prompts.tokens[i, : prompts.lengths[i]].tolist()]
        first, last = (int(prompts.columns(f"text.{end}")[i]) for end in ("first", "last"))
        pieces.append(row[first : last + 1])
        whole.append(row)
    return pieces, whole


def _labelled(found: Activations, unsafe: Sequence[bool]) -> Activations:
    labels = found.prompts.labels.assign(unsafe=["unsafe" if one else "safe" for one in unsafe])
    return replace(found, prompts=replace(found.prompts, labels=labels))
