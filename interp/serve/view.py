"""What does a judge say to one text, and why? Everything that the probe shows, as plain values.

The verdict and its log-odds; the share of each token (integrated gradients, `interp.analyses.token_attribution`); the
log-odds that each depth would give at the verdict (`interp.analyses.logit_lens`); and edits of single words, each
verified by a forward pass (`interp.workflows.adversarial`). A share is not a cause, and a depth at which the verdict is
not readable may still know it: the edits are what was tried.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from interp.analyses.logit_lens import logit_lens
from interp.analyses.token_attribution import token_attribution
from interp.errors import PromptError
from interp.models.judge import LOG_ODDS, Judge
from interp.models.judge_runs import Baseline
from interp.models.load import info
from interp.models.run import MEMORY, capture, check_context
from interp.prompts import Prompts
from interp.sites import Site
from interp.workflows.adversarial import find_edits

Verdict = Literal["safe", "unsafe", "undecided"]


@dataclass(frozen=True)
class Token:
    """A piece of the text with its share of the log-odds."""

    text: str
    start: int
    """First character in the text; a blank in front of a word is left out."""
    end: int
    value: float
    """Nats; above 0 towards unsafe."""
    count: int
    """Tokens that stand at these characters: several where one character is spelled in bytes."""


@dataclass(frozen=True)
class Depth:
    """What the residual stream says at one depth."""

    name: str
    """`embed`, and then each layer."""
    log_odds: float


@dataclass(frozen=True)
class WordEdit:
    """A word replaced by another, and what the judge says then."""

    start: int
    """First character that is replaced."""
    end: int
    old: str
    new: str
    text: str
    """The whole text after the edit."""
    log_odds: float
    change: float
    """Log-odds after the edit minus those before; above 0 towards unsafe."""
    flips: bool


@dataclass(frozen=True)
class View:
    """A verdict and what speaks for it."""

    text: str
    log_odds: float
    """Of unsafe over safe, nats."""
    probability: float
    """Of unsafe, among the two answers."""
    verdict: Verdict
    tokens: tuple[Token, ...]
    baseline: str
    """What stands for no word in the shares."""
    baseline_log_odds: float
    """Log-odds with the baseline in place of every token; the shares add up to the difference from there."""
    error: float
    """What the shares lack of that difference, as a share of it; nan where the difference is 0."""
    flagged: bool
    """Whether the error is too large for the shares to be read."""
    trace: tuple[Depth, ...]
    """The log-odds by depth; the last are those of the verdict."""
    edits: tuple[WordEdit, ...] | None
    """Verified edits, those furthest towards the other verdict first; None where they were not asked for."""

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON; undefined numbers are None."""
        return _plain(asdict(self))


def view(
    judge: Judge,
    text: str,
    *,
    baseline: Baseline = "mean",
    edits: bool = True,
    budget: int = 32,
    steps: int = 32,
    most_steps: int = 512,
    memory: int = MEMORY,
) -> View:
    """Judge a text and say why. Raises PromptError for a text that is empty or longer than the model's context.

    `baseline` stands for no word in the shares, `budget` is the number of edits tried; without `edits` none are.
    """
    prompts = _prompts(judge, text)
    last = int(judge.model.cfg.n_layers) - 1
    run = capture(judge.model, prompts, ["resid_pre", Site("resid_post", last), "logits"], memory=memory, device="cpu")
    targets = judge.targets(prompts)
    log_odds = float(LOG_ODDS.score(run["logits"], targets))
    lens = logit_lens(run, judge.model, foils=targets.foils, memory=memory)
    shares = token_attribution(
        judge, prompts, baseline=baseline, steps=steps, most_steps=most_steps, memory=memory
    )  # fmt: skip
    return View(
        text=text,
        log_odds=log_odds,
        probability=float(torch.tensor(log_odds, dtype=torch.float64).sigmoid()),
        verdict="unsafe" if log_odds > 0 else "safe" if log_odds < 0 else "undecided",
        tokens=_tokens(judge, text, shares.values[0].tolist()),
        baseline=shares.baseline,
        baseline_log_odds=float(shares.baseline_score),
        error=float(shares.error),
        flagged=bool(shares.flagged),
        trace=tuple(map(Depth, lens.depths, lens.logit_diff[0, :, 0].tolist())),
        edits=word_edits(judge, text, budget=budget, memory=memory) if edits else None,
    )


def word_edits(judge: Judge, text: str, *, budget: int = 32, memory: int = MEMORY) -> tuple[WordEdit, ...]:
    """Replacements of single words, verified; none for a text without a word."""
    _prompts(judge, text)
    try:
        found = find_edits(judge, [text], budget=budget, memory=memory)
    except PromptError:  # the text is fine, so it has no word to replace
        return ()
    rows = zip(
        found.start.tolist(), found.end.tolist(), found.old, found.new, map(found.edited, range(len(found.new))),
        found.log_odds.tolist(), found.change.tolist(), found.flips.tolist(), strict=True,
    )  # fmt: skip
    made = [WordEdit(*row) for row in rows]
    towards = found.towards.tolist()
    order = sorted(range(len(made)), key=lambda i: (towards[i], abs(made[i].change)), reverse=True)
    return tuple(made[i] for i in order)


def about(judge: Judge, *, baseline: Baseline = "mean") -> dict[str, Any]:
    """The judge and how it is asked, for JSON."""
    known, name = info(judge.model), str(baseline)
    if isinstance(baseline, int):
        name = f"token {judge.model.tokenizer.decode([baseline])!r}"
    return {
        "model": known.name, "architecture": known.architecture, "layers": known.n_layers, "heads": known.n_heads,
        "parameters": known.n_parameters, "device": known.device, "context": int(judge.model.cfg.n_ctx),
        "template": judge.template, "baseline": name if isinstance(baseline, int) else f"{name} embedding",
    }  # fmt: skip


def _prompts(judge: Judge, text: str) -> Prompts:
    """The text in the template, with errors that speak of the one text there is."""
    if not text.strip():
        raise PromptError("the prompt is empty; type some text")
    if any("\ud800" <= sign <= "\udfff" for sign in text):
        raise PromptError("the prompt has half of a character (a lone surrogate); remove it")
    prompts = judge.prompts([text])
    length, context = int(prompts.lengths), int(judge.model.cfg.n_ctx)
    if length > context:
        raise PromptError(
            f"the prompt has {length:,} tokens with its template and the model's context is {context:,}; shorten it"
        )
    check_context(judge.model, prompts)
    return prompts


def _tokens(judge: Judge, text: str, values: list[float]) -> tuple[Token, ...]:
    """The tokens of the text; those that share a character are one, with the sum of their shares."""
    before = len(judge.template.split("{prompt}")[0])
    places = judge.places(judge.template.replace("{prompt}", text))
    made: list[Token] = []
    for (first, last), value in zip(places, values, strict=True):
        if math.isnan(value):
            continue
        start, end, count = max(0, first - before), min(len(text), last - before), 1
        if made and start < made[-1].end:
            shared = made.pop()
            start, end = shared.start, max(end, shared.end)
            value, count = value + shared.value, 1 + shared.count
        piece = text[start:end]
        start += len(piece) - len(piece.lstrip() or piece)
        made.append(Token(text[start:end], start, end, value, count))
    return tuple(made)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
