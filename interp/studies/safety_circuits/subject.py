"""One model with its transcoders and the requests that it is asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from math import ceil, log2
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.circuits.store import named
from interp.circuits.transcoders import Transcoders
from interp.circuits.triples import PARTS, SHARES, Triples, benchmark_prompts, triples_of
from interp.datasets.safety import Triple, safety_triples
from interp.errors import ConfigError, ModelError
from interp.files import read_json
from interp.models.load import HookedTransformer, info
from interp.prompts import Prompts
from interp.results import fingerprint
from interp.studies.safety_circuits.settings import CircuitSettings


@dataclass(frozen=True, eq=False)
class CircuitSubject:
    """What every analysis of the study takes from."""

    model: HookedTransformer
    transcoders: Transcoders
    template: str
    answers: tuple[str, str]
    """First words of a refusal and of compliance."""
    settings: CircuitSettings

    @classmethod
    def of(
        cls,
        model: HookedTransformer,
        folder: Path | None,
        transcoders: Transcoders,
        settings: CircuitSettings,
    ) -> CircuitSubject:
        """How the model is asked, and how its answers begin: by the settings, else by the card in its folder, else a
        tokenizer's own chat template. Raises ConfigError where neither tells."""
        if model.tokenizer is None:
            raise ModelError(f"{info(model).name} has no tokenizer, so it cannot be asked")
        card: Any = read_json(folder / "card.json") if folder and (folder / "card.json").is_file() else {}
        template = settings.template or card.get("template") or _chat_template(model.tokenizer)
        if template.count("{prompt}") != 1:
            raise ConfigError(f"a template has {{prompt}} once, not {template!r}")
        words = tuple(getattr(settings, name) or card.get(name) for name in ("refuse", "comply"))
        if None in words:
            raise ConfigError(
                "how do its refusals and its compliance begin? name their first words as `refuse` and `comply` in "
                "--config, for instance refuse: I and comply: Sure"
            )
        return cls(model, transcoders, template, (str(words[0]), str(words[1])), settings)

    @cached_property
    def tokens(self) -> tuple[int, int]:
        """Of the first words of a refusal and of compliance."""
        found = [self.model.tokenizer(word, add_special_tokens=False).input_ids for word in self.answers]
        refuse, comply = (ids[0] if ids else -1 for ids in found)
        if min(refuse, comply) < 0 or refuse == comply:
            raise ConfigError(f"{self.answers[0]!r} and {self.answers[1]!r} do not begin with different tokens")
        return refuse, comply

    @cached_property
    def benchmark(self) -> list[Triple]:
        """The triples that were asked for."""
        found = safety_triples(self.settings.benchmark, categories=self.settings.categories)
        most = self.settings.triples
        if most is None:
            return found
        count: dict[str, int] = {}
        kept = []
        for one in found:
            name = one.harmful.category
            count[name] = count.get(name, 0) + 1
            if count[name] <= most:
                kept.append(one)
        return kept

    @cached_property
    def prompts(self) -> Prompts:
        """Every request as the model reads it; read where it begins to answer."""
        return benchmark_prompts(self.benchmark, self.model.tokenizer, template=self.template)

    @cached_property
    def triples(self) -> Triples:
        """Which of them belong together, and which part they are in."""
        return triples_of(self.prompts, seed=self.settings.seed)

    def drawn(self, category: str) -> Int[np.ndarray, " triple"]:
        """Triples of a category whose graphs are drawn: as many as the settings say, each part in its share."""
        most, chosen = self.settings.graphs, self.triples.chosen(category)
        parts = [np.flatnonzero(chosen & (self.triples.part == part)) for part in range(len(PARTS))]
        if most is not None:
            parts = [one[:wanted] for one, wanted in zip(parts, _shared_out(most), strict=True)]
        return np.sort(np.concatenate(parts))

    def searched(self, category: str) -> Bool[np.ndarray, " triple"]:
        """Of those drawn, the ones that motifs are sought on; they are tested on the confirmation part."""
        return self.triples.part[self.drawn(category)] != PARTS.index("confirmation")

    @property
    def motif_level(self) -> float:
        """Of each category's test of motifs, so that all of them together keep the level."""
        return self.settings.level / len(self.categories)

    def check(self) -> None:
        """Raise ConfigError for what would be found out only after the work: names and numbers of triples."""
        for name in self.prompts.labels["id"]:
            named(str(name))
        for category in self.categories:
            sizes = np.bincount(self.triples.part[self.triples.chosen(category)], minlength=len(PARTS))
            if sizes.min() < 1:
                raise ConfigError(
                    f"{category} has {sizes.sum()} triples; each of its three parts needs one: at least 4"
                )
            tested = int((~self.searched(category)).sum())
            needed = 1 + ceil(log2(1 / self.motif_level))
            if self.settings.mine_patterns and tested < needed:
                known = int(sizes[PARTS.index("confirmation")])
                enough = next((n for n in range(8, 4 * needed) if _shared_out(n)[1] >= needed), 0)
                raise ConfigError(
                    f"motifs of {category} would be tested on {tested} triples, which cannot show a p of "
                    f"{self.motif_level:.2g}: that takes {needed}; "
                    + (f"draw at least {enough} `graphs`, or" if known >= needed else f"it has {known} to test on;")
                    + " seek none (--no-mine-patterns)"
                )

    @cached_property
    def transcoders_mark(self) -> str:
        """Tells these transcoders apart from others of their name."""
        found = hashlib.sha256(repr((self.transcoders.reads, self.transcoders.before_norm)).encode())
        for one in self.transcoders.layers:
            for part in vars(one).values():
                if isinstance(part, Tensor):
                    found.update(part.contiguous().view(torch.uint8).cpu().numpy().tobytes())
                else:
                    found.update(repr(part).encode())
        return found.hexdigest()[:16]

    @property
    def categories(self) -> tuple[str, ...]:
        """In the order of the benchmark."""
        return tuple(dict.fromkeys(self.triples.categories))

    def key(self, what: str, *options: object) -> str:
        """Fingerprint of a step."""
        known = info(self.model)
        model = (known.digest, known.tokenizer, known.weights, known.dtype, known.device)
        asked = (self.prompts.digest, self.prompts.labels.to_csv(index=False), self.triples.part.tolist(), self.tokens)
        return fingerprint(what, model, self.transcoders_mark, self.transcoders.name, *asked, *options)


def _shared_out(count: int) -> list[int]:
    """So many triples in three parts: in their shares, what is left over to the largest remainders."""
    exact = [count * share for share in SHARES]
    found = [int(one) for one in exact]
    for at in sorted(range(len(exact)), key=lambda i: found[i] - exact[i])[: count - sum(found)]:
        found[at] += 1
    return found


def _chat_template(tokenizer: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise ConfigError(
            "the model has no card and no chat template; say how it is asked as `template` in --config, with {prompt} "
            "where the request stands"
        )
    asked = [{"role": "user", "content": "{prompt}"}]
    return str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
