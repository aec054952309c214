"""At which depth is the answer readable? The residual stream through the final norm and the unembedding.

Source: nostalgebraist, "interpreting GPT: the logit lens" (LessWrong, 2020). The lens reads what is already in the
basis of the output; what a layer knows in another form it does not show (Belrose et al., "Eliciting Latent Predictions
with the Tuned Lens", arXiv 2303.08112), so "not readable" is not "not known".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, PromptError
from interp.metrics import METRICS, Targets, divergence
from interp.models.harvest import harvest
from interp.models.load import HookedTransformer
from interp.models.run import MEMORY, unembed
from interp.prompts import Position, Prompts
from interp.results import grid_frame
from interp.sites import Site
from interp.tensors import Activations, gather_positions


@dataclass(frozen=True, eq=False)
class LogitLens:
    """What each depth would predict at each position. Depth 0 is the embedding, the last is the model's output."""

    depths: tuple[str, ...]
    positions: tuple[str, ...]
    log_prob: Float[Tensor, "prompt depth position"]
    """Log-probability of the answer, nats."""
    logit_diff: Float[Tensor, "prompt depth position"]
    """Logit of the answer minus logit of the foil; nan where no foil was given."""
    rank: Float[Tensor, "prompt depth position"]
    """Other tokens with at least the answer's logit; 0 is the top, alone."""
    entropy: Float[Tensor, "prompt depth position"]
    """Of the lens' distribution, nats."""
    kl: Float[Tensor, "prompt depth position"]
    """Divergence from the model's final distribution to the lens', nats; 0 at the last depth."""
    control: Float[Tensor, "prompt depth position"]
    """Log-probability of another prompt's answer at the same position, where that differs: the control."""
    control_rank: Float[Tensor, "prompt depth position"]
    top_ids: Int[Tensor, "prompt depth position k"]
    top_probs: Float[Tensor, "prompt depth position k"]
    converged: Float[Tensor, "prompt position"]
    """First depth from which the answer stays the top token; nan where it is not the top at the end."""
    tokens: Mapping[str, str]
    """Text of every token id (as a string) among the top ones and the answers."""
    answers: Int[Tensor, "prompt position"]
    texts: tuple[str, ...]
    groups: Int[Tensor, " prompt"]

    @property
    def right(self) -> Float[Tensor, "prompt depth position"]:
        """1 where the answer is the top token, nan where there is none."""
        return (self.rank == 0).float().masked_fill(self.rank.isnan(), torch.nan)

    @property
    def control_right(self) -> Float[Tensor, "prompt depth position"]:
        """1 where another prompt's answer is the top token."""
        return (self.control_rank == 0).float().masked_fill(self.control_rank.isnan(), torch.nan)

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt, depth and position."""
        return grid_frame(
            {"depth": self.depths, "position": self.positions},
            log_prob=self.log_prob,
            logit_diff=self.logit_diff,
            rank=self.rank,
            entropy=self.entropy,
            kl=self.kl,
            control=self.control,
            control_rank=self.control_rank,
        )


def logit_lens(
    activations: Activations | Prompts,
    model: HookedTransformer,
    *,
    at: Sequence[Position] | None = None,
    foils: Int[Tensor, "prompt position"] | None = None,
    top: int = 5,
    seed: int = 0,
    memory: int = MEMORY,
) -> LogitLens:
    """Read the residual stream of every depth at the columns the prompts read, or at the positions `at`.

    Activations need `resid_pre` of every layer and `resid_post` of the last. Prompts are run once, some at a time, and
    of their stream only what is read is kept, so that memory does not grow with their length. With `at` the answer is
    the token that follows in the prompt (at its end, the prompt's answer if it has one). `foils` are wrong tokens to
    compare the answer with (for pairs, the corrupted answers). Works on raw and on processed weights: the numbers do
    not depend on it. Working tensors fit `memory` bytes.
    """
    if isinstance(activations, Prompts):
        prompts, sites = activations, ["resid_pre", Site("resid_post", int(model.cfg.n_layers) - 1)]
        chosen = []
        for part in harvest(model, prompts, sites, memory=memory):
            chosen.append(_chosen(part, at))
            del part  # before the next is made
    else:
        prompts, chosen = activations.prompts, [_chosen(activations, at)]
    stream, answers = torch.cat([part[0] for part in chosen]), torch.cat([part[1] for part in chosen])
    names = chosen[0][2]
    others = _other_answers(answers, seed)
    n, n_depths, n_positions, _ = stream.shape
    if top < 1:
        raise ConfigError(f"the lens tells at least one top token, not {top}")
    if foils is not None and (foils.shape != answers.shape or int(foils.max()) >= int(model.cfg.d_vocab_out)):
        raise PromptError(
            f"foils are tokens of the vocabulary, one for each of {n} prompts and {n_positions} positions"
        )
    top = min(top, int(model.cfg.d_vocab_out))
    absent = stream.isnan().any(-1)[:, 0].cpu()
    wrong_ones = torch.full_like(answers, -1) if foils is None else foils.cpu()
    vocabulary = int(model.cfg.d_vocab_out)
    rows = max(1, memory // (vocabulary * 4 * 6 * max(1, n_positions)))
    parts: list[list[Tensor]] = []
    for some in torch.arange(n).split(max(1, rows // n_depths)):
        final, found = torch.empty(0), []
        for depths in reversed(torch.arange(n_depths).split(max(1, rows // len(some)))):
            log_probs = unembed(model, stream[some][:, depths].flatten(0, 1)).float().log_softmax(-1).cpu()
            if not found:
                final = log_probs.unflatten(0, (len(some), -1))[:, -1]
            own = torch.arange(len(some)).repeat_interleave(len(depths))
            scored = _scored(
                log_probs, final[own], Targets(answers, wrong_ones).take(some[own]), Targets(others).take(some[own]),
                top,
            )  # fmt: skip
            found.append([column.unflatten(0, (len(some), -1)) for column in scored])
        parts.append([torch.cat(column, 1) for column in zip(*reversed(found), strict=True)])
    joined = [torch.cat(columns) for columns in zip(*parts, strict=True)]
    log_prob, logit_diff, rank, control, control_rank, kl, entropy, top_ids, top_probs = joined
    gone = absent[:, None].expand(-1, n_depths, -1)
    ids = torch.cat([top_ids.flatten(), answers[answers >= 0]]).unique().tolist()
    decode = getattr(model.tokenizer, "decode", None)
    return LogitLens(
        depths=("embed", *(f"layer {i}" for i in range(n_depths - 1))),
        positions=names,
        log_prob=log_prob.masked_fill(gone, torch.nan),
        logit_diff=logit_diff.masked_fill(gone, torch.nan),
        rank=rank.masked_fill(gone, torch.nan),
        entropy=entropy.masked_fill(gone, torch.nan),
        kl=kl.masked_fill(gone, torch.nan).clamp(min=0),
        control=control.masked_fill(gone, torch.nan),
        control_rank=control_rank.masked_fill(gone, torch.nan),
        top_ids=top_ids.masked_fill(gone[..., None], -1),
        top_probs=top_probs.masked_fill(gone[..., None], torch.nan),
        converged=_converged(rank.masked_fill(gone, torch.nan)),
        tokens={str(i): str(decode([i])) if decode else str(i) for i in ids},
        answers=answers,
        texts=prompts.texts,
        groups=prompts.groups,
    )


def _scored(
    log_probs: Float[Tensor, "row position vocab"],
    final: Float[Tensor, "row position vocab"],
    targets: Targets,
    others: Targets,
    top: int,
) -> list[Tensor]:
    """The lens's numbers for some rows, each of a prompt and a depth; `final` is what the last depth says."""
    # The logit of log-probabilities is the log-probability.
    asked = [(name, targets) for name in ("logit", "logit_diff", "rank")]
    asked += [(name, others) for name in ("logit", "rank")]
    best = log_probs.topk(top, -1)
    return [
        *(METRICS[name].per_token(log_probs, wanted) for name, wanted in asked),
        divergence(final, log_probs),
        torch.special.entr(log_probs.exp()).sum(-1),
        best.indices,
        best.values.exp(),
    ]


def _chosen(
    activations: Activations, at: Sequence[Position] | None
) -> tuple[Float[Tensor, "prompt depth position d_model"], Int[Tensor, "prompt position"], tuple[str, ...]]:
    """The stream at the wanted positions, with the answer there."""
    prompts = activations.prompts
    columns = prompts.reads if at is None else prompts.table(at)
    answers = prompts.answers if at is None else _following(prompts, columns)
    names = prompts.read_names if at is None else tuple(map(str, at))
    roles = {str(i): column for i, column in enumerate(columns.T)}
    placed = replace(prompts, roles=roles)
    picked = torch.stack([gather_positions(activations[one], placed, list(roles)) for one in activations.depths()], 1)
    return picked, answers, names


def _following(prompts: Prompts, columns: Int[Tensor, "prompt position"]) -> Int[Tensor, "prompt position"]:
    """The token after each column; at a read column the prompt's own answer; -1 where there is neither."""
    after = (columns + 1).clamp(max=prompts.tokens.shape[1] - 1)
    inside = (columns >= 0) & (columns + 1 < prompts.lengths[:, None])
    found = torch.where(inside, prompts.tokens.gather(1, after), -1)
    for read, answer in zip(prompts.reads.T, prompts.answers.T, strict=True):
        found = torch.where((columns == read[:, None]) & (columns >= 0), answer[:, None], found)
    return found


def _other_answers(answers: Int[Tensor, "prompt position"], seed: int) -> Int[Tensor, "prompt position"]:
    """At each position another prompt's answer there, where it differs from the own; -1 where it does not."""
    order = torch.randperm(len(answers), generator=torch.Generator().manual_seed(seed))
    shuffled = torch.full_like(answers, -1)
    for column in range(answers.shape[1]):
        present = order[answers[order, column] >= 0]
        shuffled[present, column] = answers[present.roll(1), column]
    return torch.where(shuffled == answers, -1, shuffled)


def _converged(rank: Float[Tensor, "prompt depth position"]) -> Float[Tensor, "prompt position"]:
    stays = (rank == 0).flip(1).int().cumprod(1).sum(1)
    return torch.where(stays > 0, (rank.shape[1] - stays).float(), torch.nan)
