"""Edges of attribution graphs against a plain loop in float64; every node's inputs sum to what it reads."""

from dataclasses import replace

import pytest
import torch

from interp.circuits.checks import check_graph
from interp.circuits.graph import attribution_graph
from interp.circuits.transcoders import Transcoder, Transcoders
from interp.errors import PromptError
from interp.models.load import load_model
from interp.prompts import Prompts
from tests.models.test_sweeps import LAYERS, WIDTH, plain
from tests.naive_graph import edges

KINDS = ("relu", "jumprelu", "topk", "skip", "cross")


def drawn(kind, reads="mlp_in", size=24):
    """Random transcoders whose features are now and then active."""
    generator = torch.Generator().manual_seed(5)
    normal = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    layers = []
    for layer in range(LAYERS):
        written = LAYERS - layer if kind == "cross" else 1
        layers.append(
            Transcoder(
                normal(size, WIDTH) / WIDTH**0.5, 0.3 * normal(size) - 0.5, 0.3 * normal(size, written, WIDTH),
                0.1 * normal(WIDTH), 0.4 * torch.rand(size, generator=generator) if kind == "jumprelu" else None,
                5 if kind == "topk" else None, 0.2 * normal(WIDTH, WIDTH) if kind == "skip" else None,
            )
        )  # fmt: skip
    return Transcoders(tuple(layers), reads)


def asked(columns=9):
    tokens = torch.randint(4, 60, (1, columns), generator=torch.Generator().manual_seed(columns))
    return Prompts.from_tokens(tokens, torch.ones_like(tokens, dtype=torch.bool))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["gpt2", "llama", "gemma2"])
def test_edges_equal_a_plain_loop_in_float64(form, kind):
    own, prompts, transcoders = plain(form), asked(), drawn(kind)
    graph = attribution_graph(load_model(own, device="cpu"), transcoders, prompts)
    with torch.no_grad():
        wanted = edges(plain(form), prompts.tokens[0], transcoders, graph.features.tolist(), graph.logits, graph.read)
    size = float(wanted.abs().max())
    torch.testing.assert_close(graph.edges, wanted.float(), atol=1e-5 * max(1.0, size), rtol=1e-5)
    torch.testing.assert_close(graph.edges.sum(1), graph.values, atol=2e-5 * max(1.0, size), rtol=1e-5)


def test_the_graph_is_of_the_first_column_that_the_prompt_reads():
    """Prompts of a set may lack some of the set's reads."""
    model, transcoders, prompts = load_model(plain("llama"), device="cpu", weights="raw"), drawn("relu"), asked()
    answers = torch.tensor([[-1, 7, 9]])
    several = replace(prompts, reads=torch.tensor([[-1, 5, 8]]), answers=answers, read_names=("a", "b", "c"))
    graph = attribution_graph(model, transcoders, several)
    assert graph.read == 5
    assert len(graph.tokens) == 6
    torch.testing.assert_close(graph.edges.sum(1), graph.values, rtol=1e-4, atol=1e-4)
    check = check_graph(model, transcoders, several, graph)
    assert float(check.frozen_error.max()) < 1e-5
    assert not check.actual.isnan().any()
    alone = attribution_graph(model, transcoders, several.reading(["b"]))
    torch.testing.assert_close(graph.edges, alone.edges)
    none = replace(several, reads=torch.full((1, 3), -1), answers=torch.full((1, 3), -1))
    with pytest.raises(PromptError, match="this one reads none"):
        attribution_graph(model, transcoders, none)


def test_transcoders_in_another_precision_take_the_models():
    model, transcoders = load_model(plain("llama"), device="cpu", weights="raw"), drawn("skip").to(torch.bfloat16)
    graph = attribution_graph(model, transcoders, asked())
    same = attribution_graph(model, transcoders.to(torch.float32), asked())
    torch.testing.assert_close(graph.edges, same.edges, atol=0, rtol=0)
    assert check_graph(model, transcoders, asked(), graph).frozen_error.max() < 1e-5
