import dataclasses

import numpy as np
import pytest
import torch

from interp.analyses.conductance import conductance
from interp.analyses.faithfulness import faithfulness, marked
from interp.analyses.separation import separation
from interp.analyses.token_attribution import token_attribution
from interp.analyses.verdicts import verdicts
from interp.datasets.judging import requests, turns, twin
from interp.estimates import mean
from interp.figures.judge import (
    plot_conductance,
    plot_edits,
    plot_faithfulness,
    plot_judge_heads,
    plot_paths,
    plot_separation,
    plot_sets,
    plot_tokens,
    plot_verdicts,
)
from interp.figures.scored import scored_page
from interp.models.run import capture
from interp.sites import Site
from interp.studies.safety_judge.recipe import judged
from interp.workflows.adversarial import find_edits
from interp.workflows.judge_heads import judge_heads
from interp.workflows.paths import safe_unsafe_paths
from tests.judges import tiny

SOME = requests(40, seed=4)


@pytest.fixture(scope="module")
def made():
    judge = tiny()[1]
    return judge, judged(judge, SOME), [one.unsafe for one in SOME]


def test_tokens_stand_over_their_shares_and_are_escaped(made):
    judge, prompts, _ = made
    found = token_attribution(judge, prompts.take(range(3)), steps=4, most_steps=4)
    pieces = [["<b>", *text.split()[1:]] for text in prompts.texts[:3]]
    (grid,) = plot_tokens(found, pieces).data
    for i in range(3):
        row = found.values[i][~found.values[i].isnan()]
        np.testing.assert_allclose(np.asarray(grid.z[i], dtype=float)[: len(row)], row)
        assert grid.text[i][0] == "&lt;b&gt;"
    assert grid.zmin == -grid.zmax


def test_recall_is_drawn_with_its_interval(made):
    judge, prompts, _ = made
    decides = marked(prompts, ("act", "object", "context"))
    tested = [
        faithfulness(judge, prompts, torch.rand(prompts.tokens.shape), decides, method=name) for name in ("a", "b")
    ]
    traces = {trace.name: trace for trace in plot_faithfulness(tested, tested[:1]).data}
    wanted = mean(tested[1].recall, tested[1].groups)
    assert traces["recall"].y[1] == pytest.approx(float(wanted.value))
    assert traces["recall"].error_y.array[1] == pytest.approx(float(wanted.high - wanted.value))
    assert traces["untrained judges (a)"].y[0] == pytest.approx(float(tested[0].recall.mean()))


def test_heads_are_ordered_by_what_their_ablation_tells(made):
    judge, prompts, unsafe = made
    found = judge_heads(judge, prompts, unsafe)
    looks, direct, ablation = plot_judge_heads(found, top=5).data
    contrast = found.contrast("ablation")
    order = np.argsort(-np.abs(contrast.value))[:5]
    assert list(ablation.x) == [found.names[i] for i in order] == list(looks.x) == list(direct.x)
    np.testing.assert_allclose(ablation.y, contrast.value[order])


def test_paths_separation_and_conductance_draw_what_was_measured(made):
    judge, prompts, unsafe = made
    pairs = [one for one in SOME if one.unsafe and "object" in turns(one)][:10]
    sides = [judged(judge, some) for some in (pairs, [twin(one, "object") for one in pairs])]
    paths = safe_unsafe_paths(judge, *sides)
    traces = {trace.name: trace for trace in plot_paths(paths).data if trace.name}
    np.testing.assert_allclose(traces["to unsafe"].y, paths.to_unsafe.mean(0), atol=1e-5)
    np.testing.assert_allclose(traces["cosine"].y, paths.cosine.mean(0), atol=1e-5)
    kept = capture(judge.model, prompts, ["resid_pre", Site("resid_post", 1)])
    apart = separation(kept, unsafe, position="verdict")
    line = next(trace for trace in plot_separation(apart, [apart]).data if trace.name == "this judge")
    np.testing.assert_allclose(line.y, apart.accuracy().value)
    flow = conductance(judge, prompts.take([0]), steps=4)
    grid = plot_conductance(flow, ["<i>"] * int(prompts.lengths[0])).data[0]
    np.testing.assert_allclose(np.asarray(grid.z, dtype=float), flow.values[0, :, : int(prompts.lengths[0])])


def test_edits_are_counted_try_by_try(made):
    judge, prompts, _ = made
    searches = [find_edits(judge, prompts.texts[:9], budget=4, by=by) for by in ("gradient", "random")]
    lines = {trace.name: trace for trace in plot_edits(*searches).data if trace.name}
    for name, search in zip(("by gradient", "by chance"), searches, strict=True):
        wanted = [float(search.flipped_within(tries).mean()) for tries in range(1, 5)]
        np.testing.assert_allclose(lines[name].y, wanted)


def test_every_prompt_is_counted_and_escaped(made):
    judge, prompts, unsafe = made
    found = verdicts(judge, prompts, unsafe)
    bars = plot_verdicts(found).data
    assert sum(int(sum(bar.y)) for bar in bars) == len(SOME)
    points = {trace.name: trace for trace in plot_sets({"<set>": found}).data}
    assert points["AUC"].y[0] == pytest.approx(float(found.auc().value))
    assert points["AUC"].x[0].startswith("&lt;set&gt;")
    page = scored_page(dataclasses.replace(found, texts=("<script>", *found.texts[1:])))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert page.count("<tr>") == 1 + len(SOME)
