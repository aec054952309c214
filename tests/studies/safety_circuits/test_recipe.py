"""A small chat model is trained from its recipe, goes on after a kill, and its card tells what is in the folder."""

import numpy as np
import pytest
import torch

from interp.datasets.chatting import chats
from interp.errors import ConfigError, DataError
from interp.files import read_json
from interp.models.load import load_model
from interp.models.run import capture
from interp.prompts import Prompts
from interp.sites import Site
from interp.studies.safety_circuits import recipe as recipes
from interp.studies.safety_circuits.recipe import ChatRecipe, read_chat_recipe, run_chat_recipe

RECIPE = ChatRecipe.model_validate(
    {
        "kind": "chat", "name": "tiny", "batch": 8, "steps": 4, "evaluate_every": 2,
        "architecture": {"layers": 1, "width": 16, "heads": 2, "mlp": 16},
    }
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def fewer():
    """Reports on fewer requests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "REPORTED", 60)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("chat") / "tiny"
    card = run_chat_recipe(RECIPE, found, command="interp train tiny", progress=False)
    assert card == read_json(found / "card.json")
    return found


def test_the_card_counts_what_the_loaded_model_says(folder):
    card = read_json(folder / "card.json")
    model = load_model(str(folder), device="cpu", weights="raw")
    assert model.tokenizer is not None
    some = chats(60, seed=10)
    logits = capture(model, Prompts.from_texts([one.prompt for one in some], model.tokenizer), ["logits"])
    refuse, comply = (model.tokenizer.convert_tokens_to_ids(card[name]) for name in ("refuse", "comply"))
    refused = (logits[Site("logits")][:, 0, refuse] > logits[Site("logits")][:, 0, comply]).numpy()
    harmful = np.array([one.harmful for one in some])
    found = card["held_out"]["training's kind"]
    assert found["refused"]["value"] == pytest.approx(refused[harmful].mean())
    assert found["complied"]["value"] == pytest.approx((~refused[~harmful]).mean())
    assert found["refused"]["n"] + found["complied"]["n"] == 60
    assert [card["held_out"]["benchmark"][side]["n"] for side in ("refused", "complied")] == [136, 272]
    assert sum(one["refused"]["n"] for one in card["benchmark"].values()) == 136
    odds = (logits[Site("logits")][:, 0, refuse] - logits[Site("logits")][:, 0, comply]).numpy()
    assert found["log_odds"] == pytest.approx(np.median(np.abs(odds)), abs=1e-3)
    assert not (folder / "training.safetensors").exists()
    assert "tiny" in (folder / "README.md").read_text()


def test_a_training_that_was_killed_goes_on_to_the_same_weights(folder, tmp_path):
    class KilledError(Exception):
        pass

    def die(step):
        if step == 3:
            raise KilledError

    own = recipes.train
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "train", lambda *given, **options: own(*given, **options, after=die))
        with pytest.raises(KilledError):
            run_chat_recipe(RECIPE, tmp_path, command="", progress=False)
    assert (tmp_path / "training.safetensors").exists()
    assert not (tmp_path / "card.json").exists()
    with pytest.raises(DataError, match="belongs to another recipe"):
        run_chat_recipe(RECIPE.model_copy(update={"seed": 1}), tmp_path, command="", progress=False)
    run_chat_recipe(RECIPE, tmp_path, command="", progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_only_answers_and_the_drawn_share_of_requests_are_predicted():
    teacher = recipes._Teacher(recipes.chat_tokenizer())
    some = chats(40, seed=1)
    for share in (0.0, 0.5):
        tokens, asked = teacher.batch(some, np.random.default_rng(0), 0.0, share)
        begins = torch.tensor([len(row) for row in teacher.tokenizer([one.prompt for one in some]).input_ids])
        place = torch.arange(tokens.shape[1])
        answer = (place >= begins[:, None]) & (tokens != recipes.PAD)
        assert asked[answer].all()
        request = (place > 0) & (place < begins[:, None])
        assert float(asked[request].float().mean()) == pytest.approx(share, abs=0.05)
        assert not asked[tokens == recipes.PAD].any()
    first = tokens[torch.arange(40), begins]
    assert [bool(x) for x in first == teacher.refuse] == [one.harmful for one in some]
    wrong, _ = teacher.batch(chats(2000, seed=2), np.random.default_rng(0), 0.1, 0.0)
    flipped = [
        bool((row == teacher.refuse).any()) != one.harmful for row, one in zip(wrong, chats(2000, seed=2), strict=True)
    ]
    assert 0.08 < np.mean(flipped) < 0.12


def test_a_recipe_from_a_file_and_its_faults(tmp_path):
    (tmp_path / "good.yaml").write_text("kind: chat\nname: x\nsteps: 7\n")
    assert read_chat_recipe(tmp_path / "good.yaml").steps == 7
    (tmp_path / "bad.yaml").write_text("kind: chat\nname: x\nwrong: 0.5\n")
    with pytest.raises(ConfigError, match="wrong"):
        read_chat_recipe(tmp_path / "bad.yaml")
