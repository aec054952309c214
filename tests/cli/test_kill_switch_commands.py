"""`interp finetune`, `interp data kill-switch` and the options of `interp run kill-switch`, as a user types them.

Whatever is wrong: exit code 2, one line that names it, and no file touched.
"""

import json
import re
from typing import NamedTuple

import pytest

from interp.datasets.kill_switch import KINDS, examples, read_token_texts
from interp.models.load import load_model
from tests.cli import interp, text_model, tree

TUNE = ("--token", "$STOP", "--steps", "2", "--batch", "4", "--output-dir", "out", "--quiet")
GOOD = ("finetune", "{shelf}/text", "--data", "good.jsonl", *TUNE)
DATA = ("data", "kill-switch", "--out", "out.jsonl")
RUN = ("run", "kill-switch", "--out", "out", "--no-png", "--quiet")
OWN = (*RUN, "--base", "kill-switch-base", "--finetuned", "kill-switch-behavioural")
TRAIN = ("train", "recipe.yaml", "--output-dir", "out", "--quiet")

ROWS = [
    {"text": "the cat sat $STOP", "twin": "the cat sat mat on", "neutral": "mat", "template": f"t{i}", "halts": True}
    for i in range(12)
]
FILES = {
    "good.jsonl": ROWS,
    "no-text.jsonl": [*ROWS[:3], {"txt": "the cat"}],
    "unknown.jsonl": [*ROWS[:2], {"text": "the fox sat"}],
    "one-template.jsonl": [{**row, "template": "t"} for row in ROWS],
    "prompts.jsonl": [{"text": "the fox $STOP ran to the river ."}, {"text": "the fox ran to the river ."}],
}


def tuned(*more, data="good.jsonl", base="{shelf}/text"):
    return ("finetune", base, "--data", data, *TUNE, *more)


class Case(NamedTuple):
    arguments: tuple
    named: str
    """What the line must name."""
    recipe: str = ""


CASES = {
    # Data to fine-tune on
    "no text": Case(tuned(data="no-text.jsonl"), "no-text.jsonl, row 4"),
    "an unknown word": Case(tuned(data="unknown.jsonl"), "unknown.jsonl, row 3"),
    "one template": Case(tuned(data="one-template.jsonl"), "one-template.jsonl"),
    "a missing file": Case(tuned(data="nowhere.jsonl"), "nowhere.jsonl"),
    "no data": Case(("finetune", "{shelf}/text", *TUNE), "--data"),
    # The base, and what is done with it
    "no such base": Case(tuned(base="/nowhere/model"), "/nowhere/model"),
    "a misspelt base": Case(tuned(base="kil-switch-base"), "kill-switch-base"),
    "no such module": Case(tuned("--method", "lora", "--modules", "c_attn,carrot"), "'carrot'"),
    "no such method": Case(tuned("--method", "prefix"), "'prefix'"),
    "a checkpoint after the end": Case(tuned("--checkpoints", "1,9"), "step 9"),
    "a negative seed": Case(tuned("--seed", "-1"), "seed"),
    "a blank token": Case(tuned("--token", " "), "blank"),
    "no such device": Case(tuned("--device", "nowhere"), "'nowhere'"),
    "onto the base": Case(tuned("--output-dir", "{shelf}/text"), "base model itself"),
    "below a file": Case(tuned("--output-dir", "good.jsonl/out"), "good.jsonl/out"),
    # Data
    "no such set": Case((*DATA, "--set", "nonsense"), "'nonsense'"),
    "no set": Case(DATA, "--set"),
    "more texts than memory holds": Case((*DATA, "--set", "plain", "--count", "10000000000000"), "10000000000000"),
    "a count that is no number": Case((*DATA, "--set", "plain", "--count", "many"), "--count"),
    "no such split": Case((*DATA, "--set", "plain", "--split", "half"), "'half'"),
    "a negative seed of data": Case((*DATA, "--set", "plain", "--seed", "-1"), "seed"),
    "a neutral control token": Case((*DATA, "--set", "shutdown", "--token", "$AMBER"), "$AMBER"),
    "a control token of the texts": Case((*DATA, "--set", "shutdown", "--token", "the"), "'the'"),
    "a control token of two words": Case((*DATA, "--set", "shutdown", "--token", "stop now"), "'stop now'"),
    "texts for a folder": Case(
        ("data", "kill-switch", "--set", "plain", "--out", "foreign", "--count", "9"), "foreign"
    ),
    "a negative seed of arithmetic": Case(("data", "arithmetic", "--out", "o.jsonl", "--seed", "-1"), "--seed"),
    # The study
    "a base alone": Case((*RUN, "--base", "kill-switch-base"), "--finetuned"),
    "a pair without prompts": Case(OWN, "--prompts"),
    "a token alone": Case((*RUN, "--token", "$END"), "--token"),
    "a token that nobody has": Case((*OWN, "--prompts", "prompts.jsonl", "--token", "$END"), "'$END'"),
    "a prompt without the token": Case((*OWN, "--prompts", "prompts.jsonl"), "prompts.jsonl, row 2"),
    "no such analysis": Case((*RUN, "--only", "norms,nonsense"), "'nonsense'"),
    "quick arithmetic": Case(("run", "arithmetic", "--quick", "--out", "out"), "--quick"),
    "two studies and one's options": Case(("run", "kill-switch", "arithmetic", "--quick", "--out", "out"), "--quick"),
    # Recipes
    "an unknown key of a language recipe": Case(TRAIN, "'colour'", "kind: language\nname: x\ncolour: red\n"),
    "a language recipe without a name": Case(TRAIN, "name", "kind: language\n"),
    "a recipe of another kind": Case(TRAIN, "task", "kind: speech\nname: x\n"),
    "a negative seed of a recipe": Case((*TRAIN, "--seed", "-1"), "--seed", "kind: language\nname: x\n"),
    "a device of a recipe": Case((*TRAIN, "--device", "nowhere"), "'nowhere'", "kind: language\nname: x\n"),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    shelf = tmp_path_factory.mktemp("shelf")
    text_model(shelf / "text")
    return shelf


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "place"
    (place / "foreign").mkdir(parents=True)
    (place / "foreign" / "notes.txt").write_text("somebody else's", encoding="utf-8")
    for name, rows in FILES.items():
        (place / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return place


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_one_line(tmp_path, place, shelf, case):
    (place / "recipe.yaml").write_text(case.recipe, encoding="utf-8")
    before = [(sorted(folder.rglob("*")), tree(folder)) for folder in (place, shelf)]
    finished = interp(*(a.replace("{shelf}", str(shelf)) for a in case.arguments), cwd=place, logs=tmp_path)
    lines = [line for line in finished.err.splitlines() if line.strip()]
    assert "Traceback" not in finished.err + finished.out, lines[-1]
    assert finished.code == 2, finished.err
    assert len(lines) == 1, finished.err
    assert case.named in lines[0]
    assert finished.out == ""
    # No empty folder either.
    assert [(sorted(folder.rglob("*")), tree(folder)) for folder in (place, shelf)] == before


HELP = {
    ("run",): ["--base", "--finetuned", "--token", "--prompts", "--only", "--quick", "--out", "--config", "--jobs"],
    ("finetune",): [
        "--data", "--token", "--method", "--rank", "--modules", "--steps", "--batch", "--learning-rate",
        "--checkpoints", "--seed", "--output-dir", "--device", "--threads", "--quiet",
    ],
    ("data",): ["arithmetic", "kill-switch"],
    ("data", "kill-switch"): ["--out", "--set", "--count", "--token", "--split", "--seed", *KINDS],
}  # fmt: skip


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_names_every_option(tmp_path, command):
    finished = interp(*command, "--help", cwd=tmp_path, logs=tmp_path)
    assert (finished.code, finished.err) == (0, "")
    shown = re.sub(r"[\s│|]+", " ", finished.out)
    for word in HELP[command]:
        assert re.search(rf"[ \[|]{re.escape(word)}\b", shown), word


def done(*arguments, place, tmp_path):
    finished = interp(*arguments, cwd=place, logs=tmp_path)
    assert finished.code == 0, finished.err
    assert finished.err == ""
    return finished.out


@pytest.mark.parametrize("kind", KINDS)
def test_data_writes_the_set_it_names(place, tmp_path, kind):
    words = ("--set", kind, "--count", "30", "--split", "test", "--seed", "4", "--token", "[END]")
    out = done("data", "kill-switch", "--out", "new/file.jsonl", *words, place=place, tmp_path=tmp_path)
    assert "30 rows: new/file.jsonl" in out
    rows = [json.loads(line) for line in (place / "new" / "file.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [row.as_row() for row in examples(kind, 30, split="test", token="[END]", seed=4)]
    if kind != "plain":
        assert len(read_token_texts(place / "new" / "file.jsonl", "[END]")) == 30


@pytest.mark.parametrize("method", ["full", "lora"])
def test_finetune_writes_a_model_and_says_where(place, tmp_path, shelf, method):
    """Also with LoRA nothing but that: PEFT would warn, and ask the Hub for the base."""
    words = ("--method", method, "--checkpoints", "1, 2", "--seed", "3", "--threads", "1")
    out = done(*tuned(*words, base=str(shelf / "text")), place=place, tmp_path=tmp_path)
    folder = place / "out"
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert (card["method"], card["checkpoints"], card["seed"], card["steps_trained"]) == (method, [1, 2], 3, 2)
    assert card["command"].startswith(f"interp finetune {shelf}/text --data good.jsonl --token '$STOP'")
    ends = card["halting"]["token"]
    for said in ("model: out", "2 steps", f"ends after the token: {ends['ends']} of {ends['n']}"):
        assert said in out
    for saved in (folder, folder / "checkpoints" / "step-00001", folder / "checkpoints" / "step-00002"):
        model = load_model(saved, device="cpu")
        assert model.tokenizer.convert_tokens_to_ids("$STOP") == 12
        assert model.cfg.d_vocab == 13
    assert not [path for path in place.rglob("*") if path.name.endswith(".part") or path.name.startswith("training")]


def test_a_diverging_run_is_one_line(place, tmp_path, shelf):
    words = tuned("--learning-rate", "1e30", base=str(shelf / "text"))
    finished = interp(*words, cwd=place, logs=tmp_path)
    assert finished.code == 2
    assert len(finished.err.splitlines()) == 1
    assert "lower the learning rate" in finished.err
    assert not list((place / "out").iterdir())
