import itertools
import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from interp.errors import DataError, PromptError
from interp.monitoring.probe import Pair, Probe
from interp.monitoring.records import RecordWriter, is_recording, read_records
from interp.monitoring.snapshot import Snapshot

ABOUT = {
    "template": "{prompt} :", "safe": " safe", "unsafe": " unsafe", "layers": 2, "heads": 3, "parameters": 10,
    "model": "Tiny", "method": "leave one out", "neutral": "the", "head_texts": 4, "every": "log", "total": 100,
    "max_overhead": 0.02, "steps_per_epoch": None,
}  # fmt: skip


def made_probe(n=12, pairs=3, explained=(0, 1), text="text"):
    return Probe(
        tuple(f"{text} {i}" for i in range(n)), tuple(i % 2 == 0 for i in range(n)), tuple(range(n)),
        {"category": tuple("ab"[i // 2 % 2] for i in range(n))}, (),
        tuple(Pair(f"s {i}", f"u {i}", i) for i in range(pairs)), explained,
    )  # fmt: skip


def made_snapshot(probe, seed=0, layers=2, heads=3, tokens=4, **changes):
    torch.manual_seed(seed)
    n, k = len(probe.texts), len(probe.pairs)
    parts = dict(
        log_odds=torch.randn(n), attention=torch.rand(n, layers), mlp=torch.rand(n, layers),
        separation=torch.randn(n, layers + 1), tokens=tuple(torch.randn(tokens) for _ in probe.explained),
        unexplained=torch.full((len(probe.explained),), torch.nan), head_attention=torch.randn(4, layers, heads),
        head_direct=torch.randn(4, layers, heads), head_ablation=torch.randn(4, layers, heads),
        moved=torch.randn(k, layers), distance=torch.rand(k, layers + 1),
    )  # fmt: skip
    return Snapshot(**{**parts, **changes})


def written(out, steps, probe=None, about=ABOUT, pieces=None, **options):
    probe = probe or made_probe()
    pieces = pieces or [[f"t{i}" for i in range(4)]] * len(probe.explained)
    writer = RecordWriter(out, probe, about, pieces)
    for step in steps:
        writer.append(made_snapshot(probe, step, **options), step=step, seconds=0.1, training=10.0)
    return writer


def test_what_was_written_is_read(tmp_path):
    written(tmp_path, [0, 5, 9])
    found = read_records(tmp_path)
    assert is_recording(tmp_path)
    assert found.steps.tolist() == [0, 5, 9]
    assert found.overhead == pytest.approx(0.01)
    assert found.probe.as_dict() == made_probe().as_dict()
    assert found.pieces == (("t0", "t1", "t2", "t3"),) * 2
    for i, step in enumerate((0, 5, 9)):
        wanted = made_snapshot(made_probe(), step)
        for name in ("log_odds", "attention", "separation", "head_direct", "head_ablation", "moved", "distance"):
            np.testing.assert_allclose(getattr(found, name)[i], getattr(wanted, name).numpy(), rtol=5e-4)
        np.testing.assert_allclose(found.tokens[1][i], wanted.tokens[1].numpy(), rtol=5e-4)
    assert np.isnan(found.unexplained).all()
    assert np.isnan(found.loss).all()


def test_parts_that_were_not_asked_have_no_prompts(tmp_path):
    probe = made_probe(pairs=0, explained=())
    empty = torch.zeros(0, 2, 3)
    written(tmp_path, [1], probe, head_attention=empty, head_direct=empty, head_ablation=empty)
    found = read_records(tmp_path)
    assert found.moved.shape == (1, 0, 2)
    assert found.head_direct.shape == (1, 0, 2, 3)
    assert found.tokens == ()


def test_undefined_numbers_stay_undefined(tmp_path):
    written(tmp_path, [0], log_odds=torch.tensor([torch.nan, torch.inf, *[1.0] * 10]))
    assert np.isnan(read_records(tmp_path).log_odds[0, :2]).all()
    assert "NaN" not in (tmp_path / "records.jsonl").read_text()


def test_a_torn_last_line_is_dropped_and_the_next_begins_a_line(tmp_path):
    written(tmp_path, [0, 5])
    path = tmp_path / "records.jsonl"
    path.write_bytes(path.read_bytes()[:-40])
    assert read_records(tmp_path).steps.tolist() == [0]
    written(tmp_path, [7])
    assert read_records(tmp_path).steps.tolist() == [0, 7]


def test_of_two_snapshots_of_a_step_the_later_counts(tmp_path):
    written(tmp_path, [0, 5, 3])
    written(tmp_path, [5], log_odds=torch.full((12,), 2.0))
    found = read_records(tmp_path)
    assert found.steps.tolist() == [0, 3, 5]
    assert (found.log_odds[2] == 2).all()


def test_damage_elsewhere_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"probe\.json"):
        read_records(tmp_path)
    written(tmp_path, [0, 5])
    path = tmp_path / "records.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("{half\n" + lines[1])
    with pytest.raises(DataError, match="line 1, is damaged"):
        read_records(tmp_path)
    row = json.loads(lines[0])
    del row["mlp"]
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="does not fit"):
        read_records(tmp_path)
    path.write_text("")
    with pytest.raises(DataError, match="no snapshot yet"):
        read_records(tmp_path)
    (tmp_path / "probe.json").write_text("[]")
    with pytest.raises(DataError, match="no header"):
        read_records(tmp_path)


def test_a_killed_training_leaves_its_records(tmp_path):
    child = os.fork()
    if child == 0:
        for step in itertools.count():
            written(tmp_path, [step])
    path, deadline = tmp_path / "records.jsonl", time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < 20:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    steps = read_records(tmp_path).steps.tolist()
    assert steps == list(range(len(steps)))
    assert len(steps) >= 20


def test_probes_that_do_not_fit_together():
    good = dict(texts=("a", "b"), unsafe=(True, False), groups=(0, 1))
    for change, message in [
        ({"texts": (), "unsafe": (), "groups": ()}, "no texts"),
        ({"groups": (0,)}, "1 groups do not fit 2 texts"),
        ({"labels": {"kind": ("x",)}}, "1 kind do not fit 2 texts"),
        ({"unsafe": (True, True)}, "all safe or all unsafe"),
        ({"explained": (2,)}, "no text 2 to explain"),
        ({"spans": ({},)}, "1 spans do not fit"),
    ]:
        with pytest.raises(PromptError, match=message):
            Probe(**{**good, **change})
