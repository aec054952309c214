import pytest
import torch

from interp.errors import ConfigError
from interp.models.run import capture
from interp.sites import AXES, Site, every

OWN = [name for name in AXES if name != "features"]
"""Sites that a model has by itself; features come with transcoders."""
LAYERED = [name for name in OWN if name != "logits"]


def test_every_site_is_a_hook_of_the_model(model):
    """The names are TransformerLens', for each architecture."""
    known = set(model.hook_dict)
    for name in LAYERED:
        for layer in range(3):
            assert Site(name, layer).hook in known


def test_axes_say_the_shape_of_what_is_captured(model, ragged):
    _, prompts = ragged
    found = capture(model, prompts, OWN)
    heads = dict.fromkeys(AXES, model.cfg.n_heads)
    # Llama and Qwen share each key and value head between two query heads.
    shared = getattr(model.cfg, "n_key_value_heads", None) or model.cfg.n_heads
    heads |= {"k": shared, "v": shared}
    n, width = prompts.tokens.shape
    for name in OWN:
        tensor = found[Site(name, 1 if name in LAYERED else -1)]
        size = {"prompt": n, "pos": width, "query": width, "key": width, "d_model": 24, "d_head": 6, "read": 1}
        size |= {"head": heads[name], "vocab": model.cfg.d_vocab, "neuron": model.cfg.d_mlp}
        assert tensor.shape == torch.Size([size[axis] for axis in Site(name, 1).axes]), name


def test_a_site_has_a_name_and_axes():
    assert str(Site("z", 3)) == "z.3"
    assert str(Site("logits")) == "logits"
    assert Site("z", 3).hook == "blocks.3.attn.hook_z"
    assert Site("resid_pre", 0).hook == "blocks.0.hook_resid_pre"
    assert Site("pattern", 0).axes == ("prompt", "head", "query", "key")
    assert all(axes[0] == "prompt" for axes in AXES.values())


def test_the_axis_of_heads_neurons_and_features():
    assert {name: Site(name, 0).unit_axis for name in AXES} == {
        "resid_pre": None, "resid_mid": None, "resid_post": None, "attn_out": None, "mlp_out": None,
        "q": 2, "k": 2, "v": 2, "z": 2, "pattern": 1, "mlp_post": 2, "features": 2,
        "logits": None,
    }  # fmt: skip


def test_sites_are_values():
    assert Site("z", 1) == Site("z", 1) != Site("z", 2)
    assert len({Site("z", 1), Site("z", 1), Site("z", 2)}) == 2
    assert sorted([Site("z", 10), Site("z", 2), Site("k", 3)]) == [Site("k", 3), Site("z", 2), Site("z", 10)]


def test_names_are_spelled_out_over_layers():
    assert every(["z"], 2) == [Site("z", 0), Site("z", 1)]
    assert every(["z", "logits"], 2) == [Site("z", 0), Site("z", 1), Site("logits")]
    assert every(["k", "v"], 9, [7, 2]) == [Site("k", 7), Site("k", 2), Site("v", 7), Site("v", 2)]
    assert every([Site("z", 1), "z", Site("z", 1)], 2) == [Site("z", 1), Site("z", 0)]
    assert every([], 2) == []


@pytest.mark.parametrize(
    ("names", "layers", "message"),
    [
        (["zz"], None, "no site 'zz'; choose from resid_pre"),
        ([Site("z", 2)], None, "no layer 2: the model has layers 0 to 1"),
        ([Site("z")], None, "no layer -1"),
        (["z"], [0, 5], "no layer 5"),
        (["z"], [-1], "no layer -1"),
    ],
)
def test_what_the_model_lacks_is_refused(names, layers, message):
    with pytest.raises(ConfigError, match=message):
        every(names, 2, layers)
