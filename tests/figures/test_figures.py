"""Figures are tested by the data in them, not by their looks."""

from dataclasses import replace

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest
import torch

from interp import figures
from interp.analyses.ablation import ablation
from interp.analyses.attention import AttentionPatterns, attention_statistics
from interp.analyses.attribution import logit_attribution
from interp.analyses.attribution_patching import attribution_patching
from interp.analyses.circuits import cumulative_ablation
from interp.analyses.edge_attribution import edge_attribution
from interp.analyses.edge_circuits import circuit_curve, edge_circuit
from interp.analyses.heads import head_scores
from interp.analyses.logit_lens import logit_lens
from interp.analyses.patching import patching
from interp.analyses.probing import probing
from interp.analyses.weights import composition
from interp.errors import ConfigError
from interp.figures.grids import plot_attention_statistics, plot_learned_heads, plot_patching_of_pair
from interp.figures.theme import safe
from interp.models.load import load_model
from interp.models.run import capture
from interp.tensors import Activations
from interp.workflows.pruning import prune_edges
from interp.workflows.verified import verified
from tests.known import known_model, known_pairs

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def setting():
    model, pairs = known_model(), known_pairs()
    return model, pairs, capture(model, pairs.clean, ["pattern", "resid_pre", "resid_post"])


def heatmaps(made):
    return [np.asarray(trace.z, dtype=float) for trace in made.data if isinstance(trace, go.Heatmap)]


def test_patching_figure_shows_share_and_control(setting):
    model, pairs, _ = setting
    result = patching(model, pairs, positions=["B", "second A"])
    made = figures.plot(result)
    own, control = heatmaps(made)
    np.testing.assert_array_equal(own, result.share().value)
    np.testing.assert_array_equal(control, result.share(control=True).value)
    assert "logit_diff" in made.layout.title.text
    assert "[" in made.data[0].customdata[0][0]  # the interval is on hover


def test_patching_of_one_pair_shows_the_raw_metric(setting):
    model, pairs, _ = setting
    result = patching(model, pairs.take([3]), control=False)
    made = plot_patching_of_pair(result, "clean <b>", "corrupted", ["a", HOSTILE])
    np.testing.assert_allclose(heatmaps(made)[0], result.patched[0].numpy())
    assert "<b>" not in made.layout.title.text
    assert "<img" not in str(made.data[0].x)


def test_head_scores_figure_ends_with_uniform_and_untrained(setting):
    _, _, activations = setting
    scores = head_scores(activations)
    made = plot_learned_heads(scores, [scores, scores])
    grid = heatmaps(made)[0]
    assert grid.shape == (4 + 2, 3)
    np.testing.assert_allclose(grid[:4, 0], scores.values.nanmean(0)[..., 0].flatten(), rtol=1e-5)
    np.testing.assert_allclose(grid[4], scores.uniform.nanmean(0), rtol=1e-5)
    np.testing.assert_allclose(grid[5], scores.values.nanmean(0).amax((0, 1)), rtol=1e-5)
    assert list(made.data[0].y)[-2:] == ["uniform", "best untrained"]


def test_statistics_and_lens_figures(setting):
    model, _, activations = setting
    statistics = attention_statistics(activations)
    entropy, distance, first = heatmaps(plot_attention_statistics(statistics))
    np.testing.assert_allclose(entropy, statistics.entropy.mean(0), rtol=1e-5)
    np.testing.assert_allclose(distance, statistics.distance.mean(0), rtol=1e-5)
    np.testing.assert_allclose(first, statistics.first.mean(0), rtol=1e-5)
    lens = logit_lens(activations, model)
    lines = [trace for trace in figures.plot(lens).data if trace.name == "last"]
    np.testing.assert_allclose(lines[0].y, lens.right[:, :, 0].mean(0))
    evolution = figures.plot_prediction_evolution(lens, 2)
    np.testing.assert_allclose(heatmaps(evolution)[0][:, 0], lens.top_probs[2, :, 0, 0])
    predictions = figures.plot_predictions_per_layer(lens, 2)
    np.testing.assert_allclose(heatmaps(predictions)[0], lens.top_probs[2, :, 0])
    np.testing.assert_allclose(figures.plot_entropy(lens, 2).data[0].y, lens.entropy[2, :, 0])


def patterns():
    square = torch.eye(3).expand(1, 2, 2, 3, 3).clone()
    return AttentionPatterns((0, 1), square, (("<bos>", HOSTILE, " "),))


def test_attention_figures_escape_tokens():
    made = figures.plot_heads_of_layer(patterns(), 1, 0)
    assert len(heatmaps(made)) == 2
    single = figures.plot_head(patterns(), 0, 1, 0)
    np.testing.assert_array_equal(heatmaps(single)[0], np.eye(3))
    for shown in (made, single):
        text = str(shown.data[0].x) + str(shown.layout.title.text)
        assert "<img" not in text
        assert "&lt;bos&gt;" in text
        assert "␣" in text
    page = figures.attention_html(patterns(), 0, 0)
    assert HOSTILE not in page
    assert "onerror=alert(1)&gt;" in page.replace("\\u0026", "&")
    assert "http://" not in page.split("<script", 1)[0]


def test_refusals():
    with pytest.raises(ConfigError, match="no head 5"):
        figures.plot_head(patterns(), 0, 5, 0)
    with pytest.raises(ConfigError, match="layer 4 was not captured"):
        figures.plot_heads_of_layer(patterns(), 4, 0)
    with pytest.raises(ConfigError, match="no figure for int"):
        figures.plot(3)


def test_safe():
    assert safe("<b>") == "&lt;b&gt;"
    assert safe(" the") == "␣the"
    assert safe("a b") == "a b"
    assert safe("\n") == "⏎"


def test_parts_are_drawn_with_their_numbers(setting):
    model, pairs, _ = setting
    prompts = pairs.clean
    cost = ablation(model, prompts, kind="resample")
    drawn = heatmaps(figures.plot(cost))
    for name, grid in zip(cost.metrics, drawn, strict=True):
        np.testing.assert_allclose(grid, cost.importance(metric=name).value)
    sites = ["resid_pre", "resid_post", "attn_out", "mlp_out", "z"]
    direct = logit_attribution(capture(model, prompts, sites), model, split="head")
    (bars,) = figures.plot(direct).data
    np.testing.assert_allclose(bars.y, direct.values.mean(0), rtol=1e-4, atol=1e-4)
    steps = cumulative_ablation(model, prompts, [(1, 0), (0, 0)], kind="resample", random_orders=2)
    lines = [t for t in figures.plot(steps).data if t.name]
    assert [line.name for line in lines] == ["by importance", "random order"]
    np.testing.assert_allclose(lines[0].y, steps.curve()[0].value)
    folded = load_model(model.original_model, device="cpu", weights="processed")
    wired = composition(folded, "K")
    np.testing.assert_allclose(heatmaps(figures.plot(wired))[0], wired.z[0, :, 1], rtol=1e-4)


def test_probes_are_drawn_beside_their_control(setting):
    _, pairs, activations = setting
    labels = pd.DataFrame({"B": (pairs.clean.tokens[:, 2] > 5).numpy(), "gap": (pairs.clean.lengths % 2).numpy()})
    marked = Activations(replace(pairs.clean, labels=labels), activations.tensors, activations.n_layers)
    found = probing(marked, "B", at=["B", "second A"], key=["gap"], folds=3)
    names = [t.name for t in figures.plot(found).data if t.name]
    assert names == ["B", "control task", "second A", "control task"]


def test_estimates_and_circuits_show_their_numbers_and_controls(setting):
    model, pairs, _ = setting
    cells, edges = attribution_patching(model, pairs, site="z"), edge_attribution(model, pairs)
    np.testing.assert_array_equal(heatmaps(figures.plot(cells))[0], cells.share().value)
    assert len(figures.plot(cells).data[1].x) == int((cells.saturated.float().mean(0) > 0.5).sum())
    top = edges.largest(30)
    drawn = figures.plot(edges).data[0]
    np.testing.assert_allclose(drawn.x, edges.share().value[top.numpy()])
    order = [(edges.sources[i], edges.targets[i]) for i in top.tolist()]
    curve = circuit_curve(model, pairs, order, shares=[0.1, 0.5, 1.0], random_orders=2)
    lines = [trace.y for trace in figures.plot(curve).data if trace.name]
    own, control, size = curve.faithfulness()
    for line, estimate in zip(lines, (own, size, control), strict=True):
        np.testing.assert_allclose(line, estimate.value)
    both = verified(model, pairs, edges, top=5, random=5)
    points = [trace for trace in figures.plot(both).data if trace.name]
    assert [len(trace.x) for trace in points] == [5, 5]


def test_circuits_are_drawn_as_they_were_found(setting):
    """Known model: the answer goes through an induction head, L1H0, of a previous-token head."""
    model, pairs, _ = setting
    pruned = prune_edges(model, pairs, threshold=0.5)
    drawn = figures.plot(pruned)
    (nodes,) = [trace for trace in drawn.data if trace.mode == "markers+text"]
    ends = {part.split(".")[0] for edge in pruned.edges for part in edge}
    assert set(nodes.text) == ends
    lines = [trace for trace in drawn.data if trace.mode == "lines"]
    assert sum(x is None for trace in lines for x in trace.x if len(trace.x) > 1) == len(pruned.edges)
    place = dict(zip(nodes.text, zip(nodes.x, nodes.y, strict=True), strict=True))
    for source, target in pruned.edges:
        assert place[source][1] < place[target.split(".")[0]][1]
        assert any(source in said for said in nodes.customdata)
    tested = edge_circuit(model, pairs, pruned.edges, random_circuits=3)
    random, own, members = figures.plot(tested).data
    kept, lost = tested.faithfulness(), tested.completeness()
    np.testing.assert_allclose(own.x, [float(kept[0].value), float(lost[0].value)])
    np.testing.assert_allclose(random.x, [float(kept[1].value), float(lost[1].value)])
    np.testing.assert_allclose(members.x, np.sort(tested.minimality().value)[::-1], rtol=1e-6)
    assert len(figures.plot(edge_circuit(model, pairs, pruned.edges, minimality=False)).data) == 2


def test_a_band_has_no_width_where_there_is_no_interval():
    from interp.estimates import Estimate
    from interp.figures.curves import band

    nan = np.nan
    made = go.Figure()
    low, high = np.array([0.5, nan, 2.5]), np.array([1.5, nan, 3.5])
    some = Estimate(np.array([1.0, 2.0, 3.0]), low, high, np.full(3, nan), np.full(3, 9))
    band(made, ["a", "b", "c"], some, "x", 0)
    np.testing.assert_array_equal(made.data[0].y, [1.5, 2.0, 3.5, 2.5, 2.0, 0.5])
