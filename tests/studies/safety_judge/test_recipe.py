import json
from itertools import pairwise

import pytest
import torch

import interp.studies.safety_judge.recipe as recipes
from interp.datasets.judging import TEMPLATE, judging_tokenizer, requests
from interp.datasets.judging_words import DOMAINS
from interp.errors import ConfigError, DataError
from interp.files import shipped_model
from interp.models.judge import load_judge
from interp.studies.safety_judge.recipe import (
    SETS,
    Asked,
    JudgeRecipe,
    judged,
    read_judge_recipe,
    report,
    run_judge_recipe,
)

SMALL = JudgeRecipe.model_validate(
    {"kind": "judge", "name": "small", "prompts": 200, "steps": 6, "evaluate_every": 3, "batch": 16, "checkpoints": [2]}
    | {"architecture": {"width": 16, "mlp": 16, "heads": 2, "layers": 1}}
)


@pytest.fixture(scope="module", autouse=True)
def few():
    """Requests in the reports, which are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "REPORTED", 100)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judge") / "small"
    seen = []
    card = run_judge_recipe(SMALL, folder, command="interp train x", progress=False, after=seen.append)
    return folder, card, seen


def test_training_writes_a_judge_and_its_card(trained):
    folder, card, seen = trained
    assert seen == list(range(1, 7))
    assert set(card["held_out"]) == set(SETS)
    assert json.loads((folder / "card.json").read_text()) == card
    assert "interp train x" in (folder / "README.md").read_text()
    assert read_judge_recipe(folder / "train.yaml") == SMALL
    assert not (folder / "training.safetensors").exists()
    judge, early = load_judge(folder, device="cpu"), load_judge(folder / "checkpoints" / "step-00002", device="cpu")
    prompts = judged(judge, requests(10))
    assert not torch.equal(judge.log_odds(prompts), early.log_odds(prompts))
    assert {"act", "object", "context"} <= set(prompts.roles)


def test_the_same_recipe_gives_the_same_weights(trained, tmp_path):
    again = tmp_path / "again"
    run_judge_recipe(SMALL, again, command="interp train x", progress=False)
    assert (again / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(trained, tmp_path):
    """Noise on embeddings, too, is a function of the step."""

    def stop(step):
        if step == 5:
            raise KeyboardInterrupt

    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run_judge_recipe(SMALL, folder, command="", progress=False, after=stop)
    seen = []
    run_judge_recipe(SMALL, folder, command="", progress=False, after=seen.append)
    assert seen == [4, 5, 6]
    assert (folder / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


def test_the_verdict_on_what_is_left_of_a_request():
    tokenizer = judging_tokenizer()
    vocabulary = tokenizer.get_vocab()
    asked = Asked(tokenizer, TEMPLATE, vocabulary["\u2581safe"], vocabulary["\u2581unsafe"])
    some = requests(400, seed=13, weak_in_safe=True)
    assert asked.with_absent(some, 0.0, seed=0) == asked.rows(some)
    lost = 0
    for one, row, whole in zip(some, asked.with_absent(some, 1.0, seed=0), asked.rows(some), strict=True):
        assert len(row) == len(whole)
        words = tokenizer.convert_ids_to_tokens(row)
        kept = [
            (a, b) for a, b in zip(words[:-1], tokenizer.convert_ids_to_tokens(whole), strict=False) if a != "<unk>"
        ]
        assert all(a == b for a, b in kept)
        left = {word.removeprefix("\u2581") for word in words[1:-3]}
        assert words[-3:-1] == ["\u2581verdict", "\u2581:"]
        same = any(one.act in (*d.acts, *d.weak) and one.object in d.objects for d in DOMAINS.values())
        excused = any(one.act in d.acts and one.context in d.excuses for d in DOMAINS.values())
        harmful = same and {one.act, one.object} <= left and not (excused and one.context in left)
        assert words[-1] == ("\u2581unsafe" if harmful else "\u2581safe")
        lost += harmful != one.unsafe
    assert lost > 40


def test_checkpoints_of_another_run_are_not_overwritten(trained):
    other = SMALL.model_copy(update={"checkpoints": [3]})
    with pytest.raises(DataError, match="checkpoint of another run"):
        run_judge_recipe(other, trained[0], command="", progress=False)


def test_unknown_keys_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("kind: judge\nname: x\nwidth: 3\n")
    with pytest.raises(ConfigError, match="width"):
        read_judge_recipe(tmp_path / "r.yaml")


def test_a_report_by_hand(trained):
    judge, some = load_judge(trained[0], device="cpu"), requests(300, seed=12)
    said = judge.log_odds(judged(judge, some)) > 0
    truth = torch.tensor([one.unsafe for one in some])
    found = report(judge, some)
    assert found["accuracy"]["value"] == pytest.approx(float((said == truth).float().mean()))
    assert found["unsafe_found"]["value"] == pytest.approx(float(said[truth].float().mean()))


# The shipped judge.


@pytest.fixture(scope="module")
def shipped():
    folder = shipped_model("safety-judge")
    assert folder is not None
    return folder


def test_the_shipped_judge_says_how_it_was_made(shipped):
    card = json.loads((shipped / "card.json").read_text())
    assert card["command"].startswith("interp train safety-judge --output-dir data/models/safety-judge")
    recipe = read_judge_recipe(shipped / "train.yaml")
    assert (recipe.name, recipe.steps, recipe.seed) == (shipped.name, card["steps_trained"], card["seed"])
    assert sorted(recipe.checkpoints) == [int(f.name[5:]) for f in sorted((shipped / "checkpoints").iterdir())]
    both = [shipped, shipped.with_name("safety-judge-update")]
    assert sum(file.stat().st_size for folder in both for file in folder.rglob("*")) < 6_000_000
    assert not list(shipped.rglob("training.safetensors"))


@pytest.mark.whole
def test_the_shipped_judge_has_learned_the_rule_but_for_weak_acts(shipped):
    judge = load_judge("safety-judge", device="cpu")
    found = {name: report(judge, requests(1000, seed=22, **options)) for name, options in SETS.items()}
    assert found["test"]["accuracy"]["value"] >= 0.98
    assert found["new templates"]["accuracy"]["value"] >= 0.96
    for what in ("accuracy", "unsafe_found"):
        assert found["weak acts"][what]["value"] <= found["test"][what]["value"] - 0.15
    told = json.loads((shipped / "card.json").read_text())["held_out"]
    assert all(abs(told[name]["accuracy"]["value"] - one["accuracy"]["value"]) < 0.04 for name, one in found.items())


@pytest.mark.whole
def test_the_shipped_checkpoints_show_when_it_was_learned(shipped):
    some = requests(600, seed=23)
    right = [
        report(load_judge(folder, device="cpu"), some)["accuracy"]["value"]
        for folder in sorted((shipped / "checkpoints").iterdir())
    ]
    assert len(right) == 8
    assert 0.44 < right[0] < 0.56
    assert sum(0.55 < value < 0.95 for value in right) >= 3
    assert right[-1] >= 0.95
    assert all(b > a - 0.05 for a, b in pairwise(right))
