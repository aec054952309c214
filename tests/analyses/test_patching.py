from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

import interp.analyses.patching as patching_module
from interp.analyses.patching import patching
from interp.datasets.arithmetic_pairs import draw_pairs
from interp.errors import ConfigError, PromptError
from interp.models.load import load_model
from interp.prompts import PromptPairs
from tests.conftest import padded
from tests.known import known_model, known_pairs
from tests.naive import Naive


@pytest.fixture
def pairs(side):
    """Pairs of mixed length that differ in one or two tokens, padded on either side."""
    generator = torch.Generator().manual_seed(3)
    clean = [torch.randint(23, (length,), generator=generator) for length in (6, 9, 4, 6)]
    corrupted = [row.clone() for row in clean]
    for i, row in enumerate(corrupted):
        row[1] = (row[1] + 5) % 23
        row[i % len(row)] = (row[i % len(row)] + 3) % 23
    answers, foils = torch.tensor([3, 4, 5, 6]), torch.tensor([7, 8, 9, 10])
    sides = (padded(clean, side, answers=answers), padded(corrupted, side, answers=foils))
    return clean, corrupted, PromptPairs(*sides), answers, foils


def diff(logits, answer, foil):
    return float(logits[answer] - logits[foil])


@pytest.mark.parametrize(
    ("name", "direction"),
    [("resid_pre", "denoising"), ("resid_post", "noising"), ("attn_out", "noising"), ("mlp_out", "denoising")],
)
def test_stream_patching_equals_the_naive_loop(hf, model, pairs, name, direction):
    clean, corrupted, both, answers, foils = pairs
    found = patching(model, both, site=name, direction=direction, control=False)
    naive = Naive(hf)
    for i, (c, d) in enumerate(zip(clean, corrupted, strict=True)):
        source, base = (c, d) if direction == "denoising" else (d, c)
        np.testing.assert_allclose(found.clean[i], diff(naive.logits(c)[-1], answers[i], foils[i]), atol=1e-5)
        np.testing.assert_allclose(found.corrupted[i], diff(naive.logits(d)[-1], answers[i], foils[i]), atol=1e-5)
        for layer in range(3):
            kept = naive.read(source, name, layer)
            for column in range(9):
                value = float(found.patched[i, layer, column])
                if column >= len(c):
                    assert np.isnan(value)
                    continue

                def put(x, column=column, kept=kept):
                    x = x.clone()
                    x[column] = kept[column]
                    return x

                wanted = diff(naive.logits(base, (name, layer, put))[-1], answers[i], foils[i])
                np.testing.assert_allclose(value, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["z", "mlp_post"])
def test_unit_patching_equals_the_naive_loop(hf, model, pairs, name):
    clean, corrupted, both, answers, foils = pairs
    units = [0, 3, 2]
    found = patching(model, both, site=name, units=units, control=False, memory=1)
    naive = Naive(hf)
    for i, (c, d) in enumerate(zip(clean, corrupted, strict=True)):
        for layer in range(3):
            kept = naive.read(c, name, layer)
            for j, unit in enumerate(units):

                def put(x, unit=unit, kept=kept):
                    x = x.clone()
                    x[:, unit] = kept[:, unit]
                    return x

                wanted = diff(naive.logits(d, (name, layer, put))[-1], answers[i], foils[i])
                np.testing.assert_allclose(float(found.patched[i, layer, j]), wanted, atol=1e-5, rtol=1e-5)


def test_known_circuit_is_found():
    """`f A B ... A`: B's token decides. Its place in the stream matters until the induction head has read it."""
    pairs, model = known_pairs(), known_model()
    stream = patching(model, pairs, site="resid_pre", positions=["first A", "B", "second A"])
    share = stream.share().value
    # Before either layer the difference stands at B and nowhere else (layer 0 copies it forward, but the induction
    # head takes the token itself).
    np.testing.assert_allclose(share[0], [0, 1, 0], atol=1e-4)
    np.testing.assert_allclose(share[1], [0, 1, 0], atol=1e-4)
    heads = patching(model, pairs, site="z").share().value
    np.testing.assert_allclose(heads, [[0, 0], [1, 0]], atol=1e-4)
    after = patching(model, pairs, site="resid_post", positions=["B", "second A"]).share().value
    np.testing.assert_allclose(after[1], [0, 1], atol=1e-4)
    assert (heads <= 1.001).all()
    # The control erases B's token as well and brings a third one: half the difference is undone in every pair.
    np.testing.assert_allclose(stream.control_moved[:, 1, 1] / (stream.clean - stream.corrupted), 0.5, atol=1e-4)
    np.testing.assert_allclose(stream.excess().value[:, 1], 0.5, atol=1e-4)


def test_pattern_patching_moves_nothing_when_attention_is_the_same():
    pairs, model = known_pairs(), known_model()
    found = patching(model, pairs, site="pattern", control=False)
    np.testing.assert_allclose(found.share().value, 0, atol=1e-4)


def test_a_pair_without_difference_has_no_ratio_of_its_own():
    pairs, model = known_pairs(), known_model()
    tokens = pairs.corrupted.tokens.clone()
    tokens[0] = pairs.clean.tokens[0]
    same = PromptPairs(pairs.clean, replace(pairs.corrupted, tokens=tokens))
    found = patching(model, same, site="z", control=False)
    assert found.share_per_pair[0].isnan().all()
    assert not found.share_per_pair[1:].isnan().any()
    assert not np.isnan(found.share().value).any()


def test_control_partner_is_another_pair_of_the_same_layout(model, pairs):
    _, _, both, _, _ = pairs
    found = patching(model, both, site="z")
    # Lengths are 6, 9, 4, 6: only the two of length 6 have a partner.
    assert found.control.isnan().all(-1).all(-1).tolist() == [False, True, True, False]
    assert len(found.to_frame()) == 4 * 3 * 4


def test_refusals(model, pairs):
    clean, _, both, _, _ = pairs
    with pytest.raises(Exception, match="sideways"):  # under the test run's type checks these come first
        patching(model, both, direction="sideways")
    with pytest.raises(ConfigError, match="no metric 'nothing'"):
        patching(model, both, metric="nothing")
    with pytest.raises(ConfigError, match="no heads"):
        patching(model, both, site="resid_pre", units=[0])
    with pytest.raises(ConfigError, match="at instead of positions"):
        patching(model, both, site="z", positions=["last"])
    with pytest.raises(ConfigError, match="no head 9"):
        patching(model, both, site="z", units=[9])
    with pytest.raises(PromptError, match="unequal lengths"):
        PromptPairs(padded(clean, "right"), padded(clean[1:] + clean[:1], "right"))
    with pytest.raises(PromptError, match="no role"):
        patching(model, both, positions=["nowhere"])
    with pytest.raises(ConfigError, match="no layer 7"):
        patching(model, both, layers=[7])


def test_processed_weights_give_the_same_patching(hf, pairs):
    _, _, both, _, _ = pairs
    raw, processed = (load_model(hf, device="cpu", weights=w) for w in ("raw", "processed"))
    first, second = (patching(m, both, site="z", control=False) for m in (raw, processed))
    np.testing.assert_allclose(first.patched, second.patched, atol=1e-4, rtol=1e-4)


@cache
def drawn(kind):
    return draw_pairs(np.random.default_rng(0), 80, kind, digits=2)


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("kind", ["digit", "carry"])
def test_the_control_brings_the_wrong_information(kind, direction, monkeypatch):
    """What is copied comes from a run whose answer is neither of the pair's own, and which differs in what decides."""
    model = load_model("arithmetic-add3", device="cpu")
    pairs = drawn(kind)
    taken = []
    found = patching_module._partners
    monkeypatch.setattr(patching_module, "_partners", lambda *a: taken.append(found(*a)) or taken[-1])
    result = patching(model, pairs, site="z", direction=direction)
    (partner,) = taken
    source = pairs.clean if direction == "denoising" else pairs.corrupted
    with_one = partner >= 0
    assert int(with_one.sum()) > 20
    assert torch.equal(result.control.isnan().all(-1).all(-1), ~with_one)
    brought = source.take(partner.clamp(min=0))
    for side in (pairs.clean, pairs.corrupted):
        assert (brought.answers != side.answers)[with_one].all()
    differ = brought.labels["decides"].to_numpy() != source.labels["decides"].to_numpy()
    assert differ[with_one.numpy()].all()
    assert torch.equal(brought.lengths[with_one], source.lengths[with_one])


def test_a_position_that_no_prompt_has_is_refused(model, pairs):
    with pytest.raises(PromptError, match="no prompt has a token 50"):
        patching(model, pairs[2], positions=[50])
