"""Prompts: token ids with what is known about them, and pairs of them for patching.

One layout serves the whole library: prompts are right-padded, column 0 holds each prompt's first token, and -1 stands
for "this prompt has none". Input padded on the left is moved over on entry (`Prompts.from_tokens`), so nothing above
has to ask where the padding is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, SupportsIndex

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from interp.errors import ConfigError, PromptError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Position = str | SupportsIndex
"""A token of each prompt: a role (`"operator"`) or an index from its first (0) or its last (-1) real token."""


Rows = Sequence[int] | Sequence[bool] | np.ndarray | Tensor
"""Which prompts: their numbers, or a mask over all of them."""


def chosen_rows(index: Rows, n: int) -> Int[Tensor, " row"]:
    """The numbers of the chosen prompts. Raises PromptError for none, for a mask of another length, or out of range."""
    rows = index if isinstance(index, Tensor) else torch.from_numpy(np.array(index))
    if rows.dtype == torch.bool and len(rows) != n:
        raise PromptError(f"a mask over {len(rows)} prompts does not fit {n} prompts")
    if rows.dtype == torch.bool:
        rows = rows.nonzero().flatten()
    if rows.numel() == 0:
        raise PromptError("no prompt is left after the selection; widen it")
    if rows.is_floating_point() or int(rows.min()) < -n or int(rows.max()) >= n:
        raise PromptError(f"prompts are chosen by whole numbers below {n}, or by a mask")
    return rows.long() % n


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of mixed length, right-padded, with named positions, answers, labels and groups.

    An answer token is predicted one column earlier: the logits at column `reads[p, r]` predict `answers[p, r]`. A
    prompt may have several (a number has several digits; all are read in one teacher-forced forward pass).
    """

    tokens: Int[Tensor, "prompt pos"]
    lengths: Int[Tensor, " prompt"]
    texts: tuple[str, ...]
    answers: Int[Tensor, "prompt read"]
    """Token ids to be predicted; -1 where a prompt has fewer answer tokens than others."""
    reads: Int[Tensor, "prompt read"]
    """Columns whose logits predict the answers; -1 where there is none."""
    read_names: tuple[str, ...]
    roles: Mapping[str, Int[Tensor, " prompt"]] = field(default_factory=dict)
    """Column of each named position; -1 where a prompt lacks it."""
    labels: pd.DataFrame = field(default_factory=pd.DataFrame)
    """What is known of each prompt, one row a prompt."""
    groups: Int[Tensor, " prompt"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.long))
    """Prompts of one group (one template, one problem) are not independent and are resampled together."""

    def __post_init__(self) -> None:
        n, width = self.tokens.shape
        if n == 0:
            raise PromptError("there are no prompts; give at least one")
        if int(self.lengths.min()) < 1:
            empty = int(self.lengths.argmin())
            raise PromptError(f"prompt {empty} is empty; give it at least one token")
        if len(self.texts) != n or (len(self.labels) not in (0, n)) or len(self.groups) not in (0, n):
            raise PromptError(f"texts, labels and groups must have one entry for each of the {n} prompts")
        if self.reads.shape[1] != len(self.read_names):
            raise PromptError(f"{self.reads.shape[1]} read columns need as many names, got {self.read_names}")
        if len(self.groups) == 0:
            object.__setattr__(self, "groups", torch.arange(n))
        if len(self.labels) == 0:
            object.__setattr__(self, "labels", pd.DataFrame(index=pd.RangeIndex(n)))
        if self.answers.shape != self.reads.shape or len(self.answers) != n:
            raise PromptError(f"answers and reads must be tables over the {n} prompts, of one shape")
        for name, columns in {**self.roles, **dict(zip(self.read_names, self.reads.T, strict=True))}.items():
            if columns.shape != (n,):
                raise PromptError(f"role {name!r} has {len(columns)} columns for {n} prompts")
            if bool((columns >= self.lengths).any()) or int(columns.min()) < -1:
                raise PromptError(f"role {name!r} points outside of a prompt")
        if int(self.lengths.max()) > width:
            raise PromptError("a prompt's length exceeds the token table")

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mask(self) -> Bool[Tensor, "prompt pos"]:
        """True where a column holds a real token."""
        return torch.arange(self.tokens.shape[1]) < self.lengths[:, None]

    @property
    def digest(self) -> str:
        """Hash of what the model is fed and asked, for provenance and for telling finished work apart."""
        parts = [self.tokens, self.lengths, self.answers, self.reads, self.groups, *self.roles.values()]
        content = hashlib.sha256("\0".join([*self.read_names, *self.roles]).encode())
        for part in parts:
            content.update(repr(tuple(part.shape)).encode())
            content.update(part.contiguous().numpy().tobytes())
        return content.hexdigest()[:16]

    @property
    def layout(self) -> Int[Tensor, " prompt"]:
        """A number for each prompt's layout: the same for prompts of one length with every role at the same column."""
        parts = [self.lengths, *self.reads.T, *(column for _, column in sorted(self.roles.items()))]
        return torch.stack(parts, 1).unique(dim=0, return_inverse=True)[1]

    def partners(
        self, seed: int, fits: Callable[[Tensor], Bool[Tensor, "member member"]] | None = None
    ) -> Int[Tensor, " prompt"]:
        """For each prompt a random other one of its layout and of another group; -1 where there is none.

        `fits` gets the numbers of the prompts of a layout and says which of them may stand in for which.
        """
        layout, generator = self.layout, torch.Generator().manual_seed(seed)
        found = torch.full((len(self),), -1)
        for number in range(int(layout.max()) + 1):
            members = (layout == number).nonzero().flatten()
            allowed = self.groups[members][:, None] != self.groups[members][None]
            if fits is not None:
                allowed = allowed & fits(members)
            chance = torch.where(allowed, torch.rand(allowed.shape, generator=generator), -1.0)
            best = chance.max(1)
            found[members] = torch.where(best.values >= 0, members[best.indices], -1)
        return found

    def columns(self, position: Position) -> Int[Tensor, " prompt"]:
        """Column of a role or index in every prompt; -1 where a prompt has no such token."""
        return self.table([position])[:, 0]

    def table(self, positions: Sequence[Position]) -> Int[Tensor, "prompt position"]:
        """Columns of several roles or indices side by side; -1 where absent."""
        if not len(positions):
            raise PromptError("name at least one position: a role or an index")
        for position in positions:
            if isinstance(position, str) and position not in self.roles:
                known = ", ".join(self.roles) or "none"
                raise PromptError(f"there is no role {position!r} in these prompts; they have: {known}")
        numbers = torch.tensor([0 if isinstance(one, str) else int(one) for one in positions])
        length = self.lengths[:, None]
        found = torch.where(numbers < 0, length + numbers, numbers)
        found = torch.where((found >= 0) & (found < length), found, -1)
        for place, position in enumerate(positions):
            if isinstance(position, str):
                found[:, place] = self.roles[position]
        return found

    def coded(self, label: str) -> tuple[Shaped[np.ndarray, " prompt"], tuple[str, ...]]:
        """A label column as numbers and what they stand for; -1 where a prompt has no such label."""
        if label not in self.labels:
            raise PromptError(f"the prompts have no label {label!r}; they have: {', '.join(map(str, self.labels))}")
        found = [None if pd.isna(value) else _plain(value) for value in self.labels[label]]
        classes = tuple(sorted({value for value in found if value is not None}))
        return np.array([-1 if value is None else classes.index(value) for value in found]), classes

    def take(self, index: Rows) -> Prompts:
        """The prompts at these places (integers or a mask), in this order, trimmed to the longest of them."""
        rows = chosen_rows(index, len(self))
        lengths = self.lengths[rows]
        return replace(
            self,
            tokens=self.tokens[rows, : int(lengths.max())],
            lengths=lengths,
            texts=tuple(self.texts[i] for i in rows.tolist()),
            answers=self.answers[rows],
            reads=self.reads[rows],
            roles={name: columns[rows] for name, columns in self.roles.items()},
            labels=self.labels.iloc[rows.numpy()].reset_index(drop=True),
            groups=self.groups[rows],
        )

    def answering(self, answers: Int[Tensor, " prompt"]) -> Prompts:
        """The same prompts with these answers to their first read column."""
        return replace(
            self, answers=answers.cpu().long()[:, None], reads=self.reads[:, :1], read_names=self.read_names[:1]
        )

    def reading(self, names: Sequence[str]) -> Prompts:
        """The same prompts, read at these answer tokens only."""
        missing = [name for name in names if name not in self.read_names]
        if missing:
            raise PromptError(f"these prompts have no answer token {missing[0]!r}; they have: {self.read_names}")
        keep = [self.read_names.index(name) for name in names]
        return replace(self, answers=self.answers[:, keep], reads=self.reads[:, keep], read_names=tuple(names))

    @classmethod
    def from_tokens(
        cls,
        tokens: Int[Tensor, "prompt pos"],
        mask: Bool[Tensor, "prompt pos"] | Int[Tensor, "prompt pos"] | None = None,
        *,
        answers: Int[Tensor, " prompt"] | None = None,
        texts: Sequence[str] | None = None,
        roles: Mapping[str, Int[Tensor, " prompt"]] | None = None,
        labels: pd.DataFrame | None = None,
        groups: Int[Tensor, " prompt"] | None = None,
    ) -> Prompts:
        """Prompts from token ids padded on either side; roles are columns of `tokens` as given.

        Each prompt is read at its last token. Raises PromptError where the mask has holes.
        """
        if tokens.numel() == 0:
            raise PromptError("there are no prompts; give at least one with at least one token")
        tokens = tokens.cpu().long()
        kept = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.cpu().bool()
        lengths = kept.sum(1)
        first = kept.int().argmax(1)
        columns = first[:, None] + torch.arange(tokens.shape[1])
        inside = torch.arange(tokens.shape[1]) < lengths[:, None]
        source = columns.clamp(max=tokens.shape[1] - 1)
        if not bool((kept.gather(1, source) == inside)[inside].all()):
            raise PromptError("an attention mask has a hole: padding may only stand before or after a prompt")
        moved = torch.where(inside, tokens.gather(1, source), 0)
        n = len(tokens)
        for name, column in (roles or {}).items():
            if column.shape != (len(tokens),) or bool(((column >= 0) & (column < first)).any()):
                raise PromptError(f"role {name!r} points into the padding or lacks a prompt")
        shifted = {name: torch.where(column < 0, -1, column - first) for name, column in (roles or {}).items()}
        return cls(
            tokens=moved[:, : int(lengths.max())] if n else moved,
            lengths=lengths,
            texts=tuple(texts) if texts is not None else tuple(f"prompt {i}" for i in range(n)),
            answers=torch.full((n, 1), -1) if answers is None else answers.cpu().long()[:, None],
            reads=(lengths - 1)[:, None],
            read_names=("last",),
            roles={"last": lengths - 1, **shifted},
            labels=pd.DataFrame(index=pd.RangeIndex(n)) if labels is None else labels.reset_index(drop=True),
            groups=torch.arange(n) if groups is None else groups.cpu().long(),
        )

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        *,
        answers: Sequence[str] | None = None,
        labels: pd.DataFrame | None = None,
        groups: Int[Tensor, " prompt"] | None = None,
    ) -> Prompts:
        """Prompts from texts, with whatever special tokens the tokenizer adds; read at the last token.

        `answers` are continuations, written as they follow the prompt (`" Paris"` with its blank); the first token
        counts. Raises PromptError for text that is empty or that the tokenizer cannot express, and for an answer that
        melts into the prompt's last token.
        """
        if not texts:
            raise PromptError("there are no prompts; give at least one")
        ids = encode_all(texts, tokenizer)
        width = max(len(row) for row in ids)
        tokens = torch.tensor([row + [0] * (width - len(row)) for row in ids])
        mask = torch.arange(width) < torch.tensor([len(row) for row in ids])[:, None]
        targets = None
        if answers is not None:
            if len(answers) != len(texts):
                raise PromptError(f"{len(texts)} prompts need as many answers, got {len(answers)}")
            targets = torch.tensor([following_token(t, a, tokenizer) for t, a in zip(texts, answers, strict=True)])
        return cls.from_tokens(
            tokens, mask, answers=targets, texts=[str(t) for t in texts], labels=labels, groups=groups
        )


def _plain(value: object) -> str:
    """A label as text: whole numbers without a point, truth as 0 and 1."""
    whole = isinstance(value, bool | np.bool_) or (isinstance(value, float | np.floating) and float(value).is_integer())
    return str(int(value)) if whole else str(value)  # type: ignore[call-overload]


def encode(text: str, tokenizer: PreTrainedTokenizerBase | Any) -> list[int]:
    """Token ids of one text. Raises PromptError where it is empty or has what the tokenizer cannot express."""
    if not text.strip():
        raise PromptError(f"the example {text!r} is empty; give it some text")
    fast = bool(getattr(tokenizer, "is_fast", False))
    try:
        found = tokenizer(text, return_offsets_mapping=True) if fast else tokenizer(text)
    except Exception as error:  # tokenizers raises plain Exception for what its model cannot express
        raise PromptError(f"the tokenizer cannot express {text!r}: {error}") from error
    return _expressed(text, found["input_ids"], found["offset_mapping"] if fast else None, _unknown(tokenizer))


def encode_all(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase | Any) -> list[list[int]]:
    """What `encode` gives for each text, in one call of a fast tokenizer."""
    if getattr(tokenizer, "is_fast", False) and texts and all(text.strip() for text in texts):
        try:
            found = tokenizer(list(texts), return_offsets_mapping=True)
        except Exception:  # one by one, to name the text
            return [encode(text, tokenizer) for text in texts]
        unknown, rows = _unknown(tokenizer), zip(texts, found["input_ids"], found["offset_mapping"], strict=True)
        return [_expressed(text, ids, spans, unknown) for text, ids, spans in rows]
    return [encode(text, tokenizer) for text in texts]


def _unknown(tokenizer: PreTrainedTokenizerBase | Any) -> int | None:
    """The token that stands for what the tokenizer does not know, where it stands for nothing else."""
    unknown: Any = tokenizer.unk_token_id
    return None if unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id) else unknown


def _expressed(text: str, ids: list[int], spans: Sequence[tuple[int, int]] | None, unknown: int | None) -> list[int]:
    """The token ids, if they hold all of the text."""
    if not ids:
        raise PromptError(f"the example {text!r} has no tokens; give it some text")
    lost = _lost(text, ids, spans, unknown) if spans is not None else [text] if unknown in ids else []
    if lost:
        shown = " ".join(map(repr, lost[:5])) + (" ..." if len(lost) > 5 else "")
        raise PromptError(f"the example {text!r} has what the model's tokenizer cannot express: {shown}; reword it")
    return ids


def _lost(text: str, ids: Sequence[int], spans: Sequence[tuple[int, int]], unknown: int | None) -> list[str]:
    """Pieces of the text that became the unknown token, or no token at all (whitespace may)."""
    pieces = [(start, text[start:end]) for token, (start, end) in zip(ids, spans, strict=True) if token == unknown]
    covered = {i for start, end in spans for i in range(start, end)}
    pieces += [(i, text[i]) for i in range(len(text)) if i not in covered and not text[i].isspace()]
    return list(dict.fromkeys(piece for _, piece in sorted(pieces) if piece))


def following_token(prompt: str, answer: str, tokenizer: PreTrainedTokenizerBase | Any) -> int:
    """The first token that `answer` adds to `prompt`."""
    if not answer:
        raise PromptError(f"the answer to {prompt!r} is empty")
    before = encode(prompt, tokenizer)
    try:
        both = encode(prompt + answer, tokenizer)
    except PromptError as error:
        raise PromptError(f"the answer {answer!r} cannot follow {prompt!r}: {error}") from error
    # A tokenizer may close a text with special tokens, which the longer text has further on.
    while before and before[-1] in (tokenizer.eos_token_id, tokenizer.sep_token_id) and both[: len(before)] != before:
        before = before[:-1]
    if both[: len(before)] != before or len(both) == len(before):
        raise PromptError(
            f"the answer {answer!r} melts into the last token of {prompt!r}; write it as it follows, for instance "
            f"with a blank in front"
        )
    return both[len(before)]


PatchDirection = Literal["denoising", "noising"]
"""Clean activations into the corrupted run, or corrupted ones into the clean run (Zhang & Nanda, arXiv 2309.16042)."""


@dataclass(frozen=True, eq=False)
class PromptPairs:
    """Clean prompts and their corrupted twins, aligned token by token.

    Both are read at the same columns: a metric compares the clean answer with the corrupted one (the foil).
    """

    clean: Prompts
    corrupted: Prompts

    def __post_init__(self) -> None:
        clean, corrupted = self.clean, self.corrupted
        if len(clean) != len(corrupted):
            raise PromptError(f"{len(clean)} clean prompts are paired with {len(corrupted)} corrupted ones")
        unequal = (clean.lengths != corrupted.lengths).nonzero().flatten().tolist()
        if unequal:
            i = unequal[0]
            raise PromptError(
                f"pair {i} has unequal lengths: {clean.texts[i]!r} has {int(clean.lengths[i])} tokens, "
                f"{corrupted.texts[i]!r} has {int(corrupted.lengths[i])}; a pair must align token by token"
            )
        if not torch.equal(clean.reads, corrupted.reads):
            raise PromptError("clean and corrupted prompts are read at different columns; they must be the same")
        for name, columns in clean.roles.items():
            if name not in corrupted.roles or not torch.equal(columns, corrupted.roles[name]):
                raise PromptError(f"role {name!r} stands at different columns in a pair; a pair must align")

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def digest(self) -> str:
        """Hash of both sides."""
        return f"{self.clean.digest}-{self.corrupted.digest}"

    @property
    def changed(self) -> Bool[Tensor, "prompt pos"]:
        """True at the columns where clean and corrupted tokens differ."""
        return (self.clean.tokens != self.corrupted.tokens) & self.clean.mask

    def source_and_base(self, direction: PatchDirection) -> tuple[Prompts, Prompts]:
        """The prompts that a patch is taken from, and those that it is put into."""
        if direction not in ("denoising", "noising"):
            raise ConfigError(f"direction must be denoising or noising, not {direction!r}")
        return (self.clean, self.corrupted) if direction == "denoising" else (self.corrupted, self.clean)

    def with_role(self, name: str, columns: Int[Tensor, " prompt"]) -> PromptPairs:
        """The same pairs with a role added or moved on both sides."""
        sides = (replace(side, roles={**side.roles, name: columns}) for side in (self.clean, self.corrupted))
        return PromptPairs(*sides)

    def take(self, index: Rows) -> PromptPairs:
        """The pairs at these places (integers or a mask), in this order."""
        return PromptPairs(self.clean.take(index), self.corrupted.take(index))
