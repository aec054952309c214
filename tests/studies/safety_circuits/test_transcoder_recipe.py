"""Transcoders are trained on a table of texts, measured on held-out ones, and written for `interp graph` to read."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from interp.circuits.formats import read_transcoders
from interp.circuits.training import TranscoderShape, quality
from interp.cli.app import app
from interp.datasets.arithmetic import sample
from interp.datasets.arithmetic_prompts import render
from interp.errors import DataError
from interp.files import read_json
from interp.models.load import load_model
from interp.prompts import Prompts
from interp.studies.safety_circuits.transcoder_recipe import read_texts, transcoders_from_texts

SHAPE = TranscoderShape(features=64, k=6, steps=60, tokens=256, form="skip")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "sums.jsonl"
    drawn = sample(np.random.default_rng(0), 240, task="add", digits=3, split="train", distinct=True)
    path.write_text("".join(json.dumps({"sum": render(one, False)}) + "\n" for one in drawn))
    return path


@pytest.fixture(scope="module")
def model():
    return load_model("arithmetic-add3", device="cpu", weights="raw")


def test_the_card_tells_what_is_in_the_folder(model, table, tmp_path):
    texts = read_texts(table, column="sum")
    card = transcoders_from_texts(model, texts, SHAPE, tmp_path, name="sums", command="interp train")
    assert card == read_json(tmp_path / "card.json")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "README.md", "card.json", "config.yaml", "layer_0.safetensors", "layer_1.safetensors",
    ]  # fmt: skip
    made = read_transcoders(tmp_path)
    assert made.layers[0].encoder.dtype == torch.bfloat16
    held = np.random.default_rng(0).permutation(len(texts))[: card["texts"]["held out"]]
    worth = quality(
        model, made.to(torch.float32), Prompts.from_texts([texts[i] for i in held], model.tokenizer)
    )  # fmt: skip
    assert card["explained_variance"] == pytest.approx(worth.explained.tolist(), abs=1e-3)
    assert card["loss_recovered"] == pytest.approx(worth.recovered, abs=1e-3)
    assert min(card["explained_variance"]) > 0.3
    assert card["texts"]["trained on"] + card["texts"]["held out"] == len(texts)


def test_the_command_trains_and_says_what_it_lacks(table, tmp_path):
    run = lambda *arguments: CliRunner().invoke(app, ["train", *arguments])  # noqa: E731
    options = ["--features", "32", "--k", "4", "--steps", "2", "--quiet", "--output-dir", str(tmp_path / "made")]
    done = run("transcoders", "arithmetic-add3", "--texts", str(table), "--column", "sum", *options)
    assert done.exit_code == 0, done.output
    assert "loss recovered" in done.output
    assert read_json(tmp_path / "made" / "card.json")["shape"]["features"] == 32
    for arguments, message in (
        (("transcoders",), "name the model"),
        (("transcoders", "arithmetic-add3"), "give --texts FILE"),
        (("transcoders", "arithmetic-add3", "--texts", str(table), "--form", "wide"), "form"),
        (("arithmetic-add3", "other"), "only transcoders are trained of a model"),
    ):
        failed = run(*arguments)
        assert failed.exit_code != 0
        assert message in str(failed.exception or "") + failed.output


def test_texts_that_cannot_be_read_are_said(tmp_path):
    (tmp_path / "few.jsonl").write_text('{"text": "1+1=2"}\n' * 30)
    with pytest.raises(DataError, match="has 1 different texts"):
        read_texts(tmp_path / "few.jsonl")
    with pytest.raises(DataError, match="line 1: the column 'words' is missing or empty; there are text"):
        read_texts(tmp_path / "few.jsonl", column="words")
