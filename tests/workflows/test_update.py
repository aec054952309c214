import dataclasses

import pytest
import torch

from interp import results
from interp.datasets.judging import requests
from interp.errors import ModelError, PromptError
from interp.models.judge import Judge
from interp.models.load import load_model, named_weights
from interp.models.switching import changes_between, layer_of, switched_on
from interp.studies.safety_judge.recipe import judged
from interp.workflows.update import compare_update
from tests.judges import odds_of, tiny

SOME = requests(40, seed=12)
WEAK = requests(40, seed=13, acts="weak")


def updated(form="llama", modules=("down_proj", "q_proj"), scale=0.5):
    """Another copy of the tiny judge with some weights changed."""
    plain, judge = tiny(form)
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            if any(module in name for module in modules):
                weight.add_(scale * weight.std() * torch.randn_like(weight))
    model = load_model(plain, judge.model.tokenizer, device="cpu")
    return plain, dataclasses.replace(judge, model=model)


@pytest.fixture(scope="module")
def made():
    plain, before = tiny()
    changed, after = updated()
    every = [*SOME, *WEAK]
    prompts = judged(before, every)
    categories = ["known"] * 40 + ["weak"] * 40
    found = compare_update(before, after, prompts, [one.unsafe for one in every], categories=categories, target="weak")
    return plain, changed, before, after, every, found


@pytest.mark.parametrize("form", ["llama", "gpt2"])
def test_all_changes_on_make_the_updated_model_and_off_again_the_old_one(form):
    modules = ("down_proj", "q_proj") if form == "llama" else ("c_attn", "mlp.c_proj")
    _, before = tiny(form)
    changed, after = updated(form, modules)
    changes = changes_between(before.model, after.model)
    assert {layer_of(name) for name in changes} == {0, 1}
    kept = {name: value.clone() for name, value in named_weights(before.model).items()}
    prompts = before.prompts([one.text for one in SOME[:5]])
    with switched_on(before.model, changes, list(changes)):
        inside = before.log_odds(prompts)
    for one, value in zip(SOME, inside, strict=False):
        torch.testing.assert_close(value, odds_of(changed, before, one.text), atol=1e-4, rtol=1e-4)
    assert all(torch.equal(value, kept[name]) for name, value in named_weights(before.model).items())
    with pytest.raises(ModelError, match="no change of"), switched_on(before.model, changes, ["nothing"]):
        pass


def test_log_odds_are_those_of_both_models_and_of_one_module_alone(made):
    plain, changed, before, _, every, found = made
    for i, one in enumerate(every[:5]):
        torch.testing.assert_close(found.before[i], odds_of(plain, before, one.text), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.after[i], odds_of(changed, before, one.text), atol=1e-4, rtol=1e-4)
    name = "model.layers.1.mlp.down_proj.weight"
    assert len(found.modules) == 4
    assert name in found.modules
    mixed, _ = tiny()
    mixed.load_state_dict({**mixed.state_dict(), name: changed.state_dict()[name]})
    rest, _ = updated()
    rest.load_state_dict({**rest.state_dict(), name: plain.state_dict()[name]})
    at = found.modules.index(name)
    for i, one in enumerate(every[:5]):
        torch.testing.assert_close(found.only[i, at], odds_of(mixed, before, one.text), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found.without[i, at], odds_of(rest, before, one.text), atol=1e-4, rtol=1e-4)


def test_switching_off_in_order_ends_where_it_began(made):
    found = made[5]
    torch.testing.assert_close(found.most_off[:, -1], found.before, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.most_off[:, 0], found.without[:, found.order[0]], atol=1e-4, rtol=1e-4)
    assert found.layer_only.shape[1] == len(found.layers)
    assert 1 <= found.needed <= 4
    assert found.which == tuple(found.modules[i] for i in found.order[: found.needed])


def test_random_sets_are_all_other_sets_of_the_size_where_they_are_few():
    _, before = tiny()
    _, after = updated(modules=("down_proj", "q_proj"), scale=2.0)
    prompts = judged(before, [*SOME, *WEAK])
    found = compare_update(before, after, prompts, [one.unsafe for one in [*SOME, *WEAK]])
    others = [i for i in range(4) if i not in found.order[: found.needed]]
    if found.needed == 1:
        wanted = {tuple(found.without[:, i].tolist()) for i in others}
        assert {tuple(column) for column in found.random_off.T.tolist()} == wanted
    else:
        assert found.random_off.shape[1] == {2: 5, 3: 3, 4: 0}[found.needed]
        assert not any(torch.equal(found.off(), column) for column in found.random_off.T)


def test_changes_in_disorder_are_asked_the_same_and_leave_no_trace(made):
    _, _, before, _, _, found = made
    assert found.disordered.shape == (16, 2)
    assert bool((found.disordered.abs() <= 1).all())
    assert len(found.disordered[:, 1].unique()) > 8
    assert before.log_odds(judged(before, SOME[:5]))[0] == found.before[0]


def test_the_target_stands_in_both_halves(made):
    found = made[5]
    of = [set(found.groups[found.target & half].tolist()) for half in (found.searched, ~found.searched)]
    assert not of[0] & of[1]
    assert abs(len(of[0]) - len(of[1])) <= 1


def test_what_changed_is_described(made):
    found = made[5]
    assert found.attention.shape == (80, 2, 4)
    assert float(found.attention.min()) >= 0
    assert float(found.attention.max()) <= 1
    torch.testing.assert_close(found.representation[:, 0], torch.zeros(80), atol=1e-5, rtol=0)  # the embedding is kept
    assert float(found.alignment[0, 0]) == pytest.approx(1.0, abs=1e-5) or found.alignment[0, 0].isnan()
    assert set(found.tracks()) == {"attention", "representation"}
    wanted = ((found.before > 0) != (found.after > 0)).tolist()
    assert found.flips.tolist() == wanted


def test_it_is_saved_and_comes_back(made, tmp_path):
    found = made[5]
    results.save(found, tmp_path)
    back = results.load(tmp_path)
    assert back.which == found.which
    torch.testing.assert_close(back.only, found.only)
    assert len(back.to_frame()) == 80 * 4


def test_what_cannot_be_compared_is_said(made):
    _, _, before, after, every, _ = made
    prompts, y = judged(before, every), [one.unsafe for one in every]
    with pytest.raises(ModelError, match="changes no weight"):
        compare_update(before, before, prompts, y)
    with pytest.raises(ModelError, match="asked differently"):
        compare_update(before, Judge(after.model, "{prompt} ?", after.safe, after.unsafe), prompts, y)
    with pytest.raises(PromptError, match="category"):
        compare_update(before, after, prompts, y, target="absent")
    with pytest.raises(PromptError, match="labels"):
        compare_update(before, after, prompts, y[:3])
    with pytest.raises(PromptError, match="of one group"):
        compare_update(before, after, prompts.take([0, 1, 2]), [True, False, False])
    with pytest.raises(ModelError, match="differ in"):
        changes_between(before.model, tiny(layers=1)[1].model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_the_updated_model_bit_for_bit(dtype):
    one, other = (load_model(plain, device="cpu", dtype=dtype) for plain, _ in (tiny(), updated()))
    changes = changes_between(one, other)
    wanted = named_weights(other)
    with switched_on(one, changes, list(changes)):
        assert all(torch.equal(value, wanted[name]) for name, value in named_weights(one).items())


def test_a_switch_that_wrecks_the_judge_brings_no_weakness_back(made):
    found = made[5]
    wrecked = dataclasses.replace(found, most_off=torch.full_like(found.most_off, -9.0), unsafe=found.target)
    right = wrecked.right(wrecked.before)[~wrecked.target].mean()
    assert float(wrecked.others_kept().value) == pytest.approx(1 - float(right))
