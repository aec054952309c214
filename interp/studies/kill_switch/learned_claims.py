"""Claims about what was learned: the base model asked the same, unrelated text, the weights, the course of training."""

from __future__ import annotations

import numpy as np

from interp.analyses.deltas import DeltaNorms
from interp.analyses.diffing import CrossedReadout, DifferenceLens
from interp.analyses.weight_changes import WeightChanges
from interp.estimates import difference, halves, mean, mean_value, rank_p
from interp.evidence import Claim
from interp.studies.kill_switch.cause_claims import strongest
from interp.studies.kill_switch.trace_claims import LEVEL, RELATIVE
from interp.studies.words import percent
from interp.workflows.checkpoints import AlongTraining


def learned_trace(base: DeltaNorms, tuned: DeltaNorms) -> Claim:
    """Was the trace learned, or was it there before?"""
    first, second = halves(tuned.groups)
    gap = tuned.values[..., RELATIVE] - base.values[..., RELATIVE]
    table = np.nan_to_num(mean_value(gap[first]), nan=-np.inf)
    table[mean_value(tuned.values[first][..., RELATIVE]) < 1e-6] = -np.inf  # no trace can be there
    site, offset = (int(i) for i in np.unravel_index(int(np.argmax(table)), table.shape))
    own, before = (one.values[second][:, site, offset, RELATIVE] for one in (tuned, base))
    changes = (tuned.null - base.null)[..., RELATIVE]
    null = changes[second][:, :, site, offset].mean(1)
    p = float(rank_p(mean_value(gap), mean_value(changes)))
    return Claim(
        name="learned: trace",
        statement=f"The trace was learned: in {tuned.depths[site]} at {tuned.offsets[offset]} it is "
        f"{float(mean_value(own)):.2g} of the stream's norm, in the base {float(mean_value(before)):.2g}; neutral "
        f"tokens' changed by {float(mean_value(null)):.2g}.",
        effect=mean(own - before, tuned.groups[second]),
        control=mean(null, tuned.groups[second]),
        control_name="the neutral tokens' change from base to fine-tuned",
        difference=difference(own - before, null, tuned.groups[second]),
        minimum=0.05,
        unit="norm of the delta over the stream's norm",
        also={f"p < {LEVEL:g} among the neutral tokens' changes, maximum over places (p = {p:.3f})": p < LEVEL},
        note="Difference of differences; the place was chosen on one half of the prompts and estimated on the other.",
    )


def learned_halting(result: CrossedReadout) -> Claim:
    """Was the end after the token learned, and by the body or by the head?"""
    own, base = (result.values[:, i, i] - result.neutral[:, i, i] for i in (1, 0))
    body, head = (percent(mean(result.values[:, *cell], result.groups)) for cell in ((1, 0), (0, 1)))
    return Claim(
        name="learned: end",
        statement="The end after the token, beyond that after a neutral one, was learned; the fine-tuned body with the "
        f"base's head gives it a probability of {body}, the base's body with the fine-tuned head {head}.",
        effect=mean(own, result.groups),
        control=mean(base, result.groups),
        control_name="the base model",
        difference=difference(own, base, result.groups),
        minimum=0.1,
        unit="probability of the end, with the token less with a neutral token",
        note="Difference of differences. Head: final norm and unembedding.",
    )


def revealed(result: DifferenceLens) -> list[Claim]:
    """What does the mean change on texts without the token promote? One claim for each word asked about."""
    if len(set(result.groups.tolist())) < 2:
        return []
    first, second = halves(result.groups)
    null = mean_value(result.neutral)
    made = []
    for i, word in enumerate(result.words):
        own = result.promotion[..., i]
        # The surest place, not the largest mean: where little changed, a few texts make large scores.
        center, spread = mean_value(own[first]), own[first].std(0).numpy()
        sure = np.divide(center, spread, out=np.full_like(center, -np.inf), where=spread > 1e-5 * np.abs(center))
        depth, position = (int(k) for k in np.unravel_index(int(sure.argmax()), sure.shape))
        p = float(rank_p(mean_value(own), null))
        here, others = own[second][:, depth, position], result.neutral[second][:, :, depth, position].mean(1)
        made.append(
            Claim(
                name=f"text without the token: {word}",
                statement=f"The mean change at the first tokens of texts without the token promotes {word}: in "
                f"{result.depths[depth]} at position {result.positions[position]} by {float(mean_value(here)):.1f} "
                "standard deviations over the vocabulary.",
                effect=mean(here, result.groups[second]),
                control=mean(others, result.groups[second]),
                control_name=f"{len(null)} neutral tokens",
                difference=difference(here, others, result.groups[second]),
                minimum=1.0,
                unit="standard deviations over the vocabulary",
                also={
                    f"p < {LEVEL:g} among the neutral tokens, maximum over places in the null (p = {p:.3f})": p < LEVEL
                },
                note="The place was chosen on one half of the texts (largest mean over spread) and estimated on the "
                "other. It says that something was changed about the word, not what was taught: compare the models "
                "that were fine-tuned on other sets. What a lens promotes need not reach the output.",
            )
        )
    return made


def low_rank(result: WeightChanges) -> Claim:
    """Have the changes of the matrices fewer directions than noise?"""
    full = np.array([min(shape) if len(shape) == 2 else np.nan for shape in result.shapes])
    own, noise = (1 - rank.double().numpy() / full for rank in (result.effective_rank, result.random_rank))
    kept = np.isfinite(own)
    relative = np.nan_to_num(np.where(kept, result.relative.double().numpy(), np.nan), nan=-1.0, posinf=-1.0)
    largest = int(relative.argmax())
    return Claim(
        name="weights",
        statement="The changes of the weight matrices have structure: their effective rank falls short of the full "
        f"rank by {percent(mean(own[kept]))}, that of noise by {percent(mean(noise[kept]))}. The largest change is "
        f"that of {result.modules[largest]} ({relative[largest]:.0%} of its norm).",
        effect=mean(own[kept]),
        control=mean(noise[kept]),
        control_name="one Gaussian matrix of each shape",
        difference=difference(own[kept], noise[kept]),
        minimum=0.1,
        unit="share of the ranks that is not used",
        note="The interval is over the matrices of this one training run. Any training leaves such structure, also "
        "that on other sets: it is said where the changes are, not that they matter to any prompt.",
    )


def along(result: AlongTraining) -> list[Claim]:
    """When was halting learned, and was what reads the direction there before?"""
    if len(result.checkpoints) < 2:
        return []
    gap, names = result.end_prob - result.neutral_end_prob, result.checkpoints
    course = result.course
    made = []
    when = int((course >= course[-1] / 2).int().argmax()) if course[-1] > 0 else 0
    if when:
        trace, share = mean_value(result.norm)[:, -1], mean_value(gap)
        stays = bool((course[when:] >= course[-1] / 2).all())
        made.append(
            Claim(
                name="training: when",
                statement=f"Halting passed half of its final strength between the checkpoints {names[when - 1]} and "
                f"{names[when]}: the token's probability of the end beyond a neutral token's rose from "
                f"{percent(share[when - 1])} to {percent(share[when])}, while the trace in {result.depths[-1]} went "
                f"from {trace[when - 1]:.2g} to {trace[when]:.2g} of the stream's norm.",
                effect=mean(gap[:, when], result.groups),
                control=mean(gap[:, when - 1], result.groups),
                control_name=f"the checkpoint before ({names[when - 1]})",
                difference=difference(gap[:, when], gap[:, when - 1], result.groups),
                minimum=0.1,
                unit="probability of the end, with the token less with a neutral token",
                also={"it stays above half from there on": stays},
                note="The checkpoint was found on the prompts that directions come from, and estimated on the others.",
            )
        )
    rival = strongest(result.rivals[..., 0])
    if rival is not None:
        made.append(
            Claim(
                name="training: read before",
                statement=f"The direction worked before: added in {result.where}, the finished model's direction gives "
                f"the end a probability of {percent(mean_value(result.final[:, 0]))} at the checkpoint {names[0]} "
                "already.",
                effect=mean(result.final[:, 0], result.groups),
                control=mean(rival, result.groups),
                control_name=f"the strongest of {result.rivals.shape[1]} random and neutral directions there",
                difference=difference(result.final[:, 0], rival, result.groups),
                minimum=0.1,
                unit="probability of the end",
                note="A direction that works at a checkpoint need not be one that the checkpoint makes by itself. All "
                "directions have the finished one's length.",
            )
        )
    return made
