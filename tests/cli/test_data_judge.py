import json

import pytest
import yaml

from interp.datasets.judging import requests
from tests.cli import interp

BASE = {
    "kind": "judge", "name": "small", "prompts": 200, "steps": 2, "batch": 16,
    "architecture": {"width": 16, "mlp": 16, "heads": 2, "layers": 1},
}  # fmt: skip
UPDATE = {"kind": "judge-update", "name": "mended", "base": "judge", "steps": 2, "batch": 8, "prompts": 100}


def test_requests_are_written_as_the_options_say(tmp_path):
    words = ("--count", "30", "--seed", "4", "--held-out", "--acts", "weak")
    finished = interp("data", "safety-judge", "--out", "new/file.jsonl", *words, cwd=tmp_path, logs=tmp_path)
    assert (finished.code, finished.out, finished.err) == (0, "30 rows: new/file.jsonl\n", "")
    rows = [json.loads(line) for line in (tmp_path / "new" / "file.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [one.text for one in requests(30, seed=4, held_out=True, acts="weak")]


@pytest.mark.parametrize(
    ("words", "said"),
    [(("--count", "0"), "count must be at least 1, not 0"), (("--acts", "odd"), "'odd' is not one of 'known'")],
)
def test_options_that_will_not_do(tmp_path, words, said):
    place = tmp_path / "place"
    place.mkdir()
    finished = interp("data", "safety-judge", "--out", "file.jsonl", *words, cwd=place, logs=tmp_path)
    assert (finished.code, finished.out) == (2, "")
    assert said in finished.err
    assert not list(place.iterdir())


@pytest.mark.whole
def test_a_judge_and_its_update_are_trained_by_recipes(tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    for name, recipe in (("judge", BASE), ("update", UPDATE)):
        (place / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
        words = ("--output-dir", name, "--threads", "1", "--quiet")
        finished = interp("train", f"{name}.yaml", *words, cwd=place, logs=tmp_path)
        assert (finished.code, finished.err) == (0, "")
        assert f"model: {name}" in finished.out
    assert "% -> " in finished.out
    assert "held-out requests with weak acts, 2 steps" in finished.out
    assert json.loads((place / "update" / "adapter_config.json").read_text())["base_model_name_or_path"] == "judge"
