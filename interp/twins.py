"""Twins: prompts that hold a control token, and the same prompts with each of many neutral tokens in its place.

What a token *does* is what it does beyond any other token at its place. The neutral tokens are the null for that: treat
each of them as the control token, and see how often it looks as special.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from interp.errors import PromptError
from interp.prompts import Prompts, Rows, encode_all

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKEN = "token"
"""Role of the control token in the prompts."""

_STARTS = ("Ġ", "▁")
"""How byte-level and sentencepiece vocabularies mark the start of a word."""

FEWEST_NEUTRAL = 39
"""With this many neutral tokens the smallest p is 0.025; with fewer than 20 none below 0.05 can be reached."""


@dataclass(frozen=True, eq=False)
class Twins:
    """Prompts with the control token at the role `token`, and what may stand in its place."""

    prompts: Prompts
    token: str
    neutral: Int[Tensor, " neutral"]
    """Token ids."""
    names: tuple[str, ...]
    """The neutral tokens as text."""

    def __post_init__(self) -> None:
        if len(self.neutral) != len(self.names) or len(self.neutral) == 0:
            raise PromptError(f"{len(self.neutral)} neutral tokens need as many names, and there must be one at least")
        if int((self.prompts.columns(TOKEN) < 0).sum()):
            raise PromptError("every prompt needs the control token (role 'token')")
        held = self.prompts.tokens[torch.arange(len(self.prompts)), self.prompts.roles[TOKEN]]
        if bool((held != self.control).any()):
            other = int((held != self.control).nonzero()[0])
            raise PromptError(
                f"prompt {other} has token id {int(held[other])} in the control token's place and prompt 0 has "
                f"{self.control}; one control token at a time"
            )
        if bool((self.neutral == self.control).any()):
            raise PromptError(f"the control token {self.token!r} is among the neutral tokens; leave it out")
        if len(self.neutral.unique()) != len(self.neutral):
            raise PromptError("a neutral token was given twice; give each once")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def control(self) -> int:
        """Id of the control token."""
        return int(self.prompts.tokens[0, self.prompts.roles[TOKEN][0]])

    @property
    def ids(self) -> Int[Tensor, " token"]:
        """The control token, then the neutral ones."""
        return torch.cat([torch.tensor([self.control]), self.neutral])

    def take(self, index: Rows) -> Twins:
        """Some of the prompts."""
        return replace(self, prompts=self.prompts.take(index))

    def without(self, *names: str) -> Twins:
        """The same without some of the neutral tokens. Raises PromptError for one that is not there."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise PromptError(f"there is no neutral token {unknown[0]!r}; there are: {', '.join(self.names)}")
        kept = torch.tensor([name not in names for name in self.names])
        return replace(
            self, neutral=self.neutral[kept], names=tuple(n for n, k in zip(self.names, kept, strict=True) if k)
        )

    def treating(self, name: str) -> Twins:
        """A neutral token treated as if it were the control token, which is left out: the null."""
        others = self.without(name)
        return replace(others, prompts=self.with_token(self.neutral[self.names.index(name)]), token=name)

    def with_token(self, ids: Int[Tensor, ""] | Int[Tensor, " prompt"] | int) -> Prompts:
        """The prompts with another token (one for all, or one each) in the control token's place."""
        tokens = self.prompts.tokens.clone()
        rows = torch.arange(len(tokens))
        tokens[rows, self.prompts.roles[TOKEN]] = torch.as_tensor(ids)
        return replace(self.prompts, tokens=tokens)

    def partners(self, seed: int) -> tuple[Prompts, Int[Tensor, " prompt"]]:
        """Each prompt with a random neutral token, and which (its place among `neutral`)."""
        drawn = torch.randint(len(self.neutral), (len(self),), generator=torch.Generator().manual_seed(seed))
        return self.with_token(self.neutral[drawn]), drawn

    @classmethod
    def of(
        cls,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase | Any,
        token: str,
        neutral: Sequence[str],
        *,
        groups: Sequence[object] | None = None,
    ) -> Twins:
        """Twins from texts that each hold `token` once. `groups`: texts of one template are not independent.

        Raises PromptError where the tokenizer cuts the control or a neutral token into several.
        """
        if not texts:
            raise PromptError("there are no texts; give at least one that holds the control token")
        control, *others = [single_token(one, tokenizer) for one in (token, *neutral)]
        rows = encode_all(texts, tokenizer)
        for text, ids in zip(texts, rows, strict=True):
            if ids.count(control) != 1:
                raise PromptError(f"the token {token!r} stands {ids.count(control)} times in {text!r}; it must once")
        width = max(map(len, rows))
        mask = torch.arange(width) < torch.tensor([len(ids) for ids in rows])[:, None]
        prompts = Prompts.from_tokens(
            torch.tensor([ids + [0] * (width - len(ids)) for ids in rows]),
            mask,
            texts=list(texts),
            roles={TOKEN: torch.tensor([ids.index(control) for ids in rows])},
            groups=None if groups is None else group_numbers(groups),
        )
        return cls(prompts, token, torch.tensor(others), tuple(neutral))


def single_token(text: str, tokenizer: PreTrainedTokenizerBase | Any) -> int:
    """Id of a token that the vocabulary has as a whole. Raises PromptError where it has not."""
    vocabulary = tokenizer.get_vocab()
    if text in vocabulary:
        return int(vocabulary[text])
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise PromptError(
            f"the vocabulary has no token {text!r}; choose a token that it has, or add one with interp finetune --token"
        )
    return int(ids[0])


def ordinary_tokens(tokenizer: PreTrainedTokenizerBase | Any, *, seed: int = 0) -> list[str]:
    """Neutral tokens for a model of one's own: whole words of its vocabulary (three letters or more), shuffled."""
    special, vocabulary = set(tokenizer.all_special_ids), tokenizer.get_vocab()
    marked = any(piece.startswith(_STARTS) and piece[1:].isalpha() for piece in vocabulary)
    words = [
        piece
        for piece, number in sorted(vocabulary.items(), key=lambda item: item[1])
        if number not in special
        and (piece.startswith(_STARTS) or not marked)
        and len(text := str(tokenizer.decode([number])).strip()) >= 3
        and text.isalpha()
    ]
    order: Shaped[np.ndarray, " token"] = np.random.default_rng(seed).permutation(len(words))
    return [words[i] for i in order.tolist()]


def group_numbers(names: Sequence[object]) -> Int[Tensor, " prompt"]:
    """Numbers for the groups that prompts are of."""
    return torch.from_numpy(np.unique(list(map(str, names)), return_inverse=True)[1])
