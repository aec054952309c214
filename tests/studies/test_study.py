"""A run on a shipped model: what it writes, that it resumes, and that a killed run ends like an unbroken one."""

import hashlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from interp import results
from interp.analyses.patching import Patching
from interp.reports.page import write_report
from interp.studies.catalogue import analysis
from interp.studies.settings import ANALYSES, Settings
from interp.studies.study import run_study

SMALL = {"problems": 20, "pairs_per_kind": 20, "untrained": 3, "sites": ["resid_pre", "z"]}
EXAMPLES = ["59 + 73", "88 + 99"]


def study(**changes):
    settings = Settings(**{"examples": EXAMPLES, **SMALL, **changes})
    return analysis("arithmetic-add3", settings, device="cpu", command='interp analyze "<x>"')


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    content = run_study(study(), out, png=False, progress=False)
    write_report(out)
    return out, content


def test_a_run_folder_holds_everything(run):
    out, content = run
    part = out / "arithmetic-add3"
    found = results.load(part / "patching" / "carry.resid_pre.logit_diff")
    assert isinstance(found, Patching)
    assert found.layers == (0, 1)
    frame = pd.read_parquet(part / "patching" / "carry.resid_pre.logit_diff" / "table.parquet")
    assert {"pair", "layer", "position", "patched", "control", "clean", "corrupted"} <= set(frame.columns)
    (best,) = [row["head"] for row in json.loads((part / "heads.json").read_text()) if row["job"] == "own column"]
    wanted = ["layer-0-heads", "layer-1-heads", best, "statistics"]
    names = {p.stem for p in (part / "attention" / "figures").glob("*.html")}
    assert {f"example-{i}-{name}" for i in (0, 1) for name in wanted} <= names
    assert "example-0-layer-0-circuitsvis" in names
    names = {p.stem for p in (part / "logit-lens" / "figures").glob("*.html")}
    assert {f"example-{i}-{name}" for i in (0, 1) for name in ("evolution", "predictions", "entropy")} <= names
    assert content["provenance"]["packages"]["torch"]
    assert content["parts"][0]["model"]["digest"]
    assert content["parts"][0]["settings"]["problems"] == 20
    assert content["parts"][0]["prompts"]["problems and examples"]
    steps = ("accuracy", *ANALYSES)
    for step in steps:
        assert float((part / step / "seconds.json").read_text()) >= 0
    assert len(content["parts"][0]["claims"]) >= 8


def digests(out, pattern="**/*.safetensors"):
    return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(out.glob(pattern))}


def test_a_second_run_computes_nothing(run, monkeypatch):
    out, content = run
    before = {p: p.stat().st_mtime_ns for p in out.glob("**/*.safetensors")}
    assert before
    parts = ("ablation", "cumulative_ablation", "logit_attribution", "composition", "probing")
    steps = ("capture", "head_scores", "logit_lens")
    everywhere = {"parts": parts[:-1], "probes": ["probing"], "circuits": ["ablation", "selectivity", "set_ablation"]}
    everywhere |= {"subject": ["capture", "patching"], "basics": ["capture", "patching"]}
    names = [f"arithmetic.{file}.{name}" for file, names in everywhere.items() for name in names]
    for name in (*names, *(f"steps.{s}" for s in steps)):
        monkeypatch.setattr(f"interp.studies.{name}", None)
    again = run_study(study(), out, png=False, progress=False)
    assert again["parts"][0]["claims"] == content["parts"][0]["claims"]
    assert {p: p.stat().st_mtime_ns for p in out.glob("**/*.safetensors")} == before


def test_other_settings_are_not_mistaken_for_finished(run, tmp_path):
    out, _ = run
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    run_study(study(pairs_per_kind=24), copy, png=False, progress=False)
    assert len(results.load(copy / "arithmetic-add3/patching/digit.z.logit_diff").clean) == 24
    same, different = digests(out), digests(copy)
    name = "arithmetic-add3/attention/statistics/result.safetensors"
    assert same[name] == different[name]


def test_a_damaged_result_is_made_again(run, tmp_path):
    out, content = run
    copy = tmp_path / "copy"
    shutil.copytree(out, copy)
    target = copy / "arithmetic-add3/logit-lens/prompts/result.safetensors"
    target.write_bytes(target.read_bytes()[:50])
    again = run_study(study(), copy, png=False, progress=False)
    assert again["parts"][0]["claims"] == content["parts"][0]["claims"]
    assert digests(copy) == digests(out)


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """A run on the command line, without its folder."""
    settings = tmp_path_factory.mktemp("settings") / "s.yaml"
    settings.write_text(json.dumps({**SMALL, "examples": EXAMPLES}))
    return [
        sys.executable, "-m", "interp.cli", "analyze", "arithmetic-add3", "--config", str(settings),
        "--no-png", "--quiet", "--threads", "1", "--only", "logit-lens,weights", "--out",
    ]  # fmt: skip


ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    subprocess.run([*command, str(out)], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    return out


@pytest.mark.parametrize("waits_for", ["accuracy/done.json", "logit-lens/done.json"])
def test_a_killed_run_ends_like_an_unbroken_one(tmp_path, command, whole, waits_for):
    broken = tmp_path / "broken"
    process = subprocess.Popen([*command, str(broken)], env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    marker = broken / "arithmetic-add3" / waits_for
    deadline = time.time() + 60
    while not marker.exists() and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert marker.exists()
    assert not (broken / "run.json").exists()
    subprocess.run([*command, str(broken)], env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL)
    assert digests(broken) == digests(whole)
    assert digests(broken)
    told = [(out / "run.json").read_text().replace(str(out), "") for out in (broken, whole)]
    assert told[0] == told[1]


class Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attrs):
        self.found += [value for name, value in attrs if name in ("src", "href") and value]


def test_the_page_is_whole_and_stays_offline(run):
    out, content = run
    page = (out / "index.html").read_text()
    links = Links()
    links.feed(page)
    assert links.found
    for link in links.found:
        assert not re.match(r"(?i)([a-z]+:)?//", link), link
        if not link.startswith("#"):
            assert (out / link).exists(), link
    shown = html.unescape(page)
    for claim in content["parts"][0]["claims"]:
        assert claim["statement"] in shown
        assert claim["verdict"] in shown
    assert "interp analyze &#34;&lt;x&gt;&#34;" in page
    summary = (out / "SUMMARY.md").read_text()
    assert summary.count("| **") == len(content["parts"][0]["claims"])


CHROME = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(CHROME is None, reason="needs Chromium, which .ci/run installs")


@needs_browser
def test_the_page_draws_its_figures_without_a_network(run):
    out, _ = run
    found = subprocess.run(
        [
            str(CHROME), "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=6000", "--window-size=1200,9000",
            "--dump-dom", f"file://{out}/index.html",
        ],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    assert found.count("js-plotly-plot") >= 5
    assert found.count('class="main-svg"') >= 5


@needs_browser
def test_png_is_written_beside_html(tmp_path):
    made = study(examples=["7 + 5"], analyses={name: name == "logit-lens" for name in ANALYSES})
    run_study(made, tmp_path / "run", png=True, progress=False)
    pictures = list(Path(tmp_path).glob("**/*.png"))
    names = {"answers-by-depth", "example-0-evolution", "example-0-predictions", "example-0-entropy"}
    assert {p.stem for p in pictures} == names
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in pictures)
