"""The files of a run as other tools read them, and the dashboard over them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from interp.circuits.activity import Activity
from interp.circuits.feature_contrast import FeatureContrast
from interp.circuits.feature_text import top_contexts, written_tokens
from interp.circuits.motif_contrast import MotifContrast
from interp.circuits.motifs import EdgeSets
from interp.circuits.triads import TRIADS, TriadNull
from interp.circuits.triples import KINDS, PARTS, Triples
from interp.circuits.usage import Usage
from interp.circuits.wiring import KINDS as NODES
from interp.circuits.wiring import LOGIT
from interp.estimates import Estimate
from interp.files import atomic, make_folder, write_json
from interp.models.load import info
from interp.studies.safety_circuits.steps import GRAPHS, answer_words, group_name
from interp.studies.safety_circuits.subject import CircuitSubject
from interp.studies.study import Results
from interp.studies.words import folder_name

PLOTS = "plots"
_LISTED = 200
"""Motifs of a category that are written, at most: confirmed ones first, then those that differ most on either side; of
those in the very same prompts the first."""


def write_files(
    subject: CircuitSubject,
    found: Mapping[str, Results],
    graphs: Mapping[str, Results],
    claims: Sequence[Mapping[str, Any]],
    out: Path,
) -> None:
    """Write `config.json`, the features, the contrasts and the motifs of a finished study.

    `found` is what the steps on features computed, `graphs` what those on each category's graphs did.
    """
    features = found["features"]
    usage: Usage = features["usage"]
    contrasts = _contrasts(found)
    write_json(out / "category_features.json", _features(subject, features["activity"], usage, contrasts), indent=None)
    write_json(
        out / "contrasting_features.json",
        _contrasting(subject.triples, contrasts, found.get("causal", {})),
        indent=None,
    )
    for old in out.glob("*_motifs.json"):
        old.unlink()
    groups = {group_name(category, kind) for category in subject.categories for kind in KINDS}
    for folder in (out / GRAPHS).iterdir():
        if folder.name not in groups:
            shutil.rmtree(folder)
    for category, had in graphs.items():
        if "contrast" in had:
            write_json(out / f"{category}_motifs.json", _motifs(subject, category, had), indent=None)
    # The last, as it says that the run is whole.
    write_json(
        out / "config.json",
        {
            "model": folder_name(info(subject.model).name), "transcoders": subject.transcoders.name,
            "categories": list(subject.categories), "settings": subject.settings.model_dump(),
            "findings": [{"text": one["statement"], "verdict": one["verdict"]} for one in claims]
            + [{"text": text, "verdict": None} for text in _sentences(contrasts)],
            "power": [
                {"category": name, "pairs": int((one.part == 1).sum()), "detectable": one.power()}
                for name, one in contrasts.items()
            ],
        },
    )  # fmt: skip


def write_plots(out: Path) -> None:
    """Copy the figures that were drawn as PNG into one folder, those of a category under its name."""
    folder = make_folder(out / PLOTS)
    for old in folder.glob("*.png"):
        old.unlink()
    for picture in sorted(out.glob("*/*/figures/*.png")):
        step = picture.parents[1]
        name = picture.name if step.name != "graphs" else f"{step.parent.name}-{picture.name}"
        with atomic(folder / name) as temporary:
            shutil.copyfile(picture, temporary)


def _contrasts(found: Mapping[str, Results]) -> dict[str, FeatureContrast]:
    return {name: one for name, one in found.get("contrast", {}).items() if isinstance(one, FeatureContrast)}


def _sentences(contrasts: Mapping[str, FeatureContrast], most: int = 3) -> list[str]:
    """Confirmed features in words: of each contrast those that differ most, and each feature once."""
    found: dict[str, str] = {}
    for one in contrasts.values():
        effect = np.abs(one.effect().value)
        chosen = sorted(np.flatnonzero(one.confirmed).tolist(), key=lambda i: -float(effect[i]))
        fresh = [i for i in chosen if one.names[i] not in found]
        found |= {one.names[i]: one.sentence(i) for i in fresh[:most]}
    return list(found.values())


def _interval(estimate: Estimate, *at: int) -> dict[str, float | int | None]:
    one = estimate[at] if at else estimate
    return {"value": float(one.value), "low": float(one.low), "high": float(one.high), "n": int(one.n)}


def _features(
    subject: CircuitSubject, activity: Activity, usage: Usage, contrasts: Mapping[str, FeatureContrast]
) -> dict[str, Any]:
    triples, tokenizer = subject.triples, subject.model.tokenizer
    columns = activity.index(usage.features)
    written = written_tokens(subject.model, subject.transcoders, usage.features)
    said = _said(contrasts)
    features = []
    for at, name in enumerate(usage.names):
        top, bottom = written[at]
        features.append(
            {
                "name": name, "layer": int(usage.features[at, 0]), "feature": int(usage.features[at, 1]),
                "groups": {
                    group: {
                        "frequency": _interval(usage.frequency, g, at),
                        "mean_activation": _interval(usage.mean, g, at),
                        "importance": float(usage.importance[g, at]),
                        "influence": _interval(usage.influence, g, at),
                    }
                    for g, group in enumerate(usage.groups)
                },
                "top_tokens": [list(one) for one in top], "bottom_tokens": [list(one) for one in bottom],
                "contexts": [
                    {"tokens": list(one.tokens), "at": one.at, "activation": one.activation, "prompt": one.prompt}
                    for one in top_contexts(activity, subject.prompts, tokenizer, int(columns[at]))
                ],
                "sentence": said.get(name, ""),
            }
        )  # fmt: skip
    groups = [
        {
            "name": group_name(category, kind), "category": category, "kind": kind,
            "prompts": len(triples.prompts(kind, category)),
        }
        for category in subject.categories for kind in KINDS
    ]  # fmt: skip
    return {"groups": groups, "features": features}


def _said(contrasts: Mapping[str, FeatureContrast]) -> dict[str, str]:
    """What is said of a feature: of the contrast in which it is confirmed, else of the last that discovered it."""
    found: dict[str, str] = {}
    for sure in (False, True):
        for one in contrasts.values():
            for at in np.flatnonzero(one.confirmed if sure else one.discovered):
                found[one.names[at]] = one.sentence(int(at))
    return found


def _contrasting(triples: Triples, contrasts: Mapping[str, FeatureContrast], causal: Results) -> dict[str, Any]:
    categories = {}
    for name, one in contrasts.items():
        frame, effect = one.to_frame(), one.effect()
        sizes = np.bincount(one.part, minlength=len(PARTS)).tolist()
        rows = []
        for at in np.flatnonzero(frame["kind"].ne("none") | frame["discovered"]).tolist():
            row = frame.iloc[at]
            rows.append(
                {
                    "name": row["name"], "layer": int(row["layer"]), "feature": int(row["feature"]),
                    "harmful_mean": float(row["harmful_mean"]), "safe_mean": float(row["safe_mean"]),
                    "effect": _interval(effect, at), "auc": float(row["auc"]),
                    "p": float(np.nanmax([row["safe_p"], row["benign_p"]])) if row["discovered"] else None,
                    "discovered": bool(row["discovered"]), "confirmed": bool(row["confirmed"]),
                    "survives_safe_contrast": bool(row["survives_safe"]),
                    "survives_benign_act": bool(row["survives_benign"]), "kind": row["kind"],
                    "sentence": one.sentence(at),
                }
            )  # fmt: skip
        categories[name] = {
            "pairs": dict(zip(PARTS, sizes, strict=True)), "tested": int(np.isfinite(one.p).sum()),
            "why_not": one.why_not, "features": rows,
        }  # fmt: skip
    return {"categories": categories, "causal": _causal(causal)}


def _causal(found: Results) -> list[dict[str, Any]]:
    return [
        {
            "name": one.what, "effect": _interval(one.effect()), "control": _interval(one.control()),
            "verdict": one.claim().verdict, "sentence": one.sentence(),
        }
        for one in found.values()
    ]  # fmt: skip


def _motifs(subject: CircuitSubject, category: str, found: Results) -> dict[str, Any]:
    sets: EdgeSets = found["sets"]
    contrast: MotifContrast = found["contrast"]
    words = answer_words(subject, *(found[f"wiring-{kind}"] for kind in KINDS))
    confirmed, (harmful, safe) = contrast.confirmed, contrast.sides()
    order, alike = contrast.distinct()
    shown = []
    for at in order[:_LISTED].tolist():
        others = f"; so are {alike[at]:,} other sets, in the same prompts" if alike[at] else ""
        shown.append(
            {
                "edges": [_edge(sets.edges[i].tolist(), words) for i in sets.sets[at] if i >= 0],
                "support_harmful": _interval(harmful, at), "support_safe": _interval(safe, at),
                "p": float(contrast.confirmed_p[at]), "q": float(contrast.q[at]), "confirmed": bool(confirmed[at]),
                "sentence": contrast.sentence(at) + others,
            }
        )  # fmt: skip
    null: TriadNull = found["triads"]
    return {
        "category": category,
        "graphs": {
            name: found[f"wiring-{kind}"].n_prompts
            for name, kind in zip(("harmful", "safe", "benign"), KINDS, strict=True)
        },
        "mined": len(contrast.motifs),
        "left_out": contrast.left_out,
        "level": contrast.level,
        "confirmed": int(confirmed.sum()),
        "sets": shown,
        "triads": list(_triads(null)),
    }


def _edge(edge: Sequence[int], words: Mapping[int, str]) -> dict[str, Any]:
    layer, number, kind, above, other, sign = edge
    target = words.get(other, f"token {other}") if kind == LOGIT else f"L{above}_F{other}"
    return {
        "source": {"type": "feature", "name": f"L{layer}_F{number}"},
        "target": {"type": NODES[kind], "name": target}, "sign": sign,
    }  # fmt: skip


def _triads(null: TriadNull) -> Iterable[dict[str, Any]]:
    for at in np.flatnonzero(null.counts.any(0) | null.null.any(0)):
        one = TRIADS[at]
        yield {
            "name": one.text, "shape": one.shape.replace("-", "_"), "types": list(one.kinds),
            "signs": [1 if sign == "+" else -1 for sign in one.signs], "count": float(null.counts[:, at].sum()),
            "expected": float(null.expected[:, at].sum()), "p": float(null.p[at]), "q": float(null.q[at]),
        }  # fmt: skip
