"""`interp graph` on a shipped model with random transcoders."""

import json

import pytest
import torch

from interp.circuits.formats import read_transcoders, write_transcoders
from interp.circuits.graph import attribution_graph
from interp.circuits.store import GraphStore
from interp.circuits.transcoders import Transcoder, Transcoders
from interp.models.load import load_model
from interp.prompts import Prompts
from tests.cli import interp

MODEL, PROMPT = "arithmetic-add3", "123+456="


@pytest.fixture
def folder(tmp_path):
    tmp_path = tmp_path / "here"
    model = load_model(MODEL)
    width, layers = int(model.cfg.d_model), int(model.cfg.n_layers)
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(40, width, generator=generator) for _ in range(2 * layers)]
    write_transcoders(
        Transcoders(
            tuple(
                Transcoder(
                    drawn[2 * i] / width**0.5, torch.zeros(40), 0.1 * drawn[2 * i + 1][:, None], torch.zeros(width)
                )
                for i in range(layers)
            )
        ),
        tmp_path / "set",
    )
    return tmp_path


def test_a_graph_is_written_and_told(folder):
    asked = ("--transcoder", "set", "--prompt", PROMPT, "--out", "out", "--max-feature-nodes", 50)
    done = interp("graph", MODEL, *asked, cwd=folder, logs=folder.parent)
    assert done.code == 0, done.err
    assert "50 features" in done.out
    assert "replacement" in done.out
    store = GraphStore.at(folder / "out")
    graph = store.read("graph")
    model = load_model(MODEL, weights="raw")
    whole = attribution_graph(model, read_transcoders(folder / "set"), Prompts.from_texts([PROMPT], model.tokenizer))
    torch.testing.assert_close(graph.values[-1], whole.values[-1])
    torch.testing.assert_close(graph.edges.sum(1), graph.values, atol=1e-4, rtol=1e-4)
    assert store.about("graph")["frozen_error"] < 1e-4
    shown = json.loads((folder / "out" / "neuronpedia" / "graph.json").read_text())
    assert shown["metadata"]["prompt"] == graph.text
    assert {"nodes", "links", "qParams"} < set(shown)


def test_the_model_may_be_an_option(folder):
    asked = ("--transcoder", "set", "--prompt", PROMPT, "--out", "out", "--max-feature-nodes", 5)
    assert interp("graph", "--model", MODEL, *asked, cwd=folder, logs=folder.parent).code == 0
    assert interp("graph", *asked, cwd=folder, logs=folder.parent).code == 2


def test_bad_requests_end_in_one_line_and_write_nothing(folder):
    base = ("--prompt", PROMPT, "--out", "out")
    for arguments, said in (
        (("--transcoder", "none", *base), "no folder"),
        (("--transcoder", "set", *base, "--nodes", 0), "--nodes"),
        (("--transcoder", "set", "--prompt", "", "--out", "out"), "empty"),
        (("--transcoder", "set", *base, "--name", "../up"), "named by letters"),
        (("--transcoder", "set", *base, "--model", MODEL), "name one model"),
        (("--transcoder", "gemma", *base), "cannot fetch google/gemma-scope-2b-pt-transcoders/layer_0"),
        (("--transcoder", "nobody/nothing", *base), "cannot fetch nobody/nothing"),
    ):
        done = interp("graph", MODEL, *arguments, cwd=folder, logs=folder.parent)
        assert done.code == 2
        assert said in done.err
        assert len(done.err.strip().splitlines()) == 1
        assert not (folder / "out").exists()
