from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import ConfigError, ModelError
from interp.files import write_json
from interp.models.judge import FILE, load_judge
from interp.monitoring.checkpoints import in_order, record_checkpoints
from interp.monitoring.probe import Probe, judging_probe, labelled_probe
from interp.monitoring.records import read_records
from tests.monitoring.conftest import SAID


def test_checkpoints_come_in_the_order_of_their_steps():
    assert in_order(["a/step-00100", "a/step-00050"]) == [(50, Path("a/step-00050")), (100, Path("a/step-00100"))]
    assert [step for step, _ in in_order(["checkpoint-1000", "checkpoint-200", "epoch_3"])] == [3, 200, 1000]
    assert in_order(["late", "step-5"]) == [(1, Path("late")), (2, Path("step-5"))]
    with pytest.raises(ConfigError, match="two checkpoints are of step 5"):
        in_order(["a/step-5", "b/step-005"])
    with pytest.raises(ConfigError, match="no checkpoint"):
        in_order([])


def saved(model, tokenizer, folder):
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / FILE, SAID)
    return folder


def test_checkpoints_are_recorded_as_a_training_would_be(llama, tokenizer, probe, tmp_path):
    folders = [saved(llama, tokenizer, tmp_path / "step-7")]
    with torch.no_grad():
        llama.lm_head.weight.add_(0.1 * torch.randn_like(llama.lm_head.weight))
    folders.insert(0, saved(llama, tokenizer, tmp_path / "step-20"))
    record_checkpoints(folders, probe, out=tmp_path / "out", device="cpu")
    found = read_records(tmp_path / "out")
    assert found.steps.tolist() == [0, 7, 20]
    assert found.about["drawn"]
    assert np.isnan(found.overhead)
    for i, folder in ((1, "step-7"), (2, "step-20")):
        judge = load_judge(tmp_path / folder, device="cpu")
        odds = judge.log_odds(judge.prompts(probe.texts))
        np.testing.assert_allclose(found.log_odds[i], odds.numpy(), rtol=1e-3, atol=1e-6)
    before = (tmp_path / "out" / "records.jsonl").read_bytes()
    record_checkpoints(folders, probe, out=tmp_path / "out", device="cpu")
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == before


def test_checkpoints_of_two_vocabularies_are_not_one_training(llama, tokenizer, probe, tmp_path):
    import copy

    saved(llama, tokenizer, tmp_path / "step-0")
    other = copy.deepcopy(tokenizer)
    other.add_tokens(["extraordinary"])
    llama.resize_token_embeddings(len(other))
    saved(llama, other, tmp_path / "step-1")
    with pytest.raises(ModelError, match="another vocabulary"):
        record_checkpoints([tmp_path / "step-0", tmp_path / "step-1"], probe, out=tmp_path / "out", device="cpu")


def test_the_probe_of_requests(tokenizer):
    from interp.datasets.judging import requests

    probe = judging_probe(60, pairs=9, explained=5)
    assert probe.as_dict() == judging_probe(60, pairs=9, explained=5).as_dict()
    assert Probe.from_dict(probe.as_dict()).digest == probe.digest
    for text, unsafe, spans, one in zip(probe.texts, probe.unsafe, probe.spans, requests(60, seed=5), strict=True):
        assert (text, unsafe) == (one.text, one.unsafe)
        assert {role: text[slice(*span)] for role, span in spans.items()} == one.rule
    assert len({probe.labels["kind"][i] for i in probe.explained}) == 5
    assert [pair.changed for pair in probe.pairs] == ["act", "object", "context"] * 3
    for pair in probe.pairs:
        words = list(zip(pair.safe.split(), pair.unsafe.split(), strict=True))
        assert sum(one != other for one, other in words) == 1
        assert len(tokenizer(pair.safe).input_ids) == len(tokenizer(pair.unsafe).input_ids)


def test_the_probe_of_labelled_texts(tmp_path):
    from interp.datasets.labelled import read_labelled

    path = tmp_path / "texts.csv"
    path.write_text("text,label,topic\nsteal it,unsafe,a\nrob it,unsafe,a\nhello,safe,b\n")
    probe = labelled_probe(read_labelled(path, category="topic"), explained=3)
    assert probe.unsafe == (True, True, False)
    assert probe.explained == (0, 2, 1)
    assert probe.labels == {"category": ("a", "a", "b")}
    assert probe.alternating(2) == (0, 2)
