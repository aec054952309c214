import numpy as np
import pandas as pd
import pytest
import torch

from interp.analyses.weight_changes import lora_spectrum, weight_changes
from interp.errors import ModelError
from interp.results import load, save


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_diagonal_change_has_the_numbers_of_its_entries():
    """Singular values 3, 4 and 0: norm 5, spectral 4, shares 3/7 and 4/7 of the sum, 16/25 of the square."""
    before, after = torch.eye(3), torch.eye(3) + torch.diag(torch.tensor([3.0, -4.0, 0.0]))
    found = weight_changes({"w": before}, {"w": after})
    assert float(found.norm) == pytest.approx(5)
    assert float(found.relative) == pytest.approx(5 / 3**0.5)
    assert float(found.spectral_norm) == pytest.approx(4)
    assert float(found.top_share) == pytest.approx(16 / 25)
    assert float(found.stable_rank) == pytest.approx(25 / 16)
    assert float(found.effective_rank) == pytest.approx((7 / 3) ** (3 / 7) * (7 / 4) ** (4 / 7))


@pytest.mark.parametrize("shape", [(200, 12), (12, 200), (30, 30), (61, 30), (1, 5)])
def test_the_change_has_the_dense_singular_values_whatever_its_shape(shape):
    before, change = normal(*shape), normal(*shape, seed=1)
    found = weight_changes({"w": before}, {"w": before + change})
    values = np.linalg.svd(change.numpy(), compute_uv=False)
    share = values / values.sum()
    np.testing.assert_allclose(float(found.norm), np.linalg.norm(change), rtol=1e-12)
    np.testing.assert_allclose(float(found.before_norm), np.linalg.norm(before), rtol=1e-12)
    np.testing.assert_allclose(float(found.spectral_norm), values[0], rtol=1e-12)
    np.testing.assert_allclose(float(found.effective_rank), np.exp(-(share * np.log(share)).sum()), rtol=1e-12)
    np.testing.assert_allclose(float(found.stable_rank), (values**2).sum() / values[0] ** 2, rtol=1e-12)


@pytest.mark.parametrize("shape", [(300, 40), (40, 40), (40, 300)])
def test_a_change_of_rank_two_has_an_effective_rank_of_at_most_two_and_a_gaussian_one_that_of_chance(shape):
    before = normal(*shape)
    low, full = normal(shape[0], 2, seed=1) @ normal(2, shape[1], seed=2), normal(*shape, seed=3)
    found = weight_changes({"low": before, "full": before}, {"low": before + low, "full": before + 1e-3 * full})
    assert 1 < float(found.effective_rank[0]) <= 2 + 1e-9
    assert float(found.random_rank[0]) == float(found.random_rank[1])
    np.testing.assert_allclose(float(found.effective_rank[1]), float(found.random_rank[1]), rtol=0.03)
    assert float(found.random_rank[0]) > 20


def test_an_unchanged_module_has_no_rank_and_a_vector_norms_alone():
    before = {"same": normal(4, 4), "bias": torch.tensor([3.0, 4.0]), "scalar": torch.tensor(2.0)}
    after = {"same": normal(4, 4), "bias": torch.tensor([3.0, 4.5]), "scalar": torch.tensor(2.0)}
    found = weight_changes(before, after)
    assert found.modules == ("same", "bias", "scalar")
    assert found.norm.tolist() == [0, 0.5, 0]
    assert found.relative.tolist() == [0, 0.1, 0]
    assert float(found.spectral_norm[0]) == 0
    for ranks in (found.effective_rank, found.stable_rank, found.top_share):
        assert ranks.isnan().all()
    assert found.random_rank.isnan().tolist() == [False, True, True]


def test_a_grown_vocabulary_is_compared_on_the_rows_both_have():
    before = {"embed": normal(10, 4), "head.bias": normal(10)}
    after = {"embed": torch.cat([before["embed"], 100 * normal(3, 4, seed=1)]), "head.bias": normal(13, seed=2)}
    after["head.bias"][:10] = before["head.bias"] + 1
    found = weight_changes(before, after)
    assert found.shapes == ((10, 4), (10,))
    assert found.added_rows.tolist() == [3, 3]
    assert float(found.norm[0]) == 0
    assert float(found.norm[1]) == pytest.approx(10**0.5)


def test_the_matrices_of_a_stack_are_modules_of_their_own():
    before, after = {"W_Q": normal(2, 6, 3)}, {"W_Q": normal(2, 6, 3, seed=1)}
    found = weight_changes(before, after)
    assert found.modules == ("W_Q[0]", "W_Q[1]")
    assert found.shapes == ((6, 3), (6, 3))
    np.testing.assert_allclose(found.norm, (after["W_Q"] - before["W_Q"]).flatten(1).norm(dim=1))


def test_half_precision_and_gradients_are_no_hindrance_and_integers_are_not_compared():
    before = {"w": torch.ones(4, 4, dtype=torch.bfloat16), "ids": torch.arange(3)}
    after = {"w": torch.nn.Parameter(torch.ones(4, 4) + torch.eye(4)), "ids": torch.arange(4)}
    found = weight_changes(before, after)
    assert found.modules == ("w",)
    assert float(found.effective_rank) == pytest.approx(4)
    assert float(found.norm) == pytest.approx(2)


def test_rounding_to_bfloat16_raises_the_effective_rank_and_leaves_the_stable_rank():
    before = 0.02 * normal(256, 256)
    after = before.bfloat16().double() + 1e-4 * normal(256, 2, seed=1) @ normal(2, 256, seed=2)
    found = weight_changes({"w": before.bfloat16()}, {"w": after.bfloat16()})
    assert float(found.effective_rank) > 20
    assert float(found.stable_rank) < 2.5


def test_a_change_that_is_not_finite_is_undefined():
    found = weight_changes({"w": torch.eye(3)}, {"w": torch.eye(3) / 0})
    assert float(found.before_norm) == pytest.approx(3**0.5)
    for values in (found.norm, found.spectral_norm, found.effective_rank, found.stable_rank):
        assert values.isnan().all()


def test_what_cannot_be_compared_is_refused_in_one_line():
    whole = {"a": normal(3, 3), "b": normal(3), "c": normal(3)}
    with pytest.raises(ModelError, match=r"after alone have b \(2 modules"):
        weight_changes({"a": whole["a"]}, whole)
    with pytest.raises(ModelError, match="before alone have c;"):
        weight_changes(whole, {"a": whole["a"], "b": whole["b"]})
    for old, new in (((3, 3), (3, 4)), ((3, 3), (2, 3)), ((3,), (3, 3)), ((2, 3, 3), (3, 3, 3)), ((), (1,))):
        with pytest.raises(ModelError, match="only rows that were added"):
            weight_changes({"w": normal(*old)}, {"w": normal(*new)})


def test_a_result_is_saved_and_tabled(tmp_path):
    before = {"w": normal(5, 4), "b": normal(4), "stack": normal(2, 3, 3)}
    found = weight_changes(before, {name: w + 1 for name, w in before.items()})
    frame = found.to_frame()
    assert frame["module"].tolist() == ["w", "b", "stack[0]", "stack[1]"]
    assert frame["shape"].tolist() == ["5 x 4", "4", "3 x 3", "3 x 3"]
    np.testing.assert_allclose(frame["effective_rank"][[0, 2, 3]], 1)  # the same number in every entry
    save(found, tmp_path)
    pd.testing.assert_frame_equal(load(tmp_path).to_frame(), frame)
    assert weight_changes({}, {}).to_frame().empty
    update = lora_spectrum(normal(2, 5), normal(4, 2))
    save(update, tmp_path / "lora")
    torch.testing.assert_close(load(tmp_path / "lora").left, update.left)


@pytest.mark.parametrize(("rank", "inside", "outside"), [(3, 20, 30), (3, 30, 20), (8, 5, 30), (1, 4, 4), (6, 4, 5)])
def test_the_spectrum_of_a_low_rank_update_is_that_of_the_product(rank, inside, outside):
    a, b = normal(rank, inside), normal(outside, rank, seed=1)
    found = lora_spectrum(a, b, 0.25)
    product = 0.25 * b @ a
    count = min(rank, inside, outside)
    np.testing.assert_allclose(found.values, np.linalg.svd(product, compute_uv=False)[:count], rtol=1e-10)
    np.testing.assert_allclose(found.left * found.values @ found.right, product, atol=1e-12)
    np.testing.assert_allclose(found.left.T @ found.left, np.eye(count), atol=1e-12)
    np.testing.assert_allclose(found.right @ found.right.T, np.eye(count), atol=1e-12)
    assert found.to_frame()["share"].sum() == pytest.approx(1)
    dense = weight_changes({"w": torch.zeros_like(product)}, {"w": product})
    assert float(dense.spectral_norm) == pytest.approx(float(found.values[0]))


def test_a_scale_of_zero_or_below_is_still_an_update():
    a, b = normal(2, 5), normal(4, 2)
    torch.testing.assert_close(lora_spectrum(a, b, -2.0).values, lora_spectrum(a, b, 2.0).values)
    assert lora_spectrum(a.float(), b.float(), 0.0).values.tolist() == [0, 0]
