"""Two models side by side: a known difference, none, and prompts that are not the same."""

import numpy as np
import pytest
import torch
from scipy import stats

from interp.analyses.ablation import Ablation
from interp.analyses.heads import HeadScores
from interp.analyses.logit_lens import logit_lens
from interp.analyses.patching import Patching, patching
from interp.datasets.arithmetic import Problem
from interp.datasets.arithmetic_prompts import to_prompts
from interp.errors import ConfigError, PromptError
from interp.files import data_dir
from interp.models.load import load_model
from interp.models.run import capture
from interp.workflows.comparison import compare
from tests.known import known_model, known_pairs


def ablated(rng, n=40, shift=0.0, layers=(0, 1), groups=None):
    values = torch.from_numpy(rng.normal(size=(n, len(layers), 2, 1))).float()
    values[:, 0, 1] -= shift
    whole = torch.arange(n) if groups is None else groups
    return Ablation("z", "mean", layers, "head", ("0", "1"), ("log_prob",), values, torch.zeros(n, 1), whole)


def test_a_known_difference_is_measured_cell_by_cell():
    rng = np.random.default_rng(0)
    found = compare(ablated(rng), ablated(rng, shift=2.0), ("a", "b"))
    assert found.rows == ("layer 0", "layer 1")
    assert found.columns == ("head 0", "head 1")
    gap = found.estimate("difference")
    assert float(gap[0, 1].low) < 2 < float(gap[0, 1].high)
    assert float(found.p[0, 1]) < 0.01
    torch.testing.assert_close(found.difference[..., 0], found.second[..., 0] - found.first[..., 0])
    assert len(found.to_frame()) == 4


def test_a_layer_that_one_model_lacks_is_left_out():
    rng = np.random.default_rng(0)
    found = compare(ablated(rng), ablated(rng, layers=(1, 2, 3)), ("a", "b"))
    assert found.rows == ("layer 1",)
    with pytest.raises(PromptError, match="in common"):
        compare(ablated(rng), ablated(rng, layers=(2, 3)), ("a", "b"))


@pytest.mark.whole
def test_equal_models_differ_no_more_often_than_stated():
    """200 seeds: the share with any cell below 5 % after correction for all cells."""
    count = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        count += bool((compare(ablated(rng, 24), ablated(rng, 24), ("a", "b")).p <= 0.05).any())
    assert stats.binomtest(count, 200).proportion_ci(0.95, "exact").low <= 0.05, count


def test_other_prompts_and_other_kinds_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(PromptError, match="not on the same prompts"):
        compare(ablated(rng), ablated(rng, 30), ("a", "b"))
    with pytest.raises(PromptError, match="not on the same prompts"):
        compare(ablated(rng), ablated(rng, groups=torch.arange(40) // 2), ("a", "b"))
    scores = HeadScores(("job",), (0,), torch.rand(40, 1, 2, 1), torch.rand(40, 1), torch.arange(40))
    with pytest.raises(ConfigError, match="cannot be compared with"):
        compare(ablated(rng), scores, ("a", "b"))
    with pytest.raises(ConfigError, match="cannot be compared"):
        compare("one", "other", ("a", "b"))


def test_real_results_of_one_model_do_not_differ_from_themselves():
    model = load_model(str(data_dir() / "models/arithmetic-add3"), device="cpu")
    given = to_prompts([Problem(100 + 7 * i, "+", 205 + 11 * i) for i in range(24)], steps=False)
    lens = logit_lens(capture(model, given, ["resid_pre", "resid_post"]), model)
    found = compare(lens, lens, ("a", "b"))
    assert found.rows == lens.depths
    np.testing.assert_allclose(found.difference[..., 0].nan_to_num(0.0), 0)
    known, pairs = known_model(), known_pairs(24)
    patched = patching(known, pairs, site="z", metric="logit_diff")
    table = compare(patched, patched, ("a", "b"))
    share = np.nanmean(patched.moved.numpy(), 0) / np.nanmean((patched.clean - patched.corrupted).numpy())
    np.testing.assert_allclose(table.first[..., 0], share, atol=1e-5)


def test_a_share_is_of_the_pairs_that_have_the_place():
    """A position that some pairs lack: the table's mean is the library's ratio of means."""
    rng = np.random.default_rng(0)
    n = 40
    clean, corrupted = (torch.from_numpy(rng.normal(size=n) + shift).float() for shift in (3, -3))
    patched = corrupted[:, None, None] + torch.from_numpy(rng.normal(size=(n, 2, 2))).float()
    patched[clean > 3, :, 1] = torch.nan
    made = Patching(
        site="resid_pre", direction="denoising", metric="logit_diff", unit="logits", layers=(0, 1), axis="position",
        columns=("a", "b"), patched=patched, control=patched, differs="", clean=clean, corrupted=corrupted,
        groups=torch.arange(n), threshold=0.0,
    )  # fmt: skip
    np.testing.assert_allclose(compare(made, made, ("a", "b")).first[..., 0], made.share().value, atol=1e-6)


def test_rounding_is_no_difference():
    rng = np.random.default_rng(0)
    one = ablated(rng)
    noise = torch.from_numpy(rng.normal(size=one.ablated.shape)).float() * 1e-7
    other = Ablation(**{**vars(one), "ablated": one.ablated + noise.abs()})
    found = compare(one, other, ("a", "b"))
    assert (found.p == 1).all()
    assert not found.difference[..., 0].any()


def test_two_names_are_needed():
    one = ablated(np.random.default_rng(0))
    for names in (["a"], ["a", "a"], ["a", "b", "c"]):
        with pytest.raises(ConfigError, match="two different names"):
            compare(one, one, names)
