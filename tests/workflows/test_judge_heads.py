import numpy as np
import pytest
import torch

from interp.datasets.judging import requests
from interp.errors import PromptError
from interp.estimates import mean
from interp.studies.safety_judge.recipe import judged
from interp.workflows.judge_heads import judge_heads
from tests.judges import ids_of, odds_of, tiny

SOME = requests(24, seed=4)


@pytest.fixture(scope="module")
def made():
    plain, judge = tiny()
    return plain, judge, judge_heads(judge, judged(judge, SOME), [one.unsafe for one in SOME])


def test_attention_is_what_falls_on_the_rule(made):
    plain, judge, found = made
    plain.set_attn_implementation("eager")
    for i, one in enumerate(SOME[:6]):
        ids = ids_of(judge, one.text)
        with torch.no_grad():
            patterns = plain(ids, output_attentions=True).attentions
        words = ["<bos>", *one.text.split()]
        columns = [words.index(word) for word in one.rule.values()]
        for layer in range(2):
            wanted = patterns[layer][0, :, -1][:, columns].sum(-1)
            torch.testing.assert_close(found.attention[i, layer], wanted, atol=1e-5, rtol=1e-4)
        assert float(found.uniform[i]) == pytest.approx(len(columns) / ids.shape[1])


def test_ablation_equals_a_loop_with_hooks_on_the_plain_model(made):
    plain, judge, found = made
    inputs = []
    layer, head, d = 1, 2, 6
    place = plain.model.layers[layer].self_attn.o_proj
    handle = place.register_forward_pre_hook(lambda _, args: inputs.append(args[0][0].detach()))
    for one in SOME:
        odds_of(plain, judge, one.text)
    handle.remove()
    average = torch.cat(inputs).mean(0)[head * d : (head + 1) * d]

    def without(_, args):
        z = args[0].clone()
        z[..., head * d : (head + 1) * d] = average
        return (z,)

    for i, one in enumerate(SOME[:6]):
        whole = odds_of(plain, judge, one.text)
        handle = place.register_forward_pre_hook(without)
        less = odds_of(plain, judge, one.text)
        handle.remove()
        torch.testing.assert_close(found.ablation[i, layer, head], whole - less, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(found.log_odds[i], whole, atol=1e-5, rtol=1e-5)


def test_direct_parts_are_part_of_the_sum(made):
    """A head's direct part is its output through W_O, the norm's scale held, onto the difference of the answers."""
    plain, judge, found = made
    kept = {}
    hooks = [
        plain.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda _, a: kept.update(z=a[0][0, -1])),
        plain.model.norm.register_forward_pre_hook(lambda _, a: kept.update(x=a[0][0, -1])),
    ]
    odds_of(plain, judge, SOME[0].text)
    for hook in hooks:
        hook.remove()
    scale = (kept["x"].pow(2).mean() + plain.config.rms_norm_eps).sqrt()
    table = plain.get_output_embeddings().weight
    way = (table[judge.unsafe] - table[judge.safe]) * plain.model.norm.weight / scale
    for head in range(4):
        part = slice(6 * head, 6 * head + 6)
        wanted = (plain.model.layers[1].self_attn.o_proj.weight[:, part] @ kept["z"][part]) @ way
        torch.testing.assert_close(found.direct[0, 1, head], wanted.detach(), atol=1e-4, rtol=1e-3)


def test_contrasts_are_means_over_templates(made):
    found = made[2]
    values, y = found.values("ablation").numpy(), found.unsafe.numpy()
    groups = found.groups.numpy()
    rows = [
        values[(groups == g) & y].mean(0) - values[(groups == g) & ~y].mean(0)
        for g in np.unique(groups) if y[groups == g].any() and not y[groups == g].all()
    ]  # fmt: skip
    result = found.contrast("ablation")
    np.testing.assert_allclose(result.value, np.mean(rows, 0), atol=1e-5)
    assert (result.p >= mean(np.array(rows)).p - 1e-9).all()  # corrected for all heads
    agreement = found.agreement()
    assert set(agreement) == {"attention and direct", "attention and ablation", "direct and ablation"}
    assert all(-1 <= float(one.value) <= 1 for one in agreement.values())
    assert found.names[5] == "L1H1"


def test_layers_are_chosen_and_roles_must_be_there(made):
    _, judge, found = made
    prompts, y = judged(judge, SOME), [one.unsafe for one in SOME]
    last = judge_heads(judge, prompts, y, layers=[1], rule=["act", "object", "context"])
    torch.testing.assert_close(last.ablation[:, 0], found.ablation[:, 1])
    with pytest.raises(PromptError, match="none of the roles"):
        judge_heads(judge, judge.prompts([one.text for one in SOME]), y)
    with pytest.raises(PromptError, match="labels"):
        judge_heads(judge, prompts, y[:3])
