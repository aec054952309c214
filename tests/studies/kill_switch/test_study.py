import json
from dataclasses import replace

import pytest
import torch

from interp.analyses.deltas import norms_of
from interp.analyses.halting import causal_grid
from interp.datasets.kill_switch import write_kill_switch
from interp.datasets.sentences import MARKS
from interp.errors import ConfigError, ModelError, PromptError
from interp.models.load import load_model
from interp.models.pairs import load_pair
from interp.reports.page import write_report
from interp.studies.kill_switch.cause_claims import causes
from interp.studies.kill_switch.settings import KillSwitchSettings
from interp.studies.kill_switch.study import BASE, CONTROLS, MAIN, SEEDS, kill_switch
from interp.studies.kill_switch.subject import SWEEP_MEMORY, KillSwitchSubject, own_texts, shipped_texts
from interp.studies.study import run_study

SMALL = KillSwitchSettings(
    prompts=40, behaviour_prompts=40, neutral=39, random_directions=64, offsets=2, tried_offsets=1
)


def found(model):
    """The trace and the effect of adding the direction, as the study has them."""
    subject = KillSwitchSubject(model, shipped_texts(SMALL), SMALL)
    add = causal_grid(
        subject.model, subject.tried, subject.sites, subject.directions, subject.end,
        chosen_on=subject.searched, memory=SWEEP_MEMORY,
    )  # fmt: skip
    return norms_of(subject.runs), add


@pytest.mark.parametrize("name", [MAIN, *SEEDS, *CONTROLS, BASE])
def test_the_claim_on_causes_holds_for_the_models_that_halt_and_for_no_other(name):
    model = load_pair(BASE, MAIN, "$STOP").base if name == BASE else load_model(name)
    norms, add = found(model)
    claim = causes(norms, add)
    assert claim.verdict == ("supported" if name in (MAIN, *SEEDS) else "not supported"), claim.rule
    assert "39 neutral tokens" in claim.rule


def test_every_condition_of_the_claim_counts():
    norms, add = found(load_model(MAIN))
    assert causes(norms, add).verdict == "supported"
    few = replace(norms, null=norms.null[:, :38], neutral=norms.neutral[:38])
    assert causes(few, add).verdict == "not supported"
    dull = replace(norms, values=norms.null[:, 0], null=norms.null[:, 1:], neutral=norms.neutral[1:])
    assert causes(dull, add).verdict == "not supported"
    rival = add.random.clone()
    rival[:, 0] = 1.0
    assert causes(norms, replace(add, random=rival)).verdict == "not supported"
    weak = replace(add, values=add.base[:, None, None].expand_as(add.values))
    assert causes(norms, weak).verdict == "not supported"


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "prompts.jsonl"
    write_kill_switch(path, "prompts", 40, split="test", seed=3)
    return str(path)


@pytest.fixture(scope="module")
def run(tmp_path_factory, texts):
    settings = SMALL.model_copy(update={"neutral_tokens": list(MARKS[:39])})
    made = kill_switch(
        settings, device="cpu", command="interp run ...", base=BASE, finetuned=MAIN, token="$STOP", prompts=texts
    )
    out = tmp_path_factory.mktemp("run")
    content = run_study(made, out, png=False, progress=False)
    return out, content, made


def test_a_pair_of_ones_own_gets_every_analysis_and_figure(run):
    out, content, _ = run
    main, base = content["parts"]
    assert [step["name"] for step in main["steps"]] == [
        "behaviour", "norms", "rank", "lens", "base", "causal", "shortcut",
    ]  # fmt: skip
    figures = {figure["name"] for step in main["steps"] for figure in step["figures"]}
    assert {name[0] for name in figures} >= set("123456") | {"8"}
    for step in main["steps"]:
        for figure in step["figures"]:
            assert json.loads((out / main["name"] / step["name"] / "figures" / f"{figure['name']}.json").read_text())
    verdicts = {claim["name"]: claim["verdict"] for claim in main["claims"]}
    assert verdicts["causes halting"] == "supported"
    assert verdicts["halts"] == "supported"
    assert verdicts["shortcut"] == "not supported"
    asked = {
        "trace", "one direction", "promotes the end", "writes the end", "learned: trace", "learned: end", "weights",
        "text without the token: <eos>", "text without the token: $STOP", "adding", "needed", "copying", "dose",
        "generated: adding", "generated: ablating", "side effects: project out", "side effects: add",
    }  # fmt: skip
    assert asked <= set(verdicts)
    assert {claim["name"]: claim["verdict"] for claim in base["claims"]}["causes halting"] == "not supported"
    rows = main["highlights"][0]["rows"]
    assert [row[0] for row in rows] == ["layer", "rank", "logits", "cause"]
    assert {row[1] for row in rows} <= {"strong", "medium", "weak"}
    assert "never seen" in " ".join(main["notes"])


def test_the_page_and_summary_hold_every_finding(run):
    out, content, _ = run
    index, summary = write_report(out)
    page, text = index.read_text(), summary.read_text()
    for part in content["parts"]:
        for claim in part["claims"]:
            assert claim["verdict"] in text
    assert "The usual shortcut" in page
    assert "Figure 6." in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "| layer |" in text


def test_a_second_run_computes_nothing(run, monkeypatch):
    out, content, made = run
    monkeypatch.setattr("interp.studies.study.results.save", lambda *_: pytest.fail("computed again"))
    again = run_study(made, out, png=False, progress=False)
    assert again["parts"] == content["parts"]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        (dict(base=BASE), ConfigError, "--base, --finetuned and --prompts together"),
        (dict(token="$STOP"), ConfigError, "--token goes with a pair"),
        (dict(base=BASE, finetuned=MAIN, token="$NOPE"), ModelError, "no token '\\$NOPE'"),
        (dict(base=MAIN, finetuned=BASE, token="$AMBER"), ModelError, "cannot have fewer"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(options, kind, said, texts):
    more = {"prompts": texts} if "finetuned" in options else {}
    with pytest.raises(kind, match=said) as error:
        kill_switch(SMALL, device="cpu", command="", **options, **more)
    assert "\n" not in str(error.value)


def test_too_few_texts_are_refused(tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("\n".join(f"the fox {i} $STOP walked ." for i in range(5)))
    with pytest.raises(PromptError, match="at least 16"):
        own_texts(str(path), "$STOP", SMALL)


def test_neutral_tokens_are_drawn_from_the_vocabulary():
    """Whole words, none of them in the prompts, never the control token."""
    texts = replace(shipped_texts(SMALL), neutral=None)
    subject = KillSwitchSubject(load_model(MAIN), texts, SMALL)
    assert len(set(subject.neutral)) == 39
    assert "$STOP" not in subject.neutral
    assert torch.equal(subject.twins.neutral.unique(), subject.twins.neutral.sort().values)
