import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from interp.analyses.selectivity import selectivity
from interp.errors import ConfigError, PromptError
from interp.estimates import dealt
from interp.prompts import Prompts
from interp.sites import Site
from interp.tensors import Activations


def made(n=120, neurons=30, planted=0.0, seed=0, values=2):
    """Noise in two layers; neuron 7 of layer 1 moves with the label. Two prompts of a group share label and noise."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(n) // 2
    label = torch.randint(values, (n // 2,), generator=generator)[groups]
    tensors = {}
    for layer in (0, 1):
        own = torch.randn(n // 2, 2, neurons, generator=generator)[groups]
        tensors[Site("mlp_post", layer)] = own + 0.5 * torch.randn(n, 2, neurons, generator=generator)
    tensors[Site("mlp_post", 1)][:, 1, 7] += planted * label
    labels = pd.DataFrame({"label": label.numpy(), "same": 1})
    return Activations(
        Prompts.from_tokens(torch.zeros(n, 2, dtype=torch.long), labels=labels, groups=groups), tensors, 2
    )


def test_a_planted_neuron_is_found_and_nothing_else():
    found = selectivity(made(240, planted=3.0), "label", at=1, permutations=1999)
    assert found.found().nonzero().tolist() == [[1, 7]]
    assert found.classes[int(found.prefers[1, 7])] == "1"
    frame = found.to_frame()
    assert frame.loc[frame["effect"].idxmax(), ["layer", "neuron"]].tolist() == [1, 7]
    # It is not there at the other position.
    assert not bool(selectivity(made(240, planted=3.0), "label", at=0).found().any())


@pytest.mark.parametrize("values", [2, 4])
def test_eta_squared_equals_the_analysis_of_variance(values):
    activations = made(120, planted=1.0, values=values)
    found = selectivity(activations, "label", at=1, permutations=99)
    from interp.estimates import halves

    half = halves(activations.prompts.groups, seed=0)[0]
    codes = activations.prompts.labels["label"].to_numpy()[half]
    x = activations["mlp_post", 1][:, 1, 7].numpy()[half]
    parts = [x[codes == c] for c in range(values)]
    f = stats.f_oneway(*parts).statistic
    wanted = f * (values - 1) / (f * (values - 1) + len(x) - values)
    np.testing.assert_allclose(float(found.effect[1, 7]), wanted, rtol=1e-4)


def test_noise_is_found_no_more_often_than_the_stated_level():
    """200 seeds of pure noise whose groups agree: the share with any neuron found is at most 5 %."""
    any_found = sum(
        bool(selectivity(made(64, 10, seed=s), "label", at=1, permutations=199, seed=s).found().any())
        for s in range(200)
    )
    assert stats.binomtest(any_found, 200).proportion_ci(0.95, "exact").low <= 0.05, any_found


def test_the_p_value_is_uniform_where_nothing_is_there():
    p = torch.cat([selectivity(made(64, 10, seed=s), "label", at=1, permutations=199, seed=s).p for s in range(40)])
    for level in (0.05, 0.5):
        rate = float((p <= level).float().mean())
        assert abs(rate - level) < 5 * (level * (1 - level) / 40) ** 0.5  # one draw a seed at the least


def test_labels_are_dealt_to_whole_groups():
    codes, groups = np.array([0, 0, 1, 1, -1, 2, 2]), np.array([5, 5, 3, 3, 3, 9, 9])
    seen = set()
    for seed in range(50):
        found = dealt(codes, groups, np.random.default_rng(seed))
        assert found[0] == found[1]
        assert found[2] == found[3]
        assert found[4] == -1
        assert sorted(found[[0, 2, 5]]) == [0, 1, 2]
        seen.add(tuple(found))
    assert len(seen) == 6


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(PromptError, match="two values"):
        selectivity(made(), "same", at=1)
    with pytest.raises(PromptError, match="16 groups"):
        selectivity(made(20), "label", at=1)
    with pytest.raises(ConfigError, match="permutations"):
        selectivity(made(), "label", at=1, permutations=9)
    with pytest.raises(PromptError, match="no label 'other'"):
        selectivity(made(), "other", at=1)


def test_twins_in_one_group_do_not_make_neurons_of_noise():
    """Every group holds a prompt of either class, the same one first; the bound is that of a nominal 5 % of 400."""
    n = 80
    generator = torch.Generator().manual_seed(0)
    labels = pd.DataFrame({"unsafe": ["safe", "unsafe"] * (n // 2)})
    prompts = Prompts.from_tokens(torch.ones(n, 2, dtype=torch.long), labels=labels, groups=torch.arange(n) // 2)
    noise = torch.randn(n, 2, 400, generator=generator) + torch.randn(n // 2, 1, 400).repeat_interleave(2, 0)
    found = selectivity(Activations(prompts, {Site("mlp_post", 0): noise}, 1), "unsafe", at="last", permutations=199)
    assert 0 < int((found.p <= 0.05).sum()) <= stats.binom.ppf(0.999, 400, 0.05)
    told = noise.clone()
    told[1::2, :, 0] += 3.0
    again = selectivity(Activations(prompts, {Site("mlp_post", 0): told}, 1), "unsafe", at="last", permutations=199)
    assert float(again.p[0, 0]) == pytest.approx(1 / 200)
