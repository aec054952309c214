import html
import json
import re

import pytest
import torch

from interp.errors import DataError
from interp.monitoring.probe import Probe
from interp.monitoring.records import RecordWriter, read_records
from interp.reports.training import write_training_pages
from tests.monitoring.test_learning import learned, recorded
from tests.monitoring.test_records import ABOUT, made_probe, made_snapshot, written

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def training(tmp_path):
    return recorded(tmp_path, {s: learned(v, s, layer=v, moves=v) for s, v in ((0, 0), (10, 1), (20, 3), (40, 3))})


def embedded(page):
    """What is in the page's JSON elements."""
    found = re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.S)
    return [json.loads(content) for content in found]


def test_the_page_says_what_was_learned(training, tmp_path):
    path = write_training_pages(tmp_path)
    page = path.read_text()
    assert path.name == "training_progress.html"
    assert "from step 20 on" in page
    assert "Layers that came to tell safe from unsafe: layer 1." in page
    assert "http" not in re.sub(r"<script type=.application/json.*?</script>", "", page, flags=re.S)
    assert 'src="plotly.min.js"' in page
    assert (tmp_path / "plotly.min.js").stat().st_size > 1e6
    *figures, data = embedded(page)
    assert [one["said"].split(",")[0] for one in data["snapshots"]] == ["step 0", "step 10", "step 20", "step 40"]
    (text,) = data["texts"]
    assert text["pieces"] == ["t0", "t1", "t2", "t3"]
    assert text["values"][2] == pytest.approx(training.tokens[0][2].tolist(), abs=0.006)
    assert text["odds"][3] == training.log_odds[3, 0]
    assert data["reach"] == pytest.approx(abs(training.tokens[0]).max(), rel=0.01)
    layers = next(figure for figure in figures if "frames" in figure)
    assert [frame["name"] for frame in layers["frames"]] == ["0", "1", "2", "3"]


def test_the_slider_is_a_range_input_with_a_label(training, tmp_path):
    page = write_training_pages(tmp_path).read_text()
    assert re.search(r'<label for="at">', page)
    assert re.search(r'<input type="range" id="at" min="0" max="3" value="3" step="1"', page)
    assert 'aria-live="polite"' in page


def test_pages_for_each_snapshot(training, tmp_path):
    write_training_pages(tmp_path, each=True)
    pages = {path.name for path in tmp_path.glob("epoch_*")}
    assert pages == {
        f"epoch_{step}_{rest}.html"
        for step in (0, 10, 20, 40)
        for rest in ("sample_0_unsafe_tokens", "sample_0_unsafe_layers", "circuit_comparison")
    }
    page = (tmp_path / "epoch_20_sample_0_unsafe_tokens.html").read_text()
    value = float(training.tokens[0][2, 0])
    assert f"{value:+.2f}".replace("-", "−") in page
    assert f"log-odds of unsafe {training.log_odds[2, 0]:.2f}, at step 20" in page
    for path in tmp_path.glob("epoch_*"):
        for name in re.findall(r'href="([^"]+)"', path.read_text()):
            assert (tmp_path / name).exists()


def test_epochs_are_counted_where_snapshots_come_by_epochs(tmp_path):
    written(tmp_path, [0, 50, 100, 120], about={**ABOUT, "every": "epoch", "steps_per_epoch": 50})
    write_training_pages(tmp_path, each=True)
    names = {path.name.split("_")[1] for path in tmp_path.glob("epoch_*")}
    assert names == {"0", "1", "2", "120"}


def test_text_of_others_runs_no_code(tmp_path):
    probe = made_probe(text=EVIL)
    labels = {EVIL: tuple(f"{EVIL} {i % 2}" for i in range(12))}
    probe = Probe(probe.texts, probe.unsafe, probe.groups, labels, (), probe.pairs, probe.explained)
    about = {**ABOUT, "template": EVIL + "{prompt}", "safe": EVIL, "model": EVIL, "neutral": EVIL}
    written(tmp_path, [0, 5], probe, about, pieces=[[EVIL, "</script>", "<b>", "\n"]] * 2)
    write_training_pages(tmp_path, each=True)
    for path in tmp_path.glob("*.html"):
        page = path.read_text()
        assert EVIL not in page
        assert "<b>" not in page
        assert page.count("</script>") == page.count("<script")
    page = (tmp_path / "epoch_5_sample_0_unsafe_tokens.html").read_text()
    assert html.escape(EVIL) in page
    *_, data = embedded((tmp_path / "training_progress.html").read_text())
    assert data["texts"][0]["pieces"][0] == EVIL


def test_large_recordings_make_small_pages(tmp_path):
    n, layers, heads, tokens = 64, 24, 16, 150
    probe = made_probe(n, pairs=48, explained=tuple(range(8)))
    about = {**ABOUT, "layers": layers, "heads": heads}
    writer = RecordWriter(tmp_path, probe, about, [["word"] * tokens] * 8)
    for step in range(0, 400, 10):
        torch.manual_seed(step)
        some = {name: torch.randn(12, layers, heads) for name in ("head_attention", "head_direct", "head_ablation")}
        found = made_snapshot(probe, step, layers=layers, tokens=tokens, **some)
        writer.append(found, step=step, seconds=0.1, training=10.0)
    page = write_training_pages(tmp_path)
    assert page.stat().st_size < 500_000
    assert "30 of the 40 snapshots" in page.read_text()
    assert "cut after 100 tokens" in page.read_text()


def test_a_training_that_changed_nothing_says_so(tmp_path):
    recorded(tmp_path, dict.fromkeys((0, 10, 20), learned(0.0, 0)), same=True)
    page = write_training_pages(tmp_path).read_text()
    assert "Nothing changed" in page
    assert "v-supported" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_one_snapshot_without_pairs_heads_and_explained_texts(tmp_path):
    probe = made_probe(pairs=0, explained=())
    empty = torch.zeros(0, 2, 3)
    written(tmp_path, [1], probe, head_attention=empty, head_direct=empty, head_ablation=empty)
    page = write_training_pages(tmp_path, each=True).read_text()
    assert "one snapshot so far" in page
    assert "Which tokens drove" not in page


def test_a_diverged_training_has_a_page(tmp_path):
    probe = made_probe()
    writer = written(tmp_path, [0], probe)
    undefined = {
        name: torch.full_like(getattr(made_snapshot(probe), name), torch.nan)
        for name in ("log_odds", "attention", "mlp", "separation", "head_direct", "head_ablation", "moved")
    }
    writer.append(
        made_snapshot(probe, 1, tokens=4, **undefined), step=5, seconds=0.1, training=1.0, loss=float("nan")
    )  # fmt: skip
    assert "NaN" not in write_training_pages(tmp_path, each=True).read_text()


def test_the_budget_is_told(tmp_path):
    written(tmp_path, [0, 5])
    page = write_training_pages(tmp_path).read_text()
    assert "1.00% (0.20 of 20.0 seconds of training); budget 2.00%" in page
    assert read_records(tmp_path).overhead == pytest.approx(0.01)


def test_no_recording(tmp_path):
    with pytest.raises(DataError, match=r"probe\.json"):
        write_training_pages(tmp_path)
