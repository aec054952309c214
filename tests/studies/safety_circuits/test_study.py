"""The whole study on the shipped model, small: its files, what they say, and what a kill leaves."""

import json
from pathlib import Path

import numpy as np
import pytest

from interp import results
from interp.circuits.feature_contrast import FeatureContrast
from interp.errors import ConfigError
from interp.reports.dashboard import write_dashboard
from interp.reports.page import write_report
from interp.studies.safety_circuits import steps
from interp.studies.safety_circuits.settings import CircuitSettings
from interp.studies.safety_circuits.study import DASHBOARD, safety_circuits
from interp.studies.study import run_study

SMALL = CircuitSettings(
    categories=["deception"], graphs=12, max_feature_nodes=60, checked=2, matched=19, shuffled=3, resamples=499,
    rewired=39,
)  # fmt: skip


def run(out, settings=SMALL):
    study = safety_circuits(settings, out, device="cpu", command="interp run safety-circuits")
    found = run_study(study, out, png=False, progress=False)
    write_dashboard(out)
    write_report(out)
    return found


def written(out: Path) -> dict[str, bytes]:
    """Every file of a run but those that tell how long steps took."""
    files = [file for file in out.rglob("*") if file.is_file() and file.name != "seconds.json"]
    return {str(file.relative_to(out)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("circuits")
    return out, run(out)


def test_the_files_are_there_and_the_dashboard_reads_them(whole):
    out, found = whole
    assert found["further"] == {"Dashboard": DASHBOARD}
    assert write_dashboard(out) == out / DASHBOARD
    index, _ = write_report(out)
    assert f'href="{DASHBOARD}"' in index.read_text()
    assert {one.name for one in (out / "graphs").iterdir()} == {
        "deception", "deception_safe_contrast", "deception_benign_act",
    }  # fmt: skip
    graphs = sorted((out / "graphs" / "deception").glob("*.json"))
    assert len(graphs) == 12
    assert len(json.loads(graphs[0].read_text())["links"]) > 0
    config = json.loads((out / "config.json").read_text())
    assert config["categories"] == ["deception"]
    assert config["findings"][0]["verdict"] in ("supported", "not supported", "undecided")
    assert config["power"] == [{"category": "deception", "pairs": 20, "detectable": pytest.approx(1.1, abs=0.6)}]


def test_motifs_are_those_of_the_contrast_on_either_side(whole):
    out, _ = whole
    motifs = json.loads((out / "deception_motifs.json").read_text())
    contrast = results.load(out / "deception" / "graphs" / "contrast")
    order = contrast.distinct()[0][: len(motifs["sets"])]
    assert len(order) == min(200, len(contrast.distinct()[0]))
    change = [one["support_harmful"]["value"] - one["support_safe"]["value"] for one in motifs["sets"]]
    assert min(change) < 0 < max(change)
    for at, one in zip(order.tolist(), motifs["sets"], strict=True):
        ends = [(e["source"]["name"], e["target"]["name"], "+" if e["sign"] > 0 else "-") for e in one["edges"]]
        assert ", ".join(f"{a} -> {b} ({sign})" for a, b, sign in ends) == contrast.motifs[at]
        assert one["sentence"].startswith(contrast.sentence(at))
        assert one["confirmed"] == contrast.confirmed[at]


def test_what_is_told_of_a_feature_is_what_its_activity_says(whole):
    out, _ = whole
    activity = results.load(out / "safety-chat" / "features" / "activity")
    told = json.loads((out / "category_features.json").read_text())
    harmful = np.arange(0, len(activity.largest), 3)  # requests stand triple by triple
    for feature in told["features"][:20]:
        column = activity.names.index(feature["name"])
        values = activity.largest[harmful, column]
        shown = feature["groups"]["deception"]
        assert shown["frequency"]["value"] == pytest.approx((values > 0).mean())
        assert shown["importance"] == pytest.approx(values.mean(), rel=1e-5)
        assert feature["contexts"][0]["activation"] == pytest.approx(activity.largest[:, column].max())
        at = feature["contexts"][0]
        assert at["at"] > 0, "never the first token"
        assert len(at["tokens"]) > at["at"]


def test_confirmed_features_change_the_answer_where_they_are_added(whole):
    """On the triples that neither discovery nor confirmation saw."""
    out, found = whole
    contrast: FeatureContrast = results.load(out / "safety-chat" / "contrast" / "deception")
    assert contrast.harm_specific.sum() >= 5
    claims = {one["name"]: one for one in found["parts"][0]["claims"]}
    assert claims["features about harm"]["verdict"] == "supported"
    boost = claims["boost changes the answer"]
    assert boost["verdict"] == "supported"
    assert boost["effect"]["value"] > 1
    shuffled = results.load(out / "safety-chat" / "contrast" / "shuffled")
    assert (shuffled.confirmed <= 1).all()


def test_what_was_killed_twice_ends_with_the_same_files(whole, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def dying(after):
        calls, real = [], steps.draw_graphs

        def drawn(*arguments):
            calls.append(1)
            if len(calls) > after:
                raise Killed
            return real(*arguments)

        return drawn

    for after in (0, 2):
        with monkeypatch.context() as patched:
            patched.setattr(steps, "draw_graphs", dying(after))
            with pytest.raises(Killed):
                run(tmp_path)
    assert not (tmp_path / "config.json").exists()
    run(tmp_path)
    assert written(tmp_path) == written(whole[0])


def test_graphs_that_are_gone_are_drawn_again(whole):
    out, _ = whole
    before = written(out)
    for file in (out / "graphs" / "deception").iterdir():
        file.unlink()
    (out / "graphs" / "deception").rmdir()
    (out / "graphs" / "stale").mkdir()
    run(out)
    assert written(out) == before
    assert not (out / "graphs" / "stale").exists()


def test_a_model_that_nobody_told_how_to_ask_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="template"):
        safety_circuits(
            SMALL, tmp_path, device="cpu", command="", model="kill-switch-base", transcoders="safety-chat-transcoders"
        )
