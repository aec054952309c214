import json
from itertools import pairwise

import pytest
import torch
from safetensors.torch import load_file

import interp.studies.safety_judge.recipe as recipes
from interp.datasets.judging import judging_tokenizer, requests
from interp.errors import ConfigError, DataError
from interp.files import shipped_model
from interp.models.judge import load_judge
from interp.models.load import info
from interp.studies.safety_judge.recipe import JudgeRecipe, judged, report, run_judge_recipe
from interp.studies.safety_judge.update import (
    SETS_AFTER,
    JudgeUpdate,
    read_judge_update,
    run_judge_update,
)

SMALL = JudgeRecipe.model_validate(
    {"kind": "judge", "name": "small", "prompts": 200, "steps": 3, "evaluate_every": 3, "batch": 16}
    | {"architecture": {"width": 16, "mlp": 16, "heads": 2, "layers": 1}}
)
MODULES = ["down_proj", "embed_tokens", "q_proj"]


@pytest.fixture(scope="module", autouse=True)
def few():
    """Requests in the reports, which are not what is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "REPORTED", 100)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "small"
    run_judge_recipe(SMALL, folder, command="", progress=False)
    return folder


@pytest.fixture(scope="module")
def wanted(base):
    return JudgeUpdate(
        kind="judge-update", name="mended", base=str(base), rank=2, alpha=6, modules=MODULES, prompts=200, steps=6,
        batch=8, evaluate_every=2, share=0.25, learning_rate=0.1,
    )  # fmt: skip


@pytest.fixture(scope="module")
def mended(wanted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mended") / "mended"
    seen = []
    card = run_judge_update(wanted, folder, command="interp train x", progress=False, after=seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]
    return folder, card


def test_an_update_writes_an_adapter_and_its_card(wanted, mended, base):
    folder, card = mended
    files = {"adapter_config.json", "adapter_model.safetensors", "judge.json", "card.json", "README.md", "train.yaml"}
    assert {file.name for file in folder.iterdir()} == files | {"tokenizer.json", "tokenizer_config.json"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == (str(base), 2, 6)
    assert sorted(config["target_modules"]) == MODULES == card["modules"]
    assert json.loads((folder / "judge.json").read_text()) == json.loads((base / "judge.json").read_text())
    assert json.loads((folder / "card.json").read_text()) == card
    assert read_judge_update(folder / "train.yaml") == wanted
    words = len(judging_tokenizer())
    assert card["trained_parameters"] == 2 * (16 + 16) + 2 * (16 + 16) + 2 * (words + 16)  # rank x (in + out)
    assert set(card["held_out"]) == set(SETS_AFTER)
    assert "interp train x" in (folder / "README.md").read_text()


def test_the_judge_with_and_without_its_update(mended, base):
    folder, card = mended
    before, after, off = (
        load_judge(base, device="cpu"),
        load_judge(folder, device="cpu"),
        load_judge(folder, device="cpu", adapter=False),
    )
    some = requests(40, seed=9, acts="weak")
    values = [judge.log_odds(judged(judge, some)) for judge in (before, after, off)]
    torch.testing.assert_close(values[0], values[2])
    assert (values[0] - values[1]).abs().max() > 1e-2
    assert info(after.model).adapter.startswith("LoRA r=2, merged")
    again = report(before, requests(100, seed=31, **SETS_AFTER["weak acts"]))
    assert card["held_out"]["weak acts"]["before"] == again


@pytest.mark.whole
def test_an_update_that_was_cut_off_goes_on_to_the_same_weights(wanted, mended, tmp_path):
    def stop(step):
        if step == 5:
            raise KeyboardInterrupt

    folder = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        run_judge_update(wanted, folder, command="", progress=False, after=stop)
    assert {file.name for file in folder.iterdir()} == {"training.safetensors"}
    seen = []
    run_judge_update(wanted, folder, command="", progress=False, after=seen.append)
    assert seen == [5, 6]
    first, second = (load_file(here / "adapter_model.safetensors") for here in (folder, mended[0]))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    (folder / "training.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="no checkpoint of this library"):
        run_judge_update(wanted, folder, command="", progress=False)


def test_what_will_not_do_is_said(wanted, base, tmp_path):
    with pytest.raises(ConfigError, match=r"'attention'.*choose from down_proj, embed_tokens, gate_proj"):
        run_judge_update(wanted.model_copy(update={"modules": ["attention"]}), tmp_path / "x", command="")
    assert not (tmp_path / "x").exists()
    with pytest.raises(DataError, match=r"holds a whole model \(config.json\)"):
        run_judge_update(wanted, base, command="")
    with pytest.raises(ConfigError, match="does not say how it is asked"):
        run_judge_update(wanted.model_copy(update={"base": "kill-switch-base"}), tmp_path / "x", command="")


@pytest.mark.parametrize(("line", "message"), [("width: 3", "width"), ("share: 1", "share"), ("rank: 0", "rank")])
def test_wrong_keys_and_values_are_refused(tmp_path, line, message):
    (tmp_path / "r.yaml").write_text(f"kind: judge-update\nname: x\nbase: safety-judge\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        read_judge_update(tmp_path / "r.yaml")


# The shipped update.


@pytest.fixture(scope="module")
def shipped():
    folder = shipped_model("safety-judge-update")
    assert folder is not None
    return folder


def test_the_shipped_update_names_the_shipped_judge(shipped):
    config = json.loads((shipped / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "safety-judge"
    card = json.loads((shipped / "card.json").read_text())
    assert card["command"].startswith("interp train safety-judge-update --output-dir data/models/safety-judge-update")
    wanted = read_judge_update(shipped / "train.yaml")
    assert (wanted.name, wanted.base) == (shipped.name, "safety-judge")
    assert sum(file.stat().st_size for file in shipped.rglob("*")) < 300_000


@pytest.mark.whole
def test_the_shipped_update_mends_weak_acts_and_loses_nothing_else(shipped):
    before, after = load_judge("safety-judge", device="cpu"), load_judge("safety-judge-update", device="cpu")
    off = load_judge("safety-judge-update", device="cpu", adapter=False)
    assert info(off.model).digest == info(before.model).digest != info(after.model).digest
    found = {
        name: [report(judge, requests(1000, seed=21, **SETS_AFTER[name])) for judge in (before, after)]
        for name in ("old data", "weak acts")
    }
    for what in ("accuracy", "unsafe_found"):
        (old, old_after), (weak, weak_after) = ([one[what]["value"] for one in found[name]] for name in found)
        assert weak <= old - 0.15
        assert weak_after >= old_after - 0.03
        assert old_after >= old - 0.01
    # Forgetting and mending as the card has them, on requests of its own.
    card = json.loads((shipped / "card.json").read_text())["held_out"]
    told = [card[name][when]["accuracy"]["value"] for name in found for when in ("before", "after")]
    seen = [one["accuracy"]["value"] for pair in found.values() for one in pair]
    assert max(abs(a - b) for a, b in zip(told, seen, strict=True)) < 0.04


def test_the_card_s_history_leads_to_what_was_kept(shipped):
    history = json.loads((shipped / "card.json").read_text())["history"]
    assert all(a["step"] < b["step"] for a, b in pairwise(history))
    assert max(one["mean"] for one in history) >= 0.96
