import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from interp import spectra
from interp.errors import ConfigError, DataError
from interp.spectra import Moments, auc, effective_rank, gaussian_triangle, parallel_analysis, project, spectrum


def rows_of(n, width, seed=0, mean=1.0, batch=()):
    """Correlated rows, of a spread of about 1 a coordinate, about a mean of about this size a coordinate."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=generator, dtype=torch.float64) / width**0.5
    centre = mean * torch.randn(width, generator=generator, dtype=torch.float64)
    return torch.randn(*batch, n, width, generator=generator, dtype=torch.float64) @ mix + centre


def moments_of(rows, *sizes):
    """Moments streamed in chunks of these sizes, the last for all that is left."""
    moments = Moments.empty(tuple(rows.shape[:-2]), rows.shape[-1])
    first = 0
    for size in (*sizes, rows.shape[-2]):
        moments.update(rows[..., first : first + size, :])
        first += size
    return moments


def dense(rows):
    """Mean, centred and uncentred eigenvalues and right singular vectors, from the whole float64 matrix."""
    table = rows.double().numpy()
    table = table[~np.isnan(table).any(1)]
    mean = table.mean(0)
    found = [mean]
    for content in (table - mean, table):
        _, values, vectors = np.linalg.svd(content, full_matrices=len(table) < table.shape[1])
        values = np.pad(values, (0, table.shape[1] - len(values)))
        found += [values**2 / len(table), vectors]
    return found


def equal_to_dense(found, rows, rtol=1e-6):
    mean, values, vectors, raw, raw_vectors = dense(rows)
    np.testing.assert_allclose(found.mean, mean, rtol=rtol, atol=1e-12)
    for mine, wanted in ((found.eigenvalues, values), (found.uncentred_eigenvalues, raw)):
        # Beside the largest, the rounding of the data leaves d * eps: below 1e-13 of it nothing is compared.
        np.testing.assert_allclose(mine, wanted, rtol=rtol, atol=1e-13 * wanted[0])
    total, square = values.sum(), (mean**2).sum()
    np.testing.assert_allclose(found.variance, total, rtol=rtol)
    np.testing.assert_allclose(found.mean_share, square / raw.sum(), rtol=rtol)
    for mine, wanted, spread in ((found.directions, vectors, values), (found.uncentred_directions, raw_vectors, raw)):
        for k in range(len(mine)):
            gaps = np.abs(np.delete(spread, k) - spread[k])
            if gaps.min(initial=np.inf) > 1e-4 * spread[0] and spread[k] > 1e-4 * spread[0]:
                sign = -1.0 if wanted[k] @ mean < 0 else 1.0
                np.testing.assert_allclose(mine[k], sign * wanted[k], atol=1e-6)


@pytest.mark.parametrize(("n", "width"), [(200, 12), (7, 12), (2, 5), (30, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_streamed_spectra_equal_the_dense_ones(n, width, dtype):
    rows = rows_of(n, width).to(dtype)
    equal_to_dense(spectrum(moments_of(rows, 3, 1, 50), top=5), rows)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("width", [8, 150])  # 150 is more than one block of a product
def test_a_mean_ten_thousand_times_the_spread_loses_no_precision(dtype, width):
    rows = rows_of(300, width, mean=1e4).to(dtype)
    found = spectrum(moments_of(rows, 10, 100), top=8)
    equal_to_dense(found, rows)
    # The last eigenvalues too, which the square of the mean exceeds by more than ten orders.
    np.testing.assert_allclose(found.uncentred_eigenvalues, dense(rows)[3], rtol=1e-6)
    assert float(found.mean_share) > 0.999999


def test_a_mean_within_the_span_of_the_deviations_adds_no_component():
    axis = torch.tensor([[0.6, 0.8, 0.0]])
    found = spectrum(moments_of(torch.tensor([[-1.0], [2.0], [4.0]]) @ axis))
    np.testing.assert_allclose(found.uncentred_eigenvalues, [7, 0, 0], atol=1e-6)  # (1 + 4 + 16) / 3
    assert found.uncentred_eigenvalues[2] == 0
    assert found.uncentred_directions[2].isnan().all()
    assert float(found.cosine()) == pytest.approx(1)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(2, 40), width=st.integers(1, 9), sizes=st.lists(st.integers(0, 30), max_size=5),
    inner=st.integers(1, 60), seed=st.integers(0, 99), mean=st.sampled_from([0.0, 1.0, 1e4]),
)  # fmt: skip
def test_no_chunking_and_no_order_of_rows_changes_the_moments(n, width, sizes, inner, seed, mean):
    rows = rows_of(n, width, seed, mean)
    shuffled = rows[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectra, "_ELEMENTS", inner)
        found = moments_of(shuffled, *sizes)
        there = project(shuffled, torch.eye(width, dtype=torch.float64))
    torch.testing.assert_close(there, shuffled)
    assert int(found.n) == n
    table = rows.numpy()
    np.testing.assert_allclose(found.mean, table.mean(0), rtol=1e-12, atol=1e-12)
    centred = table - table.mean(0)
    np.testing.assert_allclose(found.scatter, centred.T @ centred, rtol=1e-9, atol=1e-9 * (centred**2).sum())
    np.testing.assert_allclose(found.sd, table.std(0), rtol=1e-9)


@pytest.mark.parametrize("cut", [0, 1, 13, 40])
def test_merged_moments_are_those_of_all_rows(cut):
    rows = rows_of(40, 6, mean=100.0, batch=(2,))
    first, second, whole = moments_of(rows[:, :cut]), moments_of(rows[:, cut:]), moments_of(rows)
    first.merge(second)
    for part in ("n", "mean", "scatter"):
        torch.testing.assert_close(getattr(first, part), getattr(whole, part), rtol=1e-10, atol=1e-8)


def test_every_cell_of_the_batch_axes_is_its_own_and_leaves_out_rows_with_nan():
    rows = rows_of(30, 5, batch=(2, 3)).float()
    rows[0, 1, 4, 2] = torch.nan
    rows[1, 2, 5:] = torch.nan
    rows[1, 0] = torch.nan
    rows[0, 0, 1:] = torch.nan
    found = spectrum(moments_of(rows, 11), top=2)
    assert found.n.tolist() == [[1, 29, 30], [0, 30, 5]]
    for cell in ((0, 1), (0, 2), (1, 1), (1, 2)):
        alone = spectrum(moments_of(rows[cell]), top=2)
        equal_to_dense(alone, rows[cell])
        for part in ("mean", "eigenvalues", "uncentred_eigenvalues", "variance", "mean_share", "directions"):
            torch.testing.assert_close(getattr(found, part)[cell], getattr(alone, part), rtol=1e-9, atol=1e-9)
    for cell in ((0, 0), (1, 0)):  # one row, and none
        for part in ("eigenvalues", "uncentred_eigenvalues", "variance", "mean_share", "directions"):
            assert getattr(found, part)[cell].isnan().all()
        for answer in (found.components_for(), found.effective_rank(), found.cosine(), moments_of(rows).sd):
            assert answer[cell].isnan().all()
    torch.testing.assert_close(found.mean[0, 0], rows[0, 0, 0].double())
    assert found.mean[1, 0].isnan().all()


@pytest.mark.parametrize("size", [1, 3, 100])
def test_equal_rows_have_no_variance_and_one_uncentred_component(size):
    rows = torch.tensor([[0.1, -1e4, 0.3]]).repeat(100, 1)
    found = spectrum(moments_of(rows, *[size] * 99), top=2)
    assert float(found.variance) == 0
    assert found.eigenvalues.tolist() == [0, 0, 0]
    assert found.directions.isnan().all()
    assert found.effective_rank().isnan().all()
    assert found.components_for().isnan().all()
    assert found.cosine().isnan().all()
    assert float(found.mean_share) == 1
    assert float(found.effective_rank(centred=False)) == pytest.approx(1)
    assert float(found.components_for(centred=False)) == 1
    assert float(found.cosine(centred=False)) == pytest.approx(1)
    assert found.uncentred_directions[1].isnan().all()


def test_an_infinite_value_makes_its_cell_undefined_and_no_other():
    rows = rows_of(10, 3, batch=(2,))
    rows[0, 2, 1] = torch.inf
    found = spectrum(moments_of(rows))
    assert found.eigenvalues[0].isnan().all()
    assert found.mean_share.isnan().tolist() == [True, False]


def test_rank_one_data_has_one_component():
    """x = t (0.6, 0.8) + (-3, 4) with t = -1, 1."""
    rows = torch.tensor([[-3.6, 3.2], [-2.4, 4.8]])
    found = spectrum(moments_of(rows))
    np.testing.assert_allclose(found.eigenvalues, [1, 0], atol=1e-6)
    np.testing.assert_allclose(found.directions[0], [0.6, 0.8], atol=1e-6)
    assert found.directions[1].isnan().all()
    # (0.6 * -3 + 0.8 * 4) / 5 = 1.4 / 5; |mean|^2 / (|mean|^2 + 1) = 25 / 26.
    assert float(found.cosine()) == pytest.approx(0.28, abs=1e-6)
    assert float(found.mean_share) == pytest.approx(25 / 26)
    assert float(found.effective_rank()) == pytest.approx(1)
    assert float(found.components_for(1.0)) == 1
    np.testing.assert_allclose(found.cumulative(), [1, 1])


def test_isotropic_data_has_as_many_components_as_it_has_axes():
    rows = torch.cat([torch.eye(10), -torch.eye(10)])
    found = spectrum(moments_of(rows), top=99)
    np.testing.assert_allclose(found.eigenvalues, 0.1)  # each axis has 2 of 20 rows at distance 1
    assert found.directions.shape == (10, 10)
    assert float(found.effective_rank()) == pytest.approx(10)
    assert float(found.components_for(0.8)) == 8
    assert float(found.components_for(0.81)) == 9
    assert float(found.mean_share) == 0
    assert found.cosine().isnan()


def test_two_clusters_are_parted_by_the_first_direction_whose_sign_is_the_mean_s():
    generator = torch.Generator().manual_seed(0)
    axis = torch.nn.functional.normalize(torch.randn(16, generator=generator), dim=0)
    side = torch.cat([torch.ones(300), -torch.ones(100)])
    rows = 5 * side[:, None] * axis + torch.randn(400, 16, generator=generator)
    found = spectrum(moments_of(rows))
    # Sides of 3/4 and 1/4 have the variance 4 * 5^2 * 3/16 = 18.75, and 1 of the noise.
    assert float(found.eigenvalues[0]) == pytest.approx(19.75, rel=0.1)
    assert float(found.directions[0] @ axis.double()) > 0.99
    places = project(rows, found.directions, found.mean)
    assert float(auc(places[side > 0, 0], places[side < 0, 0])) == 1.0
    np.testing.assert_allclose(places.square().mean(0), found.eigenvalues[:8], rtol=1e-6)


def test_projections_of_every_cell_are_dot_products_with_its_own_or_with_common_directions():
    rows, ways = rows_of(7, 4, batch=(2, 3)), rows_of(2, 4, seed=1, batch=(2, 3))
    rows[1, 2, 3, 0] = torch.nan
    mean = rows.nanmean(-2)
    own, common = project(rows, ways, mean), project(rows.float(), ways[0, 1])
    assert own.shape == common.shape == (2, 3, 7, 2)
    for cell in np.ndindex(2, 3):
        np.testing.assert_allclose(own[cell], (rows[cell] - mean[cell]) @ ways[cell].T)
        np.testing.assert_allclose(common[cell], rows[cell] @ ways[0, 1].T, rtol=1e-5, atol=1e-5)
    assert own[1, 2, 3].isnan().all()


def test_the_effective_rank_is_that_of_the_definition():
    """Shares 1/2, 1/4, 1/4 have the entropy 1.5 ln 2."""
    values = torch.tensor([[4.0, 2.0, 2.0], [0.0, 0.0, 0.0]])
    found = effective_rank(values)
    assert float(found[0]) == pytest.approx(2**1.5)
    assert found[1].isnan()


@pytest.mark.parametrize(("n", "width"), [(400, 10), (6, 10), (11, 10), (10, 10)])
def test_parallel_analysis_agrees_with_the_drawn_matrices(n, width):
    sd = torch.linspace(0.5, 2.0, width)
    found = parallel_analysis(sd, n, draws=2000, level=0.5)
    rng = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        table = rng.normal(size=(n, width)) * sd.numpy()
        drawn.append(np.linalg.eigvalsh(np.cov(table.T, bias=True))[::-1])
    wanted, spread = np.median(drawn, 0), np.std(drawn, 0)
    # A median of 2000 has the error 1.25 sd / sqrt(2000) = .028 sd; two of them .04 sd; five of those .2 sd.
    assert (np.abs(found.numpy() - wanted) <= 0.2 * spread + 1e-9).all()


def test_the_triangle_of_a_gaussian_matrix_has_its_singular_values():
    """The mean squared norm of rows x width normals is rows * width; single values against matrices drawn whole."""
    rng = np.random.default_rng(0)
    for rows, width in ((30, 4), (4, 30), (5, 5)):
        draws = [torch.linalg.svdvals(gaussian_triangle(rows, width, rng)) for _ in range(1500)]
        peer = [np.linalg.svd(rng.normal(size=(rows, width)), compute_uv=False) for _ in range(1500)]
        assert np.mean([float(d.square().sum()) for d in draws]) == pytest.approx(rows * width, rel=0.03)
        np.testing.assert_allclose(torch.stack(draws).mean(0), np.mean(peer, 0), rtol=0.05)


def test_no_cost_of_the_null_depends_on_n_and_the_cells_are_their_own():
    sd = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [1.0, torch.nan, 1.0]])
    n = torch.tensor([10**12, 1, 50])
    found = parallel_analysis(sd, n, draws=5)
    np.testing.assert_allclose(found[0], [9, 4, 1], rtol=1e-4)
    assert found[1:].isnan().all()
    torch.testing.assert_close(parallel_analysis(sd[0], 10**12, draws=5), found[0])
    torch.testing.assert_close(parallel_analysis(sd[0].double(), 10**12, draws=5), found[0])


def test_noise_stays_below_its_null_and_a_planted_direction_above():
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(500, 20, generator=generator)
    planted = rows + 1.0 * torch.randn(500, 1, generator=generator) * torch.ones(20) / 20**0.5
    for data, wanted in ((rows, 0), (planted, 1)):
        moments = moments_of(data)
        null = parallel_analysis(moments.sd, moments.n, draws=200)
        above = spectrum(moments).eigenvalues > null
        assert int(above.int().cumprod(0).sum()) == wanted


def naive_auc(positive, negative):
    pairs = [(p, n) for p in positive for n in negative if not (np.isnan(p) or np.isnan(n))]
    return np.mean([1.0 if p > n else 0.5 if p == n else 0.0 for p, n in pairs]) if pairs else np.nan


SCORES = st.lists(st.sampled_from([-np.inf, -1.0, 0.0, 0.5, 1.0, 2.0, np.inf, np.nan]), min_size=1, max_size=12)


@settings(max_examples=100, deadline=None)
@given(positive=SCORES, negative=SCORES)
def test_auc_counts_pairs(positive, negative):
    found = auc(torch.tensor(positive), torch.tensor(negative))
    np.testing.assert_allclose(float(found), naive_auc(positive, negative), rtol=1e-12)


def test_auc_of_every_cell_agrees_with_sklearn():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(0.3, 1, (40, 2, 3)).round(1), rng.normal(size=(70, 2, 3)).round(1)
    found = auc(torch.from_numpy(positive), torch.from_numpy(negative))
    for cell in np.ndindex(2, 3):
        scores = np.concatenate([positive[:, *cell], negative[:, *cell]])
        assert float(found[cell]) == pytest.approx(roc_auc_score([1] * 40 + [0] * 70, scores), rel=1e-12)
    assert auc(torch.zeros(0, 2), torch.zeros(3, 2)).isnan().all()


def test_what_does_not_fit_is_refused_in_one_line():
    moments = moments_of(rows_of(5, 3))
    with pytest.raises(DataError, match=r"\(4, 2\) do not fit moments of \(3,\)"):
        moments.update(torch.zeros(4, 2))
    with pytest.raises(DataError, match="do not fit"):
        moments.update(torch.zeros(2, 4, 3))
    with pytest.raises(DataError, match="do not fit"):
        moments.merge(Moments.empty((), 4))
    with pytest.raises(DataError, match="cells of"):
        auc(torch.zeros(4, 2, 3), torch.zeros(4, 3, 2))
    with pytest.raises(ConfigError, match="at least one direction"):
        spectrum(moments, top=0)
    with pytest.raises(ConfigError, match="share"):
        spectrum(moments).components_for(0.0)
    with pytest.raises(ConfigError, match="at least one draw"):
        parallel_analysis(moments.sd, moments.n, draws=0)


MEMORY = """
import resource, torch
torch.set_num_threads(1)
from interp.spectra import Moments, spectrum
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
base = torch.randn(8192, 512, generator=torch.Generator().manual_seed(0))
warm = Moments.empty((), 512)
warm.update(base[:8] + 0.0)
spectrum(warm)
before, moments = peak(), Moments.empty((), 512)
for chunk in range(123):
    moments.update(base + chunk / 10)
found = spectrum(moments)
assert int(moments.n) > 10**6
# The means of the chunks have the variance (123^2 - 1) / 12 / 100 in each coordinate.
wanted = float(base.double().var(0, correction=0).sum()) + 512 * (123**2 - 1) / 1200
assert abs(float(found.variance) / wanted - 1) < 1e-6
print(peak() - before)
"""


@pytest.mark.whole
def test_a_million_vectors_of_width_512_take_50_mebibytes_at_most():
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(found.stdout) <= 50, found.stdout
