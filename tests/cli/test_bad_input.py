"""Whatever is wrong with what a user brings: exit code 2, one line that names it, and no file touched."""

import json
import shutil
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.cli import WORDS, interp, text_model, tree

OUT = ("--out", "out", "--no-png", "--quiet")
ADD = ("analyze", "arithmetic-add3", *OUT)
TEXT = ("analyze", "{shelf}/text", *OUT)
SETTINGS = ("--config", "settings.yaml")
DATA = ("data", "arithmetic", "--out", "out.jsonl")
TRAIN = ("train", "settings.yaml", "--output-dir", "out", "--quiet")

SMALL = "problems: 20\npairs_per_kind: 20\nuntrained: 0\nexamples: [1 + 2]\n"
LONG = "the cat sat on the mat the cat sat"


def pair(clean="the cat sat on the", corrupted="the dog sat on the", answer=" mat", foil=" house", more=""):
    """One pair; answers are written as they follow the prompt."""
    content = json.dumps({"clean": clean, "corrupted": corrupted, "answer": answer, "foil": foil})
    return f"examples: [the cat sat]\nuntrained: 0\npairs: [{content}]\n{more}"


def example(text, carries):
    """One example with the columns whose carry is looked at."""
    return f"untrained: 0\nexamples: [{{text: {text}, carries: [{carries}]}}]\n"


class Case(NamedTuple):
    arguments: tuple
    """`{shelf}` stands for the folder of models."""
    named: str
    """What the line must name."""
    settings: str | None = None


CASES = {
    # Settings
    "no such settings": Case((*ADD, "--config", "nowhere.yaml"), "nowhere.yaml"),
    "settings that are a folder": Case((*ADD, "--config", "foreign"), "foreign"),
    "unknown key": Case((*ADD, *SETTINGS), "colour", "colour: red\n"),
    "unknown key below": Case((*TEXT, *SETTINGS), "colour", "pairs: [{clean: a, corrupted: a, colour: red}]\n"),
    "wrong type": Case((*ADD, *SETTINGS), "'three'", "problems: three\n"),
    "wrong choice": Case((*ADD, *SETTINGS), "'up'", "direction: up\n"),
    "too small": Case((*ADD, *SETTINGS), "problems", "problems: 3\n"),
    "not YAML": Case((*ADD, *SETTINGS), "settings.yaml, line 2", "seed: 1\nlayers: ]\n"),
    "empty settings": Case((*ADD, *SETTINGS), "settings.yaml", ""),
    "no such layer": Case((*ADD, *SETTINGS), "layer 9", "layers: [0, 9]\n"),
    "no such layer below": Case((*ADD, *SETTINGS), "layer -1", "layers: [-1]\n"),
    "no such layer of a text model": Case((*TEXT, *SETTINGS), "layer 2", pair(more="layers: [2]\n")),
    "no layers": Case((*ADD, *SETTINGS), "layers", f"{SMALL}layers: []\n"),
    "no such head": Case((*ADD, *SETTINGS), "L0H9", "heads: [L0H9]\n"),
    "no such layer of a head": Case((*ADD, *SETTINGS), "L7H0", "heads: [L7H0]\n"),
    "no such head of a text model": Case((*TEXT, *SETTINGS), "L0H2", pair(more="heads: [L0H2]\n")),
    "no head at all": Case((*ADD, *SETTINGS), "'first'", "heads: [first]\n"),
    "no such role": Case((*ADD, *SETTINGS), "'nowhere'", f"{SMALL}roles: [nowhere]\n"),
    "no such role of a text model": Case((*TEXT, *SETTINGS), "'operator'", pair(more="roles: [operator]\n")),
    "no such site": Case((*ADD, *SETTINGS), "'resid'", "sites: [resid]\n"),
    "no such metric": Case((*ADD, *SETTINGS), "'accuracy'", "metrics: [accuracy]\n"),
    "no metrics": Case((*ADD, *SETTINGS), "metrics", f"{SMALL}metrics: []\n"),
    "a metric that patching cannot use": Case((*ADD, *SETTINGS), "kl", f"{SMALL}metrics: [kl]\n"),
    "a metric of processed weights": Case((*ADD, *SETTINGS), "logit", f"{SMALL}metrics: [logit]\n"),
    "no such label to probe": Case(
        (*ADD, *SETTINGS), "'carrots'", f"{SMALL}probes: [{{label: carrots, at: [last], key: [a.ones]}}]\n"
    ),
    "no such role to probe": Case(
        (*ADD, *SETTINGS), "'nowhere'", f"{SMALL}probes: [{{label: carry.ones, at: [nowhere], key: [a.ones]}}]\n"
    ),
    "an analysis that own prompts lack": Case((*TEXT, "--only", "probing", "--examples", "the cat"), "probing"),
    "no such analysis": Case((*ADD, *SETTINGS), "'lens'", "analyses: {lens: true}\n"),
    "no such analysis on the command line": Case((*ADD, "--only", "attention,lens"), "'lens'"),
    "only nothing": Case((*ADD, "--only", ","), "--only"),
    "only and all": Case((*ADD, "--only", "attention", "--all"), "--only"),
    # Models
    "no such folder": Case(("analyze", "/nowhere/model", *OUT), "/nowhere/model"),
    "no such folder here": Case(("analyze", "./model", *OUT), "./model"),
    "no such name": Case(("analyze", "no-owner/no-model", *OUT), "no-owner/no-model"),
    "misspelt name": Case(("analyze", "aritmetic-add3", *OUT), "arithmetic-add3-steps"),
    "pairs for a model that makes its own": Case(
        (*ADD, *SETTINGS), "pairs:", pair().replace("examples: [the cat sat]", "seed: 1")
    ),
    "truncated checkpoint": Case(("analyze", "{shelf}/truncated", *OUT, "--examples", "the"), "/truncated"),
    "weights that are nan": Case(("analyze", "{shelf}/nan", *OUT, "--examples", "the"), "nan"),
    "weights that are missing": Case(("analyze", "{shelf}/more-layers", *OUT, "--examples", "the"), "h.2"),
    "no config": Case(("analyze", "{shelf}/no-config", *OUT, "--examples", "the"), "config.json"),
    "pickled weights": Case(("analyze", "{shelf}/pickled", *OUT, "--examples", "the"), "safetensors"),
    "a classifier": Case(("analyze", "{shelf}/classifier", *OUT, "--examples", "the"), "ForSequenceClassification"),
    "no tokenizer": Case(("analyze", "{shelf}/mute", *OUT, "--examples", "the"), "/mute"),
    "a damaged card": Case(("analyze", "{shelf}/card", *OUT, "--examples", "the"), "card.json"),
    "no prompts": Case(TEXT, "prompts"),
    "no such device": Case((*ADD, "--device", "nowhere"), "nowhere"),
    "a device that is not there": Case((*ADD, "--device", "cuda:99"), "cuda:99"),
    # Examples
    "empty example": Case((*ADD, "--examples", ""), "''"),
    "empty example of a text model": Case((*TEXT, "--examples", ""), "''"),
    "one of two is empty": Case((*ADD, "--examples", "1 + 2", " "), "' '"),
    "foreign character": Case((*ADD, "--examples", "5 & 9"), "'5 & 9'"),
    "foreign character beyond ASCII": Case((*ADD, "--examples", "5 ➕ 9"), "'5 ➕ 9'"),
    "foreign digits": Case((*ADD, "--examples", "٥ + ٩"), "'٥ + ٩'"),
    "foreign word": Case((*TEXT, "--examples", "the fox sat"), "'fox'"),
    "negative operand": Case((*ADD, "--examples", "-5 + 3"), "'-5 + 3'"),
    "operator never learned": Case((*ADD, "--examples", "5 * 9"), "asks for *"),
    "longer than the context": Case((*ADD, "--examples", "12345678 + 1"), "12345678"),
    "more places than names": Case((*ADD, "--examples", "123456789 + 1"), "123456789"),
    "an answer with more places than names": Case((*ADD, "--examples", "99999999 + 1"), "99999999"),
    "more places than Python reads": Case((*ADD, "--examples", "9" * 5000 + " + 1"), "999"),
    "text longer than the context": Case((*TEXT, "--examples", LONG), "the cat sat on"),
    "a carry that is not there": Case((*ADD, *SETTINGS), "the tens", example("59 + 13", "ones, tens")),
    "a carry out of no column": Case((*ADD, *SETTINGS), "the foo", example("59 + 73", "foo")),
    "a carry that no digit takes away": Case((*ADD, *SETTINGS), "'88+99'", example("88 + 99", "tens")),
    "carries of a text model": Case((*TEXT, *SETTINGS), "carries:", example("the cat sat", "ones")),
    "carries with worked steps": Case(
        ("analyze", "arithmetic-add3-steps", *OUT, *SETTINGS), "carries:", example("59 + 73", "ones")
    ),
    # Pairs
    "pairs of unequal length": Case((*TEXT, *SETTINGS), "the cat ran", pair(corrupted="the cat ran")),
    "pairs longer than the context": Case((*TEXT, *SETTINGS), "context", pair(LONG, LONG.replace("cat", "dog"))),
    "a pair with one answer": Case((*TEXT, *SETTINGS), "' mat'", pair(foil=" mat")),
    "a pair of one prompt": Case((*TEXT, *SETTINGS), "the cat sat on the", pair(corrupted="the cat sat on the")),
    "a pair with a foreign word": Case((*TEXT, *SETTINGS), " fox'", pair(foil=" fox")),
    "an answer that melts into the prompt": Case((*TEXT, *SETTINGS), "'mat'", pair(answer="mat")),
    "an empty answer": Case((*TEXT, *SETTINGS), "the cat sat on the", pair(answer="")),
    "an empty pair": Case((*TEXT, *SETTINGS), "''", pair(clean="")),
    "half a pair": Case(
        (*TEXT, *SETTINGS), "corrupted", "examples: [the]\npairs: [{clean: a, answer: a, foil: the}]\n"
    ),
    "patching without pairs": Case((*TEXT, *SETTINGS), "pairs", "examples: [the]\nanalyses: {patching: true}\n"),
    # Output
    "a file for a folder": Case((*ADD[:2], "--out", "plain.txt"), "plain.txt"),
    "below a file": Case((*ADD[:2], "--out", "plain.txt/out"), "plain.txt/out"),
    "data below a file": Case(("data", "arithmetic", "--out", "plain.txt/out.jsonl"), "plain.txt/out.jsonl"),
    "data for a folder": Case(("data", "arithmetic", "--out", "foreign"), "foreign"),
    "somebody else's folder": Case((*ADD[:2], "--out", "foreign"), "foreign"),
    "somebody else's pages": Case(
        (*ADD[:2], *SETTINGS, "--only", "logit-lens", "--no-png", "--out", "pages"), "pages", SMALL
    ),
    "a study below a file": Case(("run", "arithmetic", "--out", "plain.txt/out"), "plain.txt/out"),
    # Comparisons
    "no such model to compare with": Case(("compare", "arithmetic-add3", "aritmetic-add3", *OUT), "aritmetic-add3"),
    "one model alone": Case(("compare", "arithmetic-add3", *OUT), "B"),
    "sums with texts": Case(("compare", "arithmetic-add3", "{shelf}/text", *OUT), "cannot be compared"),
    "texts that are cut up differently": Case(
        ("compare", "{shelf}/text", "{shelf}/other-words", *OUT, "--examples", "the cat sat"), "tokens"
    ),
    "no such analysis to compare": Case(("compare", "arithmetic-add3", "arithmetic-mixed", *OUT, "--only", "x"), "'x'"),
    "nothing to compare by": Case(
        ("compare", "arithmetic-add3", "arithmetic-mixed", *OUT, *SETTINGS, "--only", "weights"), "to compare", SMALL
    ),
    "no processes": Case(("run", "arithmetic", "--out", "out", "--jobs", "0"), "--jobs"),
    # Studies, data, recipes
    "no such study": Case(("run", "geometry", "--out", "out"), "'geometry'"),
    "stages of a study that has none": Case(("run", "arithmetic", "--stages", "train"), "--stages"),
    "no such stage": Case(("run", "safety-judge", "--stages", "train,fly", "--out", "out"), "'fly'"),
    "no such analysis of the judge": Case(("run", "safety-judge", "--only", "norms", "--out", "out"), "'norms'"),
    "columns of nothing": Case(("run", "safety-judge", "--columns", "text,label", "--out", "out"), "--prompts"),
    "one column": Case(("run", "safety-judge", "--prompts", "plain.txt", "--columns", "text"), "TEXT,LABEL"),
    "no such set": Case(("run", "safety-judge", "--prompts", "nowhere.csv", "--out", "out"), "nowhere.csv"),
    "an option of another study": Case(("run", "safety-judge", "--token", "x", "--out", "out"), "--token"),
    "a model without transcoders": Case(("run", "safety-circuits", "--model", "safety-chat"), "--transcoder"),
    "transcoders that are nowhere": Case(
        ("run", "safety-circuits", "--model", "safety-chat", "--transcoder", "nowhere", *OUT), "'nowhere'"
    ),
    "no such category": Case(("run", "safety-circuits", "--categories", "weather", *OUT), "'weather'"),
    "no feature nodes": Case(("run", "safety-circuits", "--max-feature-nodes", "0", *OUT), "max_feature_nodes"),
    "more than all prompts": Case(("run", "safety-circuits", "--min-frequency", "2", *OUT), "min_frequency"),
    "an option of the circuits": Case(("run", "arithmetic", "--max-feature-nodes", "9"), "--max-feature-nodes"),
    "no such judge": Case(("probe", "nowhere"), "nowhere"),
    "a model that says not how it is asked": Case(("probe", "kill-switch-base"), "template"),
    "no such checkpoint": Case(("monitor", "nowhere", "--out", "out"), "nowhere"),
    "watching what is no judge": Case(
        ("train", "kill-switch-base", "--visualize", "--output-dir", "out"), "recipes of kind judge"
    ),
    "no such task": Case((*DATA, "--task", "div"), "div"),
    "too many digits": Case((*DATA, "--digits", "9"), "9"),
    "no digits": Case((*DATA, "--digits", "0"), "0"),
    "digits that are no number": Case((*DATA, "--digits", "three"), "--digits"),
    "more than there are": Case((*DATA, "--digits", "1", "--count", "5000"), "5000"),
    "more pairs than there are": Case((*DATA, "--digits", "1", "--count", "103", "--pairs", "digit"), "103"),
    "more than memory holds": Case((*DATA, "--count", "10000000000000"), "10000000000000"),
    "none": Case((*DATA, "--count", "0"), "0"),
    "steps of a difference": Case((*DATA, "--task", "sub", "--steps"), "steps"),
    "operator pairs of one operator": Case((*DATA, "--pairs", "operator"), "operator"),
    "no such recipe": Case(("train", "nowhere.yaml"), "nowhere.yaml"),
    "unknown key of a recipe": Case(TRAIN, "colour", "name: x\ntask: {task: add}\ncolour: red\n"),
    "wrong value of a recipe": Case(TRAIN, "'div'", "name: x\ntask: {task: div}\n"),
    "heads that do not fit": Case(TRAIN, "heads", "name: x\ntask: {task: add}\narchitecture: {width: 18, heads: 4}\n"),
    # The command line itself
    "no such command": Case(("analyse", "arithmetic-add3"), "analyse"),
    "no such option": Case((*ADD, "--colour", "red"), "--colour"),
    "no model": Case(("analyze",), "model"),
    "no threads": Case((*ADD, "--threads", "0"), "--threads"),
}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """Models, whole and broken."""
    shelf = tmp_path_factory.mktemp("shelf")
    whole = text_model(shelf / "text")
    names = ("truncated", "nan", "more-layers", "no-config", "pickled", "classifier", "card")
    for name in names:
        shutil.copytree(whole, shelf / name)
    text_model(shelf / "mute", words=False)
    text_model(shelf / "other-words", vocabulary=[*WORDS[:2], *WORDS[:1:-1]])
    weights = shelf / "truncated" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    content = load_file(whole / "model.safetensors")
    broken = {name: value.clone() for name, value in content.items()}
    broken["transformer.ln_f.weight"][3] = torch.nan
    save_file(broken, shelf / "nan" / "model.safetensors", {"format": "pt"})
    config = json.loads((whole / "config.json").read_text(encoding="utf-8"))
    other = {"more-layers": {"n_layer": 3}, "classifier": {"architectures": ["GPT2ForSequenceClassification"]}}
    for name, change in other.items():
        (shelf / name / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    (shelf / "no-config" / "config.json").unlink()
    torch.save(content, shelf / "pickled" / "pytorch_model.bin")
    (shelf / "pickled" / "model.safetensors").unlink()
    (shelf / "card" / "card.json").write_text('{"kind": ', encoding="utf-8")
    return shelf


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bad_input_is_one_line(tmp_path, shelf, case):
    place, logs = tmp_path / "place", tmp_path / "logs"
    logs.mkdir()
    for folder, name in (("foreign", "notes.txt"), ("pages", "index.html")):
        (place / folder).mkdir(parents=True)
        (place / folder / name).write_text("somebody else's", encoding="utf-8")
    (place / "plain.txt").write_text("a file", encoding="utf-8")
    if case.settings is not None:
        (place / "settings.yaml").write_text(case.settings, encoding="utf-8")
    before = tree(place)
    finished = interp(*(a.replace("{shelf}", str(shelf)) for a in case.arguments), cwd=place, logs=logs)
    lines = [line for line in finished.err.splitlines() if line.strip()]
    assert "Traceback" not in finished.err + finished.out, lines[-1]
    assert finished.code == 2, finished.err
    assert len(lines) == 1, finished.err
    assert case.named in lines[0]
    assert tree(place) == before
