import numpy as np
import pandas as pd
import pytest
import torch

from interp.analyses.ablation import ablation
from interp.analyses.circuits import circuit_test, cumulative_ablation
from interp.errors import ConfigError, PromptError
from interp.models.replacement import replacement
from interp.models.run import capture
from interp.sites import Site
from tests.conftest import padded
from tests.known import known_model, known_pairs
from tests.naive import Naive

ANSWERS = torch.tensor([3, 4, 5, 6, 7])


@pytest.fixture
def prompts(side):
    """Three prompts of one length, two of another: the layouts."""
    generator = torch.Generator().manual_seed(5)
    ids = [torch.randint(23, (length,), generator=generator) for length in (6, 8, 6, 6, 8)]
    return ids, padded(ids, side, answers=ANSWERS)


def log_prob(logits, answer):
    return float(logits.log_softmax(-1)[answer])


def written(naive, ids, name, layer, kind, row, rows):
    """What naive ablation writes: zeros, the mean over the others of the same length, or another prompt's."""
    here = naive.read(ids[row], name, layer)
    if kind == "zero":
        return torch.zeros_like(here)
    if kind == "resample":
        return naive.read(ids[int(rows[row])], name, layer)
    others = [naive.read(o, name, layer) for i, o in enumerate(ids) if i != row and len(o) == len(ids[row])]
    return torch.stack(others).mean(0)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("z", "zero"),
        ("z", "mean"),
        ("z", "resample"),
        ("mlp_post", "mean"),
        ("attn_out", "resample"),
        ("mlp_out", "zero"),
    ],
)
def test_ablation_equals_the_naive_loop(hf, model, prompts, name, kind):
    ids, given = prompts
    by_unit = name in ("z", "mlp_post")
    units = [0, 3] if by_unit else None
    found = ablation(model, given, site=name, kind=kind, metrics=["log_prob"], units=units, seed=1)
    rows = getattr(replacement(model, given, [Site(name, 0)], kind, seed=1)[0], "rows", None)
    naive = Naive(hf)
    for i, row in enumerate(ids):
        np.testing.assert_allclose(found.base[i, 0], log_prob(naive.logits(row)[-1], ANSWERS[i]), atol=1e-5, rtol=1e-5)
        for layer in range(3):
            new = written(naive, ids, name, layer, kind, i, rows)
            for j, unit in enumerate(units or [None]):

                def put(x, unit=unit, new=new):
                    if unit is None:
                        return new
                    x = x.clone()
                    x[:, unit] = new[:, unit]
                    return x

                wanted = log_prob(naive.logits(row, (name, layer, put))[-1], ANSWERS[i])
                np.testing.assert_allclose(float(found.ablated[i, layer, j, 0]), wanted, atol=1e-5, rtol=1e-5)


def test_single_positions_are_ablated_alone(hf, model, prompts):
    ids, given = prompts
    found = ablation(model, given, site="mlp_out", kind="zero", metrics=["log_prob"], positions=[0, 7])
    assert found.ablated[0, :, 1].isnan().all()  # a prompt of six tokens has no eighth
    naive = Naive(hf)

    def put(x):
        x = x.clone()
        x[7] = 0
        return x

    wanted = log_prob(naive.logits(ids[1], ("mlp_out", 1, put))[-1], ANSWERS[1])
    np.testing.assert_allclose(float(found.ablated[1, 1, 1, 0]), wanted, atol=1e-5, rtol=1e-5)


def test_parts_taken_away_together_equal_the_naive_loop(hf, model, prompts):
    ids, given = prompts
    order = [(2, 1), (0, 3), (2, 0)]
    found = cumulative_ablation(model, given, order, kind="zero", metrics=["log_prob"], random_orders=3)
    assert found.parts == ("L2H1", "L0H3", "L2H0")
    naive = Naive(hf)

    for i, row in enumerate(ids):
        # Two heads of one layer at once: the last two steps differ by L2H0 and L0H3; check the first and the base.
        def put(x):
            x = x.clone()
            x[:, 1] = 0
            return x

        wanted = [naive.logits(row)[-1], naive.logits(row, ("z", 2, put))[-1]]
        for step, logits in enumerate(wanted):
            np.testing.assert_allclose(
                float(found.values[i, step, 0]), log_prob(logits, ANSWERS[i]), atol=1e-5, rtol=1e-5
            )
    # Every order ends with all parts taken away.
    for order_number in range(3):
        torch.testing.assert_close(found.random[:, order_number, -1], found.values[:, -1], atol=1e-5, rtol=1e-5)


def test_the_circuit_of_the_known_model_is_faithful_and_complete():
    """Of four heads two do the work, one after the other; without either of them nothing is left."""
    model, prompts = known_model(), known_pairs(60).clean
    found = circuit_test(model, prompts, [(0, 0), (1, 0)], metrics=["log_prob"], random_circuits=6, kind="resample")
    own, control = found.faithfulness()
    np.testing.assert_allclose(float(own.value), 1, atol=1e-3)
    assert float(control.value) < 0.7  # one in six random pairs is the circuit itself
    left, _ = found.completeness()
    np.testing.assert_allclose(float(left.value), 0, atol=0.05)


def test_importance_takes_a_mask_as_pandas_gives_it():
    model, prompts = known_model(), known_pairs(60).clean
    found = ablation(model, prompts, kind="zero", metrics=["log_prob"])
    mask = np.arange(60) % 2 == 0
    mask.flags.writeable = False
    expected = found.drop()[::2].mean(dim=0)
    np.testing.assert_allclose(found.importance(mask).value, expected, rtol=1e-6)
    np.testing.assert_allclose(found.importance(pd.Series(mask)).value, expected, rtol=1e-6)


def test_importance_finds_the_heads_of_the_known_model():
    model, prompts = known_model(), known_pairs(60).clean
    found = ablation(model, prompts, kind="resample", metrics=["log_prob", "exact_match"])
    value = found.importance(metric="exact_match").value
    assert value[0, 0] > 0.5
    assert value[1, 0] > 0.5
    np.testing.assert_allclose(value[:, 1], 0, atol=1e-6)
    curve, control, gap = cumulative_ablation(
        model, prompts, [(1, 0), (0, 0), (1, 1), (0, 1)], kind="resample", metrics=["log_prob"], random_orders=8
    ).curve()
    assert float(gap.high[1]) < 0  # taken away first, the head that matters costs more than a random one
    assert float(gap.value[0]) == pytest.approx(0, abs=1e-6)  # the whole model
    assert len(curve.value) == len(control.value) == 5


def test_prompts_without_a_partner_are_nan(model):
    ids = [torch.arange(4), torch.arange(6), torch.arange(1, 7)]
    given = padded(ids, "right", answers=torch.tensor([1, 2, 3]))
    for kind in ("mean", "resample"):
        found = ablation(model, given, kind=kind, metrics=["log_prob"])
        assert found.ablated[0].isnan().all()
        assert not found.ablated[1:].isnan().any()
    with pytest.raises(PromptError, match="use zero"):
        ablation(model, padded([torch.arange(4), torch.arange(6)], "right", answers=torch.tensor([1, 2])))


def test_what_cannot_be_ablated_is_refused(model, prompts):
    _, given = prompts
    with pytest.raises(ConfigError, match="no heads or neurons"):
        cumulative_ablation(model, given, [(0, 0)], site="attn_out")
    with pytest.raises(ConfigError, match="L0H9"):
        cumulative_ablation(model, given, [(0, 9)])
    with pytest.raises(ConfigError, match="named twice"):
        circuit_test(model, given, [(0, 1), (0, 1)])
    with pytest.raises(ConfigError, match="keeps some parts"):
        circuit_test(model, given, [])
    with pytest.raises(ConfigError, match="no metric 'accuracy'"):
        ablation(model, given, metrics=["accuracy"])


def test_the_mean_is_over_the_others_of_the_layout(model, prompts):
    _, given = prompts
    kept = capture(model, given, ["z"])
    value, _ = replacement(model, given, [Site("z", 1)], "mean")
    wanted = (kept["z", 1][2, :6] + kept["z", 1][3, :6]) / 2
    torch.testing.assert_close(value.source["z", 1][0, :6], wanted)
