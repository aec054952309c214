"""A judge: a model that reads a prompt and says safe or unsafe. Its number is the log-odds of unsafe.

Two kinds of models judge: a language model asked in a template and read at its next token, and a sequence classifier
with two classes. A classifier is turned into a language model whose unembedding has the head's two rows, so that every
analysis works on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from interp.errors import ConfigError, DataError, ModelError, PromptError
from interp.files import read_json, shipped_model
from interp.metrics import Metric, Targets, logit_diff
from interp.models.load import HookedTransformer, info, load_model, quiet_transformers, resolve
from interp.models.run import MEMORY, capture
from interp.models.sweeps import Readout
from interp.prompts import Prompts, encode, following_token

FILE = "judge.json"
"""Beside a model's weights: how it is asked and what it answers."""
LOG_ODDS: Metric = replace(logit_diff, name="log_odds", unit="log-odds of unsafe (nats)")
Spans = Mapping[str, tuple[int, int]]
"""Roles of a text as spans of its characters."""


@dataclass(frozen=True, eq=False)
class Judge:
    """A model, how it is asked, and the two tokens it answers with."""

    model: HookedTransformer
    template: str
    """What is asked, with `{prompt}` where the prompt goes."""
    safe: int
    unsafe: int
    """Token ids of the answers."""

    @classmethod
    def of(cls, model: HookedTransformer, *, template: str, safe: str, unsafe: str) -> Judge:
        """A language model as judge; the answers are written as they follow the template (`" safe"`)."""
        if template.count("{prompt}") != 1:
            raise ConfigError(f"a judge's template names {{prompt}} once, not {template!r}")
        if model.tokenizer is None:
            raise ModelError(f"{info(model).name} has no tokenizer, and a judge reads text")
        asked = template.replace("{prompt}", _any_word(model.tokenizer))
        ids = [following_token(asked, answer, model.tokenizer) for answer in (safe, unsafe)]
        if ids[0] == ids[1]:
            raise ConfigError(f"the answers {safe!r} and {unsafe!r} begin with the same token; choose others")
        return cls(model, template, *ids)

    def prompts(
        self,
        texts: Sequence[str],
        *,
        labels: pd.DataFrame | None = None,
        groups: Int[Tensor, " prompt"] | None = None,
        spans: Sequence[Spans] | None = None,
    ) -> Prompts:
        """The texts in the template, read where the verdict is given, with the answer unsafe.

        Roles: `text.first` and `text.last`, the ends of the text within the template; `verdict`, where it is read; and
        those in `spans`, at the last token of each span, and at its first with `.first` behind the name.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise PromptError("a judge is asked a list of texts; put a single one in a list")
        if not texts:
            raise PromptError("there are no prompts to judge; give at least one")
        blank = next((i for i, text in enumerate(texts) if not text.strip()), None)
        if blank is not None:
            raise PromptError(f"prompt {blank} is empty; give it some text")
        before, after = self.template.split("{prompt}")
        made = Prompts.from_texts([f"{before}{text}{after}" for text in texts], self.model.tokenizer)
        names = list(dict.fromkeys(name for one in spans or () for name in one))
        roles = ("text.first", "text.last", *(role for name in names for role in (f"{name}.first", name)))
        columns = {role: [-1] * len(texts) for role in roles}
        for i, (text, places) in enumerate(zip(texts, self.all_places(made.texts), strict=True)):
            whole = _within(places, len(before), len(before) + len(text))
            columns["text.first"][i], columns["text.last"][i] = whole[0], whole[-1]
            for name, (start, end) in (spans[i] if spans is not None else {}).items():
                there = _within(places, len(before) + start, len(before) + end)
                columns[f"{name}.first"][i], columns[name][i] = there[0], there[-1]
        return replace(
            made, texts=tuple(texts),
            roles={**made.roles, **{r: torch.tensor(c) for r, c in columns.items()}, "verdict": made.lengths - 1},
            answers=torch.full((len(texts), 1), self.unsafe), read_names=("verdict",),
            labels=made.labels if labels is None else labels.reset_index(drop=True),
            groups=made.groups if groups is None else groups.cpu().long(),
        )  # fmt: skip

    def targets(self, prompts: Prompts) -> Targets:
        """What the log-odds compare: unsafe with safe."""
        return Targets(prompts.answers, torch.full_like(prompts.answers, self.safe))

    def readout(self, prompts: Prompts) -> Readout:
        """The log-odds of unsafe, for sweeps."""
        return Readout((LOG_ODDS,), self.targets(prompts))

    def log_odds(self, prompts: Prompts, *, memory: int = MEMORY, progress: bool = False) -> Float[Tensor, " prompt"]:
        """Log-odds of unsafe over safe; above 0 the judge says unsafe."""
        logits = capture(self.model, prompts, ["logits"], memory=memory, progress=progress)["logits"]
        return LOG_ODDS.score(logits, self.targets(prompts)).cpu()

    def places(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands, as spans of its characters; (0, 0) for added tokens."""
        return self.all_places([text])[0]

    def all_places(self, texts: Sequence[str]) -> list[list[tuple[int, int]]]:
        """The same for each of several texts, in one call of the tokenizer."""
        tokenizer: Any = self.model.tokenizer
        if not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"the tokenizer of {info(self.model).name} does not say where its tokens stand in a text")
        return tokenizer(list(texts), return_offsets_mapping=True)["offset_mapping"]


def load_judge(
    name_or_path: str | Path,
    *,
    template: str | None = None,
    safe: str | None = None,
    unsafe: str | None = None,
    **options: Any,
) -> Judge:
    """A judge from a shipped name, a folder, a Hugging Face name or a PEFT adapter; `options` as for `load_model`.

    A folder written by this library says itself how it is asked. For others give the template and both answers; for a
    sequence classifier the names or numbers of its two classes.
    """
    folder = shipped_model(str(name_or_path)) or Path(name_or_path)
    if (folder / FILE).is_file():
        told = read_json(folder / FILE)
        try:
            template, safe, unsafe = (
                str(told[key]) if given is None else given
                for key, given in (("template", template), ("safe", safe), ("unsafe", unsafe))
            )
        except (KeyError, TypeError):
            raise DataError(f"{folder / FILE} does not name template, safe and unsafe") from None
    if not (folder / "adapter_config.json").is_file():
        resolve(name_or_path)  # says what is wrong with a name before anything is asked of a network
    config = _config(name_or_path, options)
    if config is not None and any("SequenceClassification" in name for name in config.architectures or ()):
        return _classifier(name_or_path, config, template or "{prompt}", safe, unsafe, options)
    if template is None or safe is None or unsafe is None:
        raise ConfigError(f"{name_or_path} does not say how it is asked; give the template and both answers")
    return Judge.of(load_model(name_or_path, **options), template=template, safe=safe, unsafe=unsafe)


def truth(unsafe: Iterable[Any], n: int) -> Bool[Tensor, " prompt"]:
    """Labels as truth values: True, False, 1 and 0, in a list, an array or a series. Raises PromptError for others."""
    found = [value.item() if hasattr(value, "item") else value for value in unsafe]
    if len(found) != n:
        raise PromptError(f"{len(found)} labels do not fit {n} prompts")
    wrong = [value for value in found if value not in (0, 1)]
    if wrong:
        raise PromptError(f"labels say whether a prompt is unsafe, True or False; {wrong[0]!r} is neither")
    return torch.tensor([bool(value) for value in found])


def _any_word(tokenizer: Any) -> str:
    """A word that the tokenizer knows, to see where answers follow a text."""
    for word in ("hello", *(piece.strip("\u2581\u0120") for piece in tokenizer.get_vocab())):
        if word.isalpha():
            try:
                encode(word, tokenizer)
            except PromptError:
                continue
            return word
    raise ModelError("the tokenizer knows no word of letters")


def _within(places: Sequence[tuple[int, int]], start: int, end: int) -> list[int]:
    """Tokens that cover some of these characters."""
    found = [i for i, (first, last) in enumerate(places) if first < end and last > start and last > first]
    if not found:
        raise PromptError("a span of a text has no token of its own; give it some text")
    return found


def _config(name_or_path: str | Path, options: Mapping[str, Any]) -> Any:
    """The configuration where the model has one of its own (an adapter has none)."""
    source = shipped_model(str(name_or_path)) or name_or_path
    remote = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    try:
        return AutoConfig.from_pretrained(str(source), **remote)
    except (OSError, ValueError):
        return None  # load_model says what is wrong


def _classifier(
    source: str | Path, config: Any, template: str, safe: str | None, unsafe: str | None, options: Mapping[str, Any]
) -> Judge:
    """A language model with the body of a classifier, whose first two unembedding rows are the classes."""
    if template.count("{prompt}") != 1:
        raise ConfigError(f"a judge's template names {{prompt}} once, not {template!r}")
    remote = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    with quiet_transformers():
        given = AutoModelForSequenceClassification.from_pretrained(str(source), use_safetensors=True, **remote)
        tokenizer = AutoTokenizer.from_pretrained(str(source), **remote)
        head = getattr(given, "score", None)
        if head is None or getattr(head, "bias", None) is not None or head.weight.shape[0] != 2:
            raise ModelError(f"{source} is no decoder with a linear head of two classes and without bias")
        rows = list(_classes(config, safe, unsafe, source))
        config.tie_word_embeddings = False
        model = AutoModelForCausalLM.from_config(config)
    prefix = given.base_model_prefix
    getattr(model, prefix).load_state_dict(getattr(given, prefix).state_dict())
    out = model.get_output_embeddings().weight
    with torch.no_grad():
        out.zero_()
        out[:2] = head.weight[rows].to(out)
    model.config.name_or_path = str(source)
    model.config.architectures = [type(model).__name__]
    kept = {name: value for name, value in options.items() if name not in remote}
    return Judge(load_model(model, tokenizer, **kept), template, 0, 1)


def _classes(config: Any, safe: str | None, unsafe: str | None, source: str | Path) -> tuple[int, int]:
    """The numbers of the classes safe and unsafe: as given, else by their names; of one given the other is the rest."""
    names = {str(name).lower(): int(number) for number, name in (config.id2label or {}).items()}

    def known(label: str) -> int:
        found = names.get(label.lower(), int(label) if label in ("0", "1") else None)
        if found is None:
            raise ConfigError(f"there is no class {label!r}; the classes are {', '.join(names)}")
        return found

    if safe is None and unsafe is None:
        if not {"safe", "unsafe"} <= names.keys():
            raise ConfigError(f"{source} does not say which class is unsafe ({', '.join(names)}); name it")
        return names["safe"], names["unsafe"]
    chosen = [None if label is None else known(label) for label in (safe, unsafe)]
    first, second = (1 - rest if own is None and rest is not None else own for own, rest in (chosen, chosen[::-1]))
    if first is None or second is None or first == second:
        raise ConfigError(f"safe and unsafe are one class ({safe}); the classes are {', '.join(names)}")
    return first, second
