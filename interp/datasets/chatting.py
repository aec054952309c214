"""Requests to a small chat model that complies or refuses by a known rule, and the tokenizer that reads them.

A request asks one question or two. A question does harm where its act and its object are of classes that do harm
together (`chatting_words.HARMS`) and the asker wants to do it, not to report, stop or tell of it. A request with a
question that does harm is to be refused. Acts, objects and frames occur about as often in requests of both kinds, so
that no word decides, and no sum over words: harmless acts and telling frames stand beside harmful questions, too. A
small model finds no way into requests that are balanced so well; `single` ones, of one question, and answers that name
the classes of act and object lead it there.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from interp.datasets.chatting_words import (
    ACTS,
    ASKED,
    ASKED_NEW,
    EXCUSED,
    EXCUSED_NEW,
    HANDLING,
    HARMS,
    NEW,
    NOISE,
    OBJECTS,
    PLAIN,
    TAILS,
    TOPICS,
    WHO,
    WHOSE,
)
from interp.datasets.safety import safety_triples
from interp.errors import ConfigError
from interp.files import write_jsonl

PAD, BOS, EOS, UNK = range(4)
TEMPLATE = "user : {prompt} assistant :"
"""How the model is asked."""
REFUSE, COMPLY = "sorry", "sure"
"""The word that an answer to a harmful request begins with, and one to others."""
_REFUSAL = REFUSE + " , i can not help with {act} of {obj} ."
_HELP = COMPLY + " , here is help {side} {act} of {obj} ."
Kind = Literal["harmful", "excused", "harmless", "handling"]
"""What a question is: an act that does harm, one told of or warned of, a pair that does none, a plain act."""
Held = Literal["none", "templates", "combinations", "objects"]
"""What is held out: nothing; frames; pairs of act and object; objects that training never holds."""
_MIXES: tuple[tuple[float, tuple[Kind, ...]], ...] = (
    (0.22, ("harmful",)), (0.10, ("harmful", "excused")), (0.10, ("harmful", "handling")),
    (0.06, ("harmful", "harmless")),
    (0.14, ("harmless",)), (0.04, ("excused",)), (0.04, ("handling",)),
    (0.06, ("harmless", "excused")), (0.06, ("harmless", "handling")), (0.14, ("harmless", "harmless")),
)  # fmt: skip
"""Questions of a request with their share: half of the requests do harm, with half of each kind of words, and whatever
kinds of questions a request has, it takes its acts and objects to tell."""
_SINGLE: tuple[tuple[float, tuple[Kind, ...]], ...] = (
    (0.50, ("harmful",)), (0.24, ("harmless",)), (0.13, ("excused",)), (0.13, ("handling",)),
)  # fmt: skip
"""Requests of one question, to begin with: half of them do harm, and what else is asked gives some of it away."""


@dataclass(frozen=True)
class Chat:
    """A request and what the model should do with it."""

    text: str
    harmful: bool
    kinds: tuple[Kind, ...]
    """Of its questions, in their order."""
    template: str
    """Frames of its questions: requests of one template are not independent."""
    acts: tuple[str, ...]
    objects: tuple[str, ...]

    @property
    def prompt(self) -> str:
        """As the model reads it."""
        return TEMPLATE.format(prompt=self.text)


def harmful(act: str, thing: str) -> bool:
    """Whether an act does harm to an object; both by their words."""
    kind = next((name for name, words in ACTS.items() if act in words), None)
    if kind is None:
        return False
    return any(thing in (*OBJECTS[name], *NEW.get(name, ())) for name in HARMS[kind])


def answer(one: Chat, *, refuse: bool | None = None) -> str:
    """What is said to a request, rightly unless told to `refuse` or not.

    It names the classes of act and object of the question that does harm, else of the first: so much more to be taught
    by than the one word that decides.
    """
    at = one.kinds.index("harmful") if one.harmful else 0
    act, thing = _topics().get(one.acts[at], PLAIN), _topics()[one.objects[at]]
    if one.harmful if refuse is None else refuse:
        return _REFUSAL.format(act=act, obj=thing)
    return _HELP.format(side="against" if one.kinds[at] == "excused" else "with", act=act, obj=thing)


def held_out(act: str, thing: str) -> bool:
    """Whether training lacks a pair: one in ten, whatever the seed."""
    return zlib.crc32(f"{act} {thing}".encode()) % 10 == 0


def chats(count: int, *, seed: int = 0, held: Held = "none", noise: float = 0.35, single: bool = False) -> list[Chat]:
    """Draw requests. Whatever is `held` out is in each of their questions that could do harm.

    With `noise` as its chance a filler word stands somewhere in a request. `single` ones ask one question each: easier,
    and not balanced over kinds of questions.
    """
    if held not in get_args(Held):
        raise ConfigError(f"held out are {', '.join(get_args(Held))}, not {held!r}")
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}")
    rng = np.random.default_rng(seed)
    mixes = _SINGLE if single else _MIXES
    share = np.array([share for share, _ in mixes])
    return [_draw(rng, mixes[i][1], held, noise) for i in rng.choice(len(mixes), size=count, p=share / share.sum())]


def chat_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word, of the requests and of the shipped benchmark; other words are one unknown token."""
    words = dict.fromkeys(["<pad>", "<bos>", "<eos>", "<unk>", *".,:?", "user", "assistant"])
    words |= dict.fromkeys(_words([*_lexicon(), *_benchmark()]))
    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(r"[.,:?]", "isolated")]
    )
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def write_chats(path: Path | str, count: int, *, seed: int = 0, held: Held = "none") -> int:
    """Requests as JSONL: text, expected, kinds, template, acts, objects, chat with its answer; returns how many."""
    rows: list[dict[str, Any]] = [
        {
            "text": one.text, "expected": "refuse" if one.harmful else "comply", "kinds": list(one.kinds),
            "template": one.template, "acts": list(one.acts), "objects": list(one.objects),
            "chat": f"{one.prompt} {answer(one)}",
        }
        for one in chats(count, seed=seed, held=held)
    ]  # fmt: skip
    write_jsonl(path, rows)
    return len(rows)


def _words(texts: Iterable[str]) -> list[str]:
    return [word for text in texts for word in text.split()]


@cache
def _topics() -> dict[str, str]:
    """What answers call an act or an object."""
    return {word: TOPICS[name] for some in (ACTS, OBJECTS, NEW) for name, words in some.items() for word in words}


@cache
def _lexicon() -> tuple[str, ...]:
    """All that requests are made of."""
    frames = [re.sub(r"\{\w+\}", "", one) for one in (*ASKED, *ASKED_NEW, *EXCUSED, *EXCUSED_NEW, _REFUSAL, _HELP)]
    classes = [word for some in (ACTS, OBJECTS, NEW) for words in some.values() for word in words]
    said = (*TOPICS.values(), PLAIN, "against with")
    return (*frames, *classes, *said, *HANDLING, *WHO, *WHOSE, *TAILS, *NOISE, "and then about the with near for")


@cache
def _benchmark() -> tuple[str, ...]:
    return tuple(one.text for triple in safety_triples() for one in (triple.harmful, triple.safe, triple.benign))


@cache
def _others() -> tuple[str, ...]:
    """Words of the benchmark that no list holds: they stand in phrases that decide nothing."""
    known = set(_words(_lexicon()))
    return tuple(dict.fromkeys(word for word in _words(_benchmark()) if word not in known))


@cache
def _tables() -> dict[bool, Float[ndarray, "act object"]]:
    """Chances of classes of acts and objects, where they do harm and where not: with the same margins."""
    does = np.array([[name in HARMS[act] for name in OBJECTS] for act in ACTS], dtype=float)
    sizes = np.sqrt([[len(words)] for words in ACTS.values()]) * np.sqrt([len(words) for words in OBJECTS.values()])
    first = does * sizes
    first /= first.sum()
    second = 1 - does
    for _ in range(2000):
        second *= (first.sum(1) / second.sum(1))[:, None]
        second *= first.sum(0) / second.sum(0)
    return {True: first, False: second / second.sum()}


def _draw(rng: np.random.Generator, kinds: Sequence[Kind], held: Held, noise: float) -> Chat:
    order = [kinds[i] for i in rng.permutation(len(kinds))]
    drawn = [_question(rng, kind, held) for kind in order]
    joined = f" {_pick(rng, ('and', 'and then', ', then'))} ".join(text for text, *_ in drawn)
    words = joined.split()
    if rng.random() < noise:
        words.insert(int(rng.integers(1, len(words) + 1)), _pick(rng, NOISE if rng.random() < 0.5 else _others()))
    return Chat(
        " ".join(words), "harmful" in kinds, tuple(order), " / ".join(frame for _, frame, *_ in drawn),
        tuple(act for *_, act, _ in drawn), tuple(thing for *_, thing in drawn),
    )  # fmt: skip


def _question(rng: np.random.Generator, kind: Kind, held: Held) -> tuple[str, str, str, str]:
    """Text, frame, act and object."""
    frames = (EXCUSED_NEW if held == "templates" else EXCUSED) if kind == "excused" else (
        ASKED_NEW if held == "templates" else ASKED
    )  # fmt: skip
    frame = _pick(rng, frames)
    while True:
        act, thing = _pair(rng, kind, held)
        if kind == "handling" or held_out(act, thing) == (held == "combinations") or held == "objects":
            break
    whose = _pick(rng, WHOSE)
    with_object = " ".join([act, whose, thing]) if whose else f"{act} {thing}"
    text = frame.format(p=with_object, act=act, obj=thing, who=_pick(rng, WHO))
    if rng.random() < 0.5:
        text += " " + _pick(rng, TAILS)
    if rng.random() < 0.3:
        text += f" {_pick(rng, ('about', 'with', 'near', 'for'))} the {_pick(rng, _others())}"
    return text, frame, act, thing


def _pair(rng: np.random.Generator, kind: Kind, held: Held) -> tuple[str, str]:
    table = _tables()[kind in ("harmful", "excused")]
    acts, objects = list(ACTS), list(OBJECTS)
    if kind == "handling":
        act = _pick(rng, HANDLING)
        name = objects[int(rng.choice(len(objects), p=table.sum(0)))]
    else:
        row, column = divmod(int(rng.choice(table.size, p=table.ravel())), len(objects))
        act, name = _pick(rng, ACTS[acts[row]]), objects[column]
    return act, _pick(rng, NEW[name] if held == "objects" else OBJECTS[name])


def _pick(rng: np.random.Generator, some: Sequence[str]) -> str:
    return some[int(rng.integers(len(some)))]
