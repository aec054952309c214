import itertools
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from interp.analyses.separation import separation
from interp.analyses.token_attribution import token_attribution
from interp.errors import DataError, PromptError
from interp.models.judge import Judge
from interp.models.load import load_model
from interp.models.run import capture
from interp.monitoring.probe import Probe
from interp.monitoring.recorder import Recorder
from interp.monitoring.records import read_records
from interp.monitoring.snapshot import Questions
from interp.sites import Site
from interp.workflows.judge_heads import judge_heads
from interp.workflows.paths import safe_unsafe_paths
from tests.monitoring.conftest import SAID


def train(model, steps, recorder=None):
    """A loop that draws from every generator; returns what the next draws would be."""
    random.seed(0), np.random.seed(0), torch.manual_seed(0)  # noqa: NPY002
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    watched = recorder() if recorder else None
    for step in range(steps):
        model.train()
        start = random.randrange(20) + int(np.random.randint(20))  # noqa: NPY002
        tokens = (torch.arange(start, start + 12) + torch.randint(50, (4, 1))) % 100
        loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if watched is not None:
            watched.step(step + 1, loss=loss.item(), learning_rate=1e-2)
    if watched is not None:
        watched.close()
    return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002


def recording(model, tokenizer, probe, out, **options):
    return Recorder(model, tokenizer, probe, out=out, **{**SAID, "max_overhead": 1.0, **options})


@pytest.mark.whole
def test_training_is_bit_identical_with_and_without(dropping, tokenizer, probe, tmp_path):
    plain = type(dropping)(dropping.config)
    plain.load_state_dict(dropping.state_dict())
    made = []

    def begin():
        made.append(recording(dropping, tokenizer, probe, tmp_path, every=1, total=6, clock=lambda: 0.0))
        return made[0]

    assert train(plain, 6) == train(dropping, 6, begin)
    assert len(read_records(tmp_path)) == 7
    for (name, one), (other, two) in zip(plain.named_parameters(), dropping.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(one, two)
        assert one.grad is not None
        assert torch.equal(one.grad, two.grad)
    assert dropping.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in dropping.modules())


def test_records_equal_direct_analyses(llama, tokenizer, probe, tmp_path):
    recording(llama, tokenizer, probe, tmp_path, heads=6)
    found = read_records(tmp_path)
    judge = Judge.of(load_model(llama, tokenizer, device="cpu"), **SAID)
    groups = torch.tensor(probe.groups)
    prompts = judge.prompts(probe.texts, groups=groups, spans=probe.spans)

    def close(one, other):
        np.testing.assert_allclose(one, other.numpy(), rtol=6e-4, atol=1e-6)

    close(found.log_odds[0], judge.log_odds(prompts))
    acts = capture(judge.model, prompts, ["resid_pre", "resid_mid", "attn_out", "mlp_out", Site("resid_post", 1)])
    at = prompts.columns("verdict")
    rows = torch.arange(len(prompts))
    for layer in range(2):
        norms = {name: acts[name, layer][rows, at].norm(dim=-1) for name in ("resid_pre", "attn_out", "mlp_out")}
        close(found.attention[0][:, layer], norms["attn_out"] / norms["resid_pre"])
        close(found.mlp[0][:, layer], norms["mlp_out"] / acts["resid_mid", layer][rows, at].norm(dim=-1))
    # At the embedding all verdict tokens are one, so only rounding is left there.
    close(found.separation[0][:, 1:], separation(acts, list(probe.unsafe), position="verdict").scores[:, 1:])
    neutral = Questions.of(judge, probe).neutral
    explained = prompts.take(list(probe.explained))
    shares = token_attribution(judge, explained, method="leave one out", baseline=neutral).values
    for i, table in enumerate(found.tokens):
        close(table[0], shares[i][~shares[i].isnan()])
        assert len(found.pieces[i]) == table.shape[1]
    some = list(probe.alternating(6))
    heads = judge_heads(judge, prompts.take(some), [probe.unsafe[i] for i in some])
    close(found.head_attention[0], heads.attention - heads.uniform[:, None, None])
    close(found.head_direct[0], heads.direct)
    np.testing.assert_allclose(found.head_ablation[0], heads.ablation.numpy(), rtol=6e-4, atol=2e-6)
    sides = [judge.prompts([getattr(pair, side) for pair in probe.pairs]) for side in ("unsafe", "safe")]
    paths = safe_unsafe_paths(judge, *sides)
    np.testing.assert_allclose(found.moved[0], paths.moved.numpy(), rtol=6e-4, atol=2e-6)
    close(found.distance[0], paths.distance)


def test_shares_are_of_the_pieces_that_they_stand_under(llama, tokenizer, tmp_path):
    probe = Probe(("steal the wallet now", "hello kind people"), (True, False), (0, 1), explained=(0,))
    bigger = Probe(probe.texts * 9, probe.unsafe * 9, tuple(range(18)), explained=(0,))
    recording(llama, tokenizer, bigger, tmp_path)
    found = read_records(tmp_path)
    assert "".join(found.pieces[0]).split() == ["steal", "the", "wallet", "now"]
    assert found.tokens[0].shape == (1, len(found.pieces[0]))
    assert found.head_direct.shape[1] == found.moved.shape[1] == 0


def test_integrated_gradients_say_what_they_leave_unexplained(llama, tokenizer, probe, tmp_path):
    recording(llama, tokenizer, probe, tmp_path, attribution="integrated gradients")
    found = read_records(tmp_path)
    assert (found.unexplained < 0.05).all()
    judge = Judge.of(load_model(llama, tokenizer, device="cpu"), **SAID)
    explained = judge.prompts([probe.texts[i] for i in probe.explained])
    neutral = Questions.of(judge, probe).neutral
    wanted = token_attribution(judge, explained, baseline=neutral)
    sums = [table[0].sum() for table in found.tokens]
    np.testing.assert_allclose(sums, (wanted.score - wanted.baseline_score).numpy(), atol=2e-3)


def test_other_ranks_write_nothing(llama, tokenizer, probe, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    out = tmp_path / "out"
    with recording(llama, tokenizer, probe, out, every=1) as recorder:
        assert not recorder.step(1)
    assert not out.exists()


def test_first_and_last_are_taken_and_skipped_ones_are_counted(llama, tokenizer, probe, tmp_path):
    clock = itertools.count(0.0, 0.5)
    with recording(llama, tokenizer, probe, tmp_path, every=1, max_overhead=0.001, clock=lambda: next(clock)) as one:
        assert [one.step(i, loss=0.5) for i in range(1, 5)] == [False] * 4
    found = read_records(tmp_path)
    assert found.steps.tolist() == [0, 4]
    assert found.skipped.tolist() == [0, 4]
    assert np.isnan(found.loss[0])
    assert found.loss[1] == 0.5
    assert found.about["max_overhead"] == 0.001
    # The last line tells nothing of its own writing, which the recorder has counted by now.
    assert 0 < found.overhead * found.training.sum() <= one._budget.own


@pytest.mark.whole
def test_a_recording_goes_on_where_training_does(llama, tokenizer, probe, tmp_path):
    with recording(llama, tokenizer, probe, tmp_path, every=2, clock=lambda: 0.0) as recorder:
        recorder.step(2)
        recorder.step(3)
    before = (tmp_path / "records.jsonl").read_bytes()
    again = recording(llama, tokenizer, probe, tmp_path, every=2, start=2, clock=lambda: 0.0)
    # What was recorded after the step at which training is taken up will come again.
    assert (tmp_path / "records.jsonl").read_bytes() == b"".join(before.splitlines(keepends=True)[:2])
    again.step(4)
    assert read_records(tmp_path).steps.tolist() == [0, 2, 4]
    with torch.no_grad():
        llama.lm_head.weight.add_(1.0)
    with pytest.raises(DataError, match="step 2 of another training"):
        recording(llama, tokenizer, probe, tmp_path, start=2)
    other = Probe(probe.texts[:12], probe.unsafe[:12], probe.groups[:12])
    with pytest.raises(DataError, match="recording of another judge or of other texts"):
        recording(llama, tokenizer, other, tmp_path)


def test_an_error_on_the_way_ends_the_recording_and_not_the_training(llama, tokenizer, probe, tmp_path):
    recorder = recording(llama, tokenizer, probe, tmp_path, every=1, clock=lambda: 0.0)
    llama.lm_head.weight = nn.Parameter(torch.zeros(3, 16))
    with pytest.warns(RuntimeWarning, match="recording ends at step 1, training goes on: the weight lm_head"):
        assert not recorder.step(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not recorder.step(2)
        recorder.close()
    assert read_records(tmp_path).steps.tolist() == [0]


def test_texts_that_cannot_be_asked_are_refused_at_once(llama, tokenizer, tmp_path):
    few = Probe(("steal the wallet", "hello"), (True, False), (0, 1))
    with pytest.raises(PromptError, match="two prompts of either class"):
        recording(llama, tokenizer, few, tmp_path)


def test_a_diverged_model_is_recorded_as_undefined(llama, tokenizer, probe, tmp_path):
    recorder = recording(llama, tokenizer, probe, tmp_path, every=1, clock=lambda: 0.0)
    with torch.no_grad():
        llama.lm_head.weight.fill_(torch.nan)
    assert recorder.step(1)
    assert np.isnan(read_records(tmp_path).log_odds[1]).all()
