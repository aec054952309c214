"""Sets of parts and whole steps ablated at once, against plain loops."""

import numpy as np
import pytest
import torch

from interp.analyses.ablation import step_ablation
from interp.analyses.circuits import cumulative_ablation, set_ablation
from interp.datasets.arithmetic import Problem
from interp.datasets.arithmetic_prompts import to_prompts
from interp.errors import ConfigError, PromptError
from interp.files import data_dir
from interp.metrics import at_each
from interp.models.load import load_model
from interp.models.replacement import replacement
from interp.sites import Site
from tests.analyses.test_ablation import ANSWERS, log_prob, prompts, written  # noqa: F401
from tests.naive import Naive


def close(found, wanted):
    np.testing.assert_allclose(float(found), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["zero", "mean", "resample"])
def test_a_step_without_its_computation_equals_the_naive_loop(hf, model, prompts, kind):  # noqa: F811
    ids, given = prompts
    found = step_ablation(model, given, [2, 7], kind=kind, metrics=["log_prob"], seed=1)
    rows = getattr(replacement(model, given, [Site("attn_out", 0)], kind, seed=1)[0], "rows", None)
    naive = Naive(hf)
    for i, row in enumerate(ids):
        for place, position in enumerate((2, 7)):
            if position >= len(row):
                assert found.ablated[i, place].isnan().all()
                continue
            edits = []
            for layer in range(3):
                for name in ("attn_out", "mlp_out"):
                    new = written(naive, ids, name, layer, kind, i, rows)

                    def put(x, new=new, position=position):
                        x = x.clone()
                        x[position] = new[position]
                        return x

                    edits.append((name, layer, put))
            close(found.ablated[i, place, 0], log_prob(naive.logits(row, *edits)[-1], ANSWERS[i]))
            close(found.drop()[i, place, 0], float(found.base[i, 0] - found.ablated[i, place, 0]))


@pytest.mark.parametrize(("site", "parts"), [("z", [(0, 1), (2, 0), (2, 3)]), ("mlp_post", [(1, 5), (1, 20), (2, 0)])])
def test_a_set_taken_away_equals_the_naive_loop(hf, model, prompts, site, parts):  # noqa: F811
    ids, given = prompts
    found = set_ablation(model, given, parts, site=site, kind="mean", metrics=["log_prob"], random_sets=3, seed=1)
    assert found.random.shape[1] == 3
    naive = Naive(hf)
    for i, row in enumerate(ids):
        edits = []
        for layer in {layer for layer, _ in parts}:
            units = [unit for at, unit in parts if at == layer]
            new = written(naive, ids, site, layer, "mean", i, None)

            def put(x, units=units, new=new):
                x = x.clone()
                x[:, units] = new[:, units]
                return x

            edits.append((site, layer, put))
        close(found.without[i, 0], log_prob(naive.logits(row, *edits)[-1], ANSWERS[i]))


def test_a_random_set_takes_as_many_others_of_each_layer(model, prompts):  # noqa: F811
    """With all but as many others taken, there is only one set of others: that of the rest."""
    _, given = prompts
    one, rest = [(1, 0), (1, 1)], [(1, 2), (1, 3)]
    found = set_ablation(model, given, one, site="z", kind="zero", metrics=["log_prob"], random_sets=2)
    other = set_ablation(model, given, rest, site="z", kind="zero", metrics=["log_prob"], random_sets=1)
    for number in range(2):
        torch.testing.assert_close(found.random[:, number], other.without, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="too few others"):
        set_ablation(model, given, [(1, 0), (1, 1), (1, 2)], site="z", kind="zero")
    with pytest.raises(ConfigError, match="at least one part"):
        set_ablation(model, given, [], site="z")
    with pytest.raises(ConfigError, match="named twice"):
        set_ablation(model, given, [(1, 0), (1, 0)], site="z")


def test_orders_that_share_a_set_share_its_numbers(model, prompts):  # noqa: F811
    """Each cell of the curve equals the set ablated by itself."""
    _, given = prompts
    order = [(2, 1), (0, 3), (2, 0)]
    found = cumulative_ablation(model, given, order, kind="zero", metrics=["log_prob"], random_orders=4)
    for n in range(1, 4):
        alone = set_ablation(model, given, order[:n], site="z", kind="zero", metrics=["log_prob"], random_sets=1)
        torch.testing.assert_close(found.values[:, n], alone.without, atol=1e-5, rtol=1e-5)


def test_a_step_that_does_not_exist_is_refused(model, prompts):  # noqa: F811
    with pytest.raises(PromptError, match="nowhere"):
        step_ablation(model, prompts[1], ["nowhere"], kind="zero")


def test_a_metric_of_each_answer_token_adds_up_to_the_whole():
    model = load_model(str(data_dir() / "models/arithmetic-add3"), device="cpu")
    given = to_prompts([Problem.parse("123+456"), Problem.parse("59+73"), Problem.parse("124+456")], steps=False)
    each = at_each("log_prob", given)
    assert [m.name for m in each] == [f"log_prob {name}" for name in given.read_names]
    found = step_ablation(model, given, ["predict.answer.tens"], kind="zero", metrics=["log_prob", *each])
    for table in (found.base, found.ablated[:, 0]):
        torch.testing.assert_close(table[:, 1:].nansum(1), table[:, 0], atol=1e-4, rtol=1e-4)
