"""`interp train` on a recipe of `kind: language`, with a model so small that it learns next to nothing."""

import json
import math
import shlex

import pytest
import torch
import yaml
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM

import interp.studies.language as language
from interp.datasets.kill_switch import kill_switch_tokenizer, pretraining_texts
from interp.datasets.sentences import EOS, PAD
from interp.errors import ConfigError, DataError, ModelError
from interp.files import shipped_model
from interp.models.load import info, load_model
from interp.studies.language import LanguageRecipe, held_out_scores, kind_of, padded_ids, run_language_recipe
from interp.studies.language import read_language_recipe as read
from tests.cli import interp, tree

RECIPE = """
kind: language
name: tiny
architecture: {layers: 1, width: 8, heads: 2, mlp: 8}
texts: 100
batch: 8
steps: 6
evaluate_every: 2
"""


def recipe(**changes):
    return LanguageRecipe.model_validate({**yaml.safe_load(RECIPE), **changes})


@pytest.fixture
def few(monkeypatch):
    """A few texts stand for the held-out ones: drawing 1,500 takes longer than training here."""
    draw = language.pretraining_texts
    monkeypatch.setattr(language, "pretraining_texts", lambda count, seed: draw(min(count, 40), seed))


def run(folder, **changes):
    return run_language_recipe(recipe(**changes), folder, command="the command", progress=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\ncolour: red\n", "unknown key 'colour'"),
        ("name: x\narchitecture: {colour: red}\n", r"unknown key 'architecture\.colour'"),
        ("name: x\narchitecture: {form: mamba}\n", r"architecture\.form.*'mamba'"),
        ("name: x\ntexts: 3\n", "texts.*3"),
        ("name: x\nsteps: 0\n", "steps.*0"),
        ("name: x\nbatch: many\n", "batch.*'many'"),
        ("name: x\nlearning_rate: 0\n", "learning_rate.*0"),
        ("name: x\nlearning_rate: .inf\n", "learning_rate.*finite"),
        ("name: x\nweight_decay: -1\n", "weight_decay.*-1"),
        ("name: x\nseed: -1\n", "seed.*-1"),
        ("colour: red\n", "required|unknown"),
        ("texts: 200\n", "name.*required"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"kind: language\n{content}", encoding="utf-8")
    assert kind_of(path) == "language"
    with pytest.raises(ConfigError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "content", ["kind: arithmetic\n", "name: x\n", "just words\n", "", "[1, 2]\n", "kind: [language\n", "\ud800"]
)
def test_other_recipes_are_left_to_their_own_reader(tmp_path, content):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    assert kind_of(path) != "language"
    assert kind_of(tmp_path / "nowhere.yaml") is None
    assert kind_of(tmp_path) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(architecture=dict(width=18, heads=4)), "width 18.*heads 4"),
        (dict(architecture=dict(width=12, heads=4)), "width 3.*even"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path / "new", **changes)
    with pytest.raises(ConfigError, match="nowhere"):
        run_language_recipe(recipe(), tmp_path / "new", device="nowhere", command="", progress=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file.txt").write_text("a file", encoding="utf-8")
    with pytest.raises(DataError, match=r"file\.txt"):
        run(tmp_path / "file.txt" / "new")
    assert tree(tmp_path) == {"file.txt": b"a file"}


def test_a_run_that_diverges_is_no_model(tmp_path, few):
    with pytest.raises(ModelError, match="diverged"):
        run(tmp_path / "new", learning_rate=1e30)
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("rows", [[[1, 5, 2], [1, 2]], [[1, 7, 8, 9, 2]]])
def test_padding_and_the_first_token_are_not_predicted(rows):
    tokens, asked = padded_ids(rows, PAD)
    for i, row in enumerate(rows):
        assert tokens[i].tolist() == row + [PAD] * (tokens.shape[1] - len(row))
        assert tokens[i][asked[i]].tolist() == row[1:]


def test_the_scores_are_those_of_the_tokens_one_by_one():
    model = AutoModelForCausalLM.from_pretrained(shipped_model("kill-switch-base")).eval()
    rows = [[*ids, EOS] for ids in kill_switch_tokenizer()(pretraining_texts(12, 9)).input_ids]
    total, right, n = 0.0, 0, 0
    with torch.inference_mode():
        found = held_out_scores(model, padded_ids(rows, PAD))
        for row in rows:  # each alone, without padding
            table = log_softmax(model(torch.tensor([row])).logits[0], -1)
            for i, token in enumerate(row[1:]):
                total, n = total + float(table[i, token]), n + 1
                right += int(table[i].argmax()) == token
    assert found == pytest.approx({"probability a token": math.exp(total / n), "next token right": right / n})
    # The shipped base has learned the language: far from one in 342, far from certain, as words are drawn at random.
    assert 0.1 < found["probability a token"] < 0.5


# `interp train`, once for all that is asked of its folder.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place, logs = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("logs")
    (place / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    words = ("train", "recipe.yaml", "--seed", "5", "--output-dir", "new/tiny", "--quiet")
    finished = interp(*words, cwd=place, logs=logs)
    assert finished.code == 0, finished.err
    return place / "new" / "tiny", finished


def test_training_writes_a_folder_that_can_be_loaded(trained):
    folder, finished = trained
    assert finished.err == ""
    assert "tiny: " in finished.out
    assert "6 steps" in finished.out
    assert "model: new/tiny" in finished.out
    model = load_model(folder, device="cpu")
    assert (info(model).n_layers, info(model).n_heads, info(model).d_model) == (1, 2, 8)
    assert model.tokenizer.get_vocab() == kill_switch_tokenizer().get_vocab()
    assert model.cfg.d_vocab == len(model.tokenizer)
    assert sorted(tree(folder)) == [
        "README.md", "card.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
        "tokenizer_config.json", "train.yaml",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]


def test_the_card_says_how_the_model_was_made(trained):
    folder, finished = trained
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert (card["name"], card["kind"], card["seed"], card["steps_trained"]) == ("tiny", "language", 5, 6)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert card["parameters"] == sum(p.numel() for p in model.parameters())
    texts = [[*ids, EOS] for ids in kill_switch_tokenizer()(pretraining_texts(1000, 2)).input_ids]
    assert card["held_out"]["texts"] == 1000
    assert card["held_out"]["tokens"] == sum(len(ids) - 1 for ids in texts)
    with torch.inference_mode():
        scores = held_out_scores(model, padded_ids(texts, PAD))
    assert {name: card["held_out"][name] for name in scores} == pytest.approx(scores)
    assert f"{scores['next token right']:.2%}" in finished.out
    assert read(folder / "train.yaml") == recipe(seed=5)
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny\n")
    for said in (card["command"], "1 layers", "100 texts", f"{card['held_out']['tokens']:,}"):
        assert said in text
    assert shlex.split(card["command"]) == [
        "interp", "train", "recipe.yaml", "--seed", "5", "--output-dir", "new/tiny",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        draw = language.pretraining_texts
        patch.setattr(language, "pretraining_texts", lambda count, seed: draw(min(count, 40), seed))
        run(folder)
    return tree(folder)


def test_a_broken_training_ends_as_an_unbroken_one(tmp_path, few, whole, monkeypatch):
    made, calls = language.padded_ids, iter(range(99))

    def dying(*args):
        if next(calls) == 2 + 3:  # two calls for the held-out texts, then one a step; a checkpoint is kept after two
            raise KeyboardInterrupt
        return made(*args)

    monkeypatch.setattr(language, "padded_ids", dying)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken")
    assert list(tree(tmp_path / "broken")) == ["training.safetensors"]
    monkeypatch.setattr(language, "padded_ids", made)
    with pytest.raises(DataError, match="another recipe"):
        run(tmp_path / "broken", seed=1)
    run(tmp_path / "broken")
    broken = tree(tmp_path / "broken")
    assert broken["model.safetensors"] == whole["model.safetensors"]
    assert sorted(broken) == sorted(whole)


@pytest.mark.parametrize(
    "changes", [{}, {"seed": 1}, {"architecture": dict(form="gpt2", layers=1, width=8, heads=2, mlp=8)}]
)
def test_the_recipe_decides(tmp_path, few, whole, changes):
    before = torch.get_rng_state()
    run(tmp_path, **changes)
    assert torch.equal(torch.get_rng_state(), before)
    assert ((tmp_path / "model.safetensors").read_bytes() == whole["model.safetensors"]) == (not changes)
    load_model(tmp_path, device="cpu")


def test_texts_to_train_on_follow_from_the_seed_and_are_never_those_held_out(tmp_path, few, monkeypatch):
    draw, drawn = language.pretraining_texts, []
    monkeypatch.setattr(language, "pretraining_texts", lambda count, seed: drawn.append((count, seed)) or draw(2, seed))
    monkeypatch.setattr(language, "train", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    for seed in (0, 7):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, seed=seed)
    assert [count for count, _ in drawn] == [100, 500, 1000] * 2
    (first, *held), (other, *again) = ([seed for _, seed in rows] for rows in (drawn[:3], drawn[3:]))
    assert held == again
    assert len({first, other, *held}) == 4


def test_the_shipped_recipe_is_read():
    folder = shipped_model("kill-switch-base")
    assert folder is not None
    assert kind_of(folder / "train.yaml") == "language"
    shape = read(folder / "train.yaml").architecture
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    known = [config[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")]
    assert known == [shape.layers, shape.width, shape.heads, shape.mlp]
    assert config["max_position_embeddings"] == language.CONTEXT
