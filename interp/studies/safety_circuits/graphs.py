"""The attribution graphs of a category's prompts: a file each, and what is told over all of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from interp.circuits.checks import check_graph
from interp.circuits.export import neuronpedia
from interp.circuits.graph import attribution_graph
from interp.circuits.influence import capped, prune
from interp.circuits.wiring import Wiring, joined, wiring
from interp.files import make_folder, write_json
from interp.studies.safety_circuits.subject import CircuitSubject


@dataclass(frozen=True, eq=False)
class GraphScores:
    """How well each graph tells its prompt's story."""

    names: tuple[str, ...]
    """Ids of the prompts."""
    features: Int[np.ndarray, " prompt"]
    """Active ones, before the cap."""
    folded: Float[np.ndarray, " prompt"]
    """Share of the features' influence that the cap folded into errors."""
    replacement: Float[np.ndarray, " prompt"]
    completeness: Float[np.ndarray, " prompt"]
    frozen_error: Float[np.ndarray, " prompt"]
    """Largest difference between an edge and what happens with everything else held, over that of all edges."""
    predicted: Float[np.ndarray, "prompt change"]
    """Change of the answer's logit as the graph says, for features off and doubled, one after the other."""
    actual: Float[np.ndarray, "prompt change"]
    """The same in the running model; nan where fewer features were there to be changed."""

    def to_frame(self) -> pd.DataFrame:
        """One row for each prompt."""
        columns = ("features", "folded", "replacement", "completeness", "frozen_error")
        return pd.DataFrame({"prompt": self.names, **{name: getattr(self, name) for name in columns}})


def draw_graphs(
    subject: CircuitSubject, rows: Sequence[int], folder: Path, report: Callable[[str], None]
) -> tuple[GraphScores, Wiring]:
    """The graphs of some prompts; `folder` gets the pruned part of each as JSON, and nothing else stays in it."""
    settings, prompts, tokenizer = subject.settings, subject.prompts, subject.model.tokenizer
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    ids = prompts.labels["id"].tolist()
    numbers: list[tuple[float, ...]] = []
    changes: list[tuple[np.ndarray, np.ndarray]] = []
    wirings: list[Wiring] = []
    for at, row in enumerate(rows):
        report(f"{folder.name} {at + 1} of {len(rows)}")
        whole = attribution_graph(subject.model, subject.transcoders, prompts, row, memory=settings.memory)
        check = check_graph(
            subject.model, subject.transcoders, prompts, whole, row, sample=settings.checked, seed=settings.seed,
            memory=settings.memory,
        )  # fmt: skip
        less, folded = capped(whole, settings.max_feature_nodes)
        kept = prune(less, nodes=settings.nodes, edges=settings.edges)
        told = kept.influence
        error = float(check.frozen_error.max()) if len(check.frozen_error) else np.nan
        numbers.append((len(whole.features), folded, told.replacement, told.completeness, error))
        width = 2 * settings.checked
        changes.append((_row(check.predicted[..., 0], width), _row(check.actual[..., 0], width)))
        texts = [[tokenizer.decode([i]) for i in part.tolist()] for part in (less.tokens, less.logits)]
        name = str(ids[row])
        shown: dict[str, Any] = neuronpedia(
            less, kept, *texts, slug=name, scan=subject.transcoders.name, threshold=settings.nodes
        )
        write_json(folder / f"{name}.json", shown, indent=None)
        wirings.append(wiring(less, kept))
    features, folds, replacement, completeness, errors = np.array(numbers).T
    predicted, actual = (np.stack(part) for part in zip(*changes, strict=True))
    names = tuple(str(ids[row]) for row in rows)
    scores = GraphScores(
        names, features.astype(np.int64), folds, replacement, completeness, errors, predicted, actual
    )  # fmt: skip
    return scores, joined(wirings)


def _row(values: Any, width: int) -> np.ndarray:
    """All numbers of a table side by side, nan after them."""
    flat = values.flatten().cpu().double().numpy()
    return np.pad(flat, (0, width - len(flat)), constant_values=np.nan)
