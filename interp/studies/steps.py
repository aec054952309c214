"""The steps that every study of one model has: attention and logit lens, on prompts and on single examples."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from interp.analyses.attention import attention_patterns, attention_statistics
from interp.analyses.heads import HeadScores, Job, head_scores
from interp.analyses.logit_lens import logit_lens
from interp.models.load import HookedTransformer, info, untrained
from interp.models.run import capture
from interp.prompts import Position
from interp.results import fingerprint
from interp.studies.pictures import attention_pages, attention_pictures, kept_scores, lens_pictures
from interp.studies.settings import Settings
from interp.studies.study import Report, Results, Step
from interp.tensors import Activations


class Subject(ABC):
    """One model with the prompts it is studied on."""

    model: HookedTransformer
    settings: Settings
    layers: list[int]
    _scores: tuple[HeadScores, list[HeadScores]] | None = None

    @property
    @abstractmethod
    def digest(self) -> str:
        """Hash of all prompts."""

    @property
    @abstractmethod
    def on_prompts(self) -> Activations:
        """The activations behind the statistics."""

    @property
    @abstractmethod
    def on_examples(self) -> Activations | None:
        """The activations of the prompts drawn one by one."""

    @property
    @abstractmethod
    def jobs(self) -> Mapping[str, Job]:
        """What heads are scored on."""

    @property
    @abstractmethod
    def tracked(self) -> Sequence[Position] | None:
        """Queries at which position tracking is measured."""

    def scores(self, report: Report) -> tuple[HeadScores, list[HeadScores]]:
        """Head scores of the model and of untrained ones, computed when first wanted."""
        if self._scores is None:
            own, others = head_scores(self.on_prompts, self.jobs, track=self.tracked), []
            for seed, fresh in enumerate(untrained(self.model, range(self.settings.untrained))):
                report(f"untrained model {seed + 1} of {self.settings.untrained}")
                other = capture(fresh, self.on_prompts.prompts, ["pattern"], layers=self.layers)
                others.append(head_scores(other, self.jobs, track=self.tracked))
            self._scores = own, others
        return self._scores

    def key(self, what: str, *options: object) -> str:
        """Fingerprint of a step."""
        known = info(self.model)
        model = (known.digest, known.tokenizer, known.weights, known.dtype, known.device)
        return fingerprint(what, model, self.digest, *options)


def attention_step(subject: Subject) -> Step:
    """Statistics, head scores beside untrained models, and the patterns of the examples."""
    settings = subject.settings

    def compute(report: Report) -> Results:
        found = subject.on_prompts
        own, others = subject.scores(report)
        computed: Results = {"statistics": attention_statistics(found), **kept_scores(own, others)}
        examples = subject.on_examples
        if examples is not None:
            computed["examples"] = attention_patterns(examples, subject.model.tokenizer)
            computed["examples-statistics"] = attention_statistics(examples)
        return computed

    return Step(
        "attention",
        compute,
        subject.key("attention", settings.untrained, subject.layers),
        lambda r: attention_pictures(r, subject.layers, settings.single_heads),
        lambda r: attention_pages(r, subject.layers),
        text="What heads look at. Where a head looks is not yet what it does: patching says that.",
        drawn=settings.heads,
    )


def lens_step(subject: Subject) -> Step:
    """The logit lens on the prompts and on the examples."""
    seed = subject.settings.seed

    def compute(report: Report) -> Results:
        computed: Results = {"prompts": logit_lens(subject.on_prompts, subject.model, seed=seed)}
        examples = subject.on_examples
        if examples is not None:
            computed["examples"] = logit_lens(examples, subject.model, seed=seed)
        return computed

    return Step(
        "logit-lens",
        compute,
        subject.key("logit-lens", seed),
        lens_pictures,
        text="The residual stream of every depth read through the final norm and the unembedding.",
    )
