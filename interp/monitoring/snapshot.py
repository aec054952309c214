"""One look at a judge: verdicts, what each layer writes, where the classes part, which heads and layers count.

Everything is run in batches over a fixed probe and kept prompt by prompt; means, intervals and nulls are made later,
from the records.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.analyses.separation import separation
from interp.analyses.token_attribution import Method, token_attribution
from interp.errors import ConfigError
from interp.models.judge import LOG_ODDS, Judge
from interp.models.run import MEMORY, capture
from interp.monitoring.probe import Probe
from interp.prompts import PromptPairs, Prompts
from interp.sites import Site
from interp.tensors import Activations
from interp.workflows.judge_heads import judge_heads
from interp.workflows.paths import safe_unsafe_paths

RULE = ("act", "object", "context")
"""Roles of the words that decide, where the probe's spans name them."""
_STREAM = ("resid_pre", "resid_mid", "attn_out", "mlp_out")


@dataclass(frozen=True, eq=False)
class Questions:
    """A probe in a judge's tokens: made once, asked at every snapshot."""

    texts: Prompts
    unsafe: Bool[Tensor, " prompt"]
    explained: Prompts | None
    pairs: PromptPairs | None
    """The unsafe side is called clean here."""
    heads: Prompts | None
    """The texts on which heads are measured."""
    heads_unsafe: Bool[Tensor, " some"]
    method: Method
    """How tokens are attributed."""
    neutral: int
    """The token that stands for no word: the unknown one where the tokenizer has it, else the texts' commonest."""

    @classmethod
    def of(cls, judge: Judge, probe: Probe, *, method: Method = "leave one out", heads: int = 24) -> Questions:
        """The probe's texts in the judge's template. `heads` texts are taken for measuring heads; 0 leaves that out.

        Raises PromptError where the texts cannot be asked, before training has cost anything.
        """
        if heads < 0:
            raise ConfigError(f"heads are measured on so many texts, 0 or more, not {heads}")
        spans = probe.spans or None
        texts = judge.prompts(probe.texts, groups=torch.tensor(probe.groups), spans=spans)
        sides = [
            judge.prompts(some, groups=torch.tensor([pair.group for pair in probe.pairs])) if some else None
            for some in ([pair.unsafe for pair in probe.pairs], [pair.safe for pair in probe.pairs])
        ]
        known = any(role in texts.roles for role in RULE)
        inside = _inside(texts)
        rows = list(probe.alternating(heads))
        return cls(
            texts,
            torch.tensor(probe.unsafe),
            texts.take(list(probe.explained)) if probe.explained else None,
            PromptPairs(sides[0], sides[1]) if sides[0] is not None and sides[1] is not None else None,
            texts.take(rows) if rows and known else None,
            torch.tensor(probe.unsafe)[rows],
            method,
            _neutral(judge.model.tokenizer, texts.tokens[inside]),
        )

    def tokens(self, judge: Judge) -> list[list[str]]:
        """The pieces of the explained texts as they were written."""
        if self.explained is None:
            return []
        before, after = judge.template.split("{prompt}")
        found = []
        for text, inside in zip(self.explained.texts, _inside(self.explained), strict=True):
            whole = f"{before}{text}{after}"
            places = judge.places(whole)
            found.append([whole[slice(*places[i])] for i in inside.nonzero().flatten().tolist()])
        return found


@dataclass(frozen=True, eq=False)
class Snapshot:
    """What a judge does at one moment of its training. Parts that were not asked have no prompts."""

    log_odds: Float[Tensor, " prompt"]
    """Of unsafe; nats."""
    attention: Float[Tensor, "prompt layer"]
    """Norm of what attention adds at the verdict's position, over that of the stream it is added to."""
    mlp: Float[Tensor, "prompt layer"]
    separation: Float[Tensor, "prompt depth"]
    """Scores along the difference of the classes' means, learned on other groups; above 0 is the unsafe side."""
    tokens: tuple[Float[Tensor, " _"], ...]
    """Shares of the explained texts' tokens in the log-odds, above 0 towards unsafe; nats."""
    unexplained: Float[Tensor, " text"]
    """What the shares lack of the difference of the log-odds, as a share of it; nan where they need not add up."""
    head_attention: Float[Tensor, "some layer head"]
    """Share of the attention from the verdict on the words that decide, beyond uniform attention's."""
    head_direct: Float[Tensor, "some layer head"]
    """What a head writes into the log-odds; nats."""
    head_ablation: Float[Tensor, "some layer head"]
    """Log-odds less those without the head; nats."""
    moved: Float[Tensor, "pair layer"]
    """Nats by which a layer's output carries the verdict from one twin to the other."""
    distance: Float[Tensor, "pair depth"]
    """Between the twins at the verdict, over the mean norm of both."""


def snapshot(judge: Judge, asked: Questions, *, memory: int = MEMORY) -> Snapshot:
    """Ask everything once. Leaves the model as it was."""
    found, log_odds, attention, mlp = _at_verdict(judge, asked.texts, memory)
    layers, heads = int(judge.model.cfg.n_layers), int(judge.model.cfg.n_heads)
    apart = separation(found, asked.unsafe, position="verdict")
    tokens: tuple[Tensor, ...] = ()
    lacking = torch.zeros(0)
    if asked.explained is not None:
        shares = token_attribution(
            judge, asked.explained, method=asked.method, baseline=asked.neutral, steps=32, most_steps=128, memory=memory
        )
        inside = _inside(asked.explained)
        tokens = tuple(row[kept] for row, kept in zip(shares.values, inside, strict=True))
        lacking = torch.full_like(shares.score, torch.nan) if asked.method == "leave one out" else shares.error
    measures = [torch.zeros(0, layers, heads)] * 3
    if asked.heads is not None:
        made = judge_heads(judge, asked.heads, asked.heads_unsafe, rule=RULE, memory=memory)
        measures = [made.attention - made.uniform[:, None, None], made.direct, made.ablation]
    moved, distance = torch.zeros(0, layers), torch.zeros(0, layers + 1)
    if asked.pairs is not None:
        paths = safe_unsafe_paths(judge, asked.pairs.clean, asked.pairs.corrupted, memory=memory)
        moved, distance = paths.moved, paths.distance
    looks, direct, ablated = measures
    return Snapshot(
        log_odds, attention, mlp, apart.scores, tokens, lacking, looks, direct, ablated, moved, distance
    )  # fmt: skip


def _at_verdict(
    judge: Judge, prompts: Prompts, memory: int
) -> tuple[Activations, Float[Tensor, " prompt"], Float[Tensor, "prompt layer"], Float[Tensor, "prompt layer"]]:
    """The stream where the verdict is read, as activations of one column, the log-odds, and both kinds of norms.

    Prompts go through in parts, so that no more than `memory` bytes are held for all positions of all layers.
    """
    cfg = judge.model.cfg
    last = Site("resid_post", int(cfg.n_layers) - 1)
    bytes_each = prompts.tokens.shape[1] * (len(_STREAM) * int(cfg.n_layers) + 1) * int(cfg.d_model) * 4
    size = max(1, memory // bytes_each)
    kept: dict[Site, list[Tensor]] = {}
    odds, norms = [], []
    for rows in torch.arange(len(prompts)).split(size):
        some = prompts.take(rows)
        found = capture(judge.model, some, [*_STREAM, last, "logits"], memory=memory)
        odds.append(LOG_ODDS.score(found["logits"], judge.targets(some)).cpu())
        here = {site: _column(tensor, some) for site, tensor in found.tensors.items() if site.name != "logits"}
        norms.append(torch.stack([_relative(here, int(cfg.n_layers), *names) for names in _WRITES]))
        for site, tensor in here.items():
            if site.name in ("resid_pre", "resid_post"):
                kept.setdefault(site, []).append(tensor[:, None])
    tensors = {site: torch.cat(parts) for site, parts in kept.items()}
    both = torch.cat(norms, 1)
    return Activations(_verdicts_only(prompts), tensors, int(cfg.n_layers)), torch.cat(odds), both[0], both[1]


_WRITES = (("attn_out", "resid_pre"), ("mlp_out", "resid_mid"))
"""What writes to the stream, and the stream that it is added to."""


def _relative(here: dict[Site, Tensor], layers: int, written: str, stream: str) -> Float[Tensor, "prompt layer"]:
    norms = [here[Site(written, i)].norm(dim=-1) / here[Site(stream, i)].norm(dim=-1) for i in range(layers)]
    return torch.stack(norms, 1)


def _column(tensor: Float[Tensor, "prompt pos d_model"], prompts: Prompts) -> Float[Tensor, "prompt d_model"]:
    rows = torch.arange(len(prompts), device=tensor.device)
    return tensor[rows, prompts.columns("verdict").to(tensor.device)].float().cpu()


def _verdicts_only(prompts: Prompts) -> Prompts:
    """The prompts as if their one token were the last."""
    rows = torch.arange(len(prompts))
    zero = torch.zeros(len(prompts), dtype=torch.long)
    return replace(
        prompts, tokens=prompts.tokens[rows, prompts.columns("verdict")][:, None], lengths=zero + 1,
        reads=zero[:, None], roles={"verdict": zero},
    )  # fmt: skip


def _neutral(tokenizer: Any, tokens: Int[Tensor, " token"]) -> int:
    unknown = tokenizer.unk_token_id
    if unknown is None or unknown in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        return int(tokens.mode().values)
    return int(unknown)


def _inside(prompts: Prompts) -> Bool[Tensor, "prompt pos"]:
    """The tokens of the texts, without the template's."""
    columns = torch.arange(prompts.tokens.shape[1])
    first, last = prompts.columns("text.first")[:, None], prompts.columns("text.last")[:, None]
    return (columns >= first) & (columns <= last)
