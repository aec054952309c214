"""Circuits of edges: what they must be where all or nothing is kept, a planted circuit, and a plain loop."""

from dataclasses import replace

import pytest
import torch

from interp.analyses.edge_circuits import circuit_curve, edge_circuit
from interp.errors import ConfigError, ModelError, PromptError
from interp.models.load import load_model
from interp.models.run import capture
from interp.models.sweeps import Readout
from interp.models.sweeps.circuits import Replacements
from interp.prompts import PromptPairs, Prompts
from interp.workflows.pruning import prune_edges
from tests import naive_edges
from tests.analyses.test_edge_attribution import difference, known, tokens_of
from tests.models.test_sweeps import both_sides, made, neox

KINDS = ("counterfactual", "zero", "mean", "resample")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["gpt2", "llama", "gemma2"])
def test_what_replaced_edges_carry_equals_a_plain_loop(form, kind):
    own, model, pairs = known(form)
    runs = Replacements.of(model, pairs.clean, pairs.corrupted, Readout.of(pairs, ["logit_diff"]), kind)
    names = [(runs.graph.sources[s], runs.graph.targets[t]) for s, t in runs.graph.edges.tolist()]
    masks = torch.rand(4, len(names), generator=torch.Generator().manual_seed(2)) < 0.3
    found = runs.scores(masks)[..., 0]
    if kind in ("mean", "resample"):  # pairs 0 and 2 are of one length, the others alone
        assert found.isnan().all(1).tolist() == [False, True, False, True, True]
    with torch.no_grad():
        for number, partner in ((0, 2), (2, 0)):
            tokens = tokens_of(pairs.clean, number)
            if kind == "zero":
                other = {name: torch.zeros_like(one) for name, one in naive_edges.run(own, tokens)[1].items()}
            else:
                side = pairs.corrupted if kind == "counterfactual" else pairs.clean
                row = number if kind == "counterfactual" else partner
                other = naive_edges.run(own, tokens_of(side, row))[1]
            for place, mask in enumerate(masks):
                chosen = {edge: 1.0 for edge, on in zip(names, mask.tolist(), strict=True) if on}
                logits, _ = naive_edges.run(own, tokens, other, chosen)
                wanted = difference(pairs, number, logits)
                torch.testing.assert_close(found[number, place], wanted, atol=2e-5, rtol=1e-5)


def test_nothing_replaced_is_the_model_and_all_replaced_the_other_run():
    model, pairs = made("llama"), both_sides(reads=False)
    curve = circuit_curve(model, pairs, ["L0H0", "mlp1"], random_orders=2)
    logits = [capture(model, side, ["logits"])["logits"] for side in (pairs.clean, pairs.corrupted)]
    whole, other = (Readout.of(pairs, ["logit_diff"]).score(one, torch.arange(5))[:, 0] for one in logits)
    torch.testing.assert_close(curve.whole, whole, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(curve.empty, other, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(curve.values[:, -1], whole, atol=2e-5, rtol=1e-5)
    assert curve.sizes[-1] == curve.total
    own, control, size = curve.faithfulness()
    for one in (own, control, size):
        assert abs(float(one.value[-1]) - 1) < 1e-4


def planted():
    """A model whose answer goes through one edge alone: all heads and MLPs write nothing, the embedding is read out."""
    from tests.models.test_sweeps import plain

    own = plain("gpt2")
    with torch.no_grad():
        for block in own.transformer.h:
            for part in (block.attn.c_proj, block.mlp.c_proj):
                part.weight.zero_()
    pairs = both_sides(reads=False)
    tokens, last = pairs.corrupted.tokens.clone(), pairs.clean.lengths - 1
    tokens[torch.arange(5), last] = (pairs.clean.tokens[torch.arange(5), last] + 1) % 60
    return load_model(own, device="cpu"), tokens


def test_a_planted_circuit_is_faithful_complete_and_minimal():
    model, tokens = planted()
    pairs = both_sides(reads=False)
    corrupted = Prompts.from_tokens(tokens, pairs.clean.mask, answers=pairs.corrupted.answers[:, 0])
    found = edge_circuit(model, PromptPairs(pairs.clean, corrupted), [("embed", "logits")], random_circuits=6)
    faithful, chance = found.faithfulness()
    complete, _ = found.completeness()
    assert abs(float(faithful.value) - 1) < 1e-4
    assert abs(float(complete.value)) < 1e-4
    assert abs(float(found.minimality().value[0]) - 1) < 1e-4
    assert abs(float(chance.value)) < 1e-4
    assert found.members == ("embed to logits",)
    assert found.beyond_random().p == 1 / 7


def test_areas_are_those_of_the_trapezes_and_cmd_is_nothing_for_a_perfect_circuit():
    model, tokens = planted()
    pairs = both_sides(reads=False)
    corrupted = Prompts.from_tokens(tokens, pairs.clean.mask, answers=pairs.corrupted.answers[:, 0])
    curve = circuit_curve(model, PromptPairs(pairs.clean, corrupted), [("embed", "logits")], random_orders=3)
    shares = torch.tensor(curve.sizes) / curve.total
    span = float(shares[-1] - shares[0])
    assert abs(float(curve.cpr()[0].value) - span) < 1e-3
    assert float(curve.cmd()[0].value) < 1e-3
    assert float(curve.cmd()[1].value) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_the_budget_changes_nothing(kind):
    model, pairs = made("gpt2"), both_sides(reads=False)
    readout = Readout.of(pairs, ["logit_diff", "log_prob"])
    masks = None
    found = []
    for memory in (1 << 30, 1):
        runs = Replacements.of(model, pairs.clean, pairs.corrupted, readout, kind, memory=memory)
        masks = torch.rand(5, len(runs.graph.edges), generator=torch.Generator().manual_seed(4)) < 0.4
        found.append(runs.scores(masks))
    torch.testing.assert_close(found[0], found[1], atol=2e-5, rtol=1e-5, equal_nan=True)


def test_a_circuit_of_parts_is_all_that_they_write_and_is_compared_with_parts():
    model, pairs = made("llama"), both_sides(reads=False)
    parts = ["embed", "L0H1", "mlp1"]
    found = edge_circuit(model, pairs, parts, random_circuits=4)
    runs = Replacements.of(model, pairs.clean, pairs.corrupted, Readout.of(pairs, ["logit_diff"]))
    sources = runs.graph.sources

    def kept(names):
        return torch.tensor([sources[s] in names for s in runs.graph.edges[:, 0].tolist()])

    asked = [
        parts,
        [name for name in sources if name not in parts],
        *([n for n in parts if n != less] for less in parts),
    ]
    wanted = runs.scores(~torch.stack([kept(names) for names in asked]))[..., 0]
    got = torch.cat([found.alone[:, None], found.without[:, None], found.lacking], 1)
    torch.testing.assert_close(got, wanted, atol=2e-5, rtol=1e-5)
    assert (found.of, found.members) == ("parts", ("embed", "L0H1", "mlp1"))
    turned = edge_circuit(model, pairs, iter(parts[::-1]), random_circuits=4)  # in the order given, however it is given
    assert turned.members == ("mlp1", "L0H1", "embed")
    torch.testing.assert_close(turned.lacking, found.lacking.flip(1))
    assert found.random_alone.shape == (5, 4)
    few = edge_circuit(model, pairs, parts, random_circuits=4, minimality=False, memory=1)
    assert few.lacking.shape == (5, 0)
    torch.testing.assert_close(few.random_without, found.random_without, atol=2e-5, rtol=1e-5)


def test_resampling_leaves_out_a_lone_longest_prompt_and_magnitude_counts_the_others():
    model, pairs = made("gpt2"), both_sides(reads=False)
    longest = int(pairs.clean.lengths.max())
    runs = Replacements.of(model, pairs.clean, pairs.corrupted, Readout.of(pairs, ["logit_diff"]), "resample")
    assert bool(runs.missing[pairs.clean.lengths == longest].all())
    others = pairs.take(~runs.missing)
    alone = Replacements.of(model, others.clean, others.corrupted, Readout.of(others, ["logit_diff"]), "resample")
    torch.testing.assert_close(runs.apart(), alone.apart())
    masks = torch.rand(3, len(runs.graph.edges), generator=torch.Generator().manual_seed(1)) < 0.3
    found = runs.scores(masks)
    torch.testing.assert_close(found[~runs.missing], alone.scores(masks), atol=2e-5, rtol=1e-5)
    assert found[runs.missing].isnan().all()


def test_an_order_may_come_as_an_iterator():
    model, pairs = made("gpt2"), both_sides(reads=False)
    order = [("mlp0", "logits"), ("embed", "mlp0")]
    wanted = circuit_curve(model, pairs, order, random_orders=2)
    found = circuit_curve(model, pairs, zip(*zip(*order, strict=True), strict=True), random_orders=2)
    torch.testing.assert_close(found.values, wanted.values)


def test_bad_requests_are_refused():
    model, pairs = made("gpt2"), both_sides(reads=False)
    with pytest.raises(ConfigError, match=r"no edge from mlp2 to L0H0\.q"):
        edge_circuit(model, pairs, [("mlp2", "L0H0.q")])
    with pytest.raises(ConfigError, match="keeps some parts"):
        edge_circuit(
            model, pairs, ["embed", *(f"mlp{i}" for i in range(3)), *(f"L{i}H{h}" for i in range(3) for h in range(4))]
        )
    for ask in (edge_circuit, circuit_curve):
        with pytest.raises(ConfigError, match="at least one edge"):
            ask(model, pairs, [])
    with pytest.raises(ConfigError, match="further apart"):
        circuit_curve(model, pairs, ["mlp0"], shares=[0.99, 1.0])
    with pytest.raises(ConfigError, match="no part"):
        edge_circuit(model, pairs, ["L9H9"])
    with pytest.raises(ConfigError, match="not both"):
        edge_circuit(model, pairs, ["mlp0", ("embed", "logits")])
    for shares in ([0.0, 1.0], [0.5], [], [float("nan"), 1.0], [1.0, 1.0], [0.1, 0.5]):
        with pytest.raises(ConfigError, match="shares"):
            circuit_curve(model, pairs, [], shares=shares)
    with pytest.raises(ConfigError, match="at least 2"):
        circuit_curve(model, pairs, [], random_orders=-1)
    with pytest.raises(ConfigError, match="at least 2"):
        edge_circuit(model, pairs, ["mlp0"], random_circuits=0)
    same = PromptPairs(pairs.clean, replace(pairs.clean, answers=pairs.corrupted.answers))
    for ask in (circuit_curve, edge_circuit):
        with pytest.raises(PromptError, match="nothing to keep"):
            ask(model, same, ["mlp0"])
    with pytest.raises(PromptError, match="nothing to keep"):
        prune_edges(model, same)
    with pytest.raises(ModelError, match="cannot be told apart"):
        edge_circuit(load_model(neox(), device="cpu"), pairs, [("embed", "logits")])
    with pytest.raises(PromptError, match="use zero"):
        edge_circuit(model, pairs.take([1, 3, 4]), [("embed", "logits")], kind="mean")
