import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import ConfigError, InterpError, PromptError
from interp.prompts import Prompts
from interp.sites import Site
from interp.tensors import Activations, gather_positions

LENGTHS = (3, 5, 2, 5)
SIZES = {"d_model": 4, "head": 2, "d_head": 3, "neuron": 6, "read": 1, "vocab": 7}


def prompts():
    lengths = torch.tensor(LENGTHS)
    tokens = torch.arange(20).reshape(4, 5)
    mask = torch.arange(5) < lengths[:, None]
    return Prompts.from_tokens(tokens, mask, roles={"middle": torch.tensor([1, 2, -1, 4])})


def activations(names=("resid_pre", "z", "pattern"), n_layers=2, seed=0):
    """Random numbers where there are tokens, nan in the padding, as `capture` leaves it."""
    generator = torch.Generator().manual_seed(seed)
    here = prompts()
    sites = [Site(name, layer) for name in names for layer in range(n_layers)] + [Site("logits")]
    if "resid_pre" in names:
        sites.append(Site("resid_post", n_layers - 1))
    tensors = {}
    for site in sites:
        shape = [{"prompt": 4, "pos": 5, "query": 5, "key": 5, **SIZES}[axis] for axis in site.axes]
        tensor = torch.rand(shape, generator=generator)
        for axis, name in enumerate(site.axes):
            if name in ("pos", "query"):
                padding = ~here.mask.reshape([4, *[5 if i == axis else 1 for i in range(1, tensor.ndim)]])
                tensor = tensor.masked_fill(padding, torch.nan)
        tensors[site] = tensor
    return Activations(here, tensors, n_layers)


def test_sites_are_reached_by_name_and_layer():
    found = activations()
    assert found["z", 1] is found.tensors[Site("z", 1)]
    assert found[Site("z", 1)] is found["z", 1]
    assert found["logits"] is found.tensors[Site("logits")]
    assert found.layers("z") == [0, 1]
    assert found.layers("mlp_out") == []


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (
            lambda a: a["mlp_out", 0],
            r"mlp_out\.0 was not captured \(captured: resid_pre, z, pattern, logits, resid_post\)",
        ),
        (lambda a: a["z", 7], r"z\.7 was not captured"),
        (lambda a: a["zz", 0], "no site 'zz'"),
        (lambda a: a.stack("mlp_out"), "mlp_out"),
        (lambda a: a.at("mlp_out", 0, [0]), "mlp_out"),
        (lambda a: a.at("pattern", 0, [0]), "no position axis"),
        (lambda a: Activations(a.prompts, {Site("resid_pre", 0): a["resid_pre", 0]}, 2).residual(), "every layer"),
        (lambda a: Activations(a.prompts, {Site("resid_pre", 0): a["resid_pre", 0]}, 1).residual(), "resid_post"),
    ],
)
def test_what_was_not_captured_is_said(ask, message):
    with pytest.raises(ConfigError, match=message):
        ask(activations())


def test_layers_are_stacked_behind_the_prompt():
    found = activations(n_layers=3)
    stacked = found.stack("z")
    assert stacked.shape == (4, 3, 5, 2, 3)
    for layer in range(3):
        torch.testing.assert_close(stacked[:, layer], found["z", layer], equal_nan=True, rtol=0, atol=0)


def test_the_residual_has_one_depth_more_than_layers():
    found = activations(n_layers=3)
    residual = found.residual()
    assert residual.shape == (4, 4, 5, 4)
    torch.testing.assert_close(residual[:, 2], found["resid_pre", 2], equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(residual[:, 3], found["resid_post", 2], equal_nan=True, rtol=0, atol=0)


def test_the_stream_has_the_middle_of_a_layer_where_it_was_captured():
    found = activations()
    middle = torch.rand(4, 5, 4)
    more = Activations(found.prompts, {**found.tensors, Site("resid_mid", 1): middle}, 2)
    assert [name for name, _, _ in found.stream()] == ["embed", "layer 0", "layer 1"]
    names, sites, tensors = zip(*more.stream(), strict=True)
    assert names == ("embed", "layer 0", "layer 1 attention", "layer 1")
    assert sites == (Site("resid_pre", 0), Site("resid_post", 0), Site("resid_mid", 1), Site("resid_post", 1))
    assert tensors[2] is middle
    torch.testing.assert_close(tensors[3], found["resid_post", 1], equal_nan=True, rtol=0, atol=0)


def test_positions_are_picked_prompt_by_prompt():
    found = activations()
    picked = found.at("z", 1, ["middle", 0, -1, 3, -4, "last"])
    assert picked.shape == (4, 6, 2, 3)
    for i, length in enumerate(LENGTHS):
        columns = [(1, 2, None, 4)[i], 0, length - 1, 3 if length > 3 else None, length - 4, length - 1]
        for j, column in enumerate(columns):
            if column is None or column < 0:
                assert picked[i, j].isnan().all()
            else:
                torch.testing.assert_close(picked[i, j], found["z", 1][i, column], rtol=0, atol=0)


def test_rows_must_fit_the_prompts():
    with pytest.raises(PromptError, match="3 rows of activations do not fit 4 prompts"):
        gather_positions(torch.zeros(3, 5), prompts(), [0])


@settings(deadline=None, derandomize=True, database=None, max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_taking_prompts_takes_their_activations(rows):
    found = activations()
    for index in (rows, torch.tensor(rows)):
        taken = found.take(index)
        width = max(LENGTHS[i] for i in rows)
        assert taken.prompts.tokens.shape == (len(rows), width)
        assert taken.n_layers == 2
        for site, tensor in taken.tensors.items():
            wanted = found[site][torch.tensor(rows)]
            for axis, name in enumerate(site.axes):
                if name in ("pos", "query", "key"):
                    wanted = wanted.narrow(axis, 0, width)
            torch.testing.assert_close(tensor, wanted, equal_nan=True, rtol=0, atol=0)


def test_a_mask_takes_what_it_marks():
    """`Prompts.take` knows masks; the activations must follow, or refuse."""
    found, mask = activations(), torch.tensor([False, True, True, False])
    try:
        taken = found.take(mask)
    except (InterpError, TypeError, ValueError):
        return
    assert len(taken.prompts) == 2
    torch.testing.assert_close(taken["z", 0], found["z", 0][[1, 2]], equal_nan=True)


def test_taking_none_is_refused():
    with pytest.raises(PromptError, match="no prompt is left"):
        activations().take([])
