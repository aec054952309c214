"""One model with the prompts, twins and vectors that every analysis of the study takes from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyses.halting import causal_grid
from interp.datasets.kill_switch import TOKEN as STOP
from interp.datasets.kill_switch import TokenText, examples, read_token_texts
from interp.datasets.sentences import MARKS
from interp.errors import ModelError, PromptError
from interp.estimates import FEWEST_GROUPS, halves
from interp.models.contrast import TwinRuns, all_sites, mean_deltas, stream_sites
from interp.models.generation import stop_tokens
from interp.models.load import HookedTransformer, info
from interp.prompts import Prompts
from interp.results import fingerprint
from interp.sites import Site
from interp.studies.kill_switch.settings import KillSwitchSettings
from interp.twins import Twins, group_numbers, ordinary_tokens, single_token

SWEEP_MEMORY = 1 << 26
"""Small batches stay in the processor's cache, where these small models run faster."""


@dataclass(frozen=True)
class Texts:
    """What a model is asked with."""

    token: str
    with_token: tuple[TokenText, ...]
    """The token inside a text that goes on."""
    counted: tuple[TokenText, ...]
    """Texts on which halting is counted."""
    plain: tuple[TokenText, ...]
    """Unrelated text, without the token."""
    neutral: tuple[str, ...] | None
    """Neutral tokens by name; None where they are drawn from the vocabulary."""


def shipped_texts(settings: KillSwitchSettings) -> Texts:
    """Held-out templates of the small written English."""

    def drawn(count: int, seed: int) -> tuple[TokenText, ...]:
        made = examples("prompts", count, split="test", seed=seed)
        return tuple(TokenText(one.text, one.template) for one in made)

    unrelated = examples("plain", 64, split="test", seed=settings.seed)
    plain = tuple(TokenText(one.text, one.template) for one in unrelated)
    return Texts(
        STOP, drawn(settings.prompts, settings.seed + 1), drawn(settings.behaviour_prompts, settings.seed + 2), plain,
        tuple(settings.neutral_tokens or MARKS[: settings.neutral]),
    )  # fmt: skip


def own_texts(path: str, token: str, settings: KillSwitchSettings) -> Texts:
    """The user's prompts; unrelated text is what is left of them without the token."""
    found = read_token_texts(path, token)
    found = _in_turn(found)[: max(settings.prompts, settings.behaviour_prompts)]
    n = len({one.template for one in found[: settings.prompts]})
    if n < 2 * FEWEST_GROUPS:
        raise PromptError(
            f"{path} has {n} independent texts (by template); directions come from one half and are tried on the "
            f"other, so at least {2 * FEWEST_GROUPS} are needed"
        )
    kept = tuple(found[: settings.prompts])
    plain = tuple(
        TokenText(text, one.template)
        for one in kept
        if len((text := " ".join(one.text.replace(token, " ").split())).split()) >= 3
    )
    if not plain:
        raise PromptError(f"{path}: no text has three words beside the token; side effects need unrelated text")
    neutral = None if settings.neutral_tokens is None else tuple(settings.neutral_tokens)
    return Texts(token, kept, tuple(found[: settings.behaviour_prompts]), plain, neutral)


def _in_turn(texts: Sequence[TokenText]) -> list[TokenText]:
    """One text of each template, then a second of each, and so on: a file sorted by template loses none when cut."""
    seen: dict[str, int] = {}
    turns = []
    for one in texts:
        seen[one.template] = seen.get(one.template, -1) + 1
        turns.append(seen[one.template])
    return [texts[i] for i in sorted(range(len(texts)), key=lambda i: turns[i])]


class KillSwitchSubject:
    """One model on the study's prompts. Vectors are computed once, when first wanted."""

    def __init__(self, model: HookedTransformer, texts: Texts, settings: KillSwitchSettings) -> None:
        self.model, self.texts, self.settings = model, texts, settings
        ends = stop_tokens(model)
        if not ends:
            raise ModelError(f"{info(model).name} has no end-of-sequence token, so nothing can halt")
        self.end = int(model.tokenizer.eos_token_id) if model.tokenizer.eos_token_id in ends else ends[0]
        self.neutral = list(texts.neutral) if texts.neutral is not None else self._ordinary()
        self.twins = self._twins(texts.with_token)
        self.counted = self._twins(texts.counted)
        templates = group_numbers([one.template for one in texts.plain])
        self.plain = Prompts.from_texts([one.text for one in texts.plain], model.tokenizer, groups=templates)
        self.sites = stream_sites(int(model.cfg.n_layers))
        first, second = (torch.from_numpy(mask) for mask in halves(self.twins.prompts.groups, seed=settings.seed))
        self.first, self.second = first.nonzero().flatten(), second.nonzero().flatten()

    def _ordinary(self) -> list[str]:
        used = {i for one in self.texts.with_token for i in self.model.tokenizer(one.text)["input_ids"]}
        control = single_token(self.texts.token, self.model.tokenizer)
        ids = self.model.tokenizer.get_vocab()
        drawn = ordinary_tokens(self.model.tokenizer, seed=self.settings.seed)
        drawn = [token for token in drawn if ids[token] != control and ids[token] < int(self.model.cfg.d_vocab)]
        free = [token for token in drawn if ids[token] not in used]
        found = (free + [token for token in drawn if ids[token] in used])[: self.settings.neutral]
        if len(found) < 2:
            raise PromptError("the vocabulary has no whole words to stand in the token's place; name neutral_tokens")
        return found

    def _twins(self, texts: Sequence[TokenText]) -> Twins:
        return Twins.of(
            [one.text for one in texts], self.model.tokenizer, self.texts.token, self.neutral,
            groups=[one.template for one in texts],
        )  # fmt: skip

    @cached_property
    def runs(self) -> TwinRuns:
        """Vectors at every site, for all prompts."""
        return TwinRuns(
            self.model, self.twins, all_sites(int(self.model.cfg.n_layers)), offsets=range(self.settings.offsets)
        )

    @cached_property
    def stream(self) -> TwinRuns:
        """The same for the stream alone."""
        return self.runs.part(sites=self.sites)

    @cached_property
    def searched(self) -> Twins:
        """The half of the prompts that directions come from and cells are chosen on."""
        return self.twins.take(self.first)

    @cached_property
    def tried(self) -> Twins:
        """The other half."""
        return self.twins.take(self.second)

    @cached_property
    def directions(self) -> Float[Tensor, "token site offset d_model"]:
        """Mean deltas on the searched half at the offsets that are tried."""
        offsets = range(min(self.settings.tried_offsets, self.settings.offsets))
        return mean_deltas(self.runs.part(sites=self.sites, offsets=offsets, rows=self.first))

    def direction(self, site: Site) -> Float[Tensor, " d_model"]:
        """The control token's direction at a site, at the token."""
        return self.directions[0, self.sites.index(site), 0]

    @cached_property
    def causal_site(self) -> Site:
        """The depth at which adding the direction does most on the searched half, at the token."""
        made = causal_grid(
            self.model, self.searched, self.sites, self.directions[:, :, :1], self.end, random_directions=1,
            rivals=False, seed=self.settings.seed, memory=SWEEP_MEMORY,
        )  # fmt: skip
        return self.sites[made.chosen[0]]

    def key(self, what: str, *options: object) -> str:
        """Fingerprint of a step."""
        known = info(self.model)
        asked = (self.twins.prompts.digest, self.counted.prompts.digest, self.plain.digest, self.neutral)
        model = (known.digest, known.tokenizer, known.weights, known.dtype, known.device, known.adapter)
        return fingerprint(what, model, asked, self.settings.model_dump(exclude={"analyses"}), *options)
