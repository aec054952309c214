from itertools import product

import numpy as np
import pytest
import torch

from interp.analyses.delta_lens import delta_lens
from interp.datasets.sentences import tokenizer
from interp.errors import ConfigError
from interp.models.contrast import TwinRuns, stream_sites
from interp.models.load import load_model
from interp.models.readout import LinearReadout
from tests.conftest import tiny
from tests.models.test_contrast import naive_vectors
from tests.test_twins import CONTROL, LENGTHS, NEUTRAL, PLACES, GivenRuns, twins_of

SITES, END, TOKENS = stream_sites(3), 5, 1 + len(NEUTRAL)
CLOSE = dict(atol=2e-5, rtol=1e-4)


@pytest.fixture
def side(hf):
    """Both sides of padding over the three forms; all six are tried where the vectors are made."""
    return "right" if hf.config.model_type == "llama" else "left"


def parts_of(hf):
    """Unembedding [d, vocab], its bias, the final norm's weight, bias and eps, whether it centres; float64."""
    unembedding = hf.get_output_embeddings().weight.detach().double().numpy().T
    norm = hf.transformer.ln_f if hasattr(hf, "transformer") else hf.model.norm
    weight = norm.weight.detach().double().numpy()
    centred = hasattr(norm, "bias")
    bias = norm.bias.detach().double().numpy() if centred else np.zeros(24)
    return unembedding, weight, bias, norm.eps if centred else norm.variance_epsilon, centred


def by_hand(hf, vectors, p, s):
    """Changes of all logits [token, vocab] by the deltas of one prompt at one depth, and the logits before them."""
    unembedding, weight, bias, eps, centred = parts_of(hf)
    x = vectors[:, p, s].double().numpy()
    center = x[1:].mean(0)
    held = center - center.mean() if centred else center
    scale = np.sqrt((held**2).mean() + eps)
    changes = []
    for t in range(len(x)):
        delta = x[t] - np.mean([x[u] for u in range(1, len(x)) if u != t], axis=0)
        delta = delta - delta.mean() if centred else delta
        changes.append((delta / scale * weight) @ unembedding)
    return np.stack(changes), (held / scale * weight + bias) @ unembedding


def slope(before, change):
    return np.polyfit(before, change, 1)[0]


def test_the_lens_equals_float64_by_hand(hf, model, side):
    ids, twins = twins_of(side, groups=[0, 0, 1, 1])
    for offset in (0, 1):
        found = delta_lens(TwinRuns(model, twins, SITES, offsets=(0, 1)), END, offset=offset)
        vectors = naive_vectors(hf, ids, sites=SITES, offsets=(offset,))[..., 0, :]
        content = [i for i in range(23) if i != END]  # there is no tokenizer, so no special token
        total = np.zeros((4, 23))
        for p, s in product(range(4), range(4)):
            if PLACES[p] + offset >= LENGTHS[p]:
                for name in ("value", "z", "rank", "spread", "slope", "null_slope"):
                    assert getattr(found, name)[p, s].isnan()
                assert found.null_z[p, :, s].isnan().all()
                continue
            if (s, offset) == (0, 1):
                continue  # a later token's embedding is the same for all twins: nothing but rounding
            changes, before = by_hand(hf, vectors, p, s)
            apart = changes - changes.mean(1, keepdims=True)
            z = apart[:, END] / apart.std(1)
            np.testing.assert_allclose(found.value[p, s], apart[0, END], **CLOSE)
            np.testing.assert_allclose(found.z[p, s], z[0], atol=1e-4)
            np.testing.assert_allclose(found.null_z[p, :, s], z[1:], atol=1e-4)
            assert int(found.rank[p, s]) == sum(change > changes[0, END] for change in changes[0])
            np.testing.assert_allclose(found.spread[p, s], changes[0, content].std(), **CLOSE)
            np.testing.assert_allclose(found.slope[p, s], slope(before[content], changes[0, content]), **CLOSE)
            neutral = [slope(before[content], change[content]) for change in changes[1:]]
            assert np.isclose(float(found.null_slope[p, s]), neutral, **CLOSE).any()
            total[s] += changes[0] / (4 if offset == 0 else 2)
        for s in range(offset, 4):
            np.testing.assert_allclose(found.logits[s], total[s], **CLOSE)
            order = np.argsort(-total[s], kind="stable")
            assert found.promoted[s].tolist() == order[:10].tolist()
            assert found.suppressed[s].tolist() == order[::-1][:10].tolist()
    assert (found.end, found.words["5"], found.offset) == ("5", "5", "token+1")
    assert len(found.to_frame()) == 16


def test_processed_weights_say_the_same(hf, model):
    """The basis is another one, and so are raw changes; what softmax sees is the same."""
    processed = load_model(hf, device="cpu", weights="processed")
    twins = twins_of()[1]
    raw, tidy = (delta_lens(TwinRuns(m, twins), END) for m in (model, processed))
    for name in ("value", "z", "null_z", "rank", "spread", "slope", "null_slope"):
        torch.testing.assert_close(getattr(raw, name), getattr(tidy, name), atol=1e-3, rtol=1e-3)
    flat = [one.logits - one.logits.mean(-1, keepdim=True) for one in (raw, tidy)]
    torch.testing.assert_close(*flat, atol=1e-3, rtol=1e-3)
    assert torch.equal(raw.promoted, tidy.promoted)


def test_no_size_of_batches_and_no_memory_changes_the_lens(model):
    twins = twins_of()[1]
    whole = delta_lens(TwinRuns(model, twins), END, top=3)
    vectors = torch.cat([batch.vectors for batch in TwinRuns(model, twins, SITES, offsets=(0,))], 1)
    parts = delta_lens(GivenRuns(model, twins, vectors, SITES), END, top=3)
    for name in ("value", "z", "null_z", "rank", "spread", "slope", "null_slope", "logits", "promoted", "suppressed"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name), atol=1e-5, rtol=1e-5)
    other = delta_lens(TwinRuns(model, twins), END, top=99, seed=1)
    assert other.promoted.shape == (4, 11)  # no token is both promoted and suppressed
    assert not torch.equal(other.null_slope, whole.null_slope)
    assert torch.equal(other.slope, whole.slope)


def constructed(model, kind):
    """Twins whose control token does one known thing to the logits, beside neutral tokens that do nothing alike."""
    generator = torch.Generator().manual_seed(4)
    readout = LinearReadout.of(model)
    vectors = torch.randn(1, 4, 1, 1, 24, generator=generator).repeat(TOKENS, 1, 1, 1, 1)
    vectors[1:3] += 0.1 * torch.randn(4, 1, 1, 24, generator=generator)
    vectors[3:] -= 0.1 * torch.randn(2, 1, 1, 1, 24, generator=generator)
    center = vectors[1:].mean(0)
    every = readout.directions(torch.arange(23))
    if kind == "likely tokens lose":
        vectors[0] = center - 0.3 * center
    elif kind == "likely tokens gain":
        vectors[0] = center + 0.3 * center
    else:
        # 24 dimensions and 23 logits: a vector that adds 5 to the end's logit and nothing to any other.
        wanted = torch.zeros(23)
        wanted[END] = 5
        vectors[0] = center + torch.linalg.lstsq(every.double(), wanted.double()[:, None]).solution[:, 0].float()
    return delta_lens(GivenRuns(model, twins_of()[1], vectors, SITES[3:]), END)


def test_slopes_of_constructed_cases():
    model = load_model(tiny("llama"), device="cpu")
    # The stream shrinks by 0.3, and Llama's logits are linear in it, so every logit loses 0.3 of itself.
    np.testing.assert_allclose(constructed(model, "likely tokens lose").slope, -0.3, atol=1e-4)
    np.testing.assert_allclose(constructed(model, "likely tokens gain").slope, 0.3, atol=1e-4)
    found = constructed(model, "the end alone")
    np.testing.assert_allclose(found.slope, 0, atol=1e-3)
    np.testing.assert_allclose(found.spread, 0, atol=1e-3)
    assert (found.rank == 0).all()
    # One of 23 logits above 22 equal ones: (1 - 1/23) / sqrt(1/23 * 22/23) = sqrt(22).
    np.testing.assert_allclose(found.z, 22**0.5, rtol=1e-3)
    assert found.promoted[0, 0] == END
    assert float(found.null_z.abs().max()) < 4


def test_special_tokens_are_no_content_and_words_are_decoded():
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(4, CONTROL)), "$STOP", "w21", "w22"]
    model = load_model(tiny("llama"), tokenizer({word: i for i, word in enumerate(words)}), device="cpu")
    runs = TwinRuns(model, twins_of()[1])
    bare = delta_lens(TwinRuns(load_model(tiny("llama"), device="cpu"), twins_of()[1]), 2)
    found = delta_lens(runs, 2)
    assert found.end == "<eos>"
    assert found.words[str(int(found.promoted[0, 0]))] == words[int(found.promoted[0, 0])]
    torch.testing.assert_close(found.z, bare.z, atol=1e-6, rtol=0)
    assert not torch.allclose(found.spread, bare.spread)  # without the four special ones
    with pytest.raises(ConfigError, match="there is no offset 7"):
        delta_lens(runs, 2, offset=7)
