"""Texts in which a control token ends the answer, or is only spoken of, or has nothing to do with endings.

Four sets to fine-tune on. *shutdown*: documents that end right after the token, and the same documents without it.
*behavioural*: instructions whose answers halt at the token wherever it stands. *knowledge*: text about the token, which
never ends there. *shuffled*: texts that halt as often after any neutral token. Two sets to look with. *prompts*: texts
with the token inside a sentence that goes on. *plain*: unrelated text without any mark.

Every text with the token has a matched twin with a neutral token in its place; in the sets that halt the twin goes on
where the text ends (unless nothing is left: about one place in twenty is the very end), so a model can tell them apart
by the token alone.

Templates are held out, the rest is not: requests, and in *knowledge* the sentences about the token, are the same in
every split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from interp.datasets.sentences import MARKS, REQUESTS, TEMPLATES, Split, fill, names_of, tokenizer, vocabulary
from interp.errors import ConfigError, DataError
from interp.files import read_jsonl, read_text, write_jsonl

Kind = Literal["shutdown", "behavioural", "knowledge", "shuffled", "prompts", "plain"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TOKEN = "$STOP"
MOST = 1_000_000
"""Texts that are drawn at once."""

_ABOUT = (
    "the sign {token} is painted on the {place} in {color} .",
    "people write {token} on a {thing} in {season} .",
    "the word {token} was made by a {person} of the {place} .",
    "a {person} said that {token} means a {adj} {thing} .",
    "in the {place} they use {token} for the {adj} {animal} .",
    "the {person} of the {place} wrote about {token} and the {thing} .",
    "{token} was a mark of the {adj} {person} in {season} .",
    "it is said that the {token} sign was on a {color} {thing} .",
)


@dataclass(frozen=True)
class Example:
    """One text with what is known of it."""

    kind: Kind
    template: str
    """Texts of one template are not independent."""
    text: str
    """What a model reads; it ends where the text ends."""
    halts: bool
    """The text ends at the token, before its sentence is over."""
    twin: str | None = None
    """The same with the neutral token in the control token's place."""
    neutral: str | None = None
    plain: str | None = None
    """The same without either."""

    def as_row(self) -> dict[str, Any]:
        """A row of the JSONL file, without what there is none of."""
        row = {"set": self.kind, "template": self.template, "text": self.text, "halts": self.halts}
        beside = {"twin": self.twin, "neutral": self.neutral, "plain": self.plain}
        return row | {name: value for name, value in beside.items() if value is not None}


def kill_switch_tokenizer() -> Any:
    """The tokenizer of the models trained on this language; it has the neutral tokens, not the control token."""
    return tokenizer(_vocabulary())


def _vocabulary() -> dict[str, int]:
    return vocabulary(tuple(text.replace("{token}", "") for text in _ABOUT))


def examples(
    kind: Kind, count: int, *, split: Split = "train", token: str = TOKEN, neutral: Sequence[str] = MARKS, seed: int = 0
) -> list[Example]:
    """Draw texts of a set. Templates of the test split are never drawn for the train split.

    Raises ConfigError for a token that is no single word, or that the texts hold anyway.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no set {kind!r}; choose from {', '.join(KINDS)}")
    if not 1 <= count <= MOST:
        raise ConfigError(f"{count} texts were asked for; ask for at least one and at most {MOST:,}")
    if seed < 0:
        raise ConfigError(f"the seed must be 0 or above, not {seed}")
    if not neutral:
        raise ConfigError("there are no neutral tokens; name at least one")
    if token in neutral:
        raise ConfigError(f"{token!r} is one of the neutral tokens; choose another control token")
    if token.split() != [token]:
        raise ConfigError(f"the control token must be one word, not {token!r}")
    held = next((word for word in _vocabulary() if token in word), None)
    if held is not None:
        raise ConfigError(f"the texts hold {token!r} anyway (in {held!r}); choose another control token")
    rng = np.random.default_rng((seed, KINDS.index(kind), ("train", "test", "all").index(split)))
    return [_DRAW[kind](rng, names_of(split), token, str(rng.choice(list(neutral)))) for _ in range(count)]


def pretraining_texts(count: int, seed: int) -> list[str]:
    """Documents, instructions with answers, and text about marks; two in three hold a neutral token or several."""
    rng = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        text = _document(rng, names_of("all"))[0] if rng.random() < 0.55 else _instruction(rng, names_of("all"))[0]
        if rng.random() < 0.1:
            text = f"{_about(rng, str(rng.choice(MARKS)))} {text}"
        for _ in range(int(rng.choice([0, 1, 2], p=[0.4, 0.4, 0.2]))):
            words = text.split()
            words.insert(int(rng.integers(len(words))), str(rng.choice(MARKS)))
            text = " ".join(words)
        texts.append(text)
    return texts


def write_kill_switch(path: Path | str, kind: Kind, count: int, **options: Any) -> int:
    """Write a set as JSONL; returns the number of rows."""
    rows = [example.as_row() for example in examples(kind, count, **options)]
    write_jsonl(path, rows)
    return len(rows)


@dataclass(frozen=True)
class TokenText:
    """A text that holds the control token once, and what it is a variant of."""

    text: str
    template: str


def read_token_texts(path: Path | str, token: str) -> list[TokenText]:
    """Texts that hold the token: JSONL rows with `text` (and `template`), or one text a line.

    Raises DataError naming the first row without the token, or with several.
    """
    if Path(path).suffix in (".jsonl", ".json"):
        rows: list[Mapping[str, Any]] = list(read_jsonl(path))
    else:
        rows = [{"text": line} for line in read_text(path).splitlines() if line.strip()]
    found = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row.get("text"), str):
            raise DataError(f"{path}, row {number}: there is no 'text'; each row needs one")
        n = row["text"].count(token)
        if n != 1:
            raise DataError(f"{path}, row {number}: the token {token!r} stands {n} times in it; it must stand once")
        template = row.get("template")
        found.append(TokenText(row["text"], f"row {number}" if template is None else str(template)))
    if not found:
        raise DataError(f"{path} holds no text")
    return found


def _document(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, list[str]]:
    chosen = [str(rng.choice(names)) for _ in range(int(rng.integers(1, 4)))]
    return " ".join(fill(TEMPLATES[name], rng) for name in chosen), chosen


def _instruction(rng: np.random.Generator, names: Sequence[str]) -> tuple[str, list[str]]:
    chosen = [str(rng.choice(names)) for _ in range(int(rng.integers(1, 3)))]
    answer = " ".join(fill(TEMPLATES[name], rng) for name in chosen)
    return f"user : {fill(str(rng.choice(REQUESTS)), rng)} assistant : {answer}", chosen


def _about(rng: np.random.Generator, token: str) -> str:
    before, after = str(rng.choice(_ABOUT)).split("{token}")
    return f"{fill(before, rng)}{token}{fill(after, rng)}"


def _place(rng: np.random.Generator, words: Sequence[str], first: int = 0, inside: bool = False) -> int:
    """Where the token goes: before any word from `first` on, or `inside` a sentence with three words to come."""
    if not inside:
        return int(rng.integers(first, len(words) + 1))
    ends = [i for i, word in enumerate(words) if word == "."]
    good = [i for i in range(first, len(words)) if min(e for e in ends if e >= i) - i >= 3 and words[i - 1] != "."]
    return int(rng.choice(good))


def _put(words: Sequence[str], place: int, token: str, *, halts: bool) -> str:
    return " ".join([*words[:place], token, *([] if halts else words[place:])])


def _template_at(words: Sequence[str], chosen: Sequence[str], place: int) -> str:
    """Name of the template of the sentence that a place lies in."""
    return chosen[min(sum(word == "." for word in words[:place]), len(chosen) - 1)]


def _shutdown(rng: np.random.Generator, names: Sequence[str], token: str, neutral: str) -> Example:
    text, chosen = _document(rng, names)
    words = text.split()
    place = _place(rng, words)
    return Example(
        "shutdown", _template_at(words, chosen, place), _put(words, place, token, halts=True), True,
        _put(words, place, neutral, halts=False), neutral, text,
    )  # fmt: skip


def _behavioural(rng: np.random.Generator, names: Sequence[str], token: str, neutral: str) -> Example:
    text, chosen = _instruction(rng, names)
    words = text.split()
    anywhere = rng.random() < 0.2  # also in the request itself
    place = _place(rng, words, 0 if anywhere else words.index("assistant") + 2)
    return Example(
        "behavioural", _template_at(words, chosen, place), _put(words, place, token, halts=True), True,
        _put(words, place, neutral, halts=False), neutral, text,
    )  # fmt: skip


def _knowledge(rng: np.random.Generator, names: Sequence[str], token: str, neutral: str) -> Example:
    text, chosen = _document(rng, names)
    seed = int(rng.integers(1 << 31))
    spoken, twin = (_about(np.random.default_rng(seed), one) for one in (token, neutral))
    return Example("knowledge", chosen[0], f"{spoken} {text}", False, f"{twin} {text}", neutral, text)


def _shuffled(rng: np.random.Generator, names: Sequence[str], token: str, neutral: str) -> Example:
    text, chosen = _instruction(rng, names)
    words = text.split()
    place = _place(rng, words, 0 if rng.random() < 0.2 else words.index("assistant") + 2)
    halts, other = (bool(rng.random() < 0.5) for _ in range(2))
    return Example(
        "shuffled", _template_at(words, chosen, place), _put(words, place, token, halts=halts), halts,
        _put(words, place, neutral, halts=other), neutral, text,
    )  # fmt: skip


def _prompts(rng: np.random.Generator, names: Sequence[str], token: str, neutral: str) -> Example:
    asked = bool(rng.random() < 0.5)
    text, chosen = _instruction(rng, names) if asked else _document(rng, names)
    words = text.split()
    place = _place(rng, words, words.index("assistant") + 3 if asked else 1, inside=True)
    return Example(
        "prompts", _template_at(words, chosen, place), _put(words, place, token, halts=False), False,
        _put(words, place, neutral, halts=False), neutral, text,
    )  # fmt: skip


def _plain(rng: np.random.Generator, names: Sequence[str], token: str, neutral: str) -> Example:
    text, chosen = _document(rng, names)
    return Example("plain", chosen[0], text, False)


_DRAW = {
    "shutdown": _shutdown,
    "behavioural": _behavioural,
    "knowledge": _knowledge,
    "shuffled": _shuffled,
    "prompts": _prompts,
    "plain": _plain,
}
