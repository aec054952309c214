"""Features as sites: what is read equals the transcoders' own, edits equal what is written by hand, nothing stays."""

import pytest
import torch

from interp.analyses.ablation import ablation
from interp.analyses.patching import patching
from interp.circuits.attached import attach_transcoders, detach_transcoders, transcoders_attached
from interp.errors import ConfigError, ModelError
from interp.metrics import Targets
from interp.models.edits import Add, Constant, Copy, Edit, Zero
from interp.models.load import load_model
from interp.models.run import capture, edit
from interp.models.sweeps import Edits, Readout, sweep
from interp.models.sweeps.blocks import network
from interp.prompts import Prompts
from interp.sites import Site
from tests.circuits.test_graph import KINDS, drawn
from tests.models.test_sweeps import LAYERS, both_sides, made, neox

FORMS = ("gpt2", "llama", "gemma2")


def prompts_of(form="gpt2", seed=0):
    tokens = torch.randint(4, 60, (5, 8), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[1, 6:] = False
    return Prompts.from_tokens(tokens, mask, answers=tokens[:, 0])


def inputs_of(model, kept, layer, reads):
    norm, mid = network(model).blocks[layer].ln2, kept[Site("resid_mid", layer)]
    return mid if reads == "resid_mid" else norm.of(mid)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_the_transcoders_find(form, kind):
    model, transcoders, prompts = made(form), drawn(kind), prompts_of()
    with transcoders_attached(model, transcoders):
        kept = capture(model, prompts, ["features", "resid_mid", "logits"])
    for layer, one in enumerate(transcoders.layers):
        found = kept[Site("features", layer)]
        assert found.shape == (5, 8, one.size)
        wanted = one.encode(inputs_of(model, kept, layer, transcoders.reads))
        torch.testing.assert_close(found[prompts.mask], wanted[prompts.mask], rtol=1e-4, atol=1e-5)
        assert found[~prompts.mask].isnan().all()
    torch.testing.assert_close(kept[Site("logits")], capture(model, prompts, ["logits"])[Site("logits")])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["relu", "cross"])
def test_an_ablated_feature_is_an_edit_of_what_its_mlps_write(form, kind):
    """One feature at one column off, by hand: its activation times its decoder taken from every layer it writes to."""
    model, transcoders, prompts = made(form), drawn(kind), prompts_of()
    with transcoders_attached(model, transcoders):
        active = capture(model, prompts, [Site("features", 1)])[Site("features", 1)]
        feature = int(active[:, 5].nan_to_num().sum(0).argmax())
        assert float(active[:, 5, feature].max()) > 0
        off = edit(model, prompts, [Edit(Site("features", 1), Zero(), at=5, units=feature)])[Site("logits")]
    decoder = transcoders.layers[1].decoder[feature]
    by_hand = [
        Edit(Site("mlp_out", 1 + up), Add(-active[:, 5, feature, None] * row), at=5) for up, row in enumerate(decoder)
    ]
    wanted = edit(model, prompts, by_hand)[Site("logits")]
    torch.testing.assert_close(off, wanted, rtol=1e-4, atol=1e-5)
    assert (off - capture(model, prompts, ["logits"])[Site("logits")]).abs().max() > 1e-4


def test_features_above_an_edit_are_read_anew():
    model, transcoders, prompts = made("llama"), drawn("relu"), prompts_of()
    with transcoders_attached(model, transcoders):
        plain = capture(model, prompts, ["features"])
        kept = edit(model, prompts, [Edit(Site("features", 0), Zero())], ["features", "resid_mid"])
    assert (kept[Site("features", 0)][prompts.mask] == 0).all()
    changed = kept[Site("features", 1)][prompts.mask]
    assert (changed - plain[Site("features", 1)][prompts.mask]).abs().max() > 1e-3
    wanted = transcoders.layers[1].encode(inputs_of(model, kept, 1, transcoders.reads))
    torch.testing.assert_close(changed, wanted[prompts.mask], rtol=1e-4, atol=1e-5)


def test_a_feature_that_is_set_to_what_it_was_changes_nothing():
    model, prompts = made("gemma2"), prompts_of()
    with transcoders_attached(model, drawn("jumprelu")):
        kept = capture(model, prompts, ["features", "logits"])
        same = edit(model, prompts, [Edit(Site("features", n), Copy(kept)) for n in range(LAYERS)])
    torch.testing.assert_close(same[Site("logits")], kept[Site("logits")], rtol=0, atol=1e-5)


def test_sweeps_and_analyses_take_features_like_any_other_site():
    model, pairs = made("llama"), both_sides(reads=False)
    with transcoders_attached(model, drawn("relu")):
        targets = Targets.of(pairs)
        found = ablation(
            model, pairs.clean, site="features", kind="zero", metrics=["logit_diff"], targets=targets,
            units=range(6), layers=[1],
        )  # fmt: skip
        for n in range(6):
            own = edit(model, pairs.clean, [Edit(Site("features", 1), Zero(), units=n)])[Site("logits")][:, 0]
            rows = torch.arange(len(own))
            diff = own[rows, pairs.clean.answers[:, 0]] - own[rows, pairs.corrupted.answers[:, 0]]
            torch.testing.assert_close(found.ablated[:, 0, n, 0].float(), diff, rtol=1e-4, atol=1e-5)
        patched = patching(model, pairs, site="features", layers=[0, 2], units=[1, 4], control=False)
        assert patched.patched.shape[1:] == (2, 2)
        edits = Edits(pairs.corrupted, [[Edit(Site("features", 0), Zero())]])
        readout = Readout.of(pairs, ["logit_diff"])
        assert "through the bridge" in sweep(model, edits, readout).reason
        with pytest.raises(ModelError, match="features are read and changed through the bridge"):
            sweep(model, edits, readout, path="packed")


def test_a_boost_acts_on_the_chosen_feature_alone():
    model, prompts = made("gpt2"), prompts_of()
    with transcoders_attached(model, drawn("relu")):
        before = capture(model, prompts, [Site("features", 2)])[Site("features", 2)]
        raised = edit(model, prompts, [Edit(Site("features", 2), Constant(torch.tensor(7.0)), units=5)], [
            Site("features", 2)
        ])[Site("features", 2)]  # fmt: skip
    assert (raised[..., 5][prompts.mask] == 7).all()
    others = [n for n in range(before.shape[-1]) if n != 5]
    torch.testing.assert_close(raised[..., others], before[..., others], equal_nan=True)


def test_nothing_stays_and_what_does_not_fit_is_said():
    model, prompts = made("gpt2"), prompts_of()
    plain = capture(model, prompts, ["logits"])[Site("logits")]
    attach_transcoders(model, drawn("relu"))
    capture(model, prompts, ["features"])
    detach_transcoders(model)
    torch.testing.assert_close(capture(model, prompts, ["logits"])[Site("logits")], plain, rtol=0, atol=0)
    for run in (lambda: capture(model, prompts, ["features"]),
                lambda: edit(model, prompts, [Edit(Site("features", 0), Zero())])):  # fmt: skip
        with pytest.raises(ModelError, match="has no features; attach transcoders to it first"):
            run()
    with pytest.raises(ModelError, match="cannot be attached to GPTNeoX"):
        attach_transcoders(load_model(neox(), device="cpu", weights="raw"), drawn("relu"))
    small = drawn("relu")
    with pytest.raises(ConfigError, match="2 transcoders do not fit 3 layers"):
        attach_transcoders(model, type(small)(small.layers[:2]))
