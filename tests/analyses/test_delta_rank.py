import warnings

import numpy as np
import pytest
import torch

from interp.analyses.delta_rank import delta_rank
from interp.errors import ConfigError, RankWarning
from interp.models.contrast import TwinRuns, stream_sites
from interp.models.load import load_model
from tests.conftest import tiny
from tests.test_twins import GivenRuns, twins_of

LENGTHS, PLACES = (9, 7, 8, 6) * 6, (6, 5, 5, 4) * 6
GROUPS = [i // 2 for i in range(24)]
SITES = stream_sites(3)


@pytest.fixture(scope="module")
def small():
    return load_model(tiny("llama"), device="cpu")


def many():
    return twins_of(lengths=LENGTHS, places=PLACES, groups=GROUPS)[1]


def found_of(runs, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        return delta_rank(runs, **options)


def deltas_of(vectors):
    """Deltas [token, prompt, site, d] in float64, one token at a time."""
    x = vectors.double().numpy()
    return np.stack([x[t] - np.mean([x[u] for u in range(1, len(x)) if u != t], axis=0) for t in range(len(x))])


def dense(rows):
    """Both spectra (centred first), first directions, share of the mean: from the whole matrix."""
    mean, parts = rows.mean(0), []
    for content in (rows - mean, rows):
        _, values, ways = np.linalg.svd(content)
        parts.append((np.pad(values**2 / len(rows), (0, rows.shape[1] - len(values))), ways))
    return mean, parts, (mean @ mean) / (rows**2).sum(1).mean()


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def exp_entropy(values):
    share = values[values > 0] / values.sum()
    return np.exp(-(share * np.log(share)).sum())


def by_pairs(positive, negative):
    return np.mean([[1.0 if a > b else 0.5 if a == b else 0.0 for b in negative] for a in positive])


def check(found, deltas):
    """A result against dense float64 arithmetic on deltas [token, prompt, site, d] without nan."""
    n_tokens, n, n_sites, _ = deltas.shape
    held = np.zeros(n, dtype=bool)
    held[found.held_out.numpy()] = True
    groups = np.array(GROUPS)
    assert not set(groups[held]) & set(groups[~held])
    assert abs(len(set(groups[held])) - len(set(groups[~held]))) <= 1
    assert found.groups.tolist() == groups[held].tolist()
    for s in range(n_sites):
        if (deltas[0, :, s].std(0) < 1e-6).all():  # the same vector for every prompt: see below
            continue
        for t in range(n_tokens):
            mean, (centred, raw), share = dense(deltas[t, :, s])
            own = [found.centred[s], found.uncentred[s], found.mean_share[s]]
            if t:
                own = [found.null_centred[t - 1, s], found.null_uncentred[t - 1, s], found.null_mean_share[t - 1, s]]
            np.testing.assert_allclose(own[0], centred[0], rtol=1e-6, atol=1e-6 * centred[0][0])
            np.testing.assert_allclose(own[1], raw[0], rtol=1e-6, atol=1e-6 * raw[0][0])
            np.testing.assert_allclose(own[2], share, rtol=1e-6)
            ways = [np.mean(deltas[u, ~held, s], axis=0) for u in range(n_tokens)]
            squared = (deltas[t, held, s] @ ways[t]) ** 2 / (ways[t] @ ways[t]) / (deltas[t, held, s] ** 2).sum(1)
            np.testing.assert_allclose(
                found.null_share[:, t - 1, s] if t else found.own_share[:, s], squared, atol=1e-6
            )
            area = found.auc[s] if t == 0 else found.null_auc[t - 1, s]
            others = [x for u in range(1, n_tokens) if u != t for x in deltas[u, held, s] @ ways[t]]
            assert float(area) == pytest.approx(by_pairs(deltas[t, held, s] @ ways[t], others), abs=1e-9)
            if t:
                np.testing.assert_allclose(
                    found.null_scores[:, t - 1, s], deltas[t, held, s] @ ways[0] / np.linalg.norm(ways[0]), atol=1e-6
                )
                continue
            np.testing.assert_allclose(found.searched_share[s], dense(deltas[0, ~held, s])[2], rtol=1e-6)
            for kind, (values, directions) in enumerate((raw, centred)):
                held_by = np.cumsum(values) / values.sum()
                assert float(found.components80[s, kind]) == 1 + (held_by < 0.8 - 1e-9).sum()
                np.testing.assert_allclose(found.effective_rank[s, kind], exp_entropy(values), rtol=1e-5)
                np.testing.assert_allclose(found.cosine[s, kind], abs(cosine(directions[0], mean)), atol=1e-5)
            along = deltas[0, held, s]
            np.testing.assert_allclose(found.lengths[:, s], np.linalg.norm(along, axis=1), rtol=1e-6)
            np.testing.assert_allclose(found.scores[:, s, 0], along @ ways[0] / np.linalg.norm(ways[0]), atol=1e-6)
            for k, way in enumerate(dense(deltas[0, ~held, s])[1][0][1][:2]):
                np.testing.assert_allclose(found.scores[:, s, 1 + k].abs(), np.abs(along @ way), atol=1e-4)


def test_everything_equals_dense_arithmetic_on_each_form(model):
    runs = TwinRuns(model, many(), SITES, offsets=(0, 1))
    vectors = torch.cat([batch.vectors for batch in runs], 1)
    for place in (0, 1):
        found = found_of(runs, offset=place)
        check(found, deltas_of(vectors[:, :, :, place]))
        assert found.offset == ("token", "token+1")[place]
        assert found.prompts == 24
        assert found.depths == ("embed", "layer 0", "layer 1", "layer 2")
        frame = found.to_frame()
        assert len(frame) == 4 * 24
        assert frame["centred"].tolist() == found.centred.flatten().tolist()


def test_no_size_of_batches_changes_the_result(small):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(5, 24, 4, 1, 24, generator=generator) + torch.randn(5, 1, 4, 1, 24, generator=generator)
    found = found_of(GivenRuns(small, many(), vectors, SITES))
    check(found, deltas_of(vectors[..., 0, :]))


def test_the_embedding_of_a_token_has_one_component_and_rounding_is_no_spectrum(model):
    """Before the first layer the delta is the difference of embeddings, whatever the prompt."""
    found = found_of(TwinRuns(model, many()))
    assert found.components80[0].tolist()[0] == 1
    assert found.components80[0, 1].isnan()
    assert found.effective_rank[0, 1].isnan()
    assert (found.centred[0] == 0).all()
    assert float(found.mean_share[0]) == pytest.approx(1)
    assert float(found.effective_rank[0, 0]) == pytest.approx(1)


def test_few_contexts_are_said(small):
    """Six prompts begin alike up to the token in each of four ways."""
    ids, _ = twins_of(lengths=(9,) * 4, places=(3,) * 4)
    _, twins = twins_of(lengths=(9,) * 24, places=(3,) * 24)
    tokens = twins.prompts.tokens
    for i in range(24):
        tokens[i, :4] = ids[i % 4][:4]
    runs = TwinRuns(small, twins, offsets=(0, 5))
    with pytest.warns(RankWarning, match="4 distinct contexts at this position among 24 prompts: rank <= 3"):
        found = delta_rank(runs)
    assert int(found.contexts) == 4
    assert found.warnings == ("4 distinct contexts at this position among 24 prompts: rank <= 3 about the mean",)
    assert ((found.centred > 1e-9 * found.centred[:, :1]).sum(-1)[1:] == 3).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RankWarning)
        assert int(delta_rank(runs, offset=5).contexts) == 24  # the texts go on in as many ways
    for i in range(24):
        tokens[i, :4] = ids[0][:4]
    with pytest.warns(RankWarning, match="1 distinct context at this position.*centring removed the contrast"):
        found = delta_rank(TwinRuns(small, twins))
    assert (found.centred == 0).all()


def test_prompts_that_end_before_the_position_are_left_out(small):
    """Eight of 24 end at the token, each in a way of its own; the others are of four kinds."""
    lengths = tuple(5 if i % 3 == 0 else 8 for i in range(24))
    _, twins = twins_of(lengths=lengths, places=(4,) * 24, groups=GROUPS)
    kinds = twins.prompts.tokens[[1, 4, 7, 10]].clone()
    for i in range(24):
        if i % 3:
            twins.prompts.tokens[i] = kinds[i % 4]
    runs = TwinRuns(small, twins, SITES[1:], offsets=(0, 1))
    with pytest.warns(RankWarning, match="4 distinct contexts at this position among 16 prompts: rank <= 3"):
        found = delta_rank(runs, offset=1)
    assert (found.prompts, int(found.contexts)) == (16, 4)
    vectors = torch.cat([batch.vectors for batch in runs], 1)[:, :, :, 1]
    there = np.array([i % 3 != 0 for i in range(24)])
    deltas = deltas_of(vectors)[:, there]
    for s in range(3):
        _, (centred, _), share = dense(deltas[0, :, s])
        np.testing.assert_allclose(found.centred[s], centred[0], rtol=1e-6, atol=1e-6 * centred[0][0])
        np.testing.assert_allclose(found.mean_share[s], share, rtol=1e-6)
    absent = torch.from_numpy(~there)[found.held_out]
    assert torch.equal(found.scores[:, 0, 0].isnan(), absent)
    assert torch.equal(found.lengths[:, 0].isnan(), absent)
    assert not found.auc.isnan().any()


def test_memory_bounds_how_many_neutral_tokens_get_a_spectrum(small):
    runs = TwinRuns(small, many())
    one = 8 * 4 * 24**2  # bytes of a token's scatters at four sites
    whole = found_of(runs)
    assert not whole.null_centred.isnan().any()
    for memory, spectra in ((1, 0), (one, 0), (3 * one, 2), (4 * one + 1, 3), (5 * one, 4)):
        found = found_of(runs, memory=memory)
        said = [line for line in found.warnings if "spectra of" in line]
        assert said == ([f"spectra of {spectra} neutral tokens alone fit the memory; raise memory for more"]
                        if spectra < 4 else [])  # fmt: skip
        for name in ("null_centred", "null_uncentred"):
            assert getattr(found, name)[spectra:].isnan().all()
            assert torch.equal(getattr(found, name)[:spectra], getattr(whole, name)[:spectra])
        for name in ("centred", "mean_share", "null_mean_share", "auc", "null_auc", "null_scores"):
            assert torch.equal(getattr(found, name), getattr(whole, name))


@pytest.mark.parametrize("planted", [True, False])
def test_a_planted_direction_is_one_direction_and_noise_is_none(small, planted):
    generator = torch.Generator().manual_seed(2)
    vectors = torch.randn(5, 24, 4, 1, 24, generator=generator)
    way = torch.nn.functional.normalize(torch.randn(24, generator=generator), dim=0)
    if planted:
        vectors[0] += 100 * way
    found = found_of(GivenRuns(small, many(), vectors, SITES))
    if planted:
        assert float(found.mean_share.min()) > 0.99
        assert (found.auc == 1).all()
        assert (found.components80[:, 0] == 1).all()
        assert float(found.cosine[:, 0].min()) > 0.999
    else:
        # 24 rows of noise: a mean of squared length 24 (1 + 1/4) / 24 in 24 (1 + 1/4), so a share of 1/24.
        assert float(found.mean_share.max()) < 0.1
        assert (found.auc - 0.5).abs().max() < 0.25
        assert (found.components80[:, 0] > 5).all()
    assert float(found.null_mean_share.max()) < 0.15
    # What is left about the mean is noise in both: no component beyond those of independent coordinates.
    assert float((found.centred[:, 0] / found.parallel[:, 0]).max()) < 1.2


def test_what_has_no_rank_is_refused(small):
    runs = TwinRuns(small, many(), offsets=(0, 2))
    with pytest.raises(ConfigError, match=r"there is no offset 1 in these runs; they have \(0, 2\)"):
        delta_rank(runs, offset=1)
