"""Graphs on disk: one safetensors file with the edges that are there, and one JSON file that says what it is.

The JSON is written last, so that a graph is there or it is not, and work that was killed goes on where it stopped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from interp.circuits.graph import Graph
from interp.errors import DataError
from interp.files import make_folder, read_json, read_tensors, write_json, write_tensors

_TENSORS = ("tokens", "features", "activations", "logits", "probabilities", "values")
_KIND = "interp attribution graph 1"


@dataclass(frozen=True)
class GraphStore:
    """A folder of graphs, by name."""

    folder: Path

    @classmethod
    def at(cls, folder: Path | str) -> GraphStore:
        """A store in a folder, which is made if needed."""
        return cls(make_folder(folder))

    def __contains__(self, name: str) -> bool:
        return self._file(name, ".json").is_file()

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(file.stem for file in self.folder.glob("*.json")))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def write(self, name: str, graph: Graph, about: Mapping[str, Any] | None = None) -> None:
        """Write a graph, in the place of one of the same name; `about` is plain values to be read back with it."""
        self._file(name, ".json").unlink(missing_ok=True)
        target, source = graph.edges.nonzero(as_tuple=True)
        tensors = {part: getattr(graph, part) for part in _TENSORS}
        edges = {
            "edges.target": target.int(), "edges.source": source.int(), "edges.weight": graph.edges[target, source],
        }  # fmt: skip
        write_tensors(self._file(name, ".safetensors"), tensors | edges)
        known = {"kind": _KIND, "text": graph.text, "read": graph.read, "n_layers": graph.n_layers}
        write_json(self._file(name, ".json"), {**known, "shape": list(graph.edges.shape), "about": dict(about or {})})

    def read(self, name: str) -> Graph:
        """A graph as it was written. Raises DataError where it is missing or damaged."""
        told = self._told(name)
        found = read_tensors(self._file(name, ".safetensors"))
        try:
            edges = torch.zeros(*map(int, told["shape"]), dtype=found["edges.weight"].dtype)
            edges[found["edges.target"].long(), found["edges.source"].long()] = found["edges.weight"]
            tensors = {part: found[part] for part in _TENSORS}
            return Graph(
                text=str(told["text"]), read=int(told["read"]), n_layers=int(told["n_layers"]), edges=edges, **tensors
            )
        except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"the graph {name} in {self.folder} is damaged ({error}); remove it and make it anew"
            ) from None

    def about(self, name: str) -> dict[str, Any]:
        """What was written with a graph."""
        return dict(self._told(name).get("about") or {})

    def _told(self, name: str) -> Mapping[str, Any]:
        if name not in self:
            raise DataError(f"there is no graph {name} in {self.folder}; it has {len(self)}")
        told = read_json(self._file(name, ".json"))
        if not isinstance(told, dict) or told.get("kind") != _KIND:
            raise DataError(f"{self._file(name, '.json')} is no graph of this library")
        return told

    def _file(self, name: str, ending: str) -> Path:
        return self.folder / f"{named(name)}{ending}"


def named(name: str) -> str:
    """The name itself. Raises DataError for one that no graph can have."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
        raise DataError(f"a graph is named by letters, digits, -, _ and ., not {name!r}")
    return name
