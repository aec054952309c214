"""Running a model: `capture` what it computes, `edit` it, and leave no trace.

The only callers of TransformerLens' hooks.

Three traps of the bridge are dealt with here once. `hook_resid_mid` reads the stream but an edit there reaches the MLP
alone, so such an edit is carried out through `hook_attn_out`. In compatibility mode a hook added by name runs once for
each alias, so hooks are added to the hook points themselves. And `start_at_layer` still computes the blocks below, so
these are replaced by the identity for the call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from jaxtyping import Bool, Float, Int
from rich.progress import track
from torch import Tensor, nn

from interp.errors import ConfigError, ModelError, PromptError
from interp.models.edits import Edit
from interp.models.features import NAME, feature_hooks, feature_sites
from interp.models.load import HookedTransformer
from interp.prompts import Prompts
from interp.sites import Site, every
from interp.tensors import Activations

Change = Callable[[Tensor], Tensor]
Hook = tuple[Any, Callable[..., Any]]
"""A hook point and the function to add there."""

MEMORY = 1 << 30
"""Default budget for the working tensors of one batch, in bytes."""


def capture(
    model: HookedTransformer,
    prompts: Prompts,
    sites: Sequence[str | Site],
    *,
    layers: Sequence[int] | None = None,
    memory: int = MEMORY,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Activations:
    """Run the prompts once and keep what the model computes at some sites.

    `sites` are names (every layer, or those in `layers`) or single `Site`s; `"logits"` keeps the logits at the columns
    the prompts read. Prompts are run in batches of like length that fit `memory` bytes. The activations stay on
    `device`, by default the model's; padding is nan.
    """
    return edit(model, prompts, (), sites, layers=layers, memory=memory, device=device, progress=progress)


def edit(
    model: HookedTransformer,
    prompts: Prompts,
    edits: Sequence[Edit],
    sites: Sequence[str | Site] = ("logits",),
    *,
    layers: Sequence[int] | None = None,
    memory: int = MEMORY,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Activations:
    """Run the prompts with all `edits` in force together and keep what the model computes then.

    Edits at one site act in the order given; a captured site shows its value after the edits.
    """
    wanted = every(sites, model.cfg.n_layers, layers)
    every([e.site for e in edits], model.cfg.n_layers)
    check_memory(memory)
    check_context(model, prompts)
    check_edits(model, [e.site for e in edits])
    for e in edits:
        e.check(prompts)
    touched = [e.where(prompts) for e in edits]
    here = model_device(model)

    def run(rows: Int[Tensor, " row"], span: int) -> dict[Site, Tensor]:
        index = rows.to(here)
        changes: dict[Site, list[Change]] = {}
        for e, where in zip(edits, touched, strict=True):
            changes.setdefault(e.site, []).append(_bind(e, where[rows, :span], index))
        return forward(model, prompts.tokens[rows, :span], keep=wanted, changes=changes, reads=prompts.reads[rows])

    return gathered(model, prompts, wanted, run, memory=memory, device=device, progress=progress)


def gathered(
    model: HookedTransformer,
    prompts: Prompts,
    sites: Sequence[Site],
    run: Callable[[Int[Tensor, " row"], int], dict[Site, Tensor]],
    *,
    memory: int,
    device: str | torch.device | None = None,
    progress: bool = False,
) -> Activations:
    """What `run` finds at the sites, batch by batch; it gets the numbers of some prompts and their greatest length."""
    place = model_device(model) if device is None else torch.device(device)
    store: dict[Site, Tensor] = {}
    parts: Any = batches(model, prompts, memory, sites)
    if progress and len(parts) > 1:
        parts = track(parts, description="running prompts", transient=True)
    mask = prompts.mask
    for rows in parts:
        found = run(rows, int(prompts.lengths[rows].max()))
        for site in sites:
            _store(store, site, found[site], rows, mask, place)
    return Activations(prompts, store, int(model.cfg.n_layers))


def forward(
    model: HookedTransformer,
    tokens: Int[Tensor, "row pos"],
    *,
    keep: Sequence[Site] = (),
    changes: Mapping[Site, Sequence[Change]] | None = None,
    reads: Int[Tensor, "row read"] | None = None,
    start: int = 0,
    residual: Float[Tensor, "row pos d_model"] | None = None,
    gradients: bool = False,
) -> dict[Site, Tensor]:
    """One forward pass of one batch: the low floor on which capture, edit and the generic sweep stand.

    Returns the tensors at `keep`, the logits at `reads` among them where asked for. With `start` the blocks below it
    are skipped and `residual` enters block `start`. Tokens are right-padded, and a causal model needs no mask for that.
    With `gradients` what comes back can be differentiated by `residual`.
    """
    changes = changes or {}
    kept: dict[Site, Tensor] = {}
    points = model.hook_dict
    hooks = feature_hooks(model, points, keep, changes, kept)
    hooks += edit_hooks(model, points, {site: some for site, some in changes.items() if site.name != NAME})
    hooked = (site for site in keep if site.name not in ("logits", NAME))
    hooks.extend((_point(model, points, site), _keeping(kept, site)) for site in hooked)
    logits_wanted = Site("logits") in keep
    if logits_wanted and reads is None:
        raise PromptError("logits were asked for, but the prompts read no column")
    arguments: dict[str, Any] = {"use_cache": False}
    columns = torch.zeros(0, dtype=torch.long)
    if logits_wanted and reads is not None:
        columns = reads[reads >= 0].unique()
        if len(columns) == 0:
            raise PromptError("logits were asked for, but the prompts read no column")
        arguments["logits_to_keep"] = columns.to(model_device(model))
    elif keep:
        last = max(site.layer for site in keep)
        if last + 1 < model.cfg.n_layers:
            arguments["stop_at_layer"] = last + 1
        else:
            arguments["logits_to_keep"] = 1
    entry = tokens.to(model_device(model)) if residual is None else residual
    if residual is not None:
        arguments["start_at_layer"] = start
    with undisturbed(model, gradients), attached(hooks), _skipping(model, start):
        output = model(entry, return_type="logits", **arguments)
        if logits_wanted and reads is not None:
            kept[Site("logits")] = _at_reads(output, reads.to(output.device), columns.to(output.device))
    return kept


_TURNS: WeakKeyDictionary[HookedTransformer, Any] = WeakKeyDictionary()
_EVALUATED: WeakSet[HookedTransformer] = WeakSet()
"""Models that some call further out has put into evaluation mode."""
_MAKING = Lock()


def _turn(model: HookedTransformer) -> Any:
    """A model serves one thread at a time: another one's hooks would act on this one's numbers."""
    with _MAKING:
        return _TURNS.setdefault(model, RLock())


@contextmanager
def undisturbed(model: HookedTransformer, gradients: bool = False) -> Iterator[None]:
    """Evaluation mode, without gradients unless asked for; afterwards every mode, gradient flag and random state is
    as it was. Other threads wait."""
    place = model_device(model)
    tracking = torch.enable_grad() if gradients else torch.inference_mode()
    with _turn(model), torch.random.fork_rng(devices=[place] if place.type == "cuda" else []), tracking:
        if model in _EVALUATED:
            yield
            return
        modes = [m for m in modules_of(model) if m.training]
        try:
            _EVALUATED.add(model)
            for module in modes:
                module.training = False
            yield
        finally:
            for module in modes:
                module.training = True
            _EVALUATED.discard(model)


def modules_of(model: HookedTransformer) -> list[nn.Module]:
    """Every module of the bridge and of the model inside it, once; torch's own walk makes a name for each."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [model, model.original_model]
    while waiting:
        one = waiting.pop()
        if one is not None and id(one) not in found:
            found[id(one)] = one
            waiting.extend(one._modules.values())
    return list(found.values())


def edit_hooks(
    model: HookedTransformer, points: Mapping[str, Any], changes: Mapping[Site, Sequence[Change]]
) -> list[Hook]:
    """The functions that carry out changes, each with its hook point, in the order in which `attached` must add them.

    `points` is the model's `hook_dict`, which is slow to make. Raises ModelError for a site the architecture lacks.
    """
    ordered = sorted(changes.items(), key=lambda item: item[0].name == "resid_mid")
    return [hook for site, functions in ordered for hook in _editing(model, points, site, functions)]


@contextmanager
def attached(hooks: Sequence[Hook]) -> Iterator[None]:
    """Add functions to hook points, and take away just these afterwards."""
    handles: list[tuple[Any, Any]] = []
    try:
        for point, function in hooks:
            handles.append((point, point.add_hook(function)))
        yield
    finally:
        for point, handle in handles:
            handle.hook.remove()
            point.fwd_hooks[:] = [other for other in point.fwd_hooks if other is not handle]


def check_memory(memory: int) -> None:
    """Raise ConfigError for a budget of nothing."""
    if memory < 1:
        raise ConfigError(f"memory is a budget in bytes, at least 1 (by default {MEMORY:,}), not {memory}")


def check_context(model: HookedTransformer, prompts: Prompts) -> None:
    """Raise PromptError for a prompt that is longer than the model's context, or a token it does not have."""
    longest = int(prompts.lengths.argmax())
    context = int(model.cfg.n_ctx)
    if int(prompts.lengths[longest]) > context:
        text = prompts.texts[longest]
        shown = repr(text if len(text) <= 40 else f"{text[:40]}...")
        raise PromptError(
            f"prompt {longest} ({shown}) has {int(prompts.lengths[longest])} tokens and the model's context is "
            f"{context}; shorten the prompt"
        )
    vocabulary = int(model.cfg.d_vocab)
    if int(prompts.tokens.max()) >= vocabulary or int(prompts.tokens.min()) < 0:
        raise PromptError(
            f"a prompt has token id {int(prompts.tokens.max())} and the model's vocabulary ends at {vocabulary - 1}; "
            "tokenize with the model's own tokenizer"
        )


_PATTERN_WORKS: WeakKeyDictionary[HookedTransformer, bool] = WeakKeyDictionary()


def check_edits(model: HookedTransformer, sites: Sequence[Site]) -> None:
    """Raise ModelError where an edit at one of the sites would silently do nothing.

    For some architectures TransformerLens shows the attention pattern only after it was used.
    """
    patterns = [site for site in sites if site.name == "pattern"]
    if not patterns:
        return
    if model not in _PATTERN_WORKS:
        layer, tokens = patterns[0].layer, torch.zeros(1, 2, dtype=torch.long)
        z = Site("z", layer)
        plain, zeroed = (
            forward(model, tokens, keep=[z], changes=changes)[z]
            for changes in ({}, {Site("pattern", layer): [torch.zeros_like]})
        )
        _PATTERN_WORKS[model] = not torch.equal(plain, zeroed)
    if not _PATTERN_WORKS[model]:
        raise ModelError(
            f"attention patterns of {model.cfg.architecture} can be read but not edited: TransformerLens shows them "
            "only after they were used; patch z instead"
        )


def unembed(model: HookedTransformer, residual: Float[Tensor, "... d_model"]) -> Float[Tensor, "... vocab"]:
    """Logits of residual-stream vectors through the model's own final norm, unembedding and soft cap."""
    flat = residual.reshape(1, -1, residual.shape[-1]).to(model_device(model), model.cfg.dtype)
    with undisturbed(model):
        logits = model.unembed(model.ln_final(flat))
        logits = model.adapter.apply_output_logits_transform(logits)
    return logits.reshape(*residual.shape[:-1], -1)


def embedded(model: HookedTransformer, prompts: Prompts) -> Float[Tensor, "prompt pos d_model"]:
    """The stream that enters the first block; zero at padding."""
    tokens = prompts.tokens.to(model_device(model))
    with undisturbed(model):
        stream = model(tokens, return_type="logits", use_cache=False, stop_at_layer=0)
    return stream.clone().masked_fill_(~prompts.mask[..., None].to(stream.device), 0.0)


def model_device(model: HookedTransformer) -> torch.device:
    """Where the model's input belongs."""
    return next(model.original_model.parameters()).device


def batches(
    model: HookedTransformer, prompts: Prompts, memory: int, kept: Sequence[Site] = ()
) -> tuple[Int[Tensor, " row"], ...]:
    """The numbers of the prompts batch by batch, those of like length together, the longest first."""
    order = prompts.lengths.argsort(descending=True, stable=True)
    width = prompts.tokens.shape[1]
    beside = sum(numbers(model, site, width) for site in kept)
    return order.split(batch_rows(model, width, read_columns(prompts), memory, beside))


def numbers(model: HookedTransformer, site: Site, width: int, reads: int = 1) -> int:
    """How many numbers a site has for one prompt of so many tokens, read at so many of them."""
    cfg = model.cfg
    sizes = {
        "pos": width, "query": width, "key": width, "read": reads, "d_model": cfg.d_model, "d_head": cfg.d_head,
        "head": cfg.n_heads, "neuron": cfg.d_mlp or 4 * cfg.d_model, "vocab": cfg.d_vocab,
    }  # fmt: skip
    if site.name == NAME:
        sizes["feature"] = feature_sites(model).sizes[site.layer]
    return prod(int(sizes.get(axis, 1)) for axis in site.axes)


def batch_rows(model: HookedTransformer, width: int, reads: int, memory: int, beside: int = 0) -> int:
    """Rows of a batch whose working tensors fit the budget, `beside` numbers that are kept of each among them.

    Sizes of what is alive at once inside a block, as measured on forward passes of the bridge.
    """
    cfg = model.cfg
    d_mlp = int(cfg.d_mlp or 4 * cfg.d_model)
    block = width * (14 * cfg.d_model + 7 * d_mlp) + 8 * cfg.n_heads * width**2
    head = 3 * reads * cfg.d_vocab
    itemsize = torch.empty(0, dtype=cfg.dtype).element_size()
    return max(1, memory // int((block + head + beside) * itemsize))


def read_columns(prompts: Prompts) -> int:
    """Columns at which a batch of these prompts is unembedded: all that any of them reads."""
    return max(1, int(prompts.reads[prompts.reads >= 0].unique().numel()))


def _bind(e: Edit, touched: Tensor, prompts: Tensor) -> Change:
    return lambda old: e.apply(old, touched, prompts)


def _point(model: HookedTransformer, points: Mapping[str, Any], site: Site) -> Any:
    if site.hook not in points:
        raise ModelError(f"{model.cfg.architecture} has no site {site.name} ({site.hook}); choose another site")
    return points[site.hook]


def _keeping(kept: dict[Site, Tensor], site: Site) -> Callable[..., Any]:
    def keep(tensor: Tensor, hook: Any) -> None:
        kept[site] = tensor

    return keep


def _editing(
    model: HookedTransformer, points: Mapping[str, Any], site: Site, functions: Sequence[Change]
) -> list[Hook]:
    def change(tensor: Tensor, hook: Any) -> Tensor:
        for function in functions:
            tensor = function(tensor)
        return tensor

    if site.name != "resid_mid":
        return [(_point(model, points, site), change)]

    before: dict[str, Tensor] = {}

    def remember(tensor: Tensor, hook: Any) -> None:
        before["pre"] = tensor

    def change_through_attention(tensor: Tensor, hook: Any) -> Tensor:
        return change(before["pre"] + tensor, hook) - before["pre"]

    _point(model, points, site)
    return [
        (_point(model, points, Site("resid_pre", site.layer)), remember),
        (_point(model, points, Site("attn_out", site.layer)), change_through_attention),
    ]


@contextmanager
def _skipping(model: HookedTransformer, start: int) -> Iterator[None]:
    """Replace the blocks below `start` by the identity."""
    below = list(model.blocks)[:start]
    try:
        for block in below:
            block.__dict__["forward"] = _identity
        yield
    finally:
        for block in below:
            block.__dict__.pop("forward", None)


def _identity(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _at_reads(logits: Tensor, reads: Tensor, columns: Tensor) -> Tensor:
    """Spread the logits of the union of columns over each row's own reads; nan where a row reads nothing."""
    place = torch.searchsorted(columns, reads.clamp(min=0)).clamp(max=len(columns) - 1)
    rows = torch.arange(len(reads), device=logits.device)[:, None]
    return logits[rows, place].masked_fill((reads < 0)[..., None], torch.nan)


def _store(
    store: dict[Site, Tensor],
    site: Site,
    found: Tensor,
    rows: Int[Tensor, " row"],
    real: Bool[Tensor, "prompt pos"],
    place: torch.device,
) -> None:
    """Write a batch into the whole, nan at padding. The buffer is no inference tensor, so autograd can read it.

    Padded queries are nan; padded keys keep the 0 that a causal model gives them, so that attention sums to 1.
    """
    n, width = real.shape
    sequence = [i for i, axis in enumerate(site.axes) if axis in ("pos", "query", "key")]
    if site not in store:
        size = [n, *found.shape[1:]]
        for axis in sequence:
            size[axis] = width
        store[site] = torch.full(size, torch.nan, dtype=found.dtype, device=place)
        if site.name == "pattern":
            store[site].zero_().masked_fill_(~real[:, None, :, None].to(place), torch.nan)
    if sequence:
        mask = real[rows, : found.shape[sequence[0]]]
        shown = [1] * found.ndim
        shown[0], shown[sequence[0]] = mask.shape
        found = found.masked_fill(~mask.to(found.device).reshape(shown), torch.nan)
    part = store[site]
    for axis in sequence:
        part = part.narrow(axis, 0, found.shape[axis])
    part.index_copy_(0, rows.to(place), found.to(place))
