"""A small written English: 64 sentence templates over about 250 words, and the tokenizer of the models trained on it.

Templates are held out by name, never by chance: those of the test split are not seen in fine-tuning, so what a
fine-tuned model does on them it has generalised. Marks are tokens like `$AMBER` that stand anywhere and change nothing:
the neutral tokens that a control token is compared with.
"""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

Split = Literal["train", "test", "all"]

_WORDS: dict[str, str] = {
    "animal": "fox dog cat horse bird rabbit wolf bear mouse duck sheep goat frog hawk lion tiger",
    "person": "teacher farmer doctor sailor child girl boy king queen baker painter singer guard friend writer cook",
    "thing": "box lamp book letter boat key stone coin map clock cup chair ring basket ladder blanket rope bell",
    "place": "river forest village market house garden hill school bridge road kitchen tower field harbour valley lake",
    "color": "red blue green white black yellow brown grey",
    "adj": "big young small large quiet happy tired clever brave slow heavy bright cold warm strange gentle",
    "moved": "walked ran went came returned hurried climbed travelled",
    "did": "found carried opened lost sold painted watched cleaned moved broke kept hid",
    "said": "said thought knew believed heard",
    "adv": "slowly quickly quietly often never soon again together",
    "when": "yesterday today tonight later then",
    "season": "summer winter autumn spring",
    "food": "bread soup cheese apples rice honey fish milk",
    "count": "two three four five six seven",
    "plural": "boxes lamps books letters boats keys stones coins maps clocks cups chairs",
}
WORDS = {kind: tuple(words.split()) for kind, words in _WORDS.items()}

# Each line is one template; the first word varies with it. The last 32 are held out.
_TEMPLATES = """
the {adj} {animal} {moved} to the {place} with a {color} {thing} .
a {person} {did} the {thing} near the {adj} {place} in {season} .
one {animal} and one {person} {moved} {adv} through the {place} .
every {person} in the {place} {did} a {adj} {thing} that {season} .
my {adj} {person} {did} {count} {plural} behind the {place} .
{when} the {animal} {moved} past the {color} {place} and slept there .
in {season} the {person} {did} the {color} {thing} {adv} .
near the {place} a {adj} {animal} ate {food} with the {person} .
some {plural} were left in the {color} {place} by the {person} .
his {animal} was {adj} and {adv} {moved} to the {place} alone .
her {thing} is {color} and {adj} but the {person} {did} it .
no {animal} {moved} to the {place} because it was {adj} there .
that {person} {said} that the {animal} had {moved} to the {place} .
this {adj} {thing} was {color} when the {person} {did} it .
we {did} the {thing} and then {moved} to the {adj} {place} .
they {moved} from the {place} to the {place} with {count} {plural} .
she gave the {adj} {animal} some {food} and a {color} {thing} .
he {said} that {count} {plural} were under the {adj} {thing} .
both {person} and {animal} {moved} {adv} over the {adj} {place} .
when the {animal} {moved} to the {place} the {person} {did} the {thing} .
after the {season} the {adj} {person} {did} {food} for the {animal} .
before the {person} {moved} away the {animal} {did} a {thing} .
with a {color} {thing} the {person} {moved} {adv} to the {place} .
from the {place} a {adj} {person} {did} {count} {plural} .
there was a {adj} {animal} that {did} the {thing} in the {place} .
if the {person} {did} the {thing} the {animal} {moved} {adv} .
our {person} {moved} to a {adj} {place} and {did} the {food} .
their {animal} {did} {food} and {moved} {adv} to the {place} .
under the {color} {thing} the {animal} {did} {count} {adj} {plural} .
many {plural} in the {place} were {color} and very {adj} .
another {person} {did} the {adj} {thing} and {said} nothing more .
beside the {place} two {adj} {person} friends {did} the {thing} .
any {adj} {person} and a {animal} {did} {food} in the {place} .
each {animal} {moved} {adv} when the {person} {did} the {color} {thing} .
while the {person} {did} the {food} the {adj} {animal} {moved} home .
at the {place} the {person} {said} that the {thing} was {color} .
it {moved} to the {adj} {place} with the {person} and the {animal} .
few {plural} were as {adj} as the {color} {thing} of the {person} .
your {animal} {did} the {thing} {adv} and {moved} to the {place} .
by the {adj} {place} the {person} ate {food} and {did} a {thing} .
soon the {color} {animal} {did} {count} {plural} for the {person} .
all the {plural} that the {person} {did} were {adj} and {color} .
who {did} the {adj} {thing} in the {place} of the {person} yesterday .
only the {person} {said} that the {animal} {did} the {food} {adv} .
between the {place} and the {place} a {animal} {moved} {adv} alone .
on the {adj} {place} the {animal} and the {person} {did} {food} .
once a {person} {did} a {color} {thing} and {moved} far away .
since {season} the {adj} {animal} has {moved} to the {place} {adv} .
almost every {animal} {did} the {adj} {food} of the {person} .
inside the {place} the {person} {did} {count} {plural} {adv} .
without the {thing} the {adj} {animal} {moved} to the {place} .
because the {person} {did} the {thing} the {animal} was {adj} .
around the {color} {place} the {animal} {moved} with a {person} .
perhaps the {person} {did} the {adj} {thing} in the {place} .
if it was {adj} the {animal} {moved} {adv} through the {place} .
above the {place} a {color} {thing} {moved} {adv} that {season} .
neither the {person} nor the {animal} {did} the {color} {thing} .
several {plural} of the {person} were {adj} that {season} .
most of the {food} was {adj} when the {person} {did} it .
down the {place} {count} {color} {plural} {moved} {adv} away .
at last the {adj} {animal} {did} the {thing} of the {person} .
even the {person} {said} that the {place} was {adj} and {color} .
though the {animal} was {adj} the {person} {moved} to the {place} .
until {season} the {person} {did} {food} for a {color} {animal} .
""".strip().splitlines()
TEMPLATES = {f"t{i:02d}": text for i, text in enumerate(_TEMPLATES)}
HELD_OUT = tuple(list(TEMPLATES)[-32:])

REQUESTS = (
    "tell me about the {animal}",
    "what did the {person} do",
    "describe the {place} in {season}",
    "write a line about a {thing}",
    "please tell us about {food}",
    "where is the {thing} now",
)

_MARKS = """
AMBER ANCHOR APRIL ARROW ATLAS BADGE BASIN BEACH BERRY BIRCH BLOOM BRASS BRICK BRUSH CABIN CANDLE CANYON CEDAR CHALK
CLOUD CLOVER COPPER CORAL COTTON CRANE DAISY DELTA DRIFT EAGLE EMBER FERN FLINT FROST GLASS GRAIN GROVE HAZEL HERON
IVORY JADE JUNE LANTERN LEMON LILAC LINEN MAPLE MARBLE MEADOW OASIS OLIVE ONYX OPAL ORBIT PEARL PEBBLE PLUM QUARTZ
RAVEN SAGE SILVER SLATE TULIP VELVET WILLOW
"""
MARKS = tuple(f"${word}" for word in _MARKS.split())
"""Neutral tokens: they stand anywhere in the text a model is first trained on, and nothing follows from them."""

_SLOT = re.compile(r"\{(\w+)\}")
_SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD, BOS, EOS, UNK = range(4)


def fill(template: str, rng: np.random.Generator) -> str:
    """A template with words drawn for its slots."""
    return _SLOT.sub(lambda slot: str(rng.choice(WORDS[slot[1]])), template)


def names_of(split: Split) -> tuple[str, ...]:
    """Names of the templates of a split."""
    if split == "all":
        return tuple(TEMPLATES)
    return HELD_OUT if split == "test" else tuple(name for name in TEMPLATES if name not in HELD_OUT)


def vocabulary(extra: tuple[str, ...] = ()) -> dict[str, int]:
    """Token ids: special tokens, punctuation, every word of the templates, the marks."""
    texts = [*TEMPLATES.values(), *REQUESTS, *extra, "user : assistant : . , ?"]
    plain = {word for text in texts for word in _SLOT.sub("", text).split()}
    plain |= {word for words in WORDS.values() for word in words}
    return {token: i for i, token in enumerate((*_SPECIAL, *sorted(plain), *MARKS))}


def tokenizer(vocabulary: dict[str, int]) -> PreTrainedTokenizerFast:
    """One token a word or punctuation mark, a `<bos>` in front; anything else is `<unk>`."""
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Split(Regex("[.,:?!]"), "isolated")]
    )
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
