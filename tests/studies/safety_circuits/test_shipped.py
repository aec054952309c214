"""The shipped chat model and its transcoders are what their cards say, on requests that no card was written on."""

import numpy as np
import pytest
import torch

from interp.circuits.checks import check_graph
from interp.circuits.formats import read_transcoders
from interp.circuits.graph import attribution_graph
from interp.circuits.training import quality
from interp.datasets.chatting import COMPLY, REFUSE, TEMPLATE, answer, chats
from interp.datasets.safety import safety_triples
from interp.files import data_dir, read_json
from interp.models.load import load_model
from interp.models.run import capture
from interp.prompts import Prompts
from interp.sites import Site
from interp.studies.safety_circuits.recipe import SETS

MODEL = data_dir() / "models" / "safety-chat"
TRANSCODERS = data_dir() / "models" / "safety-chat-transcoders"
BENCHMARK = [one for triple in safety_triples() for one in (triple.harmful, triple.safe, triple.benign)]


@pytest.fixture(scope="module")
def model():
    return load_model("safety-chat", device="cpu", weights="raw")


@pytest.fixture(scope="module")
def transcoders():
    return read_transcoders(TRANSCODERS, dtype=torch.float32)


def log_odds(model, texts):
    refuse, comply = model.tokenizer.convert_tokens_to_ids([REFUSE, COMPLY])
    logits = capture(model, Prompts.from_texts(texts, model.tokenizer), ["logits"])[Site("logits")][:, 0]
    return (logits[:, refuse] - logits[:, comply]).numpy()


@pytest.mark.parametrize("name", ["training's kind", "held-out frames", "held-out pairs"])
def test_requests_of_what_training_lacks_are_answered_as_the_card_says(model, name):
    card = read_json(MODEL / "card.json")["held_out"][name]
    some = chats(1000, seed=901, held=SETS[name])
    odds, harmful = log_odds(model, [one.prompt for one in some]), np.array([one.harmful for one in some])
    for side, right in (("refused", odds[harmful] > 0), ("complied", odds[~harmful] <= 0)):
        assert card[side]["value"] >= 0.95
        # The card's share is one of 1,000, too: the difference of two.
        spread = np.sqrt(2 * max(card[side]["value"] * (1 - card[side]["value"]), 0.005) / len(right))
        assert abs(right.mean() - card[side]["value"]) < 3.5 * spread
    assert 2 < np.median(np.abs(odds)) < 6
    assert np.quantile(np.abs(odds), 0.95) < 8


def test_the_benchmark_is_answered_as_the_card_says(model):
    card = read_json(MODEL / "card.json")
    odds = log_odds(model, [TEMPLATE.format(prompt=one.text) for one in BENCHMARK])
    for name, found in [(None, card["held_out"]["benchmark"]), *card["benchmark"].items()]:
        for side, expected in (("refused", "refuse"), ("complied", "comply")):
            here = np.array([one.expected == expected and name in (None, one.category) for one in BENCHMARK])
            assert found[side]["n"] == here.sum()
            # Rounding may turn a request whose log-odds are near 0.
            assert found[side]["value"] == pytest.approx(((odds > 0) == (side == "refused"))[here].mean(), abs=0.02)


def test_transcoders_are_as_good_as_their_card_says(model, transcoders):
    card = read_json(TRANSCODERS / "card.json")
    assert min(card["explained_variance"]) >= 0.9
    assert card["loss_recovered"] >= 0.9
    assert max(card["l0"]) <= 20
    assert max(card["dead_share"]) <= 0.01
    fresh = [f"{one.prompt} {answer(one)}" for one in chats(300, seed=902)]
    worth = quality(model, transcoders, Prompts.from_texts(fresh, model.tokenizer))
    assert worth.explained.tolist() == pytest.approx(card["explained_variance"], abs=0.02)
    assert worth.recovered == pytest.approx(card["loss_recovered"], abs=0.03)
    asked = quality(
        model, transcoders, Prompts.from_texts([TEMPLATE.format(prompt=one.text) for one in BENCHMARK], model.tokenizer)
    )
    assert float(asked.explained.min()) >= 0.95
    assert asked.recovered >= 0.95


def test_a_graph_of_a_benchmark_request_holds(model, transcoders):
    prompts = Prompts.from_texts([TEMPLATE.format(prompt=BENCHMARK[0].text)], model.tokenizer)
    graph = attribution_graph(model, transcoders, prompts)
    assert float(check_graph(model, transcoders, prompts, graph).frozen_error.max()) < 1e-3


def test_both_folders_are_small():
    files = [file for folder in (MODEL, TRANSCODERS) for file in folder.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= 12e6
