"""The dashboard of a study of circuits: six pages that need no network, made from the files of its run alone.

The pages hold no data. It lies beside them as scripts that only hand over a string of JSON, since a page opened from a
folder may read scripts and nothing else; the contexts of features and the graphs come when they are looked at.
Texts reach the pages as text nodes, and a content policy forbids inline scripts and any address but the folder's own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from interp.errors import DataError
from interp.files import atomic_folder, write_text
from interp.reports.circuit_run import (
    Category,
    Config,
    Contrasts,
    Feature,
    Features,
    GraphFile,
    InGroup,
    Interval,
    Motifs,
    graph_files,
    motif_files,
    read,
)
from interp.reports.page import number

FOLDER = "dashboard"


@dataclass(frozen=True)
class _Page:
    """A page: its name in the bar, what it is for, and the data and modules that it loads."""

    title: str
    about: str
    data: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()


PAGES = {
    "index": _Page("Overview", ""),
    "feature_heatmap": _Page(
        "Heat map",
        "Every feature over every group of prompts, ranked by how much it matters to one of them.",
        ("features",),
        ("detail", "heatmap_view", "heatmap"),
    ),
    "transcoder_tokens": _Page(
        "Features",
        "What each feature reads and writes: its tokens, how often it is active, and the prompts it is active on.",
        ("features",),
        ("detail", "rows", "tokens"),
    ),
    "contrast_analysis": _Page(
        "Contrasts",
        "Harmful prompts beside their safe twins: which features differ, which survive both controls, "
        "and what interventions on them did.",
        ("features", "contrasts"),
        ("detail", "rows", "scatter", "contrast"),
    ),
    "motifs": _Page(
        "Motifs",
        "Sets of edges that many graphs share, and small patterns counted against chance.",
        ("features", "motifs"),
        ("motif_drawing", "motifs"),
    ),
    "graph": _Page(
        "Graphs",
        "The attribution graph of any prompt: walk along its edges, prune it, pin what matters.",
        ("features", "prompts"),
        ("detail", "picker", "graph_layout", "graph_view", "graph"),
    ),
}
_STYLES = ("style.css", "dashboard/dashboard.css")
_CHUNK = 100
"""Features whose contexts lie in one file."""
_FIRES = 6
"""Different tokens at which a feature is most active, at most."""
_NODES = {"cross layer transcoder": 0, "mlp reconstruction error": 1, "embedding": 2, "logit": 3}


def write_dashboard(run: Path | str) -> Path:
    """Write `dashboard/` into a finished run and return the path of its `index.html`.

    An older dashboard gives way only when all of the new one is written. Raises DataError where a file of the run is
    missing or malformed; motifs and graphs may be absent.
    """
    run = Path(run)
    config = read(run / "config.json", Config)
    features = read(run / "category_features.json", Features)
    contrasts = read(run / "contrasting_features.json", Contrasts)
    motifs = [read(path, Motifs) for path in motif_files(run, config)]
    with atomic_folder(run / FOLDER) as out:
        _put(out, "features", _features(features))
        for first in range(0, len(features.features), _CHUNK):
            chunk = features.features[first : first + _CHUNK]
            _put(out, f"contexts-{first // _CHUNK}", [_contexts(feature) for feature in chunk])
        _put(out, "contrasts", _contrasts(contrasts, features))
        _put(out, "motifs", [motif.model_dump() for motif in motifs])
        prompts = _write_graphs(run, config, out)
        _put(out, "prompts", prompts)
        _write_pages(out, config, features, contrasts, motifs, prompts)
    return run / FOLDER / "index.html"


def _put(out: Path, name: str, content: Any) -> None:
    """A script that hands over JSON in a string: parsed faster than an object, and without a name being special."""
    inner = json.dumps(content, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    text = inner.replace("\\", "\\\\").replace("'", "\\'").replace("<", "\\u003c")
    write_text(out / "data" / f"{name}.js", f"interp.put('{name}', '{text}');\n")


def _short(value: float | None) -> float | None:
    """Four significant digits, which is more than any page shows."""
    return None if value is None else float(f"{value:.4g}")


def _column(found: Sequence[Interval | None]) -> dict[str, list[float | int | None]]:
    return {
        "value": [_short(e.value) if e else None for e in found],
        "low": [_short(e.low) if e else None for e in found],
        "high": [_short(e.high) if e else None for e in found],
        "n": [e.n if e else None for e in found],
    }


def _features(content: Features) -> dict[str, Any]:
    """All features by column, since a page of thousands is read by column."""
    features = content.features
    nothing = InGroup()
    values = []
    for group in content.groups:
        found = [feature.groups.get(group.name, nothing) for feature in features]
        values.append(
            {
                "frequency": _column([one.frequency for one in found]),
                "mean": _column([one.mean_activation for one in found]),
                "influence": _column([one.influence for one in found]),
                "importance": [_short(one.importance) for one in found],
            }
        )
    return {
        "groups": [group.model_dump() for group in content.groups],
        "names": [feature.name for feature in features],
        "layers": [feature.layer for feature in features],
        "numbers": [feature.feature for feature in features],
        "top": [[[token, _short(weight)] for token, weight in feature.top_tokens] for feature in features],
        "bottom": [[[token, _short(weight)] for token, weight in feature.bottom_tokens] for feature in features],
        "fires": [_fires(feature) for feature in features],
        "values": values,
        "chunk": _CHUNK,
    }


def _fires(feature: Feature) -> list[str]:
    """The different tokens at which a feature is most active."""
    peaks = [one.tokens[one.at] for one in feature.contexts if 0 <= one.at < len(one.tokens)]
    return list(dict.fromkeys(peaks))[:_FIRES]


def _contexts(feature: Feature) -> dict[str, Any]:
    return {"sentence": feature.sentence, "contexts": [one.model_dump() for one in feature.contexts]}


def _contrasts(content: Contrasts, features: Features) -> dict[str, Any]:
    """Categories in order, each feature with its place among all features where it is one of them."""
    place = {(one.layer, one.feature): i for i, one in enumerate(features.features)}
    categories = [
        {
            "name": name,
            "pairs": category.pairs.model_dump(),
            "features": [
                {**one.model_dump(), "place": place.get((one.layer, one.feature))} for one in category.features
            ],
        }
        for name, category in content.categories.items()
    ]
    return {"categories": categories, "causal": [one.model_dump() for one in content.causal]}


def _write_graphs(run: Path, config: Config, out: Path) -> list[dict[str, Any]]:
    """A script for each graph; returns what there is to choose from."""
    prompts = []
    for category, kind, path in graph_files(run, config):
        graph = read(path, GraphFile)
        about = {"id": path.stem, "category": category, "kind": kind, "text": graph.metadata.prompt}
        _put(out, f"graph-{len(prompts)}", {**about, **_graph(graph, path)})
        prompts.append({**about, "nodes": len(graph.nodes), "links": len(graph.links)})
    return prompts


def _graph(graph: GraphFile, path: Path) -> dict[str, Any]:
    """A graph by column, its edges the strongest first; ends are numbers of nodes."""
    number_of = {node.node_id: i for i, node in enumerate(graph.nodes)}
    if len(number_of) < len(graph.nodes):
        raise DataError(f"{path}: nodes: two nodes have the same node_id")
    for i, node in enumerate(graph.nodes):
        if not 0 <= node.ctx_idx < len(graph.metadata.prompt_tokens):
            raise DataError(f"{path}: nodes.{i}.ctx_idx: there is no token {node.ctx_idx} in prompt_tokens")
    for i, link in enumerate(graph.links):
        for end in (link.source, link.target):
            if end not in number_of:
                raise DataError(f"{path}: links.{i}: there is no node {end!r}")
    links = sorted((link for link in graph.links if link.weight), key=lambda link: -abs(link.weight or 0))
    return {
        "tokens": graph.metadata.prompt_tokens,
        "nodes": {
            "id": [node.node_id for node in graph.nodes],
            "kind": [_NODES.get(node.feature_type, 0) for node in graph.nodes],
            "layer": [_layer(node.layer, path) for node in graph.nodes],
            "at": [node.ctx_idx for node in graph.nodes],
            "feature": [_numbered(node.node_id) for node in graph.nodes],
            "influence": [_short(node.influence) for node in graph.nodes],
            "activation": [_short(node.activation) for node in graph.nodes],
            "chance": [_short(node.token_prob) for node in graph.nodes],
            "label": [node.clerp or "" for node in graph.nodes],
        },
        "links": {
            "source": [number_of[link.source] for link in links],
            "target": [number_of[link.target] for link in links],
            "weight": [_short(link.weight) for link in links],
        },
    }


def _layer(name: str, path: Path) -> int:
    """Its number; embeddings lie below all layers."""
    if name == "E":
        return -1
    if not name.isdecimal():
        raise DataError(f"{path}: nodes: {name!r} is neither the number of a layer nor E")
    return int(name)


def _numbered(name: str) -> int | None:
    """The feature's number among those of its layer, which stands in the middle of a node's name."""
    parts = name.split("_")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else None


def _write_pages(
    out: Path,
    config: Config,
    features: Features,
    contrasts: Contrasts,
    motifs: Sequence[Motifs],
    prompts: Sequence[dict[str, Any]],
) -> None:
    loader = PackageLoader("interp.reports")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["number"] = number
    environment.filters["said"] = _said
    styles = [loader.get_source(environment, name)[0] for name in _STYLES]
    write_text(out / "assets" / "dashboard.css", "\n".join(styles))
    for module in {"common", *(module for page in PAGES.values() for module in page.modules)}:
        write_text(out / "assets" / f"{module}.js", loader.get_source(environment, f"dashboard/{module}.js")[0])
    shown = {
        "pages": PAGES, "config": config, "counts": _counts(features, contrasts, motifs, prompts),
        "categories": _categories(config, contrasts, motifs, prompts), "groups": features.groups,
    }  # fmt: skip
    for name, page in PAGES.items():
        template = environment.get_template(f"dashboard/{name}.html")
        write_text(out / f"{name}.html", template.render(shown | {"name": name, "page": page}))


def _said(value: object) -> str:
    """A setting as a person would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(map(_said, value)) or "none"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_said(one)}" for key, one in value.items()) or "none"
    return "default" if value is None else str(value)


def _counts(
    features: Features, contrasts: Contrasts, motifs: Sequence[Motifs], prompts: Sequence[dict[str, Any]]
) -> list[tuple[str, int, str, str]]:
    """What there is: its number, what it is, the page that shows it."""
    tested = [one for category in contrasts.categories.values() for one in category.features]
    confirmed = {one.name for one in tested if one.confirmed}
    most = max((_tested(category) for category in contrasts.categories.values()), default=0)
    compared = f"of {most:,} compared"
    mined = sum(len(one.sets) if one.mined is None else one.mined for one in motifs)
    return [
        ("prompts", sum(group.prompts or 0 for group in features.groups), f"in {len(features.groups)} groups", ""),
        ("features", len(features.features), "described in some group", "transcoder_tokens"),
        (
            "features confirmed",
            len(confirmed),
            compared,
            "contrast_analysis",
        ),
        ("motifs confirmed", sum(map(_confirmed, motifs)), f"of {mined:,} compared", "motifs"),
        ("graphs", len(prompts), f"{sum(one['links'] for one in prompts):,} edges", "graph"),
    ]


def _tested(category: Category) -> int:
    return len(category.features) if category.tested is None else category.tested


def _confirmed(found: Motifs) -> int:
    return sum(one.confirmed for one in found.sets) if found.confirmed is None else found.confirmed


def _categories(
    config: Config, contrasts: Contrasts, motifs: Sequence[Motifs], prompts: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """One row for each category: pairs, what was found, and what could have been seen."""
    power = {one.category: one for one in config.power}
    mined = {one.category: one for one in motifs}
    rows = []
    for name in dict.fromkeys([*config.categories, *contrasts.categories, *power]):
        found = contrasts.categories.get(name)
        tested = found.features if found else []
        confirmed = [one for one in tested if one.confirmed]
        rows.append(
            {
                "name": name,
                "pairs": found.pairs if found else None,
                "tested": _tested(found) if found else 0,
                "why_not": found.why_not if found else "",
                "discovered": sum(one.discovered for one in tested),
                "confirmed": len(confirmed),
                "words_alone": sum(one.survives_safe_contrast and not one.confirmed for one in tested),
                "motifs": _confirmed(mined[name]) if name in mined else None,
                "graphs": sum(one["category"] == name for one in prompts),
                "power": power.get(name),
            }
        )
    return rows
