"""The same analyses on any causal language model and the user's own prompts and pairs."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from interp.analyses.heads import COMMON, Job
from interp.analyses.patching import patching
from interp.errors import ConfigError, PromptError
from interp.models.load import HookedTransformer, info
from interp.models.run import capture, check_context
from interp.prompts import PromptPairs, Prompts
from interp.sites import Site
from interp.studies.pictures import patching_pictures
from interp.studies.settings import Settings, chosen_layers
from interp.studies.steps import Subject, attention_step, lens_step
from interp.studies.study import Report, Results, Step
from interp.tensors import Activations

_KNOWN = ("attention", "logit-lens", "patching")


class TextSubject(Subject):
    """A model with the user's prompts; each is read at its last token, for what the model itself predicts there."""

    def __init__(self, model: HookedTransformer, settings: Settings) -> None:
        self.model, self.settings = model, settings
        self.layers = chosen_layers(model, settings)
        if model.tokenizer is None:
            raise ConfigError(f"{info(model).name} has no tokenizer, so texts cannot be given to it")
        texts = settings.texts or list(dict.fromkeys(pair.clean for pair in settings.pairs))
        if any(one.carries for one in settings.examples):
            raise ConfigError("carries: is for arithmetic models; give the examples of a language model as text alone")
        if settings.probes:
            raise ConfigError("probes: needs an arithmetic model, whose prompts have labels; own prompts have none")
        for name in settings.analyses:
            if settings.analyses[name] and name not in _KNOWN:
                raise ConfigError(f"{name} needs an arithmetic model; own prompts have {', '.join(_KNOWN)}")
        if not texts:
            raise PromptError("there are no prompts; give --examples, or examples: or pairs: in the YAML")
        if settings.analyses.get("patching") and not settings.pairs:
            raise PromptError("patching needs pairs; give pairs: in the YAML (clean, corrupted, answer, foil)")
        self.prompts = Prompts.from_texts(texts, model.tokenizer)
        self.pairs = self._pairs()
        check_context(model, self.prompts)

    def _pairs(self) -> PromptPairs | None:
        given, tokenizer = self.settings.pairs, self.model.tokenizer
        if not given:
            return None
        pairs = PromptPairs(
            Prompts.from_texts([p.clean for p in given], tokenizer, answers=[p.answer for p in given]),
            Prompts.from_texts([p.corrupted for p in given], tokenizer, answers=[p.foil for p in given]),
        )
        alike = (~pairs.changed.any(1)).nonzero().flatten().tolist()
        if alike:
            raise PromptError(f"the pair of {given[alike[0]].clean!r} has the same prompt twice; change a token")
        same = (pairs.clean.answers == pairs.corrupted.answers).flatten().nonzero().flatten().tolist()
        if same:
            pair = given[same[0]]
            raise PromptError(f"answer {pair.answer!r} and foil {pair.foil!r} begin with the same token")
        for role in self.settings.roles or []:
            if bool((pairs.clean.columns(role) < 0).all()):
                raise PromptError(f"no pair has a token {role!r}")
        check_context(self.model, pairs.clean)
        return pairs

    @property
    def digest(self) -> str:
        """Hash of the prompts."""
        return self.prompts.digest

    @cached_property
    def activations(self) -> Activations:
        """One forward pass for everything descriptive; the answers are the model's own top predictions."""
        stream = ["resid_pre", Site("resid_post", info(self.model).n_layers - 1), "logits"]
        patterns = [Site("pattern", layer) for layer in self.layers]
        found = capture(self.model, self.prompts, [*stream, *patterns], progress=True)
        answers = found["logits"][:, 0].argmax(-1).cpu()
        return Activations(self.prompts.answering(answers), found.tensors, found.n_layers)

    @property
    def on_prompts(self) -> Activations:
        """The activations of the prompts."""
        return self.activations

    @property
    def on_examples(self) -> Activations | None:
        """The same: every prompt is drawn by itself."""
        return self.activations

    @property
    def jobs(self) -> Mapping[str, Job]:
        """The jobs that heads of any language model may have."""
        return COMMON

    @property
    def tracked(self) -> None:
        """Own prompts rarely share a layout."""
        return None

    def steps(self) -> list[Step]:
        """The steps that the settings ask for and the prompts allow."""
        made = {"attention": attention_step, "logit-lens": lens_step}
        steps = [make(self) for name, make in made.items() if self.settings.wants(name)]
        if self.settings.wants("patching") and self.pairs is not None:
            steps.append(self._patching(self.pairs))
        return steps

    def _patching(self, pairs: PromptPairs) -> Step:
        settings = self.settings
        common: dict[str, Any] = {"layers": self.layers, "direction": settings.direction, "seed": settings.seed}

        def compute(report: Report) -> Results:
            computed: Results = {}
            for site in settings.sites:
                positions = None if Site(site, 0).unit_axis is not None else settings.roles
                for metric in settings.metrics:
                    report(f"{site}, {metric}")
                    computed[f"pairs.{site}.{metric}"] = patching(
                        self.model, pairs, site=site, metric=metric, positions=positions, **common
                    )
            for number in range(len(pairs)):
                computed[f"example-{number}.pair"] = patching(
                    self.model, pairs.take([number]), metric=settings.metrics[0], control=False, **common
                )
            return computed

        return Step(
            "patching",
            compute,
            self.key("patching", pairs.digest, settings.sites, settings.metrics, settings.roles, common),
            lambda r: patching_pictures(r, self._labels(pairs)),
            text="A place matters for the answer where patching it moves the metric beyond what erasing does.",
        )

    def _labels(self, pairs: PromptPairs) -> dict[str, tuple[str, str, list[str]]]:
        decode = self.model.tokenizer.decode
        found = {}
        for number in range(len(pairs)):
            n = int(pairs.clean.lengths[number])
            sides = [[str(decode([i])) for i in p.tokens[number, :n].tolist()] for p in (pairs.clean, pairs.corrupted)]
            tokens = [x if x == y else f"{x}/{y}" for x, y in zip(*sides, strict=True)]
            found[f"example-{number}.pair"] = (pairs.clean.texts[number], pairs.corrupted.texts[number], tokens)
        return found
