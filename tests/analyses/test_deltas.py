from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from interp.analyses.deltas import MEASURES, DeltaNorms, delta_norms, norms_of
from interp.errors import ConfigError
from interp.estimates import rank_p
from interp.models.contrast import all_sites, stream_sites
from interp.sites import Site
from tests.models.test_contrast import naive_vectors
from tests.test_twins import LENGTHS, PLACES, GivenRuns, twins_of

SITES, OFFSETS = all_sites(3), (0, 1)
CLOSE = dict(atol=1e-5, rtol=1e-4)


@pytest.fixture
def side(hf):
    """Both sides of padding over the three forms; all six are tried where the vectors are made."""
    return "right" if hf.config.model_type == "llama" else "left"


def measured(vectors, t, p, s, o):
    """Length, relative length and cosine of one token's delta in one cell, in float64."""
    others = [u for u in range(1, len(vectors)) if u != t]
    own, rest = vectors[t, p, s, o], np.mean([vectors[u, p, s, o] for u in others], axis=0)
    site = SITES[s]
    stream = s if site.name.startswith("resid") else SITES.index(Site("resid_post", site.layer))
    size = np.linalg.norm(vectors[1:, p, stream, o].mean(0))
    length = np.linalg.norm(own - rest)
    return length, length / size, own @ rest / np.linalg.norm(own) / np.linalg.norm(rest)


def test_norms_equal_the_naive_loop(hf, model, side):
    ids, twins = twins_of(side, groups=[0, 0, 1, 1])
    found = delta_norms(model, twins, offsets=OFFSETS)
    vectors = naive_vectors(hf, ids, offsets=OFFSETS).double().numpy()
    for p, s, o in product(range(4), range(len(SITES)), range(2)):
        if PLACES[p] + o >= LENGTHS[p]:
            assert found.values[p, s, o].isnan().all()
            assert found.null[p, :, s, o].isnan().all()
            continue
        if (s, o) == (0, 1):  # the embedding of a later token is the same for all
            np.testing.assert_allclose(found.values[p, s, o], [0, 0, 1], atol=1e-6)
            continue
        np.testing.assert_allclose(found.values[p, s, o], measured(vectors, 0, p, s, o), **CLOSE)
        for n in range(4):
            np.testing.assert_allclose(found.null[p, n, s, o], measured(vectors, n + 1, p, s, o), **CLOSE)
    assert found.depths[:4] == ("embed", "layer 0 attention", "layer 0 MLP", "layer 0")
    assert found.sites[:2] == ("resid_pre.0", "attn_out.0")
    assert (found.offsets, found.measures, found.token) == (("token", "token+1"), MEASURES, "S")
    assert found.groups.tolist() == [0, 0, 1, 1]
    frame = found.to_frame()
    assert len(frame) == 4 * 10 * 2 * 3
    row = frame[(frame.prompt == 1) & (frame.site == "mlp_out.1") & (frame.offset == "token") & (frame.measure == "L2")]
    np.testing.assert_allclose(row[["value", "null", "group"]].to_numpy()[0], [
        found.values[1, 5, 0, 0], found.null[1, :, 5, 0, 0].mean(), 0,
    ], rtol=1e-6)  # fmt: skip


def test_a_block_s_output_needs_the_stream_that_it_is_measured_by(model):
    with pytest.raises(ConfigError, match=r"the size of mlp_out\.1 is relative to resid_post\.1"):
        delta_norms(model, twins_of()[1], sites=[Site("mlp_out", 1)])


def result(values, null, *, depths=None, offsets=("token",)):
    """A result of these relative norms [prompt, depth, offset] and [prompt, neutral, depth, offset]."""
    values, null = torch.as_tensor(values).float(), torch.as_tensor(null).float()
    depths = depths or ("embed", *(f"layer {i}" for i in range(values.shape[1] - 1)))
    nothing = torch.zeros_like
    return DeltaNorms(
        "S", tuple(f"n{i}" for i in range(null.shape[1])), depths, depths, offsets, MEASURES,
        torch.stack([nothing(values), values, 1 - values], -1), torch.stack([nothing(null), null, 1 - null], -1),
        torch.arange(len(values)),
    )  # fmt: skip


def drawn(seed=0, prompts=12, neutral=39, depths=7):
    rng = np.random.default_rng(seed)
    return rng.random((prompts, depths, 2)), rng.random((prompts, neutral, depths, 2))


def test_bands_are_quantiles_of_the_neutral_tokens_means():
    values, null = drawn()
    null[:, :, 3, 1] = np.nan  # no prompt reaches it
    null[4:, :, 2, 1] = np.nan
    found = result(values, null, offsets=("token", "token+1")).band()
    for depth, offset in product(range(7), range(2)):
        means = [np.mean([x for x in null[:, n, depth, offset] if x == x] or [np.nan]) for n in range(39)]
        np.testing.assert_allclose(found[:, depth, offset], np.quantile(means, [0.025, 0.5, 0.975]), rtol=1e-6)


def naive_p(own, null, largest=True):
    """Candidates one by one: the largest standardised cell, and the share that is as large as the own one's."""
    candidates = [np.ravel(own), *(np.ravel(one) for one in null)]
    if not largest:
        return np.array([sum(c[i] >= candidates[0][i] for c in candidates) / len(candidates) for i in range(own.size)])
    cells = [i for i in range(own.size) if not any(np.isnan(c[i]) for c in candidates)]
    best = []
    for c in candidates:
        standard = []
        for i in cells:
            column = np.array([other[i] for other in candidates])
            standard.append((c[i] - column.mean()) / column.std() if column.std() > 0 else 0.0)
        best.append(max(standard))
    return sum(one >= best[0] - 1e-12 for one in best) / len(best)


def test_p_values_equal_the_naive_ones():
    for seed in range(6):
        values, null = drawn(seed, neutral=24)
        values += 0.4 * np.random.default_rng(seed).random()
        values[8:, 2, 1] = null[8:, :, 2, 1] = np.nan
        values[:, 5, 1] = null[:, :, 5, 1] = np.nan
        found = result(values, null, offsets=("token", "token+1"))
        with np.errstate(all="ignore"), pytest.warns(RuntimeWarning):
            own, others = np.nanmean(values, 0), np.nanmean(null, 0)
        wanted = naive_p(own, others)
        assert found.p_value() == pytest.approx(wanted)
        # A small cosine is a large deviation; these cosines are 1 less the same numbers.
        assert found.p_value("cosine") == pytest.approx(wanted)
        cells = naive_p(own, others, largest=False).reshape(own.shape)
        cells[5, 1] = np.nan
        np.testing.assert_allclose(found.estimate().p, cells)
        np.testing.assert_allclose(found.estimate("cosine").p, cells)
        np.testing.assert_allclose(found.estimate().value, own, rtol=1e-6)


def test_ranks_are_exact_where_tokens_are_exchangeable():
    """Every candidate of a table in turn as the own one: no more than 5 % of them have a p of 5 %, for any table."""
    rng = np.random.default_rng(0)
    for n, ties, cells in product((5, 20, 40, 61), (False, True), (1, 12)):
        table = rng.standard_normal((n, cells)) * rng.lognormal(size=cells) + rng.standard_normal((n, 1))
        if ties:
            table = table.round()
        p = np.array([rank_p(table[i], np.delete(table, i, 0)) for i in range(n)])
        for level in (0.02, 0.05, 0.1, 0.5):
            assert (p <= level).mean() <= level + 1e-12
        assert p.min() >= 1 / n - 1e-12
        if not ties:
            np.testing.assert_allclose(np.sort(p), np.arange(1, n + 1) / n)


def test_ranks_at_the_edges():
    assert rank_p(3.0, np.array([1.0, 2.0, 3.0]), largest=False) == pytest.approx(0.5)  # itself and one like it of 4
    assert np.isnan(rank_p(np.array([np.nan]), np.array([[1.0], [2.0]])))
    assert float(rank_p(np.array([np.nan, 9.0]), np.array([[1.0, 1.0], [2.0, 2.0]]))) == pytest.approx(1 / 3)
    # What differs by rounding alone says nothing: cosines of equal vectors.
    own, null = np.array([1.0 + 6e-8, 0.5]), np.array([[1.0, 0.4], [1.0, 0.7], [1.0, 0.2]])
    assert float(rank_p(own, null)) == pytest.approx(0.5)


def test_a_token_before_which_nothing_differs_is_not_special(model):
    """At the embedding of a later token all twins are one vector: whatever is left there is rounding."""
    _, twins = twins_of(lengths=(6,) * 8, places=(2,) * 8, neutral=tuple(range(10, 20)))
    found = delta_norms(model, twins, sites=[Site("resid_pre", 0)], offsets=(1, 2))
    assert float(found.values[..., 0].max()) < 1e-6
    for measure in MEASURES:
        assert found.p_value(measure) > 0.5


NULL = 1 + 0.01 * np.random.default_rng(0).standard_normal((10, 30, 7, 1))


@pytest.mark.parametrize(
    ("excess", "form", "said"),
    [
        # Shares of the largest excess at embed, layer 0, ..., layer 5; a third of the depth is layer 1.
        ([0.1, 0.3, 0.9, 1, 0.8, 0.7, 0.6], "early", "reached at layer 1"),
        ([0.1, 0.2, 0.4, 0.6, 0.9, 1, 1], "gradual", "reached at layer 3"),
        ([0.0, 0.0, 0.1, 0.2, 0.3, 0.9, 1], "late", "reached at layer 4"),
        ([0.9, 0.9, 0.8, 1, 0.9, 1, 0.8], "flat", "stays within a quarter"),
        ([0.0] * 7, "flat", "no depth of the stream leaves the band"),
    ],
)
def test_the_form_of_constructed_courses(excess, form, said):
    values = np.ones((10, 7, 1)) + np.array(excess)[:, None]
    found = result(values, NULL)
    assert found.form()[0] == form
    assert said in found.form()[1]
    # Only the stream counts, and only the token itself.
    more = ("embed", "layer 0 attention", "layer 0", *(f"layer {i}" for i in range(1, 6)))
    wild = np.insert(np.repeat(values, 2, 2), 1, 99, axis=1)
    wild[..., 0] = 50
    null = np.repeat(np.insert(NULL, 1, 1, axis=2), 2, 3)
    assert result(wild, null, depths=more, offsets=("token-1", "token")).form() == found.form()
    with pytest.raises(ConfigError, match="take offset 0"):
        replace(found, offsets=("token+1",)).form()


def test_a_planted_token_is_found_and_a_neutral_one_is_not(model):
    """The control token's vectors lie 3 a coordinate from a point about which the neutral ones lie 1 apart."""
    generator = torch.Generator().manual_seed(0)
    _, twins = twins_of(lengths=(6,) * 8, places=(2,) * 8, neutral=(*range(10, 20), *range(3, 10), 0, 1, 2, 21))
    tokens = torch.randn(22, 1, 2, 1, 24, generator=generator)
    vectors = 5 + tokens + 0.1 * torch.randn(22, 8, 2, 1, 24, generator=generator)
    special = vectors.clone()
    special[0] += 3 * torch.tensor([1.0, -1.0]).repeat(12)
    sites = stream_sites(3)[:2]
    least, found = norms_of(GivenRuns(model, twins, vectors, sites)), norms_of(GivenRuns(model, twins, special, sites))
    for measure in MEASURES:
        assert found.p_value(measure) == pytest.approx(1 / 22)
        assert least.p_value(measure) > 0.1
