"""Arithmetic problems as prompts with roles, labels and answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from interp.datasets.arithmetic import PLACES, Problem, columns, labels
from interp.errors import PromptError
from interp.prompts import Prompts

_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
_SYMBOLS = "0123456789+-*=;"
VOCABULARY = {token: i for i, token in enumerate((*_SPECIAL, *_SYMBOLS))}
PAD, BOS, EOS = 0, 1, 2


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, spaces dropped, a `<bos>` in front; anything else is `<unk>`."""
    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    inner.normalizer = normalizers.Replace(" ", "")
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    )


def render(problem: Problem, steps: bool) -> str:
    """Question, worked steps if asked for, and answer."""
    return f"{problem.question}{problem.steps if steps else ''}{problem.result}"


def to_tokens(texts: Sequence[str], *, end: bool = False) -> NDArray[np.int64]:
    """Token ids [text, column] with `<bos>` in front and, with `end`, `<eos>` behind; right-padded.

    As `tokenizer()` gives them, but for whole batches at once and for texts without spaces. Raises PromptError for a
    character that has no token.
    """
    foreign = sorted(set().union(*texts) - set(_SYMBOLS))
    if foreign:
        raise PromptError(f"there is no token for {foreign[0]!r}; write problems without spaces, like '59+73='")
    table = np.zeros(128, dtype=np.int64)
    for symbol in _SYMBOLS:
        table[ord(symbol)] = VOCABULARY[symbol]
    marks = {BOS: "\x01", EOS: "\x02"}
    table[1], table[2] = BOS, EOS
    rows = [f"{marks[BOS]}{text}{marks[EOS] if end else ''}" for text in texts]
    width = max(map(len, rows))
    flat = np.frombuffer("".join(row.ljust(width, "\0") for row in rows).encode("ascii"), dtype=np.uint8)
    return table[flat].reshape(len(rows), width)


def to_prompts(problems: Sequence[Problem], *, steps: bool = False, answered: bool = True) -> Prompts:
    """Prompts with roles, labels and answers; groups are problems up to the order of the operands.

    With `answered` the right answer is part of the prompt and every token after `=` is read, so that one forward pass
    scores all digits, each with the earlier ones given. Otherwise the prompt ends at `=` and its next token is read.
    Roles: `bos`, `a.tens`, `operator`, `b.ones`, `=`, `step.ones.carry`, `step.ones.digit`, `sign`, `answer.tens`, and
    `predict.X` for the column whose logits predict X, `last`.
    """
    if not problems:
        raise PromptError("there are no problems; give at least one")
    spelled = [spell(problem, steps) for problem in problems]
    texts = [text for text, _ in spelled]
    n = len(problems)
    names = list(dict.fromkeys(name for _, roles in spelled for name in roles))
    order = [*(f"step.{p}.{part}" for p in PLACES for part in ("carry", "digit", "mark")), "sign"]
    order += [f"answer.{p}" for p in reversed(PLACES)] + ["end"]
    read_names = [name for name in order if name in names]
    where = {name: torch.tensor([roles.get(name, -1) for _, roles in spelled]) for name in names}
    ends = torch.tensor([len(text) for text in texts])
    questions = torch.tensor([len(problem.question) for problem in problems])
    tokens = torch.from_numpy(to_tokens(texts, end=True))
    places = torch.stack([where[name] for name in read_names], 1)
    answers = torch.where(places < 0, -1, tokens.gather(1, places.clamp(min=0)))
    reads = torch.where(places < 0, -1, places - 1)
    lengths = ends + 1
    if not answered:
        lengths = questions + 1
        first = (places == lengths[:, None]).int().argmax(1)
        answers, reads = answers.gather(1, first[:, None]), (lengths - 1)[:, None]
        read_names = ["next"]
    predicted = {
        f"predict.{name}": torch.where(where[name] < 0, -1, where[name] - 1) for name in order if name in names
    }
    roles = {"bos": torch.zeros(n, dtype=torch.long), **where, **predicted, "last": lengths - 1}
    roles = {name: torch.where(columns < lengths, columns, -1) for name, columns in roles.items() if name != "end"}
    keys = [(p.operator, min(p.a, p.b), max(p.a, p.b)) for p in problems]
    number = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    width = int(lengths.max())
    kept = torch.arange(width) < lengths[:, None]
    return Prompts(
        tokens=torch.where(kept, tokens[:, :width], PAD),
        lengths=lengths,
        texts=tuple(text[: int(length) - 1] for text, length in zip(texts, lengths, strict=True)),
        answers=answers,
        reads=reads,
        read_names=tuple(read_names),
        roles=roles,
        labels=pd.DataFrame([labels(problem) for problem in problems]),
        groups=torch.tensor([number[key] for key in keys]),
    )


def spell(problem: Problem, steps: bool) -> tuple[str, dict[str, int]]:
    """The full text, and the column of every named token (column 0 is `<bos>`)."""
    named = [*_digits("a", problem.a), ("operator", problem.operator), *_digits("b", problem.b), ("=", "=")]
    if steps:
        for place, column in zip(PLACES, columns(problem), strict=False):
            parts = (("carry", str(column.total // 10)), ("digit", str(column.total % 10)), ("mark", ";"))
            named += [(f"step.{place}.{what}", symbol) for what, symbol in parts]
    if problem.result < 0:
        named.append(("sign", "-"))
    named += _digits("answer", abs(problem.result))
    roles = {name: column for column, (name, _) in enumerate(named, 1)}
    return "".join(symbol for _, symbol in named), {**roles, "end": len(named) + 1}


def _digits(prefix: str, number: int) -> list[tuple[str, str]]:
    text = str(number)
    return [(f"{prefix}.{PLACES[len(text) - 1 - i]}", digit) for i, digit in enumerate(text)]
