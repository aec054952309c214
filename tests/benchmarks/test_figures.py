"""Figures for print, tested by the data in them: runs are folders of small results."""

import importlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import torch

from benchmarks.figures import (
    base_against_tuned,
    contrast_scatter,
    cumulative_variance,
    delta_lens,
    delta_norm,
    feature_heat_map,
    head_maps,
    judge_heads,
    lens_evolution,
    motifs,
    paper,
    patching_grids,
    peers_timings,
    probe_curves,
    token_attributions,
    training_progress,
)
from interp.analyses.faithfulness import Faithfulness
from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import LogitLens
from interp.analyses.patching import Patching
from interp.analyses.probing import Probing
from interp.errors import DataError
from interp.estimates import mean, proportion
from interp.figures.files import why_no_browser
from interp.files import read_text, write_json
from interp.monitoring.learning import course
from interp.monitoring.records import PROBE, RECORDS
from interp.results import save
from interp.studies.arithmetic.learning import Learning
from interp.studies.safety_judge.watched import Watched
from interp.workflows.judge_heads import JudgeHeads
from tests.figures.test_delta_figures import HOSTILE, along, crossed, drawn, lens, norms, rank
from tests.figures.test_feature_figures import contrasted, motif_contrast, triad_counts, used
from tests.monitoring.test_records import made_probe, written

STUDIES = (
    base_against_tuned, contrast_scatter, cumulative_variance, delta_lens, delta_norm, feature_heat_map, head_maps,
    judge_heads, lens_evolution, motifs, patching_grids, probe_curves, token_attributions, training_progress,
)  # fmt: skip
README = Path(__file__).parents[2] / "README.md"
N = 24
GROUPS = torch.arange(N) % 12
DEPTHS = ("embed", "layer 0")


def patched(site):
    columns, axis = (("0", "1"), "head") if site == "z" else ((HOSTILE, "last"), "position")
    return Patching(
        site, "denoising", "logit_diff", "logits", (0, 1), axis, columns, drawn(N, 2, 2), drawn(N, 2, 2, seed=1), "",
        1 + drawn(N, seed=2), -1 + drawn(N, seed=3), GROUPS, 0.05,
    )  # fmt: skip


def readings():
    positions = tuple(f"answer.{name}" for name in lens_evolution.SHOWN)
    table = (drawn(N, 2, 4) > 0.5).float()
    return LogitLens(
        DEPTHS, positions, -table, table, table, table, table, -table, 1 - table, torch.zeros(N, 2, 4, 1).long(),
        drawn(N, 2, 4, 1), drawn(N, 4), {"0": HOSTILE}, torch.zeros(N, 4).long(), (HOSTILE,) * N, GROUPS,
    )  # fmt: skip


def probed(places=("=", "predict.answer.tens")):
    parts = [(drawn(N, 2, len(places), seed=seed) > 0.4).float() for seed in range(4)]
    return Probing("x", ("0", "1"), DEPTHS, DEPTHS, places, *parts, "x", drawn(2, len(places), 2, 3), GROUPS)


def looking(seed):
    return HeadScores(
        ("previous token", HOSTILE), (0, 1), drawn(N, 2, 2, 2, seed=seed), 0.1 * drawn(N, 2), torch.arange(N)
    )


def judging(seed=0):
    table = drawn(N, 1, 3, seed=seed)
    unsafe = torch.arange(N) < 12
    return JudgeHeads((0,), ("act",), table, 0.1 * drawn(N), table - 1, table + 1, drawn(N), unsafe, GROUPS)


def faithful(seed=0):
    parts = [drawn(N, seed=seed + i) for i in range(7)]
    return Faithfulness(HOSTILE, torch.ones(N).long(), *parts, GROUPS)


def recorded(folder):
    probe = replace(made_probe(), spans=({"act": (0, 4)},) * 12)
    written(folder, [0, 5, 9], probe, pieces=[["text", " 0", " <b>", " x"]] * 2)
    return Watched(read_text(folder / PROBE), read_text(folder / RECORDS))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The studies as `make reproduce` lays them out, as far as the figures read them."""
    root = tmp_path_factory.mktemp("reports")
    arithmetic, kill, judge = (root / name for name in ("arithmetic", "kill-switch", "safety-judge"))
    for site in patching_grids.SITES:
        save(patched(site), arithmetic / "arithmetic-add3" / "patching" / f"carry.{site}.logit_diff")
    save(readings(), arithmetic / "arithmetic-add3" / "logit-lens" / "examples")
    for model in lens_evolution.MODELS:
        save(readings(), arithmetic / model / "logit-lens" / "prompts")
    for model, name in probe_curves.PROBES:
        save(probed(), arithmetic / model / "probing" / name)
    for number, name in enumerate(("head-scores", "untrained-0", "untrained-1", "untrained-2")):
        save(looking(number), arithmetic / "arithmetic-add3" / "attention" / name)
    kinds = tuple(training_progress.DIGITS)
    counted = Learning((50, 100, 200), kinds, torch.tensor([[1, 5, 9]] * len(kinds)), torch.full((len(kinds),), 10))
    save(counted, arithmetic / "arithmetic-add3" / "learning" / "learning")
    for name in delta_norm.MODELS:
        save(norms(), kill / f"kill-switch-{name}" / "norms" / "norms")
    behavioural = kill / "kill-switch-behavioural"
    save(rank(), behavioural / "rank" / "rank")
    save(lens(), behavioural / "lens" / "lens")
    save(along(), behavioural / "training" / "training")
    for name, result in (("base-norms", norms()), ("tuned-norms", norms(values=2 * norms().values))):
        save(result, behavioural / "base" / name)
    save(crossed(), behavioural / "base" / "crossed")
    save(recorded(tmp_path_factory.mktemp("records")), judge / "safety-judge" / "training" / "watched")
    for method in token_attributions.METHODS:
        save(faithful(), judge / "safety-judge" / "tokens" / f"faithfulness-{method.replace(' ', '-')}")
    for seed in range(3):
        save(faithful(seed), judge / "safety-judge" / "tokens" / f"untrained-{seed}")
        save(judging(seed + 1), judge / "safety-judge" / "heads" / f"heads-{seed}")
    save(judging(), judge / "safety-judge" / "heads" / "heads")
    chat = root / "safety-circuits" / "safety-chat"
    save(used(), chat / "features" / "usage")
    save(contrasted(), chat / "contrast" / "all")
    save(motif_contrast(), root / "safety-circuits" / motifs.CATEGORY / "graphs" / "contrast")
    save(triad_counts(), root / "safety-circuits" / motifs.CATEGORY / "graphs" / "triads")
    return root


def named(made, name):
    return [trace for trace in made.data if trace.name == name]


def grids(made):
    return [trace for trace in made.data if isinstance(trace, go.Heatmap)]


def assert_within(made, estimate, line):
    """The line is the value, and right before it comes the band of the interval."""
    np.testing.assert_allclose(line.y, estimate.value)
    band = made.data[list(made.data).index(line) - 1]
    np.testing.assert_allclose(band.y, [*estimate.high, *estimate.low[::-1]])


def timed(tool, *rounds, own=1.0):
    ratio = float(np.median(rounds)) / own if rounds else None
    return {"tool": tool, "rounds": list(rounds), "ratio": ratio, "seconds": float(np.median(rounds or [0])) or None}


def record(job="residual", tokens=16, first=0, model="GPT-2 small", tools=()):
    case = {"pairs": 4, "tokens": tokens, "first": first}
    return {"job": job, "model": model, "device": "cpu", "case": case, "operations": 100 * tokens, "tools": list(tools)}


def test_timings_are_ratios_of_one_round_each(tmp_path):
    own, slow, failed = timed("interp", 1.0, 1.0, 1.0), timed("slow", 2.0, 3.0, 8.0), timed("failed")
    jobs = [
        record(tools=[own, slow, failed]), record("heads", first=2, tools=[own, timed("slow", 5.0, 5.0, 5.0)]),
        record("edges", model="4 layers x 128", tools=[own, slow]),
    ]  # fmt: skip
    points = [{"value": n, "record": record(tokens=n, tools=[timed("interp", n / 8), slow])} for n in (8, 16)]
    written = {"tools": {"interp": {}, "slow": {}, "failed": {}}, "jobs": jobs}
    write_json(tmp_path / "latest.json", {**written, "growth": [{"line": "tokens", "points": points}]})
    made = peers_timings.drawn(tmp_path / "latest.json")
    found = next(trace for trace in made.data if trace.name == "slow" and trace.xaxis == "x")
    assert list(found.y) == ["residual patching", "head patching, differ from token 3"]
    assert list(found.x) == [3, 5]
    assert (list(found.error_x.array), list(found.error_x.arrayminus)) == ([5, 0], [1, 0])
    counted = next(trace for trace in made.data if trace.name == "fewest operations")
    assert list(counted.y) == [1, 2]
    with pytest.raises(DataError, match="make bench"):
        peers_timings.drawn(tmp_path / "absent.json")


@pytest.mark.parametrize("script", paper.scripts(), ids=lambda path: path.stem)
def test_every_script_has_a_caption_and_a_line_in_the_readme(script):
    first, _ = paper.caption(script)
    assert len(first) > 40
    assert first.endswith(".")
    assert callable(importlib.import_module(f"benchmarks.figures.{script.stem}").figure)
    assert f"`{script.stem}.py`" in read_text(README)


@pytest.mark.parametrize("script", STUDIES, ids=lambda module: module.__name__.rpartition(".")[2])
def test_figures_are_as_wide_as_a_page_and_carry_no_title_and_no_markup(script, reports):
    made = script.figure(reports)
    assert made.layout.width in (paper.PAGE, paper.COLUMN)
    assert made.layout.title.text is None
    assert "<script" not in str(made.to_dict())
    letters = re.findall(r">([a-l])</b>", " ".join(note.text for note in made.layout.annotations))
    assert "".join(letters) == "abcdefghijkl"[: len(letters)]
    sizes = {made.layout.font.size, *(axis.tickfont.size for axis in made.select_xaxes())}
    assert min(sizes) * 72 / paper.INCH >= 7


def test_patching_stands_beside_its_control_with_intervals(reports):
    found = grids(patching_grids.figure(reports))
    for number, site in enumerate(patching_grids.SITES):
        for control in (False, True):
            share = patched(site).share(control=control)
            grid = found[2 * number + control]
            np.testing.assert_allclose(np.asarray(grid.z, dtype=float), share.value, rtol=1e-5)
            assert f"[{paper.plain(share.low[0, 1])}, {paper.plain(share.high[0, 1])}]" in grid.text[0][1]
    assert "&lt;script" in found[0].x[0]


def test_lens_and_probes_stand_beside_their_controls(reports):
    made, right = lens_evolution.figure(reports), proportion(readings().right, GROUPS)
    assert_within(made, right[:, 1], named(made, "hundreds")[0])
    control = proportion(readings().control_right, GROUPS)
    assert_within(made, control[:, 0], named(made, "another problem's answer")[0])
    made = probe_curves.figure(reports)
    assert_within(made, probed().accuracy()[:, 0], named(made, "at =")[0])
    assert_within(made, proportion(probed().control, GROUPS)[:, 1], named(made, "control task")[1])
    np.testing.assert_allclose(named(made, "commonest label")[0].y, probed().majority.mean(0).amax(1), rtol=1e-6)


def test_heads_stand_beside_untrained_ones(reports):
    made = head_maps.figure(reports)
    (grid,) = grids(made)
    np.testing.assert_allclose(np.asarray(grid.z, dtype=float)[:4], looking(0).values.mean(0).reshape(4, 2), rtol=1e-5)
    (best,), (others,) = named(made, "trained model"), named(made, "3 untrained models")
    assert (np.asarray(best.error_y.array) > 0).all()
    assert len(best.y) == len(others.y) == 2
    made = judge_heads.figure(reports)
    found = judging().contrast("ablation")
    np.testing.assert_allclose(named(made, "trained judge")[2].y, found.value)
    np.testing.assert_allclose(named(made, "trained judge")[2].error_y.array, found.high - found.value)
    others = [judging(seed + 1).contrast("ablation").value for seed in range(3)]
    np.testing.assert_allclose(named(made, "3 untrained judges")[2].y, np.concatenate(others))


def test_the_trace_stands_beside_the_neutral_tokens(reports):
    made, found = delta_norm.figure(reports), norms()
    assert_within(made, found.estimate()[:, 0], named(made, "the control token")[0])
    low, middle, high = found.band()[..., 0]
    np.testing.assert_allclose(named(made, "median neutral token")[0].y, middle)
    np.testing.assert_allclose(named(made, "neutral tokens, 95 %")[0].y, [*high, *low[::-1]])
    made = base_against_tuned.figure(reports)
    assert_within(made, found.estimate()[:, 0], named(made, "the token, base")[0])
    own, neutral = grids(made)
    np.testing.assert_allclose(np.asarray(own.z, dtype=float), mean(crossed().values, crossed().groups).value)
    np.testing.assert_allclose(np.asarray(neutral.z, dtype=float), mean(crossed().neutral, crossed().groups).value)
    made = delta_lens.figure(reports)
    z = mean(lens().z, lens().groups)
    assert any(np.array_equal(trace.y, z.value) for trace in made.data if isinstance(trace, go.Scatter))
    made = cumulative_variance.figure(reports)
    np.testing.assert_allclose(named(made, "the token, uncentred")[0].y, np.cumsum([6, 4, 3]) / 13)
    assert named(made, "neutral tokens, 95 %, uncentred")
    assert not named(made, "neutral tokens, 95 %, centred")[0].fillpattern.shape  # it would be coarse in a PDF


def test_training_shows_all_three_studies_with_what_chance_gives(reports):
    made = training_progress.figure(reports)
    watched = course(paper.load(reports, "safety-judge", "safety-judge", "training", "watched").recording)
    assert_within(made, watched.accuracy, named(made, "accuracy")[0])
    assert named(made, "shuffled labels")[0].y[0] == pytest.approx(np.quantile(watched.chance, 0.975))
    assert_within(made, mean(along().own, along().groups), named(made, "its direction added")[0])
    assert list(named(made, "carry")[0].y) == [0.1, 0.5, 0.9]
    assert {trace.legend for trace in made.data} == {"legend", "legend2", "legend3"}


def test_tokens_carry_their_shares_and_the_deciding_words_are_bold(reports):
    made = token_attributions.figure(reports)
    recording = paper.load(reports, "safety-judge", "safety-judge", "training", "watched").recording
    bars = [trace for trace in made.data if isinstance(trace, go.Bar)]
    assert list(bars[0].text) == ["<b>text</b>", "0", "&lt;b&gt;", "x"]
    np.testing.assert_allclose(bars[1].marker.color, recording.tokens[1][-1])
    (recall,), tested = named(made, "recall"), mean(faithful().recall, GROUPS)
    np.testing.assert_allclose(recall.y, [tested.value] * 5)
    np.testing.assert_allclose(recall.error_y.array, [tested.high - tested.value] * 5)
    assert len(named(made, "untrained judges")[0].y) == 3


def test_features_stand_by_importance_and_by_what_was_confirmed(reports):
    every, confirmed = grids(feature_heat_map.figure(reports))
    assert list(every.y) == ["L0_F3", "L0_F7", "L1_F2", "L2_F5"]
    assert list(confirmed.y) == ["L0_F3"]
    np.testing.assert_allclose(np.asarray(confirmed.z, dtype=float)[0], used().importance[:, 0])
    assert every.zmax == confirmed.zmax == pytest.approx(used().importance.max())
    made, kept = contrast_scatter.figure(reports), contrasted().part > 0
    (both,) = named(made, "confirmed against both (1)")
    assert both.y[0] == pytest.approx(contrasted().harmful[kept, 0].mean())
    (line,) = made.layout.shapes
    assert (line.x0, line.x1) == (line.y0, line.y1)


def test_motifs_stand_on_both_sides_and_triads_beside_rewired_graphs(reports):
    made = motifs.figure(reports)
    for name, side in zip(("harmful", "safe"), motif_contrast().sides(), strict=True):
        (shown,) = named(made, name)
        np.testing.assert_allclose(shown.x, side.value[[0, 2]])
        np.testing.assert_allclose(shown.error_x.array, (side.high - side.value)[[0, 2]])
    assert made.layout.yaxis.ticktext == ("L0_F3 -&gt; L1_F2 (+) and 1 more", "(L0_F7 -&gt; sorry (-))")
    (sure,) = named(made, "these graphs, q ≤ 0.05")
    assert list(sure.x) == [2]


def test_a_missing_input_is_one_line_and_the_others_are_drawn(reports, tmp_path, monkeypatch, capsys):
    kept = {}
    monkeypatch.setattr(paper, "why_no_browser", lambda: "")
    monkeypatch.setattr(paper, "write", lambda made, out: kept.update(made))
    monkeypatch.setattr("sys.argv", ["figures", "--reports", str(tmp_path), "--out", str(tmp_path / "out")])
    (tmp_path / "kill-switch").symlink_to(reports / "kill-switch")
    assert paper.command({"patching_grids": patching_grids.figure, "delta_norm": delta_norm.figure}) == 2
    assert list(kept) == ["delta_norm"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("patching_grids: ")
    assert line.endswith(f"run this first: interp run arithmetic --out {tmp_path / 'arithmetic'}")


def test_without_reports_or_a_browser_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["figures", "--reports", str(tmp_path / "none")])
    monkeypatch.setattr(paper, "why_no_browser", lambda: "")
    with pytest.raises(SystemExit, match="2"):
        paper.main(delta_norm.figure)
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"there is no folder {tmp_path / 'none'}; run this first: make reproduce OUT={tmp_path / 'none'}"
    assert second.startswith("delta_norm: ")
    monkeypatch.setattr(paper, "why_no_browser", lambda: "no browser")
    assert paper.command({"delta_norm": delta_norm.figure}) == 2
    assert capsys.readouterr().err == "figures are drawn by a browser: no browser\n"


def test_damaged_results_are_told(tmp_path):
    (tmp_path / "s" / "r").mkdir(parents=True)
    (tmp_path / "s" / "r" / "result.json").write_text("{}")
    with pytest.raises(DataError, match="damaged"):
        paper.load(tmp_path, "s", "r")


@pytest.mark.parametrize(
    ("value", "said"), [(0.5, ".50"), (-0.25, "−.25"), (1, "1.00"), (0.996, "1.00"), (-0.001, ".00"), (12.3, "12.30")]
)
def test_numbers_in_cells(value, said):
    assert paper.plain(value) == said


@pytest.mark.whole
@pytest.mark.skipif(bool(why_no_browser()), reason="needs Chromium, which .ci/run installs")
def test_pdf_has_the_size_of_the_figure_and_captions_name_what_is_there(reports, tmp_path):
    paper.write({"delta_norm": delta_norm.figure(reports)}, tmp_path)
    pdf = (tmp_path / "delta_norm.pdf").read_bytes()
    (box,) = re.findall(rb"/MediaBox \[([^]]*)\]", pdf)
    assert [float(x) for x in box.split()] == pytest.approx([0, 0, 6.9 * 72, 2.9 * 72], abs=0.8)
    assert (tmp_path / "delta_norm.png").read_bytes().startswith(b"\x89PNG")
    told = read_text(tmp_path / "captions.md")
    assert told.startswith("**delta_norm.** **Where a control token leaves a trace")
    assert "patching_grids" not in told
