import numpy as np
import pytest
import torch

from interp.analyses.prefix_contrast import prefix_contrast
from interp.datasets.sentences import tokenizer
from interp.errors import RankWarning
from interp.models.load import load_model
from tests.conftest import padded, tiny
from tests.naive import Naive

PREFIXES = {"S": 20, "n10": 10, "n11": 11, "n12": 12}
FIRST = (3, 4, 5, 6)


@pytest.fixture
def side(hf):
    """Both sides of padding over the three forms; all six are tried where the vectors are made."""
    return "right" if hf.config.model_type == "llama" else "left"


def texts(firsts, *, bos=None, n=12):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for i in range(n):
        rest = torch.randint(3, 10, (3 + i % 3,), generator=generator)
        start = [firsts[i % len(firsts)]] if bos is None else [bos, firsts[i % len(firsts)]]
        rows.append(torch.cat([torch.tensor(start), rest]))
    return rows


def test_every_prefix_finds_the_same_component(hf, model, side):
    """The vector with the prefix is one constant: what varies is the prompts' own first word."""
    ids, naive = texts(FIRST), Naive(hf)
    with pytest.warns(RankWarning, match="4 distinct contexts at this position among 12 prompts: rank <= 3"):
        found = prefix_contrast(model, padded(ids, side), PREFIXES)
    sites = [("resid_pre", 0), *(("resid_post", layer) for layer in range(3))]
    for s, site in enumerate(sites):
        without = np.stack([naive.read(row, *site)[0].double().numpy() for row in ids])
        for t, token in enumerate(PREFIXES.values()):
            rows = [torch.cat([torch.tensor([token]), row]) for row in ids]
            apart = np.stack([naive.read(row, *site)[0].double().numpy() for row in rows]) - without
            values = np.linalg.svd(apart - apart.mean(0))[1] ** 2
            np.testing.assert_allclose(found.first_share[t, s], values[0] / values.sum(), rtol=1e-5)
            assert int(found.rank[t, s]) == (values > 1e-6 * values[0]).sum() == 3
    np.testing.assert_allclose(found.alike, 1, atol=1e-5)
    np.testing.assert_allclose(found.first_share, found.first_share[:1].expand(4, -1), rtol=1e-5)
    assert (int(found.first_words), found.prompts) == (4, 12)
    assert found.prefixes == tuple(PREFIXES)
    said = "4 distinct contexts at this position among 12 prompts: rank <= 3 about the mean"
    assert found.warnings == (f"{said}; centring removed the contrast",)
    assert len(found.to_frame()) == 4 * 4


def test_one_first_word_leaves_nothing():
    model = load_model(tiny("gpt2"), device="cpu")
    with pytest.warns(
        RankWarning, match="1 distinct context at .* rank <= 0 about the mean; centring removed the contrast$"
    ):
        found = prefix_contrast(model, padded(texts([3]), "right"), PREFIXES)
    assert (found.rank == 0).all()
    assert found.first_share.isnan().all()
    assert found.alike.isnan().all()


def test_where_every_text_starts_alike_the_position_after_it_counts():
    """The first position is the one after <bos>; with the prefix there, the model has seen <bos> and the prefix."""
    hf = tiny("llama")
    words = {f"w{i}": i for i in range(4, 23)} | {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    model, naive = load_model(hf, tokenizer(words), device="cpu"), Naive(hf)
    ids = texts(FIRST, bos=1)
    with pytest.warns(RankWarning, match="4 distinct"):
        found = prefix_contrast(model, padded(ids, "left"), PREFIXES)
    for t, token in enumerate(PREFIXES.values()):
        rows = [torch.cat([row[:1], torch.tensor([token]), row[1:]]) for row in ids]
        apart = np.stack([(naive.read(a, "resid_post", 1)[1] - naive.read(b, "resid_post", 1)[1]).double().numpy()
                          for a, b in zip(rows, ids, strict=True)])  # fmt: skip
        values = np.linalg.svd(apart - apart.mean(0))[1] ** 2
        np.testing.assert_allclose(found.first_share[t, 2], values[0] / values.sum(), rtol=1e-5)
    assert (found.rank == 3).all()
    np.testing.assert_allclose(found.alike, 1, atol=1e-5)
    # Without the tokenizer's word for it, token 1 is a first word like any other: one for all texts.
    with pytest.warns(RankWarning, match="1 distinct context"):
        bare = prefix_contrast(load_model(hf, device="cpu"), padded(ids, "left"), PREFIXES)
    assert int(bare.first_words) == 1
