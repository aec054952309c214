import json
import os
import re
import subprocess
import sys

import pytest

import interp.cli.app as app
from interp.datasets.arithmetic_files import read_problems
from interp.files import data_dir
from interp.studies.settings import ANALYSES
from tests.cli import interp, text_model

LENS = ("--only", "logit-lens", "--no-png", "--quiet", "--out", "out", "--config", "settings.yaml")
SMALL = "problems: 20\npairs_per_kind: 20\nuntrained: 0\nlayers: [0, 1]\n"
HELP = {
    (): ["run", "analyze", "compare", "train", "finetune", "probe", "graph", "monitor", "list", "data"],
    ("run",): [
        "--base",
        "--finetuned",
        "--token",
        "--prompts",
        "--columns",
        "--stages",
        "--only",
        "--quick",
        "--out",
        "--config",
        "--device",
        "--threads",
        "--jobs",
        "--no-png",
        "--quiet",
    ],
    ("probe",): ["--port", "--template", "--safe", "--unsafe", "--text", "--out", "--device", "--threads"],
    ("graph",): [
        "--model",
        "--transcoder",
        "--prompt",
        "--out",
        "--name",
        "--max-feature-nodes",
        "--nodes",
        "--edges",
        "--device",
    ],
    ("monitor",): ["--out", "--data", "--text-column", "--label-column", "--template", "--visualize", "--quiet"],
    ("analyze",): [
        "--examples",
        "--only",
        "--all",
        "--out",
        "--config",
        "--device",
        "--threads",
        "--no-png",
        "--quiet",
    ],
    ("compare",): ["--examples", "--only", "--out", "--config", "--device", "--threads", "--jobs", "--no-png"],
    ("train",): ["--output-dir", "--seed", "--device", "--threads", "--quiet"],
    ("list",): ["--help"],
    ("data",): ["arithmetic", "kill-switch", "safety-judge", "safety-chat"],
    ("data", "safety-chat"): ["--out", "--count", "--held", "--seed"],
    ("data", "safety-judge"): ["--out", "--count", "--held-out", "--acts", "--seed"],
    ("data", "kill-switch"): ["--out", "--set", "--count", "--token", "--split", "--seed"],
    ("finetune",): ["--data", "--token", "--method", "--rank", "--checkpoints", "--output-dir"],
    ("data", "arithmetic"): ["--task", "--digits", "--count", "--steps", "--carries", "--split", "--pairs", "--seed"],
}


@pytest.fixture
def place(tmp_path):
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "settings.yaml").write_text(SMALL, encoding="utf-8")
    return tmp_path / "place"


def done(*arguments, place, tmp_path):
    finished = interp(*arguments, cwd=place, logs=tmp_path)
    assert finished.code == 0, finished.err
    assert finished.err == ""
    return finished.out


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_names_every_option(tmp_path, command):
    out = done(*command, "--help", place=tmp_path, tmp_path=tmp_path)
    shown = re.sub(r"\s+", " ", out)
    for word in HELP[command]:
        assert f" {word}" in shown
    assert "Usage: interp" in shown


def test_help_lists_every_command_there_is():
    commands = {c.name for c in app.app.registered_commands} | {g.name for g in app.app.registered_groups}
    assert commands == set(HELP[()])
    assert {c.name for c in app.data_app.registered_commands} == set(HELP[("data",)])


def test_list_shows_the_studies_and_every_shipped_model(tmp_path):
    out = done("list", place=tmp_path, tmp_path=tmp_path)
    shipped = [folder.name for folder in (data_dir() / "models").iterdir()]
    assert len(shipped) >= 3
    for name in ("studies", "models", "arithmetic", *shipped):
        assert re.search(rf"^{re.escape(name)}\b", out, re.MULTILINE)
    for name in shipped:
        card = read(data_dir() / "models" / name / "card.json")
        if "exact_match" in card:
            assert f"{card['exact_match']['value']:.2%}" in out


def test_analyze_writes_what_was_asked_for_and_nothing_else(place, tmp_path):
    examples = ["59 + 73", "999 + 1"]
    out = done("analyze", "arithmetic-add3", "--examples", *examples, *LENS, place=place, tmp_path=tmp_path)
    folder = place / "out"
    run = read(folder / "run.json")
    (part,) = run["parts"]
    assert part["settings"]["examples"] == ["59+73", "999+1"]
    assert part["settings"]["problems"] == 20
    steps = [step["name"] for step in part["steps"]]
    assert "logit-lens" in steps
    assert not {"attention", "patching"} & set(steps)
    assert sorted(p.name for p in (folder / "arithmetic-add3").iterdir() if p.is_dir()) == sorted(steps)
    assert not list(folder.rglob("*.png"))
    assert not list(folder.rglob("*.part"))
    for step in part["steps"]:
        for figure in step["figures"]:
            assert (folder / "arithmetic-add3" / step["name"] / "figures" / f"{figure['name']}.html").is_file()
    for name in ("index.html", "SUMMARY.md"):
        assert (folder / name).is_file()
        assert f"out/{name}" in out
    assert shown_examples(folder) == ["59+73", "999+1"]
    command = run["command"]
    assert command.startswith("interp analyze arithmetic-add3 --examples '59 + 73' '999 + 1' --only logit-lens")


def shown_examples(folder):
    """The examples' questions, from the captions of their figures."""
    captions = " ".join(
        f["caption"]
        for s in read(folder / "run.json")["parts"][0]["steps"]
        for f in s["figures"]
        if "example" in f["name"]
    )
    return list(dict.fromkeys(re.findall(r"\d+\+\d+", captions)))


@pytest.mark.parametrize(
    "words",
    [
        ["--examples", "7 + 8", "88 + 99"],
        ["--examples", "7 + 8", "--examples", "88 + 99"],
        ["--examples", "7 + 8", "88 + 99", "--quiet"],
    ],
    ids=["together", "one by one", "before an option"],
)
def test_examples_take_several_values(monkeypatch, words):
    taken = []
    monkeypatch.setattr(
        "interp.studies.catalogue.analysis", lambda model, settings, **_: taken.append((model, settings))
    )
    monkeypatch.setattr("interp.cli.analyze.finish", lambda build, *_: build())
    with pytest.raises(SystemExit) as stop:
        app.run(["analyze", "arithmetic-add3", *words, "--out", "out"])
    assert not stop.value.code
    ((model, settings),) = taken
    assert model == "arithmetic-add3"
    assert settings.texts == ["7 + 8", "88 + 99"]


def test_only_and_all_choose_the_analyses(monkeypatch, place):
    (place / "settings.yaml").write_text("analyses: {patching: false}\n", encoding="utf-8")
    taken = []
    monkeypatch.chdir(place)
    monkeypatch.setattr("interp.studies.catalogue.analysis", lambda model, settings, **_: taken.append(settings))
    monkeypatch.setattr("interp.cli.analyze.finish", lambda build, *_: build())
    for words in ([], ["--only", "patching, attention"], ["--all"]):
        with pytest.raises(SystemExit):
            app.run(["analyze", "arithmetic-add3", "--config", "settings.yaml", "--out", "out", *words])
    wanted = [{name for name in ANALYSES if s.wants(name)} for s in taken]
    assert wanted == [set(ANALYSES) - {"patching"}, {"attention", "patching"}, set(ANALYSES)]


@pytest.mark.whole
def test_a_finished_step_is_not_done_again(place, tmp_path):
    command = ("analyze", "arithmetic-add3", "--examples", "7 + 8", *LENS)
    done(*command, place=place, tmp_path=tmp_path)
    results = {p: p.stat().st_mtime_ns for p in (place / "out").rglob("result.safetensors")}
    first = read(place / "out" / "run.json")
    done(*command, place=place, tmp_path=tmp_path)
    assert results
    assert {p: p.stat().st_mtime_ns for p in (place / "out").rglob("result.safetensors")} == results
    second = read(place / "out" / "run.json")
    assert second["parts"] == first["parts"]


@pytest.mark.parametrize(
    "examples", [["the cat sat"], ["the cat sat", "a dog ran to the", "the"]], ids=["one", "three"]
)
@pytest.mark.parametrize("pairs", [False, True], ids=["alone", "pairs"])
def test_a_foreign_model_with_prompts_of_ones_own(place, tmp_path, examples, pairs):
    model = text_model(tmp_path / "foreign")
    settings = {"examples": examples, "untrained": 1}
    if pairs:
        settings["pairs"] = [
            {"clean": "the cat sat on the", "corrupted": "the dog sat on the", "answer": " mat", "foil": " house"}
        ]
    (place / "settings.yaml").write_text(json.dumps(settings), encoding="utf-8")
    words = ("--no-png", "--quiet", "--out", "out", "--config", "settings.yaml")
    done("analyze", model, *words, place=place, tmp_path=tmp_path)
    (part,) = read(place / "out" / "run.json")["parts"]
    assert [s["name"] for s in part["steps"]] == ["attention", "logit-lens", "patching"][: 3 if pairs else 2]
    assert all(s["figures"] for s in part["steps"])


def test_data_writes_the_rows_it_names(place, tmp_path):
    words = ("--task", "mixed", "--count", "30", "--digits", "2", "--carries", "rich", "--split", "test", "--seed", "4")
    out = done("data", "arithmetic", "--out", "new/file.jsonl", *words, place=place, tmp_path=tmp_path)
    assert "30 rows: new/file.jsonl" in out
    assert len(set(read_problems(place / "new" / "file.jsonl"))) == 30


def test_a_stopped_command_says_that_it_goes_on(monkeypatch, capfd):
    def stopped():
        raise KeyboardInterrupt

    monkeypatch.setattr("interp.studies.catalogue.listing", stopped)
    with pytest.raises(SystemExit) as stop:
        app.run(["list"])
    assert stop.value.code == 130
    assert "goes on" in capfd.readouterr().err


@pytest.mark.parametrize("start", [["-m", "interp.cli"], ["-c", "from interp.cli import main; main()"]])
def test_both_ways_in(start):
    found = subprocess.run([sys.executable, *start, "--help"], capture_output=True, text=True, env=os.environ.copy())
    assert found.returncode == 0
    assert "Usage:" in found.stdout
    assert found.stderr == ""


@pytest.mark.whole
def test_two_models_are_compared_on_the_same_prompts(place, tmp_path):
    (place / "settings.yaml").write_text("problems: 20\npairs_per_kind: 20\nuntrained: 0\n", encoding="utf-8")
    words = ("--only", "logit-lens,interventions", "--no-png", "--quiet", "--out", "out", "--config", "settings.yaml")
    done("compare", "arithmetic-add3", "arithmetic-mixed", *words, "--jobs", "1", place=place, tmp_path=tmp_path)
    run = read(place / "out" / "run.json")
    assert [part["name"] for part in run["parts"]] == ["arithmetic-add3", "arithmetic-mixed", "comparison"]
    (table,) = run["survey"]
    assert table["columns"] == ["finding", "arithmetic-add3", "arithmetic-mixed"]
    heads = read(place / "out" / "comparison" / "interventions-heads.json")
    assert {(c["row"], c["column"]) for c in heads["cells"]} == {
        (f"layer {i}", f"head {j}") for i in (0, 1) for j in range(4)
    }
    cell = heads["cells"][0]
    gap = cell["difference"]["value"]
    assert gap == pytest.approx(cell["arithmetic-mixed"]["value"] - cell["arithmetic-add3"]["value"], abs=1e-6)
    # The mixed model, too, was asked sums alone: what both have learned.
    prompts = [part["prompts"] for part in run["parts"][:2]]
    assert prompts[0] == prompts[1]


def test_two_training_seeds_of_a_language_model_are_compared(place, tmp_path):
    one, other = (text_model(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "other")))
    (place / "settings.yaml").write_text("examples: [the cat sat, a dog ran to the]\n", encoding="utf-8")
    words = ("--no-png", "--quiet", "--out", "out", "--config", "settings.yaml")
    done("compare", one, other, *words, "--jobs", "1", place=place, tmp_path=tmp_path)
    run = read(place / "out" / "run.json")
    assert [part["name"] for part in run["parts"]] == ["one", "other", "comparison"]
    assert read(place / "out" / "comparison" / "logit-lens-prompts.json")["cells"]
