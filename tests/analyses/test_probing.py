import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from interp.analyses.probing import probing
from interp.analyses.steering import direction_test
from interp.errors import ConfigError, PromptError
from interp.models.directions import Direction
from interp.models.load import load_model
from interp.models.run import capture
from interp.prompts import Prompts
from interp.sites import Site
from interp.tensors import Activations
from tests.conftest import tiny
from tests.known import known_model, known_pairs


def made(n=160, d=12, planted=True, seed=0):
    """Activations of noise; at depth 1, position 1, the label is added along one axis."""
    generator = torch.Generator().manual_seed(seed)
    label = torch.randint(2, (n,), generator=generator)
    key = torch.randint(8, (n,), generator=generator)
    groups = torch.arange(n) // 2
    label = label[groups * 2]  # both prompts of a group have one label
    labels = pd.DataFrame({"label": label.bool().numpy(), "key": key.numpy(), "same": 1})
    prompts = Prompts.from_tokens(torch.zeros(n, 3, dtype=torch.long), labels=labels, groups=groups)
    pre, post = (torch.randn(n, 3, d, generator=generator) for _ in range(2))
    if planted:
        post[:, 1, 4] += 4.0 * label - 2.0
    return Activations(prompts, {Site("resid_pre", 0): pre, Site("resid_post", 0): post}, 1)


def test_a_planted_label_is_read_where_it_is_and_only_there():
    found = probing(made(), "label", at=[0, 1], key=["key"])
    accuracy = found.accuracy()
    assert accuracy.value.shape == (2, 2)
    # Two means 4 apart in unit noise: 97.7 % at best.
    assert 0.93 < accuracy.value[1, 1] <= 1
    others = accuracy.value[[0, 0, 1], [0, 1, 0]]
    assert (np.abs(others - 0.5) < 0.2).all()
    for name in ("shuffled", "control"):
        assert abs(float(getattr(found, name)[:, 1, 1].nanmean()) - 0.5) < 0.2
    assert float(found.selectivity().low[1, 1]) > 0.2
    assert float(found.beyond_majority().low[1, 1]) > 0.2
    assert found.classes == ("0", "1")
    direction = found.direction(1, 1, "1")
    assert direction.site == Site("resid_post", 0)
    assert float(direction.unit[4]) > 0.8
    assert found.direction(1, 1, "0").cosine(direction) == pytest.approx(-1, abs=1e-5)
    assert len(found.to_frame()) == 160 * 4


def test_a_group_is_never_in_both_halves_of_a_fold():
    """Each group carries its own random label and a vector of its own: only a leak could name it."""
    n = 120
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(n) // 4
    label = torch.randint(2, (n // 4,), generator=generator)[groups]
    own = torch.randn(n // 4, 40, generator=generator)[groups][:, None]
    prompts = Prompts.from_tokens(
        torch.zeros(n, 1, dtype=torch.long), labels=pd.DataFrame({"label": label.numpy(), "key": 0}), groups=groups
    )
    activations = Activations(prompts, {Site("resid_pre", 0): own, Site("resid_post", 0): own}, 1)
    accuracy = probing(activations, "label", at=[0], key=["key"]).accuracy().value
    assert (accuracy < 0.8).all()


@pytest.mark.parametrize("d", [6, 90])
def test_probes_equal_scikit_learns_fitted_one_by_one(d):
    """On the same folds; d below and above the number of prompts. A class may differ where two are nearly as likely."""
    activations = made(60, d)
    found = probing(activations, "label", at=[0, 1], key=["key"], strength=0.5)
    again = probing(activations, "label", at=[0, 1], key=["key"], strength=0.5, memory=1)
    codes = activations.prompts.coded("label")[0]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, tol=1e-9, max_iter=10_000))
    folds = GroupKFold(5, shuffle=True, random_state=0)
    for depth, (_, _, stream) in enumerate(activations.stream()):
        for position in range(2):
            x = stream[:, position].double().numpy()
            likely = cross_val_predict(
                probe, x, codes, groups=activations.prompts.groups.numpy(), cv=folds, method="predict_proba"
            )
            sure = np.abs(likely[:, 0] - likely[:, 1]) > 1e-3
            right = found.right[:, depth, position].numpy()
            assert (right == (likely.argmax(1) == codes))[sure].all()
            scaler, fit = probe.fit(x, codes)[0], probe[-1]
            weights = torch.from_numpy(fit.coef_[0] / scaler.scale_).float()
            torch.testing.assert_close(found.vectors[depth, position, 1], weights, atol=1e-3, rtol=1e-3)
    for name in ("right", "shuffled", "control", "majority"):
        assert torch.equal(getattr(found, name), getattr(again, name))
    torch.testing.assert_close(found.vectors, again.vectors)


@pytest.mark.whole
def test_labels_dealt_out_anew_are_not_read():
    """200 seeds of pure noise: the lower end of Wilson's interval lies above chance in at most 2.5 % of them."""
    supported = 0
    for seed in range(200):
        found = probing(made(40, d=3, planted=False, seed=seed), "label", at=[1], key=["key"], folds=2)
        supported += float(found.beyond_majority().low[1, 0]) > 0
    from scipy import stats

    assert stats.binomtest(supported, 200).proportion_ci(0.95, "exact").low <= 0.025, supported


def test_what_cannot_be_probed_is_refused():
    with pytest.raises(PromptError, match="no label 'carry'"):
        probing(made(), "carry", at=[0], key=["key"])
    with pytest.raises(PromptError, match="needs two"):
        probing(made(), "same", at=[0], key=["key"])
    with pytest.raises(ConfigError, match="needs a key"):
        probing(made(), "label", at=[0], key=[])
    with pytest.raises(ConfigError, match="knows no label"):
        probing(made(40), "label", at=[0], key=["key"]).direction(0, 0, "2")


def test_a_direction_that_the_known_model_uses():
    """The answer's own unembedding, projected out at the end, takes the answer away; random directions do not."""
    model, pairs = known_model(), known_pairs(40)
    prompts = pairs.clean
    layer = int(model.cfg.n_layers) - 1
    answer = int(prompts.answers[0, 0])
    same = prompts.take((prompts.answers[:, 0] == answer).numpy())
    direction = Direction(Site("resid_post", layer), model.W_U[:, answer].detach().clone(), "the unembedding of B")
    found = direction_test(model, same, direction, at=-1, doses=[-2.0, 2.0], random_directions=10)
    assert found.edits == ("project out", "add -2", "add 2")
    change = (found.values - found.base[:, None]).mean(0)
    random = (found.random.mean(2) - found.base[:, None]).mean(0)
    assert float(change[0]) < -1 < float(random[0])
    assert float(change[1]) < 0
    assert len(found.to_frame()) == 3 * len(same)


def test_an_edit_equals_itself_made_by_hand():
    from interp.metrics import METRICS, Targets
    from interp.models.run import edit

    model = load_model(tiny("llama"), device="cpu")
    prompts = Prompts.from_tokens(torch.tensor([[3, 4, 5], [6, 7, 8]]), answers=torch.tensor([1, 2]))
    direction = Direction(Site("resid_pre", 1), torch.linspace(-1, 1, 24), "a line")
    found = direction_test(model, prompts, direction, doses=[0.5], random_directions=2)
    for i, change in enumerate((direction.project_out(), direction.add(0.5))):
        logits = edit(model, prompts, [change])["logits"]
        wanted = METRICS["log_prob"].score(logits, Targets.of(prompts))
        torch.testing.assert_close(found.values[:, i], wanted, atol=1e-5, rtol=1e-5)
    assert capture(model, prompts, ["logits"])["logits"].shape == (2, 1, 23)
