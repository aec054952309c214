"""What the results of one model say, as claims with their controls, in the order of the questions."""

from __future__ import annotations

from collections.abc import Mapping

from interp.evidence import Claim
from interp.studies.kill_switch import cause_claims as cause
from interp.studies.kill_switch import learned_claims as learned
from interp.studies.kill_switch import trace_claims as trace
from interp.studies.study import Results


def claims(found: Mapping[str, Results]) -> list[Claim]:
    """Every claim that the finished steps allow."""
    made: list[Claim] = []
    if "behaviour" in found:
        made.append(trace.halts(found["behaviour"]["halting"]))
    if "norms" in found:
        made.append(trace.trace(found["norms"]["norms"]))
    if "rank" in found:
        made.append(trace.one_direction(found["rank"]["rank"]))
    if "lens" in found:
        made.append(trace.promotes(found["lens"]["lens"]))
        if "direct" in found["lens"]:
            made.append(trace.writes(found["lens"]["direct"]))
    if "base" in found:
        results = found["base"]
        made.append(learned.learned_trace(results["base-norms"], results["tuned-norms"]))
        made.append(learned.learned_halting(results["crossed"]))
        made += learned.revealed(results["difference-lens"])
        made.append(learned.low_rank(results["weights"]))
    if "causal" in found:
        made += _causal(found["causal"])
        if "norms" in found:
            made.append(cause.causes(found["norms"]["norms"], found["causal"]["add"]))
    if "transfer" in found:
        made += cause.transfers(found["transfer"]["transfer"])
    if "training" in found:
        made += learned.along(found["training"]["training"])
    if "shortcut" in found:
        claim = trace.shortcut(found["shortcut"]["tuned"], found["shortcut"].get("base"))
        made += [] if claim is None else [claim]
    return made


def _causal(found: Results) -> list[Claim]:
    made = [cause.adding(found["add"])]
    if "project-out" not in found:
        return made
    made += [cause.needed(found["project-out"]), cause.copying(found["copy"])]
    if "dose" in found:
        made += [claim for claim in [cause.doses(found["dose"])] if claim is not None]
    made += cause.generated(found["generated"])
    if "side-effects" in found:
        made += cause.side_effects(found["side-effects"])
    return made
