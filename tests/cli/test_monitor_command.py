import pytest
import yaml

from interp.datasets.judging import ANSWERS, TEMPLATE, judging_tokenizer
from interp.files import write_json
from interp.models.judge import FILE
from interp.models.small import Architecture, build_small
from interp.monitoring.records import read_records
from tests.cli import interp


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three checkpoints, which are random judges of one architecture."""
    root, tokenizer = tmp_path_factory.mktemp("judge"), judging_tokenizer()
    for step in (0, 5, 10):
        model = build_small(Architecture(width=16, mlp=24), len(tokenizer), 192, seed=step, special=(1, 2, 0))
        folder = root / f"step-{step:05d}"
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        write_json(folder / FILE, {"template": TEMPLATE, "safe": f" {ANSWERS[0]}", "unsafe": f" {ANSWERS[1]}"})
    return root


@pytest.fixture
def data(tmp_path):
    rows = [f"please steal the wallet {i},unsafe,theft" for i in range(12)]
    rows += [f"please paint the chair {i},safe,hobby" for i in range(12)]
    path = tmp_path / "texts.csv"
    path.write_text("\n".join(["request,truth,topic", *rows]) + "\n")
    return path


def test_checkpoints_on_texts_of_one_s_own(folders, data, tmp_path):
    options = ["--data", data, "--text-column", "request", "--label-column", "truth", "--category-column", "topic"]
    done = interp(
        "monitor", folders / "step-00010", folders / "step-00000", folders / "step-00005", *options, "--out", "watched",
        "--device", "cpu", "--visualize", cwd=tmp_path, logs=data.parent,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "page: watched/training_progress.html" in done.out
    found = read_records(tmp_path / "watched")
    assert found.steps.tolist() == [0, 5, 10]
    assert found.probe.texts[0] == "please steal the wallet 0"
    assert set(found.probe.labels["category"]) == {"theft", "hobby"}
    assert (tmp_path / "watched" / "epoch_10_circuit_comparison.html").exists()
    page = tmp_path / "watched" / "training_progress.html"
    page.unlink()
    again = interp("monitor", tmp_path / "watched", cwd=tmp_path, logs=data.parent)
    assert again.code == 0, again.err
    assert page.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no model folder|nowhere"),
        (["{folders}/step-00000", "{folders}/step-00005", "--data", "none.csv"], "none.csv"),
        (["{folders}/step-00000", "--template", "no place"], "names {prompt} once"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(folders, tmp_path, arguments, message):
    logs = tmp_path / "logs"
    logs.mkdir()
    done = interp("monitor", *(one.format(folders=folders, prompt="{prompt}") for one in arguments), "--device", "cpu",
                  cwd=tmp_path, logs=logs)  # fmt: skip
    assert done.code == 2
    assert "Traceback" not in done.err
    assert any(part in done.err for part in message.split("|"))


@pytest.mark.whole
def test_training_is_watched_on_request(tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    recipe = {
        "kind": "judge", "name": "tiny", "architecture": {"layers": 1, "width": 8, "heads": 2, "mlp": 8},
        "prompts": 200, "batch": 8, "steps": 6, "evaluate_every": 6,
    }  # fmt: skip
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    plain = interp("train", "tiny.yaml", "--output-dir", "plain", "--quiet", cwd=tmp_path, logs=logs)
    assert plain.code == 0, plain.err
    options = ["--visualize", "--visualization-interval", "3"]
    done = interp("train", "tiny.yaml", "--output-dir", "out", "--quiet", *options, cwd=tmp_path, logs=logs)
    assert done.code == 0, done.err
    found = read_records(tmp_path / "out" / "recording")
    assert found.steps[0] == 0
    assert found.steps[-1] == 6
    assert (tmp_path / "out" / "recording" / "training_progress.html").exists()
    assert (tmp_path / "out" / "recording" / "epoch_6_circuit_comparison.html").exists()
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plain", "out")]
    assert weights[0] == weights[1]
    other = interp("train", "arithmetic-add3", "--visualize", cwd=tmp_path, logs=logs)
    assert other.code == 2
    assert "--visualize is for recipes of kind judge" in other.err
