"""Figures of the control token's trace, of what its direction causes, and of two models: tested by their data."""

from dataclasses import replace

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from interp.analyses.delta_lens import DeltaLens
from interp.analyses.delta_rank import DeltaRank
from interp.analyses.deltas import MEASURES, DeltaNorms
from interp.analyses.diffing import BODIES, CrossedReadout, DifferenceLens
from interp.analyses.halting import CausalGrid, Dose, Halting, SideEffects, Transfer
from interp.analyses.prefix_contrast import PrefixContrast
from interp.analyses.weight_changes import WeightChanges
from interp.errors import ConfigError
from interp.estimates import mean, proportion
from interp.figures import plot
from interp.figures.deltas import (
    plot_component_scores,
    plot_cumulative_variance,
    plot_delta_lens,
    plot_delta_norms,
    plot_direct_effect,
    plot_shortcut,
    quantiles,
    ribbon,
    short,
    word,
)
from interp.figures.diffing import plot_base_against_tuned, plot_difference_lens, plot_weight_changes
from interp.figures.halting import plot_along_training, plot_causal, plot_causal_grid, plot_dose, plot_halting
from interp.workflows.checkpoints import AlongTraining
from interp.workflows.direct_effect import DirectEffect

HOSTILE = "<script>$x$</script>"
PROMPTS, NEUTRAL = 24, 5
GROUPS = torch.arange(PROMPTS) % 12
NAMES = tuple(f"<i>{i}" for i in range(NEUTRAL))
STREAM = ("embed", "layer 0", "layer 1")
SITES = ("embed", "layer 0 attention", "layer 0 MLP", "layer 0")
WHERE = f"layer 0, {HOSTILE}"


def drawn(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def named(made, name):
    (found,) = [trace for trace in made.data if trace.name == name]
    return found


def of_kind(made, kind):
    return [trace for trace in made.data if isinstance(trace, kind)]


def norms(**changes):
    values, null = 1 + drawn(PROMPTS, 4, 2, 3), drawn(PROMPTS, NEUTRAL, 4, 2, 3, seed=1)
    made = DeltaNorms(HOSTILE, NAMES, SITES, SITES, ("token", "token+1"), MEASURES, values, null, GROUPS)
    return replace(made, **changes)


def rank(depths=STREAM, **changes):
    n = len(depths)
    eigenvalues = torch.tensor([[5.0, 3.0, 2.0]] * n).double()
    null = torch.tensor([4.0, 3.0, 3.0]).double().expand(NEUTRAL, n, 3).clone()
    made = DeltaRank(
        token=HOSTILE, neutral=NAMES, depths=depths, offset="token", prompts=PROMPTS, centred=eigenvalues.clone(),
        uncentred=eigenvalues + 1, parallel=eigenvalues, null_centred=null, null_uncentred=null + 1,
        mean_share=torch.ones(n).double(), null_mean_share=torch.ones(NEUTRAL, n).double(),
        components80=torch.tensor([[1.0, 2.0], [1.0, torch.nan], *[[3.0, 2.0]] * (n - 2)]).double(),
        effective_rank=torch.ones(n, 2).double(), cosine=torch.ones(n, 2).double(), scores=3 + drawn(12, n, 3),
        lengths=drawn(12, n), null_scores=drawn(12, NEUTRAL, n) - 0.5,
        auc=torch.tensor([1.0, 0.9, *[torch.nan] * (n - 2)]).double(), null_auc=drawn(NEUTRAL, n).double(),
        searched_share=torch.ones(n).double(), own_share=drawn(12, n), null_share=drawn(12, NEUTRAL, n),
        contexts=torch.tensor(7), warnings=("rank <= 6",), held_out=torch.arange(12), groups=GROUPS[:12],
    )  # fmt: skip
    return replace(made, **changes)


def lens(**changes):
    logits = torch.arange(8.0).expand(3, 8).clone()
    order = logits.argsort(-1, descending=True)
    made = DeltaLens(
        token=HOSTILE, end="<eos>", neutral=NAMES, depths=STREAM, offset="token", logits=logits,
        value=3.5 + 0 * drawn(PROMPTS, 3), z=2 + drawn(PROMPTS, 3), rank=torch.zeros(PROMPTS, 3),
        null_z=drawn(PROMPTS, NEUTRAL, 3), spread=drawn(PROMPTS, 3), slope=drawn(PROMPTS, 3),
        null_slope=drawn(PROMPTS, 3), promoted=order[:, :3].clone(), suppressed=order.flip(-1)[:, :3].clone(),
        words={"7": "<eos>", "6": HOSTILE, "5": " the", "0": "a", "1": "a", "2": "\n"}, groups=GROUPS,
    )  # fmt: skip
    return replace(made, **changes)


def direct(n=4):
    return DirectEffect(tuple(f"L0H{i}" for i in range(n)), drawn(PROMPTS, n), drawn(PROMPTS, n, seed=1), GROUPS)


def prefixes():
    share = drawn(3, 3).double()
    return PrefixContrast(
        (HOSTILE, "<a>", "b"), STREAM, share, torch.ones(3, 3).double(), torch.ones(3, 3).long(), torch.tensor(5),
        PROMPTS, ("few",),
    )  # fmt: skip


def grid(action="add", random=6, neutral=NEUTRAL, **changes):
    falls = action == "project out"
    values, base = 0.5 + 0.3 * drawn(PROMPTS, 3, 2), 0.05 * drawn(PROMPTS)
    others, near = 0.1 * drawn(PROMPTS, random, 3, 2, seed=1), 0.1 * drawn(PROMPTS, neutral, 3, 2, seed=2)
    if falls:
        values, others, near, base = 1 - values, 1 - others, 1 - near, 1 - base
    made = CausalGrid(
        action, HOSTILE, "<eos>", STREAM, ("token", "token+1"), values, others, near, base,
        (1, 1), GROUPS,
    )  # fmt: skip
    return replace(made, **changes)


def dose(random=6, **changes):
    made = Dose(
        WHERE, (-1.0, 0.5, 1.0), drawn(PROMPTS, 3), drawn(PROMPTS, random, 3, seed=1),
        drawn(PROMPTS, NEUTRAL, 3, seed=2), GROUPS,
    )  # fmt: skip
    return replace(made, **changes)


def halted(random=6):
    conditions = ("token", "neutral token", "neutral token + direction", "token - direction")
    share = (drawn(PROMPTS, 4) > 0.5).float()
    return Halting(conditions, share, (drawn(PROMPTS, random, 2, seed=1) > 0.5).float(), WHERE, 3, GROUPS)


def effects():
    return SideEffects(("project out", "add"), drawn(PROMPTS, 2), drawn(PROMPTS, 6, 2), GROUPS)


def transfer():
    return Transfer(
        WHERE, ("own", HOSTILE), drawn(PROMPTS, 2), drawn(PROMPTS), drawn(PROMPTS, 6), drawn(PROMPTS, 4, seed=1), GROUPS
    )


def along(count=3):
    shape = (PROMPTS, count)
    return AlongTraining(
        checkpoints=(HOSTILE, *(f"step-{i}" for i in range(count - 1))), depths=STREAM, end_prob=drawn(*shape),
        neutral_end_prob=drawn(*shape, seed=1), norm=drawn(*shape, 3), null_norm=drawn(*shape, 3, seed=1),
        own=drawn(*shape, seed=2), final=drawn(*shape, seed=3), rivals=drawn(PROMPTS, 6, count),
        course=drawn(count), where=WHERE, groups=GROUPS,
    )  # fmt: skip


def crossed():
    return CrossedReadout(BODIES, BODIES, drawn(PROMPTS, 2, 2), drawn(PROMPTS, 2, 2, seed=1), GROUPS)


def difference():
    top = torch.tensor([[[0, 1], [1, 2]]] * 3)
    names = {"0": "<eos>", "1": HOSTILE, "2": " b"}
    return DifferenceLens(
        STREAM, ("0", "1"), drawn(PROMPTS, 3, 2), drawn(3, 2), drawn(PROMPTS, 3, 2, 2) - 0.5,
        drawn(PROMPTS, 4, 3, 2), torch.zeros(3, 2, 2).long(),
        ("<eos>", HOSTILE), top, names, GROUPS,
    )  # fmt: skip


def weights():
    size = torch.tensor([1.0, 2.0, 0.0, 4.0]).double()
    change = torch.tensor([0.1, 0.1, 0.1, 0.8]).double()
    ranks = torch.tensor([3.0, torch.nan, 2.0, 5.0]).double()
    modules = ("model.a.weight", "b.bias", "zero.weight", f"model.{HOSTILE}.weight")
    shapes = ((4, 4), (4,), (4, 4), (4, 4))
    return WeightChanges(modules, shapes, torch.zeros(4).long(), size, change, change, ranks, ranks + 1)


REGISTERED = (norms, rank, lens, direct, grid, dose, halted, effects, transfer, along, difference, weights)
ALL = {
    **{make.__name__: lambda make=make: plot(make()) for make in REGISTERED},
    "scores": lambda: plot_component_scores(rank()),
    "shortcut": lambda: plot_shortcut(prefixes(), prefixes()),
    "causal": lambda: plot_causal(grid(), grid("project out"), dose()),
    "copied": lambda: plot(grid("copy", random=0, neutral=1)),
    "against": lambda: plot_base_against_tuned(norms(), norms(values=2 * norms().values), crossed()),
}


@pytest.mark.parametrize("name", ALL)
def test_every_figure_has_title_subtitle_and_no_markup_of_the_model(name):
    made = ALL[name]()
    assert made.layout.title.text
    assert made.layout.title.subtitle.text
    page = made.to_json().replace("\\u003c", "<")
    for text in ("<script", "<i>", "$x$", "<eos>"):
        assert text not in page
    assert made.layout.template.layout.font.family.startswith("Inter")


def without_values(result):
    """The same result with nothing in it."""
    gone = {
        name: torch.full_like(value, torch.nan)
        for name, value in vars(result).items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    }
    return replace(result, **gone)


@pytest.mark.parametrize("make", REGISTERED)
def test_results_without_values_are_drawn_empty(make):
    assert plot(without_values(make())).data


def test_other_figures_of_results_without_values():
    assert plot_component_scores(without_values(rank())).data
    assert plot_shortcut(without_values(prefixes()), None).data
    assert plot_causal(without_values(grid()), without_values(grid("project out")), without_values(dose())).data
    nothing = without_values(norms())
    assert plot_base_against_tuned(nothing, nothing, without_values(crossed())).data


def test_word_keeps_tokens_from_markup_and_formulas():
    assert word("<b>$a$") == "&lt;b&gt;&#36;a&#36;"
    assert short(" a very long token indeed", 8) == "␣a␣very…"


def test_quantiles_leave_out_what_is_undefined():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(quantiles(values, (0.0, 0.5, 1.0)), [[1, np.nan], [2, np.nan], [3, np.nan]])
    assert np.isnan(quantiles(np.zeros((0, 2)), (0.5,))).all()


def test_ribbon_is_broken_where_it_is_undefined():
    low, high = np.array([0.0, 0.0, np.nan, 1.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    made = ribbon(range(5), low, high, "#000000")
    assert list(made.x) == [0, 1, 1, 0, None, 3, 4, 4, 3]
    assert list(made.y) == [1, 2, 0, 0, None, 4, 5, 1, 1]


def test_norms_are_drawn_beside_the_neutral_band():
    result = norms()
    made = plot_delta_norms(result)
    found = result.estimate()
    np.testing.assert_allclose(named(made, "at the token").y, found.value[:, 0])
    np.testing.assert_allclose(named(made, "token+1").y, found.value[:, 1])
    low, middle, high = result.band()[..., 0]
    np.testing.assert_allclose(named(made, "median neutral token").y, middle)
    np.testing.assert_allclose(named(made, "neutral tokens, 95 %").y, [*high, *low[::-1]])
    assert named(made, "at the token").marker.symbol == ("circle", "triangle-up", "square", "circle")
    assert f"p = {result.p_value():.3f}" in made.layout.title.subtitle.text
    cosine = plot_delta_norms(result, "cosine")
    np.testing.assert_allclose(named(cosine, "at the token").y, result.estimate("cosine").value[:, 0])
    assert "p = " not in cosine.layout.title.subtitle.text


def test_an_offset_that_no_prompt_reaches_is_left_out():
    values = norms().values
    values[:, :, 1] = torch.nan
    made = plot_delta_norms(norms(values=values))
    assert "token+1" not in [trace.name for trace in made.data]


def test_no_interval_is_said_where_groups_are_few():
    made = plot_delta_norms(norms(groups=GROUPS % 3))
    assert "no interval: 3 groups" in made.layout.title.subtitle.text


def test_cumulative_variance_and_its_band():
    null = rank().null_centred
    null[2:] = torch.nan  # beyond the memory
    made = plot_cumulative_variance(rank(null_centred=null))
    first = next(trace for trace in made.data if trace.name == "the token, centred")
    np.testing.assert_allclose(first.y, [0.5, 0.8, 1.0])
    band = next(trace for trace in made.data if trace.name == "neutral tokens, 95 %, centred")
    np.testing.assert_allclose(band.y[:3], [0.4, 0.7, 1.0])
    titles = [text.text for text in made.layout.annotations]
    assert titles[:2] == ["embed<br>1 / 2 for 80 %", "layer 0<br>1 / – for 80 %"]
    assert "warning: rank &lt;= 6" in made.layout.title.subtitle.text


def test_deltas_that_are_one_vector_have_no_centred_curve():
    centred = rank().centred
    centred[0] = 1e-15  # what rounding leaves
    made = plot_cumulative_variance(rank(centred=centred))
    curves = [trace for trace in made.data if trace.name == "the token, centred"]
    assert np.isnan(np.asarray(curves[0].y, dtype=float)).all()
    assert not np.isnan(np.asarray(curves[1].y, dtype=float)).any()


def test_at_most_twelve_depths_get_a_panel():
    depths = ("embed", *(f"layer {i}" for i in range(30)))
    for draw in (plot_cumulative_variance, plot_component_scores):
        made = draw(rank(depths))
        titles = [text.text for text in made.layout.annotations]
        assert len(titles) == 12
        assert titles[-1].startswith("layer 29")
        assert "12 of 31 depths are shown" in made.layout.title.subtitle.text


def test_scores_are_in_units_of_the_neutral_tokens():
    result = rank()
    made = plot_component_scores(result)
    own = next(trace for trace in made.data if trace.name == "the token (12 prompts)")
    null = result.null_scores[..., 0].double()
    wanted = (result.scores[:, 0, 0].double() - null.mean()) / null.std(correction=0)
    edges, height = np.asarray(own.x), np.asarray(own.y)
    counts = np.histogram(wanted, edges)[0]
    np.testing.assert_allclose(height[:-1], counts / counts.max())
    best = float(result.null_auc[:, 0].max())
    assert made.layout.annotations[0].text == f"embed<br>AUC 1.00 (best neutral {best:.2f})"
    assert "AUC – " in made.layout.annotations[2].text


def test_lens_shows_words_distribution_and_depth():
    result = lens()
    made = plot_delta_lens(result)
    promoted, suppressed, whole = of_kind(made, go.Bar)
    np.testing.assert_allclose(promoted.x, [3.5, 2.5, 1.5])  # 7, 6, 5 less their mean over the vocabulary
    np.testing.assert_allclose(suppressed.x, [-3.5, -2.5, -1.5])
    assert promoted.customdata[0] == "&lt;eos&gt;"
    assert list(suppressed.customdata) == ["a", "a", "⏎"]  # two ids of one text keep a bar each
    assert np.nansum(np.asarray(whole.y, dtype=float)) == 8
    np.testing.assert_allclose(named(made, word(HOSTILE)).y, mean(result.z, GROUPS).value)
    np.testing.assert_allclose(named(made, "median neutral token").y, result.null_z.mean(0).median(0).values, rtol=1e-5)
    said = made.layout.annotations[-1].text
    assert said.startswith(f"&lt;eos&gt;: z = {result.z[:, -1].mean():.1f}")
    assert "0 tokens promoted more" in said


def test_direct_effects_beside_two_neutral_tokens():
    result = direct()
    own, control = of_kind(plot_direct_effect(result), go.Bar)
    found = mean(result.values, GROUPS)
    np.testing.assert_allclose(own.y, found.value)
    np.testing.assert_allclose(own.error_y.array, found.high - found.value)
    np.testing.assert_allclose(control.y, result.null.mean(0), rtol=1e-5)
    many = plot_direct_effect(direct(50))
    largest = np.sort(np.argsort(-mean(direct(50).values).value)[:32])
    assert list(of_kind(many, go.Bar)[0].x) == [f"L0H{i}" for i in largest]
    assert "the 32 largest of 50 components" in many.layout.title.subtitle.text


def test_shortcut_shows_every_prefix_in_both_models():
    result = prefixes()
    made = plot_shortcut(result, replace(result, first_share=result.first_share / 2))
    controls = [trace for trace in made.data if trace.name == word(HOSTILE)]
    others = [trace for trace in made.data if trace.name == "2 other prefixes"]
    share = result.first_share.numpy()
    for control, other, wanted in zip(controls, others, (share, np.ones((3, 3)), share / 2), strict=False):
        np.testing.assert_allclose(control.y, wanted[0])
        np.testing.assert_allclose(other.y, wanted[1:].reshape(-1))
    assert others[0].customdata[0] == "&lt;a&gt;"
    assert len(plot_shortcut(result, None).data) == 4


@pytest.mark.parametrize("action", ["add", "project out"])
def test_causal_grid_beside_every_other_direction(action):
    result = grid(action)
    made = plot_causal_grid(result)
    (cells,) = of_kind(made, go.Heatmap)
    np.testing.assert_allclose(np.asarray(cells.z, dtype=float), result.change().mean(0), atol=1e-6)
    assert np.asarray(cells.z, dtype=float).min() > 0.3  # the change is counted in the expected direction
    largest = result.change("random").mean(0).amax((1, 2))
    np.testing.assert_allclose(named(made, "random directions").y, largest, atol=1e-6)
    assert len(named(made, "neutral tokens").y) == NEUTRAL
    frames = [shape for shape in made.layout.shapes if shape.line.color == "black"]
    assert [(frame.x0 + 0.48, frame.y0 + 0.47) for frame in frames] == [(1, 1)]
    assert f"p = {result.p_value('random'):.3f} against random" in made.layout.title.subtitle.text
    effect = float(result.effect().value)
    assert any(shape.type == "line" and shape.y0 == pytest.approx(effect) for shape in made.layout.shapes)


def test_a_null_that_is_not_there_is_not_named():
    copied = plot_causal_grid(grid("copy", random=0, neutral=1))
    assert [trace.name for trace in of_kind(copied, go.Scatter)] == ["another neutral twin"]
    assert "p = " not in copied.layout.title.subtitle.text
    alone = plot_causal_grid(grid(neutral=0))
    assert "against random directions" in alone.layout.title.subtitle.text
    assert "against neutral" not in alone.layout.title.subtitle.text


def test_neutral_directions_are_left_out_where_a_prompt_holds_their_token():
    neutral = grid().neutral
    neutral[:12, 0] = torch.nan
    neutral[:, 1] = torch.nan
    made = plot_causal_grid(replace(grid(), neutral=neutral))
    shown = np.asarray(named(made, "neutral tokens").y, dtype=float)
    assert np.isnan(shown).tolist() == [False, True, False, False, False]


def test_causal_shows_both_grids_and_the_dose():
    add, out, steps = grid(), grid("project out"), dose()
    made = plot_causal(add, out, steps)
    for cells, part in zip(of_kind(made, go.Heatmap), (add, out), strict=True):
        np.testing.assert_allclose(np.asarray(cells.z, dtype=float), part.change().mean(0), atol=1e-6)
        assert (cells.zmin, cells.zmax) == (-1, 1)
    np.testing.assert_allclose(named(made, "the token's direction").y, steps.values.mean(0), rtol=1e-5)
    most = add.change("random").mean(0).max()
    assert f"random ≤ {most:.2f}" in made.layout.annotations[0].text


def test_dose_beside_random_and_neutral_directions():
    result = dose()
    made = plot_dose(result)
    assert list(named(made, "the token's direction").x) == [-1, 0.5, 1]
    spread = result.random.mean(0).numpy()
    np.testing.assert_allclose(named(made, "strongest random direction").y, spread.max(0), rtol=1e-5)
    low, high = np.quantile(spread, (0.025, 0.975), axis=0)
    np.testing.assert_allclose(named(made, "6 random directions, 95 %").y, [*high, *low[::-1]], rtol=1e-5)
    neutral = result.neutral.mean(0).amax(0)
    np.testing.assert_allclose(named(made, "strongest of 5 neutral tokens'").y, neutral, rtol=1e-5)
    assert not [t for t in plot_dose(dose(random=0)).data if t.name and "random" in t.name]


def test_halting_has_wilsons_interval_and_random_directions():
    result = halted()
    made = plot_halting(result)
    (bars,) = of_kind(made, go.Bar)
    found = proportion(result.halted, GROUPS)
    np.testing.assert_allclose(bars.y, found.value)
    np.testing.assert_allclose(bars.error_y.arrayminus, found.value - found.low)
    added, out = of_kind(made, go.Scatter)
    np.testing.assert_allclose(added.y, result.random[..., 0].mean(0), rtol=1e-5)
    np.testing.assert_allclose(out.y, result.random[..., 1].mean(0), rtol=1e-5)
    assert np.round(np.mean(added.x)) == 2  # beside `neutral token + direction`
    assert np.round(np.mean(out.x)) == 3
    plain = replace(result, conditions=("token", "neutral token"), halted=result.halted[:, :2].clone(), where="")
    assert len(plot_halting(replace(plain, random=torch.zeros(PROMPTS, 0, 2))).data) == 1


def test_side_effects_and_transfer_beside_their_controls():
    result = effects()
    made = plot(result)
    (bars,) = of_kind(made, go.Bar)
    np.testing.assert_allclose(bars.y, result.values.mean(0), rtol=1e-5)
    for place, strip in enumerate(of_kind(made, go.Scatter)):
        np.testing.assert_allclose(strip.y, result.random[..., place].mean(0), rtol=1e-5)
    moved = transfer()
    made = plot(moved)
    (bars,) = of_kind(made, go.Bar)
    np.testing.assert_allclose(bars.y, moved.values.mean(0), rtol=1e-5)
    lines = [float(np.asarray(line.y)[0]) for line in of_kind(made, go.Scatter)]
    np.testing.assert_allclose(
        lines, [moved.random.mean(0).max(), moved.neutral.mean(0).max(), moved.base.mean()], rtol=1e-5
    )


def test_along_training_shows_behaviour_cause_and_trace():
    result = along()
    made = plot_along_training(result)
    for name, values in (
        ("with the token", result.end_prob),
        ("own direction added", result.own),
        ("last one's direction added", result.final),
        ("neutral token", result.neutral_end_prob),
    ):
        np.testing.assert_allclose(named(made, name).y, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(named(made, "strongest of 6").y, result.rivals.mean(0).amax(0), rtol=1e-5)
    np.testing.assert_allclose(named(made, "step-1").y, result.norm[:, 2].mean(0), rtol=1e-5)
    dotted = [trace for trace in made.data if trace.name == "neutral tokens' mean"]
    np.testing.assert_allclose(dotted[2].y, result.null_norm[:, 2].mean(0), rtol=1e-5)
    assert "right: 6 of 9 checkpoints" in plot_along_training(along(9)).layout.title.subtitle.text


def test_base_against_tuned_is_paired_over_prompts():
    base = norms()
    tuned = norms(values=base.values + 0.5 + 0.1 * drawn(*base.values.shape, seed=4), null=base.null + 0.25)
    made = plot_base_against_tuned(base, tuned, crossed())
    apart = (tuned.values - base.values)[:, :, 0, 1]
    np.testing.assert_allclose(named(made, "the token, fine-tuned less base").y, apart.mean(0), rtol=1e-5)
    np.testing.assert_allclose(named(made, "the token, base").y, base.estimate().value[:, 0])
    np.testing.assert_allclose(named(made, "the token, fine-tuned").y, tuned.estimate().value[:, 0])
    (band,) = [t for t in made.data if t.yaxis == "y3" and t.fill == "toself" and "107" in t.fillcolor]
    np.testing.assert_allclose(band.y, [0.25] * 8, rtol=1e-5)  # every neutral token grew by as much
    (table,) = of_kind(made, go.Heatmap)
    np.testing.assert_allclose(np.asarray(table.z, dtype=float), crossed().values.mean(0), rtol=1e-5)
    own, null = crossed().values.mean(0)[1, 0], crossed().neutral.mean(0)[1, 0]
    assert table.text[1][0] == f"{own:.2f}<br>({null:.2f})"
    assert not of_kind(plot_base_against_tuned(base, tuned, None), go.Heatmap)
    with pytest.raises(ConfigError, match="the same twins"):
        plot_base_against_tuned(base, norms(groups=GROUPS % 6), None)


def test_difference_lens_and_what_it_promotes():
    result = difference()
    made = plot_difference_lens(result)
    first, second, table = of_kind(made, go.Heatmap)
    np.testing.assert_allclose(np.asarray(first.z, dtype=float), result.z[..., 0])
    np.testing.assert_allclose(np.asarray(second.z, dtype=float), result.z[..., 1])
    assert word(HOSTILE) in first.customdata[0][0]
    assert table.text[0][0] == "<b>&lt;eos&gt;</b>"  # asked about
    assert table.text[1][1] == "␣b"
    np.testing.assert_array_equal(np.asarray(table.z, dtype=float), [[1, 1], [1, 0]])


def test_weights_in_order_of_their_change():
    made = plot_weight_changes(weights())
    sizes, ranks = of_kind(made, go.Bar)
    np.testing.assert_allclose(sizes.x, [0.2, 0.1, 0.05])
    np.testing.assert_allclose(ranks.x, [5, 3, np.nan])
    np.testing.assert_allclose(named(made, "a random matrix of its shape").x, [6, 4, np.nan])
    assert list(made.layout.yaxis.ticktext) == [word(HOSTILE), "a", "b.bias"]
    assert "1 module without a finite share left out" in made.layout.title.subtitle.text
