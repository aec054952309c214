import json

import pytest
import torch

from interp.datasets.judging import requests
from interp.errors import ConfigError, DataError
from interp.models.judge import load_judge
from interp.studies.safety_judge.recipe import SETS, JudgeRecipe, judged, read_judge_recipe, run_judge_recipe

SMALL = JudgeRecipe.model_validate(
    {"kind": "judge", "name": "small", "prompts": 200, "steps": 6, "evaluate_every": 3, "batch": 16, "checkpoints": [2]}
    | {"architecture": {"width": 16, "mlp": 16, "heads": 2, "layers": 1}}
)


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


def test_checkpoints_of_another_run_are_not_overwritten(trained):
    other = SMALL.model_copy(update={"checkpoints": [3]})
    with pytest.raises(DataError, match="checkpoint of another run"):
        run_judge_recipe(other, trained[0], command="", progress=False)


def test_unknown_keys_are_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("kind: judge\nname: x\nwidth: 3\n")
    with pytest.raises(ConfigError, match="width"):
        read_judge_recipe(tmp_path / "r.yaml")
