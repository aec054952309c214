import itertools
import json
import shlex

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import interp.studies.recipe as recipes
from interp.datasets.arithmetic import TASKS, Problem, sample, split_of
from interp.datasets.arithmetic_prompts import BOS, EOS, PAD, to_tokens
from interp.errors import ConfigError, DataError, InterpError
from interp.files import shipped_model
from interp.models.load import info, load_model
from interp.studies.recipe import Recipe, all_right, build, held_out, read_recipe, run_recipe, to_batch
from tests import datasets as paper
from tests.cli import interp, tree

RECIPE = """
name: tiny
task: {task: add, digits: 3}
architecture: {layers: 1, width: 16, heads: 2, mlp: 16}
batch: 16
steps: 8
evaluate_every: 2
"""


def recipe(**changes):
    task = {"task": "add", "digits": 3, **changes.pop("task", {})}
    shape = {"layers": 1, "width": 16, "heads": 2, "mlp": 16, **changes.pop("architecture", {})}
    fixed = {"name": "tiny", "batch": 16, "steps": 8, "evaluate_every": 2}
    return Recipe.model_validate({**fixed, "task": task, "architecture": shape, **changes})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name: x\ntask: {task: add}\ncolour: red\n", "unknown key 'colour'"),
        ("name: x\ntask: {task: add, colour: red}\n", r"unknown key 'task\.colour'"),
        ("name: x\ntask: {task: div}\n", r"task\.task.*'div'"),
        ("name: x\ntask: {task: add, digits: 5}\n", r"task\.digits.*5"),
        ("name: x\ntask: {task: add}\nsteps: 0\n", "steps.*0"),
        ("name: x\ntask: {task: add}\nlearning_rate: -1\n", "learning_rate.*-1"),
        ("name: x\ntask: {task: add}\nbatch: many\n", "batch.*'many'"),
        ("name: x\ntask: {task: add}\narchitecture: {form: mamba}\n", r"architecture\.form.*'mamba'"),
        ("task: {task: add}\n", "name.*required"),
        ("name: x\n", "task.*required"),
        ("name: [x\n", "line 2.*not YAML"),
        ("just words\n", "found str"),
        ("", "found NoneType"),
        ("!!python/object/apply:os.system ['true']\n", "not YAML"),
    ],
)
def test_a_recipe_that_is_none_is_refused(tmp_path, content, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipe(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_recipe_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.yaml"):
        read_recipe(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    "changes",
    [
        dict(architecture=dict(width=18, heads=4)),
        dict(architecture=dict(width=12, heads=4)),  # heads of width 3: rotary embeddings turn pairs
        dict(task=dict(task="sub", steps=True)),
        dict(task=dict(task="mixed", shares={"%": 1.0})),
        dict(task=dict(task="mixed", shares={"+": -1.0, "-": 2.0})),
        dict(task=dict(task="mul", multiplier_digits=4)),
    ],
    ids=["no multiple", "odd heads", "steps of sub", "operator", "negative share", "multiplier"],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path, changes):
    with pytest.raises(InterpError):
        run_recipe(recipe(**changes), tmp_path / "new", command="", progress=False)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("form", ["llama", "gpt2"])
@pytest.mark.parametrize(("task", "steps"), [*((t, False) for t in TASKS), ("add", True)])
@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_the_longest_line_fits_the_context(form, task, steps, digits):
    """With `<bos>` and `<eos>`; the longest difference is a negative one, for instance 100-999=-899."""
    ends = [n for n in (0, 9, 10, 99, 100, 999, 1000, 9999) if n < 10**digits]
    lines = [
        paper.written(a, operator, b, with_steps=steps)
        for a, b in itertools.product(ends, ends)
        for operator in TASKS[task]
    ]
    config = build(recipe(task=dict(task=task, digits=digits, steps=steps), architecture=dict(form=form))).config
    assert max(map(len, lines)) + 2 <= config.max_position_embeddings


@pytest.mark.parametrize("form", ["llama", "gpt2"])
def test_the_seed_decides_the_untrained_weights_and_nothing_else_does(form):
    before = torch.get_rng_state()
    one, two, other = (build(recipe(seed=s, architecture=dict(form=form))).state_dict() for s in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("steps", [False, True])
def test_a_batch_asks_for_what_follows_the_equals_sign(steps):
    problems = [Problem(5, "+", 3), Problem(59, "+", 73), Problem(9, "+", 91)]
    tokens, asked = to_batch(problems, steps)
    for row, mask, problem in zip(tokens.tolist(), asked.tolist(), problems, strict=True):
        line = paper.written(*problem, with_steps=steps)
        after = line[line.index("=") + 1 :]
        inside = [int(i) for i in to_tokens([after])[0][1:]]
        assert [t for t, m in zip(row, mask, strict=True) if m] == [*inside, EOS]
        assert (row[0], mask[0]) == (BOS, False)
        assert row[len(line) + 2 :] == [PAD] * (len(row) - len(line) - 2)


def test_all_right_is_what_greedy_generation_finds():
    """On the shipped model's hardest problems, of which some are wrong; each token is generated one by one."""
    folder = shipped_model("arithmetic-mixed")
    assert folder is not None
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    task = json.loads((folder / "card.json").read_text(encoding="utf-8"))["task"]
    problems = sample(
        np.random.default_rng(0), 120, task="mul", digits=task["digits"], multiplier_digits=task["multiplier_digits"],
        split="test", distinct=True,
    )  # fmt: skip
    generated = []
    with torch.inference_mode():
        found = all_right(model, to_batch(problems, False)).tolist()
        for problem in problems:
            ids = to_tokens([problem.question])[0].tolist()
            wanted = [*to_tokens([paper.answer(*problem)])[0].tolist()[1:], EOS]
            said = []
            while len(said) < len(wanted):
                said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
            generated.append(said == wanted)
    assert found == generated
    assert 0 < sum(generated) < len(problems)


def test_batches_follow_from_the_seed_and_the_step_alone(tmp_path, monkeypatch):
    taken = []

    def caught(model, batch, *args, **kwargs):
        taken.append([batch(step)[0].tolist() for step in (0, 1, 0)])
        raise KeyboardInterrupt

    monkeypatch.setattr(recipes, "train", caught)
    for seed in (0, 1, 0):
        with pytest.raises(KeyboardInterrupt):
            run_recipe(recipe(seed=seed), tmp_path, command="", progress=False)
    one, other, again = taken
    assert one == again
    assert one[0] == one[2] != one[1]
    assert one[0] != other[0]


def test_shares_decide_how_many_of_each_operator():
    wanted = recipe(task=dict(task="mixed", digits=3, shares={"+": 0.25, "-": 0.25, "*": 0.5}), batch=400)
    found = recipes.training_problems(wanted, np.random.default_rng(0))
    assert {o: sum(p.operator == o for p in found) for o in "+-*"} == {"+": 100, "-": 100, "*": 200}
    for operator in "+-*":
        a, b = (np.array([getattr(p, n) for p in found if p.operator == operator]) for n in "ab")
        assert (split_of(a, operator, b) == "train").all()


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", ["validation", "test"])
def test_held_out_problems_are_of_their_split(task, split):
    wanted = recipe(task=dict(task=task, digits=2))
    found = held_out(wanted, split, 90)
    assert len(found) == len(set(found)) == 90
    for operator in TASKS[task]:
        a, b = (np.array([getattr(p, n) for p in found if p.operator == operator]) for n in "ab")
        assert len(a) == 90 // len(TASKS[task])
        assert (split_of(a, operator, b) == split).all()
    assert found == held_out(wanted, split, 90)


# `interp train`, once for all that is asked of its folder.


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place, logs = tmp_path_factory.mktemp("trained"), tmp_path_factory.mktemp("logs")
    (place / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    finished = interp(
        "train", "recipe.yaml", "--seed", "5", "--output-dir", "new/tiny", "--quiet", cwd=place, logs=logs
    )
    assert finished.code == 0, finished.err
    return place, finished


def test_training_writes_a_folder_that_can_be_loaded(trained):
    place, finished = trained
    folder = place / "new" / "tiny"
    assert finished.err == ""
    assert "8 steps" in finished.out
    assert str(folder.relative_to(place)) in finished.out
    model = load_model(folder, device="cpu")
    known = info(model)
    assert (known.n_layers, known.n_heads, known.d_model) == (1, 2, 16)
    assert model.tokenizer("59 + 73")["input_ids"] == to_tokens(["59+73"])[0].tolist()
    assert not list(folder.glob("*.part"))
    assert not list(folder.glob("training*"))  # no checkpoint is left of a finished run


def test_the_card_says_how_the_model_was_made(trained):
    place, _ = trained
    folder = place / "new" / "tiny"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert (card["name"], card["kind"], card["seed"], card["steps_trained"]) == ("tiny", "arithmetic", 5, 8)
    assert card["task"] == recipe().task.model_dump()
    assert [row[0] for row in card["history"]] == [2, 4, 6, 8]
    assert card["parameters"] == sum(p.numel() for p in build(recipe()).parameters())
    problems = held_out(recipe(seed=5), "test", 5000)
    assert card["exact_match"]["n"] == len(problems)
    cascades = [paper.cascade(*p) for p in problems]
    assert {k: v["n"] for k, v in card["by_cascade"].items()} == {str(c): cascades.count(c) for c in set(cascades)}
    for row in (card["exact_match"], *card["by_operator"].values(), *card["by_cascade"].values()):
        assert 0 <= row["low"] <= row["value"] <= row["high"] <= 1
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# tiny\n")
    assert f"{len(problems):,}" in text
    assert card["command"] in text


def test_the_command_on_the_card_makes_the_model_again(trained, tmp_path):
    place, _ = trained
    folder = place / "new" / "tiny"
    words = shlex.split(json.loads((folder / "card.json").read_text(encoding="utf-8"))["command"])
    assert words[0] == "interp"
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    finished = interp(*words[1:], "--quiet", cwd=tmp_path / "again", logs=tmp_path)
    assert finished.code == 0, finished.err
    again = tmp_path / "again" / "new" / "tiny"
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same recipe with its own seed, 0."""
    folder = tmp_path_factory.mktemp("whole")
    run_recipe(recipe(), folder, command="", progress=False)
    return tree(folder)


def test_another_seed_makes_another_model(trained, whole):
    place, _ = trained
    assert json.loads(whole["card.json"])["seed"] == 0
    assert whole["model.safetensors"] != (place / "new" / "tiny" / "model.safetensors").read_bytes()


def test_the_recipe_lies_beside_the_model(trained):
    """`run_recipe` says so, and the shipped folders have it."""
    place, _ = trained
    assert read_recipe(place / "new" / "tiny" / "train.yaml") == recipe(seed=5)


@pytest.mark.whole
def test_a_broken_training_ends_as_an_unbroken_one(tmp_path, whole, monkeypatch):
    problems, calls = recipes.training_problems, iter(range(99))

    def dying(*args):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return problems(*args)

    monkeypatch.setattr(recipes, "training_problems", dying)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(), tmp_path / "broken", command="", progress=False)
    assert list(tree(tmp_path / "broken")) == ["training.safetensors"]
    with pytest.raises(DataError, match="another recipe"):
        run_recipe(recipe(seed=1), tmp_path / "broken", command="", progress=False)
    card = run_recipe(recipe(), tmp_path / "broken", command="", progress=False)
    broken = tree(tmp_path / "broken")
    assert broken["model.safetensors"] == whole["model.safetensors"]
    assert sorted(broken) == sorted(whole)
    assert card["history"] == json.loads(whole["card.json"])["history"]


@pytest.mark.parametrize("below", ["file.txt", "file.txt/new"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file.txt").write_text("a file", encoding="utf-8")
    with pytest.raises(DataError, match=r"file\.txt"):
        run_recipe(recipe(), tmp_path / below, command="", progress=False)
    assert tree(tmp_path) == {"file.txt": b"a file"}


def test_a_folder_that_cannot_be_written_is_refused_before_the_training(tmp_path, monkeypatch):
    """Hours may pass until the first checkpoint."""
    (tmp_path / "file.txt").write_text("a file", encoding="utf-8")
    steps = []
    problems = recipes.training_problems
    monkeypatch.setattr(recipes, "training_problems", lambda *args: steps.append(1) or problems(*args))
    with pytest.raises(DataError, match=r"file\.txt"):
        run_recipe(recipe(), tmp_path / "file.txt" / "new", command="", progress=False)
    assert steps == []
