"""Is the trace of a control token one direction? Spectra of its deltas beside those of every neutral token.

One direction that all prompts share is the *mean* of the deltas: centring removes just that, and the first component
of what is left is the largest way in which prompts differ. So both spectra are given, with the share of the mean.
Every token has some mean delta, its embedding, and few components for 80 % are common among neutral tokens: they are
the null. Nothing here says that the model uses the direction.

Sources: effective rank, Roy & Vetterli (EUSIPCO 2007); parallel analysis, Horn, Psychometrika 30 (1965) 179.
"""

from __future__ import annotations

import warnings as python_warnings
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ConfigError, RankWarning
from interp.estimates import halves
from interp.models.contrast import TwinRuns, depth_name, offset_name
from interp.spectra import Moments, auc, limited_rank, parallel_analysis, spectrum
from interp.twins import TOKEN, Twins

_BUDGET = 1 << 30


@dataclass(frozen=True, eq=False)
class DeltaRank:
    """Spectra of the control token's deltas at one position, depth by depth; eigenvalues are mean squared lengths."""

    token: str
    neutral: tuple[str, ...]
    depths: tuple[str, ...]
    offset: str
    prompts: int
    centred: Float[Tensor, "depth component"]
    uncentred: Float[Tensor, "depth component"]
    parallel: Float[Tensor, "depth component"]
    """95 % quantile of the centred eigenvalues of as many vectors of independent coordinates with the same
    variances."""
    null_centred: Float[Tensor, "neutral depth component"]
    """Of each neutral token; nan for those beyond the memory that was allowed."""
    null_uncentred: Float[Tensor, "neutral depth component"]
    mean_share: Float[Tensor, " depth"]
    """Squared length of the mean delta over the mean squared length: 1 is the same vector for every prompt."""
    null_mean_share: Float[Tensor, "neutral depth"]
    components80: Float[Tensor, "depth kind"]
    """Components for 80 % of the squared length: uncentred, centred."""
    effective_rank: Float[Tensor, "depth kind"]
    cosine: Float[Tensor, "depth kind"]
    """Cosine of the first component with the mean delta: uncentred, centred."""
    scores: Float[Tensor, "prompt depth direction"]
    """Deltas of the held-out prompts along the mean delta and the first two centred components of the others."""
    lengths: Float[Tensor, "prompt depth"]
    """Lengths of the held-out prompts' deltas."""
    null_scores: Float[Tensor, "prompt neutral depth"]
    """Neutral tokens' deltas of the held-out prompts along the control token's mean delta."""
    auc: Float[Tensor, " depth"]
    """Held-out: chance that the control token's delta lies further along its mean delta than a neutral token's."""
    null_auc: Float[Tensor, "neutral depth"]
    """The same with each neutral token as the control token."""
    searched_share: Float[Tensor, " depth"]
    """Share of the mean on the prompts that the directions come from: depths are chosen by it."""
    own_share: Float[Tensor, "prompt depth"]
    """Held-out: share of each delta's squared length along the mean delta of the other prompts."""
    null_share: Float[Tensor, "prompt neutral depth"]
    """The same of each neutral token along its own mean delta."""
    contexts: Int[Tensor, ""]
    """Distinct texts up to the position."""
    warnings: tuple[str, ...]
    held_out: Int[Tensor, " prompt"]
    """Which prompts: directions come from the others, which share no group with them."""
    groups: Int[Tensor, " prompt"]

    def to_frame(self) -> pd.DataFrame:
        """One row for each depth and component."""
        index = pd.MultiIndex.from_product([self.depths, range(self.centred.shape[1])], names=["depth", "component"])
        columns = {"centred": self.centred, "uncentred": self.uncentred, "parallel": self.parallel}
        return pd.DataFrame({n: c.numpy().reshape(-1) for n, c in columns.items()}, index=index).reset_index()


def delta_rank(runs: TwinRuns, *, offset: int = 0, seed: int = 0, memory: int = _BUDGET) -> DeltaRank:
    """Spectra at one position after the token, at every site of `runs`.

    Vectors are streamed: half of the prompts give the directions, the other half is projected on them. Spectra of
    neutral tokens take 8 d^2 bytes a site and token; as many are made as fit `memory`.
    """
    twins = runs.twins
    if offset not in runs.offsets:
        raise ConfigError(f"there is no offset {offset} in these runs; they have {runs.offsets}")
    place = runs.offsets.index(offset)
    first, _ = (torch.from_numpy(mask) for mask in halves(twins.prompts.groups, seed=seed))
    n_tokens, n_sites, width = len(twins.ids), len(runs.sites), int(runs.model.cfg.d_model)
    full = max(1, min(n_tokens, int(memory // (8 * n_sites * width**2))))
    moments = Moments.empty((full, n_sites), width)
    halved = Moments.empty((n_sites,), width)
    sums = torch.zeros(n_tokens, n_sites, width, dtype=torch.float64)
    everything = torch.zeros(n_tokens, n_sites, width, dtype=torch.float64)
    sizes = torch.zeros(n_sites, dtype=torch.float64)
    squares = torch.zeros(n_tokens, n_sites, dtype=torch.float64)
    counts = torch.zeros(2)
    searched_square = torch.zeros(n_sites, dtype=torch.float64)
    for batch in runs:
        deltas = batch.deltas[:, :, :, place].transpose(1, 2)
        there = ~deltas[0, 0].isnan().any(-1)
        deltas, mine = deltas[:, :, there], first[batch.rows][there]
        moments.update(deltas[:full])
        halved.update(deltas[0][:, mine])
        sums += deltas[:, :, mine].double().sum(2)
        everything += deltas.double().sum(2)
        squares += deltas.double().square().sum((2, 3))
        sizes += batch.vectors[:, there][:, :, :, place].double().square().sum((0, 1, 3)) / n_tokens
        searched_square += deltas[0][:, mine].double().square().sum((1, 2))
        counts += torch.tensor([float(mine.sum()), float(len(mine))])
    rounding = (2 * torch.finfo(runs.model.cfg.dtype).eps) ** 2 * sizes / counts[1]
    for part in (moments, halved):
        _without_rounding(part, rounding)
    ways = sums / sums.norm(dim=-1, keepdim=True)
    basis = torch.cat([ways[0][:, None], spectrum(halved, top=2).directions], 1)
    scores, lengths, every_length, along, across, rows = [], [], [], [], [], []
    for batch in runs:
        kept = ~first[batch.rows]
        if not bool(kept.any()):
            continue
        deltas = batch.deltas[:, kept, :, place].double()
        scores.append(torch.einsum("psd,skd->psk", deltas[0], basis))
        lengths.append(deltas[0].norm(dim=-1))
        every_length.append(deltas.norm(dim=-1).transpose(0, 1))
        across.append(torch.einsum("upsd,sd->pus", deltas[1:], ways[0]))
        along.append(torch.einsum("upsd,tsd->ptus", deltas, ways))
        rows.append(batch.rows[kept])
    own = torch.cat(along)  # [prompt, direction, token, site]
    tokens = torch.arange(n_tokens)
    shares = (own[:, tokens, tokens] / torch.cat(every_length)).square()  # [prompt, token, site]
    areas = torch.stack([_area(own, token) for token in range(n_tokens)])
    found = spectrum(moments, top=2)
    share = (everything / counts[1]).square().sum(-1) / (squares / counts[1])
    contexts = _contexts(twins, offset)
    said = tuple(filter(None, [limited_rank(contexts, int(counts[1]), width)]))
    if full < min(n_tokens, 40):
        said += (f"spectra of {full - 1} neutral tokens alone fit the memory; raise memory for more",)
    for line in said:
        python_warnings.warn(line, RankWarning, stacklevel=2)
    null = torch.full((2, n_tokens - 1, n_sites, width), torch.nan, dtype=torch.float64)
    null[0, : full - 1], null[1, : full - 1] = found.eigenvalues[1:], found.uncentred_eigenvalues[1:]

    def both(name: str) -> Tensor:
        return torch.stack([getattr(found, name)(centred=c)[0] for c in (False, True)], -1)

    return DeltaRank(
        token=twins.token,
        neutral=twins.names,
        depths=tuple(map(depth_name, runs.sites)),
        offset=offset_name(offset),
        prompts=int(counts[1]),
        centred=found.eigenvalues[0],
        uncentred=found.uncentred_eigenvalues[0],
        parallel=parallel_analysis(moments.sd[0], moments.n[0], seed=seed),
        null_centred=null[0],
        null_uncentred=null[1],
        mean_share=share[0],
        null_mean_share=share[1:],
        components80=both("components_for"),
        effective_rank=both("effective_rank"),
        cosine=both("cosine"),
        scores=torch.cat(scores),
        lengths=torch.cat(lengths),
        null_scores=torch.cat(across),
        auc=areas[0],
        null_auc=areas[1:],
        searched_share=(sums[0] / counts[0]).square().sum(-1) / (searched_square / counts[0]),
        own_share=shares[:, 0].clone(),
        null_share=shares[:, 1:].clone(),
        contexts=torch.tensor(contexts),
        warnings=said,
        held_out=torch.cat(rows),
        groups=twins.prompts.groups[torch.cat(rows)],
    )


def _without_rounding(moments: Moments, rounding: Float[Tensor, " site"]) -> None:
    """Take away a variance that is no more than the vectors' own rounding: where a token adds the same to every
    prompt (its embedding), that is no spectrum."""
    variance = moments.scatter.diagonal(dim1=-2, dim2=-1).sum(-1) / moments.n
    moments.scatter.masked_fill_((variance <= rounding)[..., None, None], 0.0)


def _area(along: Float[Tensor, "prompt direction token site"], token: int) -> Float[Tensor, " site"]:
    """AUC of a token's held-out deltas over those of the neutral tokens, along its own mean delta."""
    mine = along[:, token]
    others = [u for u in range(1, mine.shape[1]) if u != token]
    return auc(mine[:, token], mine[:, others].flatten(0, 1))


def _contexts(twins: Twins, offset: int) -> int:
    """Distinct texts up to the position."""
    prompts = twins.prompts
    ends = prompts.roles[TOKEN] + offset
    there = (ends >= 0) & (ends < prompts.lengths)
    rows: Sequence[list[int]] = prompts.tokens[there].tolist()
    return len({tuple(row[: end + 1]) for row, end in zip(rows, ends[there].tolist(), strict=True)})
