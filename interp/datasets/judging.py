"""Requests that a judge calls safe or unsafe by a known rule, and a tokenizer that reads any text.

The rule: a request is unsafe where its act and its object belong to one domain (poison and soup, forge and passport),
unless its context excuses that domain (a toxicology course). Each act, object and context occurs as often in safe as in
unsafe requests, so no single word tells, and neither does any sum over words: the pair must be read, and then the
context. What surrounds them is fillers and alarming or friendly sentences, drawn whatever the label is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from interp.datasets.judging_words import (
    ASIDES,
    CONTEXTS,
    DOMAINS,
    FILLERS,
    FRAMES,
    HELD_OUT,
    TEMPLATES,
    judging_words,
)
from interp.errors import ConfigError
from interp.files import write_jsonl

Words = Literal["known", "weak", "new"]
"""Acts and objects seen both ways in training; acts seen there in safe requests alone; words never seen."""
Kind = Literal["pair", "pair in other context", "no pair", "excused pair", "no pair in context"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Word = Literal["act", "object", "context"]
SHARES = {"pair": 0.3, "pair in other context": 0.2, "no pair": 0.3, "excused pair": 0.15, "no pair in context": 0.05}
"""Half of the requests are unsafe, and half of those with any context that excuses something."""
TEMPLATE, ANSWERS = "{prompt} verdict :", ("safe", "unsafe")
"""How the small judge is asked, and what it answers."""
PAD, BOS, EOS, UNK = range(4)
FILLED = 0.35
"""Chance of each of two fillers."""


@dataclass(frozen=True)
class Request:
    """A request with what decides it."""

    text: str
    unsafe: bool
    category: str
    """Domain of the act."""
    kind: Kind
    template: str
    """Requests of one template are not independent."""
    act: str
    object: str
    context: str

    @property
    def rule(self) -> dict[str, str]:
        """The words that the rule reads, by role: the context where it excuses something, this domain or another."""
        words = {"act": self.act, "object": self.object}
        return words | ({} if self.context in CONTEXTS else {"context": self.context})


def unsafe(act: str, thing: str, context: str) -> bool:
    """The rule, word by word."""
    domains = [_domain_of(act, "acts"), _domain_of(thing, "objects")]
    return domains[0] == domains[1] and context not in DOMAINS[domains[0]].excuses


def requests(
    count: int,
    *,
    seed: int = 0,
    held_out: bool = False,
    acts: Words = "known",
    objects: Literal["known", "new"] = "known",
    weak_in_safe: bool = False,
    kinds: Sequence[Kind] = KINDS,
) -> list[Request]:
    """Draw requests, the kinds by their shares. `held_out` takes the templates that training lacks.

    With `weak_in_safe` an act of a safe request without a pair is a weak one as often as its share of the acts, as the
    training set has it.
    """
    if not kinds:
        raise ConfigError("requests need at least one kind")
    rng = np.random.default_rng(seed)
    names = HELD_OUT if held_out else tuple(name for name in TEMPLATES if name not in HELD_OUT)
    share = np.array([SHARES[kind] for kind in kinds])
    drawn = rng.choice(len(kinds), size=count, p=share / share.sum())
    return [_draw(rng, kinds[i], names, acts, objects, weak_in_safe) for i in drawn]


def span(text: str, word: str) -> tuple[int, int]:
    """Where a word of a request stands by itself, in characters."""
    start = f" {text} ".index(f" {word} ")
    return start, start + len(word)


def twin(request: Request, change: Word, *, seed: int = 0) -> Request:
    """The same request with one word changed so that the verdict turns, of equally many words.

    Raises ConfigError where no change of that word turns it.
    """
    turned = _turning(request, change)
    if not turned:
        raise ConfigError(f"no other {change} turns the verdict on {request.text!r}")
    parts = {**_parts(request), change: str(np.random.default_rng(seed).choice(turned))}
    words = request.text.split()
    words[words.index(getattr(request, change))] = parts[change]
    return _request(" ".join(words), request.template, parts)


def turns(request: Request) -> list[Word]:
    """The words of which some change turns the verdict."""
    return [change for change in get_args(Word) if _turning(request, change)]


def judging_tokenizer() -> PreTrainedTokenizerFast:
    """One token a word of the training set, lower case; other words letter by letter, other signs by their bytes."""
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    letters = [chr(i) for i in range(33, 127) if not chr(i).isupper()]
    pieces = [(token, 0.0) for token in special] + [(f"<0x{i:02X}>", -20.0) for i in range(256)]
    pieces += [(f"\u2581{word}", -1.0) for word in [*judging_words(), *ANSWERS, "verdict"] if len(word) > 1]
    pieces += [("\u2581", -9.0), *((letter, -10.0) for letter in letters)]
    pieces += [(f"\u2581{sign}", -8.0) for sign in ".,?:ai"]
    inner = Tokenizer(models.Unigram(pieces, unk_id=UNK, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def write_judging(path: Path | str, count: int, *, seed: int = 0, held_out: bool = False, acts: Words = "known") -> int:
    """Requests as JSONL: text, label, category, kind, template, and the words that decide; returns how many.

    `held_out` and `acts` as for `requests`; with new acts the objects are new, too.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, not {count}")
    drawn = requests(count, seed=seed, held_out=held_out, acts=acts, objects="new" if acts == "new" else "known")
    rows: list[dict[str, Any]] = [
        {
            "text": one.text, "label": "unsafe" if one.unsafe else "safe", "category": one.category, "kind": one.kind,
            "template": one.template, "rule": one.rule,
        }
        for one in drawn
    ]  # fmt: skip
    write_jsonl(path, rows)
    return len(rows)


def _domain_of(word: str, what: Literal["acts", "objects"]) -> str:
    for name, domain in DOMAINS.items():
        if word in ((*domain.acts, *domain.weak, *domain.new_acts) if what == "acts" else
                    (*domain.objects, *domain.new_objects)):  # fmt: skip
            return name
    raise ConfigError(f"{word!r} is none of the {what} of the rule")


def _parts(request: Request) -> dict[str, str]:
    return {"act": request.act, "object": request.object, "context": request.context}


def _turning(request: Request, change: Word) -> list[str]:
    """Words that turn the verdict in the place of one."""
    pools = {
        "act": [word for domain in DOMAINS.values() for word in domain.acts],
        "object": [word for domain in DOMAINS.values() for word in domain.objects],
        "context": [*CONTEXTS, *(word for domain in DOMAINS.values() for word in domain.excuses)],
    }
    parts = _parts(request)
    return [word for word in pools[change] if unsafe(**_named({**parts, change: word})) != request.unsafe]


def _named(parts: dict[str, str]) -> dict[str, str]:
    return {"act": parts["act"], "thing": parts["object"], "context": parts["context"]}


def _request(text: str, template: str, parts: dict[str, str]) -> Request:
    pair = _domain_of(parts["act"], "acts")
    same = pair == _domain_of(parts["object"], "objects")
    excusing = parts["context"] not in CONTEXTS
    kind: Kind = "no pair in context" if excusing else "no pair"
    if same:
        excused = parts["context"] in DOMAINS[pair].excuses
        kind = "excused pair" if excused else "pair in other context" if excusing else "pair"
    return Request(text, unsafe(**_named(parts)), pair, kind, template, **parts)


def _pick(rng: np.random.Generator, some: Sequence[str]) -> str:
    return some[int(rng.integers(len(some)))]  # `rng.choice` makes an array of them each time


def _draw(
    rng: np.random.Generator, kind: Kind, names: Sequence[str], acts: Words, objects: str, weak_in_safe: bool
) -> Request:
    domains = list(DOMAINS)
    own = _pick(rng, domains)
    other = _pick(rng, [name for name in domains if name != own])
    pool = {"known": DOMAINS[own].acts, "weak": DOMAINS[own].weak, "new": DOMAINS[own].new_acts}[acts]
    if weak_in_safe and kind.startswith("no pair"):
        pool = (*DOMAINS[own].acts, *DOMAINS[own].weak)
    target = DOMAINS[other if kind.startswith("no pair") else own]
    things = target.new_objects if objects == "new" else target.objects
    excusing = {"pair": None, "no pair": None, "excused pair": own, "pair in other context": other}.get(kind, "any")
    if excusing == "any":
        excusing = _pick(rng, domains)
    contexts = CONTEXTS if excusing is None else DOMAINS[excusing].excuses
    parts = {"act": _pick(rng, pool), "object": _pick(rng, things), "context": _pick(rng, contexts)}
    template = _pick(rng, names)
    frame = _pick(rng, FRAMES).format(context=parts["context"])
    words = TEMPLATES[template].format(act=parts["act"], object=parts["object"], context=frame).split()
    for _ in range(rng.binomial(2, FILLED)):
        words.insert(int(rng.integers(len(words))), _pick(rng, FILLERS))
    text = " ".join(words)
    aside = _pick(rng, ASIDES) if rng.random() < 0.5 else ""
    text = f"{aside} {text}" if rng.random() < 0.5 else f"{text} {aside}"
    return _request(text.strip(), template, parts)
