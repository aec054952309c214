"""Which one-word edits flip a verdict? Candidates by gradient or by chance, every one verified by a forward pass.

HotFlip (Ebrahimi et al., arXiv 1712.06751) ranks replacements of a token by the gradient's first-order estimate. The
estimate is poor where embeddings are far apart, so what counts is what the judge says to the edited text, read anew
from its characters. Random search with the same budget is the control: a judge that any edit flips is not fooled by
cunning. An edit keeps the meaning only where the list of words that it draws from does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.models.judge import Judge
from interp.models.judge_runs import EntryRuns
from interp.models.run import MEMORY

By = Literal["gradient", "random"]
Span = tuple[int, int]
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_STARTS = ("\u2581", "\u0120")
"""How tokenizers mark a token that begins a word."""


@dataclass(frozen=True, eq=False)
class EditSearch:
    """Edited texts and what the judge says to them."""

    by: By
    budget: int
    """Edits tried for each text, where it has as many."""
    texts: tuple[str, ...]
    base: Float[Tensor, " prompt"]
    """Log-odds of unsafe as the texts stand."""
    groups: Int[Tensor, " prompt"]
    prompt: Int[Tensor, " edit"]
    start: Int[Tensor, " edit"]
    """First character that is replaced."""
    end: Int[Tensor, " edit"]
    new: tuple[str, ...]
    """What stands there instead, one an edit."""
    predicted: Float[Tensor, " edit"]
    """First-order estimate of the change of the log-odds."""
    log_odds: Float[Tensor, " edit"]
    """Log-odds of the edited text."""

    @property
    def old(self) -> tuple[str, ...]:
        """What each edit replaces."""
        places = zip(self.prompt.tolist(), self.start.tolist(), self.end.tolist(), strict=True)
        return tuple(self.texts[i][start:end] for i, start, end in places)

    @property
    def change(self) -> Float[Tensor, " edit"]:
        """Change of the log-odds; above 0 towards unsafe."""
        return self.log_odds - self.base[self.prompt]

    @property
    def flips(self) -> Bool[Tensor, " edit"]:
        """Whether the edit turns the verdict."""
        return (self.log_odds > 0) != (self.base[self.prompt] > 0)

    @property
    def flipped(self) -> Float[Tensor, " prompt"]:
        """1 where some edit turns the verdict; nan for a text without a candidate."""
        return self._largest(self.flips.float())

    @property
    def reach(self) -> Float[Tensor, " prompt"]:
        """How far the best edit moves the log-odds towards the other verdict; nan for a text without a candidate."""
        return self._largest(self.towards)

    @property
    def towards(self) -> Float[Tensor, " edit"]:
        """Change of the log-odds towards the other verdict."""
        return -self.base[self.prompt].sign() * self.change

    def flipped_within(self, tries: int) -> Float[Tensor, " prompt"]:
        """1 where one of the first `tries` edits of a text turns its verdict; nan for a text without a candidate."""
        first = torch.searchsorted(self.prompt, self.prompt)  # edits stand text by text
        return self._largest(((torch.arange(len(self.prompt)) - first < tries) & self.flips).float())

    def best(self) -> Int[Tensor, " prompt"]:
        """The edit of each text that moves it furthest towards the other verdict; -1 where it has none."""
        found = torch.full((len(self.texts),), -1)
        for edit in self.towards.argsort(stable=True).tolist():  # the last one written is the largest
            found[self.prompt[edit]] = edit
        return found

    def edited(self, edit: int) -> str:
        """The whole text after an edit."""
        text = self.texts[int(self.prompt[edit])]
        return text[: int(self.start[edit])] + self.new[edit] + text[int(self.end[edit]) :]

    def to_frame(self) -> pd.DataFrame:
        """One row for each edit."""
        return pd.DataFrame(
            {
                "prompt": self.prompt.numpy(), "start": self.start.numpy(), "old": self.old, "new": self.new,
                "predicted": self.predicted.numpy(), "log_odds": self.log_odds.numpy(), "flips": self.flips.numpy(),
            }
        )  # fmt: skip

    def _largest(self, values: Float[Tensor, " edit"]) -> Float[Tensor, " prompt"]:
        none = torch.full((len(self.texts),), -torch.inf)
        found = none.scatter_reduce(0, self.prompt, values, "amax")
        return found.masked_fill(found == -torch.inf, torch.nan)


class _Candidate(NamedTuple):
    prompt: int
    start: int
    end: int
    new: str
    predicted: float


def find_edits(
    judge: Judge,
    texts: Sequence[str],
    *,
    words: Mapping[str, Sequence[str]] | None = None,
    slots: Sequence[Sequence[Span]] | None = None,
    groups: Int[Tensor, " prompt"] | None = None,
    budget: int = 32,
    by: By = "gradient",
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> EditSearch:
    """Try replacements of single words, `budget` of them for each text.

    `words` lists what may stand for a word (the meaning constraint: synonyms, words of one class); without it every
    word of the judge's vocabulary may, and only the size of the edit is bounded. `slots` are the spans of characters
    that may be replaced, text by text; by default every word. By gradient, those that the first-order estimate puts
    first towards the other verdict are tried; by chance, any.
    """
    if by not in ("gradient", "random"):
        raise ConfigError(f"edits are sought by gradient or random, not by {by!r}")
    if budget < 1:
        raise ConfigError(f"a budget of {budget} edits tries nothing; give at least 1")
    prompts = judge.prompts(texts, groups=groups)
    places = _slots(texts, slots)
    runs = EntryRuns(judge, prompts, memory)
    base = judge.log_odds(prompts, memory=memory)
    candidates = _Candidates(judge, runs, words)
    rng = np.random.default_rng(seed)
    chosen: list[_Candidate] = []
    for i, text in enumerate(texts):
        found = [candidates.of(i, text, span) for span in places[i]]
        numbers, predicted = (torch.cat(part) for part in zip(*found, strict=True)) if found else 2 * [torch.zeros(0)]
        if by == "random":
            order = torch.from_numpy(rng.permutation(len(numbers)))
        else:
            order = predicted.argsort(descending=bool(base[i] <= 0), stable=True)
        of_span = torch.repeat_interleave(torch.tensor([len(part) for part, _ in found], dtype=torch.long))
        chosen += [
            _Candidate(i, *places[i][int(of_span[j])], candidates.names[int(numbers[j])], float(predicted[j]))
            for j in order[:budget].tolist()
        ]
    if not chosen:
        raise PromptError("no text has a word that may be replaced; widen the list of words or the slots")
    edited = [texts[c.prompt][: c.start] + c.new + texts[c.prompt][c.end :] for c in chosen]
    log_odds = judge.log_odds(judge.prompts(edited), memory=memory, progress=progress)
    return EditSearch(
        by, budget, tuple(texts), base, prompts.groups,
        prompt=torch.tensor([one.prompt for one in chosen]),
        start=torch.tensor([one.start for one in chosen]),
        end=torch.tensor([one.end for one in chosen]),
        new=tuple(one.new for one in chosen),
        predicted=torch.tensor([one.predicted for one in chosen]),
        log_odds=log_odds,
    )  # fmt: skip


def _slots(texts: Sequence[str], given: Sequence[Sequence[Span]] | None) -> list[list[Span]]:
    if given is None:
        return [[match.span() for match in _WORD.finditer(text)] for text in texts]
    if len(given) != len(texts):
        raise PromptError(f"{len(given)} lists of slots do not fit {len(texts)} texts")
    for text, spans in zip(texts, given, strict=True):
        for start, end in spans:
            if not 0 <= start < end <= len(text):
                raise PromptError(f"the slot ({start}, {end}) is not in {text!r}")
    return [list(spans) for spans in given]


class _Candidates:
    """Replacements of a span with the first-order estimate of their effect."""

    def __init__(self, judge: Judge, runs: EntryRuns, words: Mapping[str, Sequence[str]] | None) -> None:
        self.judge, self.prompts = judge, runs.prompts
        self.table, self.gradients = runs.table, runs.scale * runs.gradients()
        self.before = len(judge.template.split("{prompt}")[0])
        self.listed = None if words is None else {w.lower(): list(dict.fromkeys(new)) for w, new in words.items()}
        whole = _whole_words(judge.model.tokenizer) if words is None else _pieces(judge.model.tokenizer, words)
        self.names = list(whole)
        self.vectors = torch.stack([self.table[ids].mean(0) for ids in whole.values()]) if whole else self.table[:0]
        self.number = {name: i for i, name in enumerate(self.names)}
        self.same: dict[str, list[int]] = {}
        for name, i in self.number.items():
            self.same.setdefault(name.lower(), []).append(i)
        self.offsets = judge.all_places([judge.template.replace("{prompt}", text) for text in self.prompts.texts])

    def of(self, prompt: int, text: str, span: Span) -> tuple[Int[Tensor, " candidate"], Float[Tensor, " candidate"]]:
        """Numbers of the names that may stand in a span, and the estimates of the change."""
        old = text[slice(*span)].lower()
        allowed = torch.ones(len(self.names), dtype=torch.bool)
        if self.listed is not None:
            allowed[:] = False
            allowed[[self.number[name] for name in self.listed.get(old, ())]] = True
        allowed[self.same.get(old, [])] = False
        numbers = allowed.nonzero().flatten()
        start, end = span[0] + self.before, span[1] + self.before
        columns = [i for i, (a, b) in enumerate(self.offsets[prompt]) if a < end and b > start and b > a]
        gradient = self.gradients[prompt, columns]
        now = (gradient * self.table[self.prompts.tokens[prompt, columns]]).sum()
        return numbers, self.vectors[numbers] @ gradient.sum(0) - now


def _whole_words(tokenizer: Any) -> dict[str, list[int]]:
    """Words of letters alone that are one token of the vocabulary."""
    found: dict[str, list[int]] = {}
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    marked = any(piece[:1] in _STARTS for piece, _ in vocabulary)
    for piece, number in vocabulary:
        word = piece[1:] if marked and piece[:1] in _STARTS else "" if marked else piece
        if len(word) > 1 and word.isalpha():
            found.setdefault(word, [number])
    if not found:
        raise ConfigError("the judge's tokenizer has no tokens that are whole words; give a list of words")
    return found


def _pieces(tokenizer: Any, words: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    """The tokens of every word on the lists, as they stand after a blank."""
    names = list(dict.fromkeys(new for listed in words.values() for new in listed))
    if not names:
        raise ConfigError("the list of words names no replacement")
    rows = tokenizer([f" {name}" for name in names], add_special_tokens=False).input_ids
    return {name: row for name, row in zip(names, rows, strict=True) if row}
