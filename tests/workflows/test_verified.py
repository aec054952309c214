"""Verified places equal the patches themselves; pruning keeps a planted circuit and what it says that it cost."""

from dataclasses import replace

import pytest
import torch

from interp.analyses.attribution_patching import attribution_patching
from interp.analyses.edge_attribution import edge_attribution
from interp.analyses.patching import patching
from interp.errors import ConfigError
from interp.metrics import METRICS
from interp.models.load import load_model
from interp.models.sweeps import Readout
from interp.models.sweeps.circuits import Replacements
from interp.models.sweeps.edges import Graph
from interp.prompts import PromptPairs, Prompts
from interp.workflows.pruning import prune_edges
from interp.workflows.verified import verified
from tests.analyses.test_edge_circuits import planted
from tests.models.test_sweeps import both_sides, made, plain


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("site", ["resid_mid", "z"])
def test_verified_cells_are_those_of_patching(site, direction):
    model, pairs = made("llama"), both_sides()
    estimated = attribution_patching(model, pairs, site=site, direction=direction)
    found = verified(model, pairs, estimated, top=6, random=5)
    whole = patching(model, pairs, site=site, direction=direction, control=False)
    cells = {
        f"{site}.{layer} {column}": whole.moved[:, i, j]
        for i, layer in enumerate(whole.layers)
        for j, column in enumerate(whole.columns)
    }
    wanted = torch.stack([cells[name] for name in found.names], 1)
    torch.testing.assert_close(found.exact, wanted, atol=2e-5, rtol=1e-5, equal_nan=True)
    assert found.why.count("largest") == 6
    assert found.why.count("random") == 5
    assert set(found.agreement()) == {"rank correlation", "same sign", "relative error"}


def test_what_is_verified_is_what_was_estimated():
    model, pairs = made("llama"), both_sides()
    first = replace(METRICS["logit_diff"], read=0)
    named = PromptPairs(
        replace(pairs.clean, roles={"3": torch.ones(5, dtype=torch.long)}),
        replace(pairs.corrupted, roles={"3": torch.ones(5, dtype=torch.long)}),
    )
    estimated = attribution_patching(model, named, site="resid_mid", metric=first, positions=["3"])
    found = verified(model, named, estimated, metric=first, top=3, random=0)
    whole = patching(model, named, site="resid_mid", metric=first, positions=["3"], control=False)
    wanted = {f"resid_mid.{layer} 3": whole.moved[:, i, 0] for i, layer in enumerate(whole.layers)}
    torch.testing.assert_close(
        found.exact, torch.stack([wanted[name] for name in found.names], 1), atol=2e-5, rtol=1e-5, equal_nan=True
    )
    with pytest.raises(ConfigError, match="own pairs and metric"):
        verified(model, named, estimated, top=3, random=0)
    with pytest.raises(ConfigError, match="own pairs and metric"):
        verified(model, named.take([0, 1, 2]), estimated, metric=first, top=3, random=0)
    with pytest.raises(ConfigError, match="not of log_prob"):
        verified(model, named, estimated, metric="log_prob", top=3, random=0)
    with pytest.raises(ConfigError, match="not 'luck'"):
        found.agreement("luck")


def test_verified_edges_are_single_replaced_edges_and_agree_where_the_model_is_linear():
    """With small weights everything but the last norm is nearly linear."""
    own = plain("gpt2")
    with torch.no_grad():
        for block in own.transformer.h:
            block.attn.c_proj.weight.mul_(0.05)
            block.mlp.c_proj.weight.mul_(0.05)
    model, pairs = load_model(own, device="cpu"), both_sides(reads=False)
    early = pairs.take([0, 2, 3, 4])
    found = verified(model, early, edge_attribution(model, early), top=10, random=20)
    rank = found.agreement("largest")["rank correlation"]
    assert rank.low > 0.7
    assert rank.value > 0.9
    assert found.exact.shape == (4, 30)
    twice = [name for name, why in zip(found.names, found.why, strict=True) if why == "random"]
    again = verified(model, early, edge_attribution(model, early), top=0, random=20)
    assert list(again.names) == twice  # random places are drawn from all, whatever the largest are
    with pytest.raises(ConfigError, match="at least one"):
        verified(model, early, edge_attribution(model, early), top=0, saturated=0, random=0)


def test_flagged_cells_are_capped_and_those_that_no_read_can_see_are_not_flagged():
    model, pairs = made("gpt2"), both_sides(reads=False)
    with torch.no_grad():
        model.original_model.transformer.h[1].attn.c_attn.weight[:, :16] *= 1e4  # queries of all heads of layer 1
    estimated = attribution_patching(model, pairs, site="q")
    found = verified(model, pairs, estimated, top=1, saturated=1, random=1)
    assert found.why == ("largest", "saturated", "random")
    stream = attribution_patching(model, pairs, site="resid_post")
    last = pairs.clean.reads[:, :1] == torch.arange(11)
    assert torch.equal(stream.seen[:, -1], last)
    assert not bool((stream.saturated & ~stream.seen).any())


def test_pruning_keeps_the_planted_edge_alone():
    model, tokens = planted()
    pairs = both_sides(reads=False)
    corrupted = Prompts.from_tokens(tokens, pairs.clean.mask, answers=pairs.corrupted.answers[:, 0])
    found = prune_edges(model, PromptPairs(pairs.clean, corrupted))
    assert found.edges == [("embed", "logits")]
    torch.testing.assert_close(found.left, found.whole, atol=1e-4, rtol=1e-4)


def test_pruning_costs_no_more_than_it_says():
    model, pairs = made("gpt2"), both_sides(reads=False).take([0, 2, 3, 4])
    found = prune_edges(model, pairs, threshold=0.02)
    scale = (found.whole - found.empty).abs().mean()
    gone = int((~found.kept).sum())
    assert 0 < gone < len(found.kept)
    assert float((found.left - found.whole).abs().mean() / scale) <= 0.02 * gone
    with pytest.raises(ConfigError, match="threshold"):
        prune_edges(model, pairs, threshold=0.0)


def test_a_shared_key_stays_while_a_head_of_its_group_is_read():
    """Heads 2 and 3 share the key that is number 1; head 1, whose number it is too, writes nothing."""
    own = plain("llama")
    graph = Graph(3, 4, 2)
    assert [graph.fed_by(graph.targets.index(name)) for name in ("L0H2.q", "L0H1.k", "L0H1.v", "mlp0", "logits")] == [
        [3], [3, 4], [3, 4], [5], [],
    ]  # fmt: skip
    assert [graph.sources[n] for n in graph.fed_by(graph.targets.index("L1H0.k"))] == ["L1H0", "L1H1"]
    width = own.config.hidden_size // own.config.num_attention_heads
    with torch.no_grad():
        for layer in own.model.layers:
            layer.self_attn.o_proj.weight[:, width : 2 * width] = 0
    model, pairs = load_model(own, device="cpu"), both_sides(reads=False).take([0, 2, 3, 4])
    found = prune_edges(model, pairs, threshold=0.01)
    kept_heads = {name for name, kept in zip(found.sources, found.kept.tolist(), strict=True) if kept}
    queries = torch.tensor([name.endswith("H1.q") for name in found.targets])
    shared = torch.tensor([name.endswith(("H1.k", "H1.v")) for name in found.targets])  # of heads 2 and 3
    assert not bool(found.kept[queries].any())
    assert kept_heads & {f"L{layer}H{head}" for layer in range(3) for head in (2, 3)}
    assert bool((~found.cost.isnan())[shared].any())
    apart = (found.left - found.whole).abs().mean() / (found.whole - found.empty).abs().mean()
    assert float(apart) < 0.01 * int((~found.kept).sum())
    torch.testing.assert_close(float(apart), found_cost(model, pairs, found), atol=1e-4, rtol=1e-4)


def found_cost(model, pairs, pruning):
    """What the pruned edges cost together, from the sets themselves."""
    runs = Replacements.of(model, pairs.clean, pairs.corrupted, Readout.of(pairs, ["logit_diff"]))
    left, whole, empty = runs.scores(torch.stack([~pruning.kept, pruning.kept & False, pruning.kept | True]))[..., 0].T
    return float((left - whole).abs().mean() / (whole - empty).abs().mean())
