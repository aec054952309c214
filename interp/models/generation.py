"""How does a model go on, and where does it stop, while its computation is edited?

`generate` continues prompts token by token with the key-value cache, so that a token costs one column and not the whole
text. What an edit means does not depend on that: every number equals the one from full forward passes over the grown
prompts with the same columns edited. Whether the cache keeps that promise is tried once for each model and set of
sites; where it does not, full passes are run instead, and `Generated.path` says so.

Prompts of one length are run together, so there is no padding on any architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from rich.progress import track
from torch import Tensor

from interp.errors import ConfigError, ModelError, PromptError
from interp.models.edits import Constant, Copy, Edit
from interp.models.load import HookedTransformer
from interp.models.run import (
    MEMORY,
    Change,
    attached,
    batch_rows,
    check_context,
    edit_hooks,
    forward,
    model_device,
    undisturbed,
)
from interp.prompts import Prompts
from interp.sites import Site, every

_Step = Callable[[Int[Tensor, "row pos"]], Float[Tensor, "row vocab"]]
"""From the prompts of a batch and what was written so far to the logits of the next token, called column by column."""


@dataclass(frozen=True, eq=False)
class Generated:
    """What a model wrote after each prompt, and how near it was to stopping at every step."""

    tokens: Int[Tensor, "prompt step"]
    """Token ids, the stop token among them where there is one; -1 after it."""
    halted: Bool[Tensor, " prompt"]
    """True where a stop token was written; elsewhere the answer was cut after the last step."""
    lengths: Int[Tensor, " prompt"]
    """Tokens written before the stop token; all of them where there is none."""
    stop_prob: Float[Tensor, "prompt step"]
    """The model's own probability (temperature 1) of any stop token before each choice; nan after the end.

    Later steps are seen only for prompts that went on, so their mean is one over survivors.
    """
    stop: tuple[int, ...]
    """Token ids that end an answer."""
    groups: Int[Tensor, " prompt"]
    path: str
    """`cache`, or `full passes: ...` with the reason."""

    def texts(self, tokenizer: Any) -> tuple[str, ...]:
        """Each answer as text, without its stop token."""
        rows = zip(self.tokens.tolist(), self.lengths.tolist(), strict=True)
        return tuple(str(tokenizer.decode(row[:length])) for row, length in rows)

    def to_frame(self) -> pd.DataFrame:
        """One row for each token written, the stop token among them."""
        prompt, step = (self.tokens >= 0).nonzero(as_tuple=True)
        token = self.tokens[prompt, step]
        return pd.DataFrame(
            {
                "prompt": prompt.numpy(),
                "step": step.numpy(),
                "token": token.numpy(),
                "stopped": torch.isin(token, torch.tensor(self.stop, dtype=torch.long)).numpy(),
                "stop_prob": self.stop_prob[prompt, step].numpy(),
                "group": self.groups[prompt].numpy(),
            }
        )


def generate(
    model: HookedTransformer,
    prompts: Prompts,
    *,
    edits: Sequence[Edit] = (),
    new_tokens: int = 20,
    stop: int | Sequence[int] | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> Generated:
    """Continue each prompt by up to `new_tokens` tokens, with all `edits` in force together.

    An edit at a role, an index or a mask acts on those columns of the prompt; later tokens feel it through what they
    attend to there. An edit with `at=None` acts on every token of the prompt and on every token written after it; its
    value sees the new ones a column at a time. Edits at one site act in the order given.

    `stop` are the token ids that end an answer, by default `stop_tokens(model)`; `()` never stops. Temperature 0 takes
    the likeliest token. Otherwise tokens are drawn at that temperature: a prompt's draws depend on its tokens, on
    `seed` and on how often the same prompt stood before it, not on the other prompts, the edits or the batch, so runs
    with different edits can be compared draw by draw.

    `memory` bounds the working tensors and the cache of a batch, in bytes. Raises PromptError where a prompt and its
    answer do not fit the context, or where an edit has no value for the new tokens; ConfigError for an edit at
    `pattern`, whose keys grow with the text.
    """
    ends = _checked(model, prompts, edits, new_tokens, stop, temperature, seed)
    reason = _cache_fault(model, frozenset(e.site for e in edits))
    return _generate(model, prompts, edits, new_tokens, ends, temperature, seed, memory, progress, reason)


def stop_tokens(model: HookedTransformer) -> tuple[int, ...]:
    """Token ids by which the model ends a text, as its tokenizer and configurations name them; () where none does."""
    original: Any = model.original_model
    named = [
        getattr(model.tokenizer, "eos_token_id", None),
        getattr(original.config.get_text_config(), "eos_token_id", None),
        getattr(getattr(original, "generation_config", None), "eos_token_id", None),
    ]
    ids = {i for found in named if found is not None for i in (found if isinstance(found, list | tuple) else [found])}
    return tuple(sorted(i for i in ids if 0 <= i < int(model.cfg.d_vocab)))


def _checked(
    model: HookedTransformer,
    prompts: Prompts,
    edits: Sequence[Edit],
    new_tokens: int,
    stop: int | Sequence[int] | None,
    temperature: float,
    seed: int,
) -> tuple[int, ...]:
    """Refuse what cannot be run; the stop tokens."""
    if new_tokens < 1:
        raise ConfigError(f"new_tokens must be at least 1, not {new_tokens}")
    if not 0 <= temperature < float("inf"):
        raise ConfigError(f"the temperature must be 0 (the likeliest token) or above, not {temperature}")
    if seed < 0:
        raise ConfigError(f"the seed must be 0 or above, not {seed}")
    every([e.site for e in edits], model.cfg.n_layers)
    for e in edits:
        if e.site.name == "pattern":
            raise ConfigError(f"{e.site} cannot be edited while a text grows, for its keys grow too; edit z instead")
        if e.at is None and (isinstance(e.value, Copy) or _has_columns(e)):
            raise PromptError(
                f"the edit at {e.site} acts on every token (at=None), but its {type(e.value).__name__} has no value "
                "for tokens not yet written; choose positions of the prompt, or all of them with at=prompts.mask"
            )
    check_context(model, prompts)
    longest, context = int(prompts.lengths.max()), int(model.cfg.n_ctx)
    if longest + new_tokens > context:
        raise PromptError(
            f"prompt {int(prompts.lengths.argmax())} has {longest} tokens, and {new_tokens} new ones go beyond the "
            f"model's context of {context}; ask for at most {context - longest} or shorten the prompt"
        )
    if stop is None:
        return stop_tokens(model)
    ends = tuple(sorted({stop} if isinstance(stop, int) else set(map(int, stop))))
    wrong = [i for i in ends if not 0 <= i < int(model.cfg.d_vocab)]
    if wrong:
        raise ConfigError(f"there is no stop token {wrong[0]}: the vocabulary ends at {int(model.cfg.d_vocab) - 1}")
    return ends


def _has_columns(e: Edit) -> bool:
    """True for a constant that differs from column to column."""
    return isinstance(e.value, Constant) and e.value.tensor.ndim == len(e.site.axes) - 1 and len(e.value.tensor) > 1


def _generate(
    model: HookedTransformer,
    prompts: Prompts,
    edits: Sequence[Edit],
    new_tokens: int,
    stop: tuple[int, ...],
    temperature: float,
    seed: int,
    memory: int,
    progress: bool,
    reason: str,
) -> Generated:
    """The answers by the cache, or for a `reason` by full passes."""
    n = len(prompts)
    tokens = torch.full((n, new_tokens), -1)
    stop_prob = torch.full((n, new_tokens), torch.nan)
    draws = _draws(prompts, new_tokens, seed) if temperature > 0 else None
    touched = [e.where(prompts) for e in edits]
    size = _rows(model, int(prompts.lengths.max()) + new_tokens, memory)
    batches: Any = [
        rows
        for length in prompts.lengths.unique().tolist()
        for rows in (prompts.lengths == length).nonzero().flatten().split(size)
    ]
    if progress and len(batches) > 1:
        batches = track(batches, description="generating", transient=True)
    here = model_device(model)
    ends = torch.tensor(stop, dtype=torch.long, device=here)
    with undisturbed(model):
        for rows in batches:
            length = int(prompts.lengths[rows[0]])
            index = rows.to(here)
            held = [_held(e, where[rows, :length].to(here), index) for e, where in zip(edits, touched, strict=True)]
            follow = _full_passes(model, held, length) if reason else _cached(model, held)
            grown = prompts.tokens[rows, :length].to(here)
            going = torch.ones(len(rows), dtype=torch.bool)
            for step in range(new_tokens):
                logits = follow(grown)
                logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
                _refuse_undefined(logits, rows, going, step, bool(edits))
                now = rows[going]
                stop_prob[now, step] = logits.softmax(-1)[:, ends].sum(-1).cpu()[going].float()
                chosen = _chosen(logits, temperature, None if draws is None else draws[rows, step])
                tokens[now, step] = chosen.cpu()[going]
                going &= ~torch.isin(chosen, ends).cpu()
                if not going.any():
                    break
                grown = torch.cat([grown, chosen[:, None]], 1)
    halted = torch.isin(tokens, torch.tensor(stop, dtype=torch.long)).any(1)
    return Generated(
        tokens=tokens,
        halted=halted,
        lengths=(tokens >= 0).sum(1) - halted.long(),
        stop_prob=stop_prob,
        stop=stop,
        groups=prompts.groups,
        path=f"full passes: {reason}" if reason else "cache",
    )


def _rows(model: HookedTransformer, width: int, memory: int) -> int:
    """Rows of a batch: half of the budget for the working tensors, half for the keys and values."""
    cfg = model.cfg
    heads = getattr(cfg, "n_key_value_heads", None) or cfg.n_heads
    itemsize = torch.empty(0, dtype=cfg.dtype).element_size()
    kept = 2 * width * cfg.n_layers * heads * cfg.d_head * itemsize
    return max(1, min(batch_rows(model, width, 1, memory // 2), memory // 2 // int(kept)))


def _draws(prompts: Prompts, new_tokens: int, seed: int) -> Float[Tensor, "prompt step"]:
    """Numbers in [0, 1), a stream for each prompt that depends on nothing but its tokens and its earlier repeats."""
    seen: dict[tuple[int, ...], int] = {}
    found = []
    for row, length in zip(prompts.tokens.tolist(), prompts.lengths.tolist(), strict=True):
        ids = tuple(row[:length])
        seen[ids] = seen.get(ids, -1) + 1
        found.append(np.random.default_rng([seed, seen[ids], *ids]).random(new_tokens))
    return torch.from_numpy(np.stack(found))


def _chosen(
    logits: Float[Tensor, "row vocab"], temperature: float, draws: Float[Tensor, " row"] | None
) -> Int[Tensor, " row"]:
    """The likeliest tokens, or those at which the cumulative probability passes the draw."""
    if draws is None:
        return logits.argmax(-1)
    double = logits.cpu().double()  # some devices lack it
    below = ((double - double.amax(-1, True)) / temperature).softmax(-1).cumsum(-1)
    found = torch.searchsorted(below, draws[:, None] * below[:, -1:], right=True)[:, 0]
    return found.clamp(max=logits.shape[-1] - 1).to(logits.device)


def _refuse_undefined(
    logits: Float[Tensor, "row vocab"], rows: Int[Tensor, " row"], going: Bool[Tensor, " row"], step: int, edited: bool
) -> None:
    wrong = ~(logits < torch.inf).all(-1).cpu() & going
    if wrong.any():
        where = f"the logits of prompt {int(rows[wrong][0])} are nan or infinite at step {step}"
        if edited:
            raise PromptError(f"{where} under these edits; a copy from another run's padding is nan")
        raise ModelError(f"{where}; the model overflows in its precision, load it in another dtype")


@dataclass(frozen=True, eq=False)
class _Held:
    """An edit of one batch: what it does to the prompt's columns and to one new column (None: nothing)."""

    site: Site
    prompt: Change
    new: Change | None


def _held(e: Edit, touched: Bool[Tensor, "row pos"], prompts: Int[Tensor, " row"]) -> _Held:
    if _has_columns(e) and isinstance(e.value, Constant):
        e = replace(e, value=Constant(e.value.tensor[: touched.shape[1]]))
    always = torch.ones_like(touched[:, :1])
    return _Held(
        e.site,
        lambda old: e.apply(old, touched, prompts),
        (lambda old: e.apply(old, always, prompts)) if e.at is None else None,
    )


def _by_site(changes: Sequence[tuple[Site, Change | None]]) -> Mapping[Site, Sequence[Change]]:
    found: dict[Site, list[Change]] = {}
    for site, change in changes:
        if change is not None:
            found.setdefault(site, []).append(change)
    return found


def _full_passes(model: HookedTransformer, edits: Sequence[_Held], length: int) -> _Step:
    """One pass over the whole text for every token: the meaning of an edit, spelled out."""
    changes = _by_site([(e.site, _in_parts(e, length)) for e in edits])
    logits = Site("logits")

    def step(grown: Int[Tensor, "row pos"]) -> Float[Tensor, "row vocab"]:
        last = torch.full((len(grown), 1), grown.shape[1] - 1)
        return forward(model, grown, keep=[logits], changes=changes, reads=last)[logits][:, 0]

    return step


def _in_parts(e: _Held, length: int) -> Change:
    def change(old: Tensor) -> Tensor:
        later = old[:, length:].split(1, 1) if old.shape[1] > length else ()
        return torch.cat([e.prompt(old[:, :length]), *(e.new(part) if e.new else part for part in later)], 1)

    return change


def _cached(model: HookedTransformer, edits: Sequence[_Held]) -> _Step:
    """One pass over the prompt, then one over each new column; the cache is of the architecture's own kind."""
    points = model.hook_dict
    first = edit_hooks(model, points, _by_site([(e.site, e.prompt) for e in edits]))
    later = edit_hooks(model, points, _by_site([(e.site, e.new) for e in edits]))
    seen, cache = 0, None

    def step(grown: Int[Tensor, "row pos"]) -> Float[Tensor, "row vocab"]:
        nonlocal seen, cache
        with attached(later if seen else first):
            logits, cache = model(
                grown[:, seen:],
                return_type="logits_and_cache",
                use_cache=True,
                past_key_values=cache,
                logits_to_keep=1,
            )
        seen = grown.shape[1]
        return logits[:, -1]

    return step


_FAULTS: WeakKeyDictionary[HookedTransformer, dict[frozenset[Site], str]] = WeakKeyDictionary()


def _cache_fault(model: HookedTransformer, sites: frozenset[Site]) -> str:
    """Why the cache cannot be used for edits at these sites; empty where it can.

    Both ways are run on a fixed text with something mild done at the sites, which must come to the same.
    """
    known = _FAULTS.setdefault(model, {})
    if sites not in known:
        known[sites] = _find_fault(model, sites)
    return known[sites]


def _find_fault(model: HookedTransformer, sites: frozenset[Site]) -> str:
    width = min(8, int(model.cfg.n_ctx))
    length = max(1, width - 3)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(int(model.cfg.d_vocab), (2, width), generator=generator).to(model_device(model))
    edits = [_Held(site, _mild, _mild) for site in sites]
    with undisturbed(model):
        full = _full_passes(model, edits, length)
        wanted = torch.stack([full(text[:, :end]) for end in range(length, width + 1)])
        try:
            cached = _cached(model, edits)
            found = torch.stack([cached(text[:, :end]) for end in range(length, width + 1)])
        except Exception as error:  # architectures without a cache fail in ways of their own
            return f"the key-value cache fails ({type(error).__name__})"
    off = float((found - wanted).abs().max())
    allowed = torch.finfo(wanted.dtype).eps ** 0.5 * max(1.0, float((wanted - wanted.mean(-1, True)).abs().max()))
    return "" if off <= allowed else f"the key-value cache changes logits by {off:.2g}"


def _mild(old: Tensor) -> Tensor:
    """A change that no norm undoes and that grows little over many sites."""
    return old + 0.1 * old.roll(1, -1)
