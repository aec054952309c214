"""One judge with the requests, pairs and word lists that every analysis of the study takes from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from jaxtyping import Bool
from torch import Tensor

from interp.analyses.faithfulness import marked
from interp.datasets.judging import CONTEXTS, DOMAINS, Request, Word, requests, span, turns, twin
from interp.datasets.labelled import LabelledTexts, read_labelled
from interp.models.judge import Judge
from interp.models.load import info, untrained
from interp.prompts import Prompts
from interp.results import fingerprint
from interp.studies.safety_judge.recipe import judged
from interp.studies.safety_judge.settings import FAR, JudgeSettings

RULE = ("act", "object", "context")
CHANGES: tuple[Word, ...] = ("act", "object", "context")
SWEEP_MEMORY = 1 << 26
"""Small batches stay in the processor's cache, where these small models run faster."""


@dataclass(frozen=True, eq=False)
class TwinRequests:
    """Unsafe requests and two safe twins of each, all with one word of a kind changed."""

    unsafe: list[Request]
    safe: list[Request]
    neutral: list[Request]
    """Safe as well, by yet another word in the same place."""
    changed: list[Word]


class JudgeSubject:
    """A judge on the study's requests; everything is drawn once, when first wanted."""

    def __init__(self, judge: Judge, settings: JudgeSettings) -> None:
        self.judge, self.settings = judge, settings
        known = int(judge.model.cfg.n_layers)
        self.layers = list(range(known)) if settings.layers is None else settings.layers

    @cached_property
    def explained(self) -> list[Request]:
        """Held-out requests."""
        return requests(self.settings.explained, seed=FAR + 101 + self.settings.seed)

    @cached_property
    def prompts(self) -> Prompts:
        """The same as the judge reads them."""
        return judged(self.judge, self.explained)

    @property
    def unsafe(self) -> list[bool]:
        """Their truth."""
        return [one.unsafe for one in self.explained]

    @cached_property
    def decides(self) -> Bool[Tensor, "prompt pos"]:
        """The tokens that decide."""
        return marked(self.prompts, RULE)

    @cached_property
    def twins(self) -> TwinRequests:
        """Unsafe requests with their safe twins, the changed word of each kind in turn."""
        made = TwinRequests([], [], [], [])
        for seed, one in enumerate(requests(8 * self.settings.pairs, seed=FAR + 202 + self.settings.seed)):
            change = CHANGES[len(made.unsafe) % len(CHANGES)]
            if not one.unsafe or change not in turns(one):
                continue
            safe, neutral = _two_twins(one, change, seed)
            for side, request in zip((made.unsafe, made.safe, made.neutral), (one, safe, neutral), strict=True):
                side.append(request)
            made.changed.append(change)
            if len(made.unsafe) == self.settings.pairs:
                break
        return made

    @cached_property
    def attacked(self) -> list[Request]:
        """Unsafe requests to be edited, which the judge should go on calling unsafe."""
        drawn = requests(3 * self.settings.attacked, seed=FAR + 303 + self.settings.seed)
        return [one for one in drawn if one.unsafe][: self.settings.attacked]

    @cached_property
    def labelled(self) -> LabelledTexts | None:
        """The user's set."""
        given = self.settings.labelled
        if given is None:
            return None
        return read_labelled(given.path, text=given.text, label=given.label, category=given.category)

    def fresh(self) -> Iterator[Judge]:
        """Untrained judges of the same architecture."""
        for model in untrained(self.judge.model, range(self.settings.untrained)):
            yield Judge(model, self.judge.template, self.judge.safe, self.judge.unsafe)

    def key(self, what: str, *options: object) -> str:
        """Fingerprint of a step."""
        known = info(self.judge.model)
        model = (known.digest, known.tokenizer, known.weights, known.dtype, known.device, known.adapter)
        texts = (self.prompts.digest, [one.text for one in self.twins.safe], [one.text for one in self.attacked])
        asked = self.settings.model_dump(mode="json", exclude={"analyses"})
        own = None if self.labelled is None else [self.labelled.texts, self.labelled.unsafe]
        return fingerprint(what, model, texts, asked, own, *options)


def _two_twins(one: Request, change: Word, seed: int) -> tuple[Request, Request]:
    """Two safe twins with different words in the place of the changed one (the same where there is but one)."""
    safe = twin(one, change, seed=seed)
    others = (twin(one, change, seed=seed + 1000 * i) for i in range(1, 40))
    return safe, next((other for other in others if other.text != safe.text), safe)


def alike() -> dict[str, list[str]]:
    """For each word of the rule those that leave the verdict as it is, by the rule: of one domain, or excusing nothing.

    The meaning constraint of the attack. Weak acts are on the lists: they harm like the others of their domain.
    """
    pools = [list(CONTEXTS)]
    for domain in DOMAINS.values():
        pools += [[*domain.acts, *domain.weak], list(domain.objects), list(domain.excuses)]
    return {word: [other for other in pool if other != word] for pool in pools for word in pool}


def rule_slots(some: list[Request]) -> list[list[tuple[int, int]]]:
    """Where the act and the object stand in each text: the slots that an attack may touch."""
    return [[span(one.text, word) for word in (one.act, one.object)] for one in some]
