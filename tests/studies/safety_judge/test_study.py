import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy import stats

from interp.datasets.judging import requests, unsafe
from interp.datasets.labelled import read_labelled
from interp.errors import ConfigError
from interp.models.judge import load_judge
from interp.models.load import untrained
from interp.reports.page import write_report
from interp.studies.safety_judge.settings import JudgeSettings
from interp.studies.safety_judge.stages import known_stages, models_in, run_stages
from interp.studies.safety_judge.steps import heads_step, paths_step, tokens_step, update_step, verdicts_step
from interp.studies.safety_judge.study import NAME, UPDATE, Models, safety_judge, shipped
from interp.studies.safety_judge.subject import JudgeSubject, alike, rule_slots
from interp.studies.study import run_study

SMALL = JudgeSettings(requests=400, explained=96, pairs=48, attacked=48, budget=6, untrained=8)
XSTEST = Path(__file__).parents[4] / "shared" / "data" / "xstest_prompts.csv"


@pytest.fixture(scope="module")
def subject():
    return JudgeSubject(load_judge(NAME, device="cpu"), SMALL)


def said(step):
    """The claims on one step of the study, by name."""
    from interp.studies.safety_judge.claims import claims

    found = step.compute(lambda _: None)
    return {claim.name: claim for claim in claims({step.name: found})}, found


def test_the_lists_of_the_attack_leave_the_rule_s_verdict():
    lists = alike()
    some = [one for one in requests(400, seed=7) if one.unsafe]
    assert {one.act for one in some} <= set(lists)
    for one in some:
        for act in lists[one.act]:
            assert unsafe(act, one.object, one.context)
        for thing in lists[one.object]:
            assert unsafe(one.act, thing, one.context)
        for other in lists.get(one.context, []):
            assert unsafe(one.act, one.object, other)
    for one, slots in zip(some, rule_slots(some), strict=True):
        assert [one.text[a:b] for a, b in slots] == [one.act, one.object]


def test_twins_differ_in_one_word_and_the_neutral_one_is_safe_too(subject):
    twins = subject.twins
    assert len(twins.unsafe) == len(twins.safe) == len(twins.neutral) == SMALL.pairs
    for one, safe, neutral, change in zip(twins.unsafe, twins.safe, twins.neutral, twins.changed, strict=True):
        assert one.unsafe
        assert not safe.unsafe
        assert not neutral.unsafe
        for other in (safe, neutral):
            apart = [(a, b) for a, b in zip(one.text.split(), other.text.split(), strict=True) if a != b]
            assert apart == [(getattr(one, change), getattr(other, change))]
        assert neutral.text != safe.text


def test_integrated_gradients_find_the_planted_words(subject):
    claims, found = said(tokens_step(subject))
    recall = float(found["faithfulness-integrated-gradients"].recall.mean())
    assert recall >= 0.99
    assert claims["learned tokens"].verdict == "supported"
    assert claims["better than gradient x input"].verdict == "supported"
    assert claims["better than raw attention"].verdict == "supported"
    assert claims["comprehensive"].verdict == "supported"
    assert not found["integrated-gradients"].flagged.any()


@pytest.mark.parametrize("seed", [1000, 2000])
def test_nothing_is_said_to_be_learned_by_a_judge_that_was_not_trained(subject, seed):
    (model,) = untrained(subject.judge.model, [seed])
    few = SMALL.model_copy(update={"explained": 64, "untrained": 6})
    fresh = JudgeSubject(replace(subject.judge, model=model), few)
    for step in (tokens_step(fresh), heads_step(fresh), paths_step(fresh), verdicts_step(fresh)):
        for name, claim in said(step)[0].items():
            if name.startswith(("learned", "judges", "critical", "comprehensive", "head:")):
                assert claim.verdict != "supported", (name, claim.rule)


def test_the_verdict_has_a_critical_layer_and_heads(subject):
    claims, found = said(paths_step(subject))
    assert claims["critical layer"].verdict == "supported"
    assert float(found["paths"].gap.mean()) > 5
    heads, _ = said(heads_step(subject))
    assert heads["head: ablation"].verdict == "supported"
    assert heads["learned separation"].verdict == "supported"


@pytest.fixture(scope="module")
def updated(subject):
    more = JudgeSubject(subject.judge, SMALL.model_copy(update={"explained": 160}))
    return said(update_step(more, lambda: load_judge(UPDATE, device="cpu"), ""))


def test_the_update_mends_the_weakness_and_keeps_the_old_data(updated):
    claims, found = updated
    accuracy = {name: float(found[name].accuracy().value) for name in found if name.startswith(("before", "after"))}
    assert accuracy["before-test"] - accuracy["before-weak-acts"] >= 0.15
    assert abs(accuracy["after-test"] - accuracy["after-weak-acts"]) <= 0.03
    assert accuracy["before-test"] - accuracy["after-test"] <= 0.01
    assert claims["weakness before"].verdict == "supported"
    assert claims["weakness after"].verdict != "supported"
    assert claims["old data lost"].verdict != "supported"


def test_the_modules_that_matter_switched_off_bring_the_weakness_back(updated):
    claims, found = updated
    result = found["comparison"]
    assert claims["modules that matter"].verdict == "supported"
    assert result.needed < len(result.modules)
    kept = result.target & ~result.searched
    off = result.right(result.most_off[:, result.needed - 1])[kept].mean()
    before, after = (result.right(odds)[kept].mean() for odds in (result.before, result.after))
    assert float(after) - float(before) > 0.15
    assert float(off) - float(before) <= 0.1
    assert float(found["edits-after"].flipped.mean()) < float(found["edits-before"].flipped.mean())


@pytest.mark.skipif(not XSTEST.is_file(), reason="needs a set that is not part of the project")
def test_prompts_that_nobody_here_wrote_are_scored_and_shown():
    labelled = {"path": XSTEST, "text": "prompt", "label": "label", "category": "type"}
    settings = JudgeSettings.model_validate({**SMALL.model_dump(), "labelled": labelled})
    step = verdicts_step(JudgeSubject(load_judge(NAME, device="cpu"), settings))
    claims, found = said(step)
    result = found["labelled"]
    own = read_labelled(XSTEST, text="prompt", label="label", category="type")
    assert len(result.log_odds) == len(own.texts) == 450
    u = stats.mannwhitneyu(result.log_odds[result.unsafe], result.log_odds[~result.unsafe]).statistic
    assert float(result.auc().value) == pytest.approx(u / (200 * 250), abs=1e-6)
    page = step.pages(found)["labelled-prompts"]
    assert page.count("<tr>") == 451
    assert "kill a Python process" in page
    assert claims["judges labelled"].control_name == "chance"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    settings = JudgeSettings(requests=100, explained=48, pairs=32, attacked=32, budget=2, untrained=3)
    made = safety_judge(settings, device="cpu", command="interp run ...")
    return out, run_study(made, out, png=False, progress=False), made


@pytest.mark.whole
def test_the_whole_study_has_every_analysis_and_figure(run):
    out, content, made = run
    judge, fresh = content["parts"]
    names = [step["name"] for step in judge["steps"]]
    assert names == ["training", "verdicts", "tokens", "heads", "paths", "attack", "update"]
    assert all(step["figures"] for step in judge["steps"])
    assert [step["name"] for step in fresh["steps"]] == ["verdicts", "tokens", "heads", "paths"]
    assert {"training: judges", "training: critical"} <= {claim["name"] for claim in judge["claims"]}
    page, summary = write_report(out)
    assert "modules that matter" in summary.read_text() or "changed modules" in summary.read_text()
    assert page.stat().st_size > 10_000
    finished = {file: file.stat().st_mtime_ns for file in out.glob("*/*/done.json")}
    assert run_study(made, out, png=False, progress=False) == content
    assert {file: file.stat().st_mtime_ns for file in out.glob("*/*/done.json")} == finished


def test_stages_are_known_and_ordered():
    assert known_stages("report, train") == ("train", "report")
    for wrong in ("train,fly", "", ","):
        with pytest.raises(ConfigError, match="choose from train, attack, update, report"):
            known_stages(wrong)


def test_a_run_takes_its_own_models_first(tmp_path):
    assert models_in(tmp_path) == shipped()
    own = tmp_path / "models" / NAME
    own.mkdir(parents=True)
    (own / "card.json").write_text("{}")
    assert models_in(tmp_path) == Models(own, None)  # the shipped update is of another judge


def test_the_attack_writes_what_fools_the_judge(tmp_path):
    lines = []
    run_stages(
        ["attack"], tmp_path / "run", SMALL, device="cpu", command="", watch=lambda *_: None, progress=False,
        said=lines.append,
    )  # fmt: skip
    rows = [json.loads(line) for line in (tmp_path / "run" / "attack.jsonl").read_text().splitlines()]
    judge = load_judge(NAME, device="cpu")
    assert rows
    odds = judge.log_odds(judge.prompts([row["edited"] for row in rows]))
    torch.testing.assert_close(odds, torch.tensor([row["after"] for row in rows]), atol=1e-3, rtol=1e-3)
    assert all((row["before"] > 0) != (row["after"] > 0) for row in rows)
    words = json.loads((tmp_path / "run" / "attack.json").read_text())["words"]
    assert sum(words.values()) == len(rows)
    assert "verdicts flipped" in lines[0]
