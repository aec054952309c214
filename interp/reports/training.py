"""Pages of a training's records: `training_progress.html`, and on request pages for each snapshot.

They are made from `records.jsonl` and `probe.json` alone, also while the training still runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jinja2 import Environment, PackageLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from interp.figures.files import CONFIG, PLOTLY_JS
from interp.figures.training import (
    plot_activity,
    plot_heads,
    plot_parts,
    plot_progress,
    plot_separation,
)
from interp.figures.training_snapshot import plot_heads_at, plot_layers, plot_sample_layers
from interp.files import write_text
from interp.monitoring.claims import claims, sentences
from interp.monitoring.learning import Course, course, depth_names, parts, simultaneous, told
from interp.monitoring.records import Recording, read_records
from interp.reports.page import ends, number

PROGRESS = "training_progress.html"
_SHOWN, _TOKENS, _TEXTS = 30, 100, 10
"""Snapshots on the slider, tokens of a text and texts on a page, at most: so that it stays small."""


def write_training_pages(out: Path | str, *, each: bool = False) -> Path:
    """Write the page of a recording beside its records, and with `each` those of every snapshot; returns its path.

    Raises DataError where there are no records.
    """
    out = Path(out)
    recording = read_records(out)
    environment = _environment()
    script = out / PLOTLY_JS
    if not script.exists():
        write_text(script, get_plotlyjs())
    page = out / PROGRESS
    write_text(page, environment.get_template("training.html").render(_progress(recording)))
    if each:
        _write_each(recording, out, environment)
    return page


def told_by(out: Path | str) -> list[str]:
    """What the page says in sentences."""
    recording = read_records(out)
    found = course(recording)
    verdicts = {claim.name: claim.verdict for claim in claims(recording)}
    return sentences(recording, found, parts(recording, found), verdicts)


def _environment() -> Environment:
    made = Environment(
        loader=PackageLoader("interp.reports"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    made.filters["number"] = number
    made.filters["ends"] = ends
    return made


def _progress(recording: Recording) -> dict[str, Any]:
    found = course(recording)
    rows = parts(recording, found)
    decided = claims(recording)
    most = min(len(recording), _SHOWN, max(8, _SHOWN * 24 // max(1, recording.layers)))
    shown = np.unique(np.linspace(0, len(recording) - 1, most).round().astype(int)).tolist()
    columns = [name for name, values in recording.probe.labels.items() if len(set(values)) > 1]
    heads = bool(recording.head_direct.shape[1])
    figures = {
        "progress": plot_progress(recording, found),
        "layers": plot_layers(recording, shown),
        "separation": plot_separation(recording),
        "activity": plot_activity(recording),
        **{f"parts-{i}": plot_parts(recording, rows, name) for i, name in enumerate(columns, 1)},
        **({"heads": plot_heads(recording)} if heads else {}),
    }
    reach = _reach(recording)
    texts = _texts(recording, shown)
    return {
        "texts": len(recording.probe.texts), "pairs": len(recording.probe.pairs), "snapshots": len(recording),
        "first": f"{recording.steps[0]:,}", "last": f"{recording.steps[-1]:,}",
        "sentences": sentences(recording, found, rows, {claim.name: claim.verdict for claim in decided}),
        "claims": [claim.as_dict() for claim in decided], "columns": columns, "parts": rows, "shown": shown,
        "texts_shown": texts, "heads": heads, "reach": reach, "colors": [_color(t, 1.0) for t in _KEY],
        "cut": _TOKENS if any(len(pieces) > _TOKENS for pieces in recording.pieces) else 0,
        "method_said": _method(recording), "facts": _facts(recording), "plotly": PLOTLY_JS, "config": CONFIG,
        "figures": {name: _json(json.loads(str(made.to_json()))) for name, made in figures.items()},
        "data": _json({"reach": reach, "texts": texts, "snapshots": [_said(recording, found, i) for i in shown]}),
    }  # fmt: skip


_KEY = (-1.0, -0.5, 0.0, 0.5, 1.0)


def _said(recording: Recording, found: Course, at: int) -> dict[str, Any]:
    step = f"{recording.steps[at]:,}"
    drawn = " (untrained, freshly drawn)" if recording.about.get("drawn") and recording.steps[at] == 0 else ""
    return {"at": at, "said": f"step {step}{drawn}, accuracy {found.accuracy.value[at]:.1%}"}


def _texts(recording: Recording, shown: Sequence[int]) -> list[dict[str, Any]]:
    made = []
    for i, place in enumerate(recording.probe.explained[:_TEXTS]):
        values = np.round(recording.tokens[i][shown, :_TOKENS], 2)
        notes = ["" if not off > 0.05 else f"; shares miss it by {off:.0%}" for off in recording.unexplained[shown, i]]
        made.append(
            {
                "name": _title(recording, place),
                "pieces": [_visible(piece) for piece in recording.pieces[i][:_TOKENS]],
                "values": values.tolist(), "odds": recording.log_odds[shown, place].tolist(), "notes": notes,
            }
        )  # fmt: skip
    return made


def _title(recording: Recording, place: int) -> str:
    labels = [values[place] for values in recording.probe.labels.values()]
    return f"Text {place} ({', '.join([_label(recording, place), *labels])})"


def _label(recording: Recording, place: int) -> str:
    return "unsafe" if recording.probe.unsafe[place] else "safe"


def _visible(piece: str) -> str:
    """A token as it is shown: words without the blank before them, blanks and breaks as signs."""
    shown = piece.replace("\n", "⏎").replace("\t", "⇥").strip(" ")
    return shown or "␣"


def _method(recording: Recording) -> str:
    method, neutral = recording.about["method"], recording.about["neutral"].strip() or "a blank"
    if method == "leave one out":
        return f"Leave one out: what the log-odds lose when “{neutral}” takes a token's place."
    return f"By {method}, from “{neutral}” in every place; texts whose shares do not add up say so."


def _facts(recording: Recording) -> list[tuple[str, str]]:
    about = recording.about
    clock = about.get("clock", "seconds")
    texts, groups = len(recording.probe.texts), len(set(recording.probe.groups))
    skipped = f"{int(recording.skipped.sum())} more were wanted and skipped to save time"
    facts = [
        ("model", f"{about['model']}, {about['parameters']:,} parameters, {about['layers']} layers"),
        ("asked as", f"{about['template']} → {about['safe'].strip()} / {about['unsafe'].strip()}"),
        ("texts", f"{texts} in {groups} groups; {sum(recording.probe.unsafe)} unsafe"),
        ("snapshots", f"{len(recording)}, every {about['every']}; {skipped}"),
    ]
    if about.get("max_overhead") is not None:
        trained = float(np.nansum(recording.training))
        spent = f"{np.nansum(recording.seconds):.2f} of {trained:.1f} {clock} of training"
        share = f"{recording.overhead:.2%}" if not math.isnan(recording.overhead) else "undefined"
        kept = "" if not recording.overhead > about["max_overhead"] else (
            " – above the budget, as the first and the last snapshot are always taken"
        )  # fmt: skip
        facts.append(("time spent on watching", f"{share} ({spent}); budget {about['max_overhead']:.2%}{kept}"))
    if about.get("drawn"):
        facts.append(
            ("step 0", "a freshly drawn model of this architecture (seed 0): no checkpoint of step 0 was given")
        )
    return facts


def _write_each(recording: Recording, out: Path, environment: Environment) -> None:
    template, found = environment.get_template("training_snapshot.html"), course(recording)
    reach, script = _reach(recording), {"plotly": PLOTLY_JS, "config": CONFIG, "colors": [_color(t, 1.0) for t in _KEY]}
    for at in range(len(recording)):
        name, step = _epoch(recording, at), f"{recording.steps[at]:,}"
        common = {**script, "reach": reach, "tokens": [], "figures": []}
        samples = recording.probe.explained
        stems = [f"epoch_{name}_sample_{i}_{_label(recording, place)}" for i, place in enumerate(samples)]
        comparison = f"epoch_{name}_circuit_comparison.html"
        for i, (stem, place) in enumerate(zip(stems, samples, strict=True)):
            odds = recording.log_odds[at, place]
            verdict = "unsafe" if odds > 0 else "safe"
            said = f"the judge says {verdict}, log-odds of unsafe {odds:.2f}, at step {step}."
            about = ", ".join([_label(recording, place), *(row[place] for row in recording.probe.labels.values())])
            lines = [f"“{recording.probe.texts[place][:600]}”", f"Sample {i} ({about}): {said}"]
            links = [("tokens", f"{stem}_tokens.html"), ("layers", f"{stem}_layers.html")]
            links += [("comparison", comparison), ("training", PROGRESS)]
            cells = zip(recording.pieces[i], recording.tokens[i][at], strict=True)
            shares = [(_visible(piece), _signed(value), _color(value, reach)) for piece, value in cells]
            pages = {
                "tokens": {"title": f"Which tokens drove the verdict at step {step}", "tokens": shares,
                           "lines": [*lines, _method(recording)]},
                "layers": {"title": f"What each layer did with a text at step {step}", "lines": lines,
                           "figures": [_figure(plot_sample_layers(recording, at, place))]},
            }  # fmt: skip
            for kind, page in pages.items():
                write_text(out / f"{stem}_{kind}.html", template.render({**common, "links": links, **page}))
        links = [(f"sample {i}", f"{stem}_tokens.html") for i, stem in enumerate(stems)]
        page = {
            "title": f"Safe and unsafe by layer at step {step}",
            "lines": _compared(recording, found, at),
            "links": [*links, ("training", PROGRESS)],
            "figures": [_figure(plot_layers(recording, [at]))],
        }
        if recording.head_direct.shape[1]:
            page["figures"].append(_figure(plot_heads_at(recording, at)))
        write_text(out / comparison, template.render({**common, **page}))


def _epoch(recording: Recording, at: int) -> int:
    """The epoch where snapshots come by epochs, else the step."""
    step = int(recording.steps[at])
    apart = recording.about.get("steps_per_epoch")
    return step // apart if recording.about["every"] == "epoch" and apart and step % apart == 0 else step


def _compared(recording: Recording, found: Course, at: int) -> list[str]:
    apart = simultaneous(told(recording)[:, at], recording.groups)
    value, low, high = (
        number(float(part[at])) for part in (found.accuracy.value, found.accuracy.low, found.accuracy.high)
    )
    lines = [f"Accuracy {value} [{low}, {high}] over {len(recording.probe.texts)} texts."]
    ahead = [name for name, low in zip(depth_names(recording), apart.low, strict=True) if low > 0.5]
    none = "At no depth are safe and unsafe texts apart beyond chance."
    lines.append(f"Safe and unsafe texts are apart at: {', '.join(ahead)}." if ahead else none)
    if recording.moved.shape[1] and np.isfinite(recording.moved[at]).any():
        moved = recording.moved[at].mean(0)
        lines.append(f"Copied between twins, the output of layer {int(np.nanargmax(moved))} moves the log-odds most "
                     f"({np.nanmax(moved):.2f} nats).")  # fmt: skip
    return lines


def _figure(made: go.Figure) -> str:
    content = json.loads(str(made.to_json()))
    content.pop("frames", None)
    return _json(content)


def _reach(recording: Recording) -> float:
    """The largest share of any token at any snapshot: the end of the colours."""
    found = [np.nanmax(np.abs(table)) for table in recording.tokens if np.isfinite(table).any()]
    return max([float(f"{top:.3g}") for top in found if top > 0], default=1.0)


def _color(value: float, reach: float) -> str:
    if not math.isfinite(value):
        return "transparent"
    depth = min(1.0, abs(value) / reach) * 0.6
    return f"rgba({'213,94,0' if value > 0 else '0,114,178'},{depth:.3f})"


def _signed(value: float) -> str:
    return "" if not math.isfinite(value) else "0" if abs(value) < 0.005 else f"{value:+.2f}".replace("-", "−")


def _json(content: Any) -> str:
    """JSON that no text in it can break out of a script element with; nan becomes null."""
    return json.dumps(_null(content), separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")


def _null(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _null(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_null(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
