"""The checklist of the study: layer, rank, logits, cause; strong, medium or weak, with the rule beside each row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from interp.estimates import mean_value, rank_p
from interp.studies.kill_switch.cause_claims import causes
from interp.studies.kill_switch.trace_claims import LEVEL
from interp.studies.study import Results

_RULES = {
    "layer": "strong: beyond the neutral tokens (p < 0.05, maximum over places in the null) and, somewhere after the "
    "embedding, three times the upper end of their band; medium: p < 0.05; weak otherwise",
    "rank": "strong: p < 0.05 against neutral tokens (maximum over depths in the null) and more of the squared length "
    "along the mean than for any neutral token at some depth after the embedding, and one uncentred component for 80 % "
    "there; medium: p < 0.05 against neutral tokens; weak otherwise",
    "logits": "strong: p < 0.05 against neutral tokens, the end is the most promoted token after the last layer "
    "(median rank 0) and its z exceeds every neutral token's; medium: p < 0.05 against neutral tokens; weak otherwise",
    "cause": "strong: adding and projecting out both exceed every random and neutral direction, and the claim on "
    "causes is supported; medium: one of the two does; weak otherwise",
}


def checklist(found: Mapping[str, Results]) -> list[dict[str, Any]]:
    """The table of the page; rows whose analysis was not run are left out."""
    rows = []
    if "norms" in found:
        rows.append(("layer", *_layer(found["norms"]["norms"])))
    if "rank" in found:
        rows.append(("rank", *_rank(found["rank"]["rank"])))
    if "lens" in found:
        rows.append(("logits", *_logits(found["lens"]["lens"])))
    if "causal" in found and "norms" in found:
        rows.append(("cause", *_cause(found)))
    if not rows:
        return []
    return [
        {
            "title": "Checklist",
            "text": "How strong the evidence is, row by row, with the rule that decided.",
            "columns": ["question", "evidence", "what was found", "rule"],
            "rows": [[name, strength, said, _RULES[name]] for name, strength, said in rows],
        }
    ]


def _layer(result: Any) -> tuple[str, str]:
    p, form = result.p_value(), result.form()[0]
    own, high = result.estimate().value[:, 0], result.band()[2][:, 0]
    deep = [i for i, name in enumerate(result.depths) if name != "embed"]
    times = float(np.nanmax(own[deep] / high[deep]))
    strength = "weak" if p >= LEVEL else "strong" if times >= 3 else "medium"
    return strength, f"{form}; p = {p:.3f}; up to {times:.1f} times the upper end of the neutral tokens' band"


def _rank(result: Any) -> tuple[str, str]:
    deep = [i for i, name in enumerate(result.depths) if name != "embed"]
    own, null = result.mean_share[deep].numpy(), result.null_mean_share[:, deep].numpy()
    p = float(rank_p(own, null))
    single = result.components80[deep, 0].numpy() == 1
    strong = p < LEVEL and bool(((own > null.max(0)) & single).any())
    best = deep[int(own.argmax())]
    fewest = (
        f"{result.components80[best, 0]:g} uncentred and {result.components80[best, 1]:g} centred components for 80 %"
    )
    neutral = float(null[:, own.argmax()].mean())
    said = f"{result.depths[best]}: {float(own.max()):.0%} along the mean (neutral tokens {neutral:.0%}), {fewest}"
    return "strong" if strong else "medium" if p < LEVEL else "weak", f"{said}; p = {p:.3f}"


def _logits(result: Any) -> tuple[str, str]:
    own, null = mean_value(result.z), mean_value(result.null_z)
    p, rank = float(rank_p(own, null)), float(np.nanmedian(result.rank[:, -1].numpy()))
    strong = p < LEVEL and rank == 0 and own[-1] > null[:, -1].max()
    said = (
        f"after the last layer z = {own[-1]:.1f} (neutral tokens at most {null[:, -1].max():.1f}), median rank {rank:g}"
    )
    return "strong" if strong else "medium" if p < LEVEL else "weak", f"{said}; p = {p:.3f}"


def _cause(found: Mapping[str, Results]) -> tuple[str, str]:
    add, out = found["causal"]["add"], found["causal"]["project-out"]
    exceed = [float(grid.beyond().low) > 0 for grid in (add, out)]
    claim = causes(found["norms"]["norms"], add)
    both = all(exceed) and claim.verdict == "supported"
    said = (
        f"adding moves the probability by {float(add.effect().value):+.2f}, projecting out by "
        f"{-float(out.effect().value):+.2f}; the claim on causes is {claim.verdict}"
    )
    return "strong" if both else "medium" if any(exceed) else "weak", said
