"""Graphs on disk: what is read is what was written, and nothing is half there."""

import pytest
import torch

from interp.circuits.graph import Graph, attribution_graph
from interp.circuits.influence import capped
from interp.circuits.store import GraphStore
from interp.errors import DataError
from interp.models.load import load_model
from tests.circuits.test_graph import asked, drawn
from tests.models.test_sweeps import plain


@pytest.fixture(scope="module")
def graph():
    return attribution_graph(load_model(plain("llama"), device="cpu"), drawn("jumprelu"), asked(6))


def same(first, second):
    for name in Graph.__dataclass_fields__:
        a, b = getattr(first, name), getattr(second, name)
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b, name


def test_a_graph_comes_back_bit_for_bit_and_only_its_edges_take_room(tmp_path, graph):
    store = GraphStore.at(tmp_path / "graphs")
    store.write("one", graph, {"category": "deception", "folded": 0.25})
    store.write("two-2.b", capped(graph, 9)[0])
    same(store.read("one"), graph)
    same(store.read("two-2.b"), capped(graph, 9)[0])
    assert list(store) == ["one", "two-2.b"]
    assert store.about("one") == {"category": "deception", "folded": 0.25}
    assert store.about("two-2.b") == {}
    edges = int((graph.edges != 0).sum())
    assert (tmp_path / "graphs" / "one.safetensors").stat().st_size < 12 * edges + 40 * len(graph.features) + 4000


def test_a_graph_is_there_or_it_is_not(tmp_path, graph):
    store = GraphStore.at(tmp_path)
    store.write("one", graph)
    (tmp_path / "one.json").unlink()  # killed before the last file was written
    assert "one" not in store
    assert len(store) == 0
    with pytest.raises(DataError, match="no graph one"):
        store.read("one")
    store.write("one", graph)
    same(store.read("one"), graph)


def test_what_cannot_be_read_is_told(tmp_path, graph):
    store = GraphStore.at(tmp_path)
    store.write("one", graph)
    (tmp_path / "one.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot read"):
        store.read("one")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(DataError, match="no graph of this library"):
        store.read("other")
    for name in ("../one", "", "a/b", ".hidden"):
        with pytest.raises(DataError, match="named by letters"):
            store.write(name, graph)
