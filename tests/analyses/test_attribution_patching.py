"""Attribution patching against central differences of edited runs, and what integrated gradients must sum to."""

import pytest
import torch

from interp.analyses.attribution_patching import attribution_patching
from interp.circuits.attached import transcoders_attached
from interp.errors import ConfigError
from interp.models.edits import Copy, Edit
from interp.models.load import load_model
from interp.models.run import capture
from interp.models.sweeps import Edits, Readout, places, sweep
from interp.sites import Site
from interp.tensors import Activations
from tests.circuits.test_graph import drawn
from tests.models.test_sweeps import SITES, both_sides, made, neox

FORMS = ("gpt2", "llama", "gemma2")
STEP = 0.02


def differences(model, pairs, site, units=None):
    """The slope of the metric along each cell's patch, from runs patched a little way, to the fourth order."""
    clean, corrupted = (capture(model, side, [site]) for side in (pairs.clean, pairs.corrupted))
    grid = places(model, pairs.corrupted, site, units=units)

    def nudged(share):
        moved = {one: corrupted[one] + share * (clean[one] - corrupted[one]) for one in corrupted.tensors}
        return Copy(Activations(pairs.corrupted, moved, clean.n_layers))

    cells = grid.cells([nudged(share) for share in (STEP, -STEP, 2 * STEP, -2 * STEP)])
    readout = Readout.of(pairs, ["logit_diff"])
    values = sweep(model, Edits(pairs.corrupted, cells), readout, path="generic").values[..., 0]
    one, back, two, far = values.reshape(len(pairs), 4, len(grid.sites), -1).unbind(1)
    found = (8 * (one - back) - (two - far)) / (12 * STEP)
    return found.masked_fill(grid.absent(pairs.corrupted)[:, None], torch.nan)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("form", FORMS)
def test_estimates_equal_differences_of_patched_runs(form, site):
    """Norms and attention of the Hugging Face models round to float32, whatever the model's type."""
    model, pairs = made(form, dtype=torch.float64), both_sides()
    units = range(3) if site == "mlp_post" else None
    found = attribution_patching(model, pairs, site=site, units=units)
    wanted = differences(model, pairs, site, units)
    torch.testing.assert_close(found.values.double(), wanted, atol=5e-5, rtol=5e-4, equal_nan=True)
    assert found.path == "packed"


@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "z", "mlp_out", "q", "mlp_post"])
def test_an_unknown_architecture_goes_through_the_bridge(site):
    model, pairs = load_model(neox(), device="cpu"), both_sides()
    found = attribution_patching(model, pairs, site=site)
    assert found.path == "generic"
    torch.testing.assert_close(found.values, differences(model, pairs, site), atol=5e-5, rtol=5e-3, equal_nan=True)
    along = attribution_patching(model, pairs, site=site, integrate="activations", steps=48)
    torch.testing.assert_close(along.values.nansum(-1), layers_patched(model, pairs, site), atol=1e-3, rtol=5e-3)


@pytest.mark.parametrize("form", FORMS)
def test_both_ways_agree(form, monkeypatch):
    """The bridge's gradients equal the functions', at every site that both have."""
    from interp.models.sweeps import lines
    from interp.models.sweeps.blocks import UnknownForm

    model, pairs = made(form), both_sides()
    own = {site: attribution_patching(model, pairs, site=site, integrate="inputs", steps=4) for site in SITES}

    def unknown(*_, **__):
        raise UnknownForm("for the test")

    monkeypatch.setattr(lines.Runs, "of", unknown)
    for site, one in own.items():
        other = attribution_patching(model, pairs, site=site, integrate="inputs", steps=4)
        assert (one.path, other.path) == ("packed", "generic")
        for field in ("values", "slope", "apart", "clean"):
            torch.testing.assert_close(getattr(one, field), getattr(other, field), atol=2e-5, rtol=1e-3, equal_nan=True)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_integrated_over_inputs_a_whole_stream_sums_to_the_difference(form, direction):
    model, pairs = made(form), both_sides(reads=False)
    found = attribution_patching(model, pairs, site="resid_pre", integrate="inputs", steps=64, direction=direction)
    whole = found.values.nansum(-1)
    torch.testing.assert_close(whole[:, 0], found.clean - found.corrupted, atol=1e-3, rtol=1e-2)


def layers_patched(model, pairs, site):
    """How far patching all of a layer moves the metric."""
    source = capture(model, pairs.clean, [site])
    cells = [[Edit(Site(site, layer), Copy(source))] for layer in range(model.cfg.n_layers)]
    swept = sweep(model, Edits(pairs.corrupted, cells), Readout.of(pairs, ["logit_diff"]))
    return swept.values[..., 0] - swept.base


@pytest.mark.parametrize("site", SITES)
def test_integrated_over_activations_a_layer_sums_to_its_patch(site):
    model, pairs = made("llama"), both_sides(reads=False)
    found = attribution_patching(model, pairs, site=site, integrate="activations", steps=48)
    torch.testing.assert_close(found.values.nansum(-1), layers_patched(model, pairs, site), atol=1e-3, rtol=5e-3)


@pytest.mark.parametrize("kind", ["relu", "topk", "cross"])
def test_features_of_transcoders_are_patched_like_any_other_site(kind):
    model, pairs = made("llama", dtype=torch.float64), both_sides(reads=False)
    with transcoders_attached(model, drawn(kind)):
        found = attribution_patching(model, pairs, site="features", memory=1)
        wanted = differences(model, pairs, "features")
        torch.testing.assert_close(found.values.double(), wanted, atol=5e-5, rtol=5e-4, equal_nan=True)
        along = attribution_patching(model, pairs, site="features", integrate="activations", steps=32)
        torch.testing.assert_close(
            along.values.nansum(-1), layers_patched(model, pairs, "features").float(), atol=1e-3, rtol=5e-3
        )
        inputs = attribution_patching(model, pairs, site="features", integrate="inputs", steps=4)
    assert inputs.axis == "feature"
    assert inputs.path == "generic"
    assert inputs.values.abs().sum() > 0


def test_one_position_of_heads_and_the_budget():
    model, pairs = made("gpt2"), both_sides()
    whole = attribution_patching(model, pairs, site="z")
    parts = [attribution_patching(model, pairs, site="z", at=at, memory=1).values for at in range(11)]
    torch.testing.assert_close(torch.stack(parts).nansum(0), whole.values, atol=1e-6, rtol=1e-5)


def test_a_saturated_head_is_flagged():
    """Scores so large that softmax is one-hot: no gradient reaches the query, though patching it can move the key."""
    model, pairs = made("gpt2"), both_sides(reads=False)
    with torch.no_grad():
        weight = model.original_model.transformer.h[1].attn.c_attn.weight
        weight[:, :8] *= 1e4  # queries of L1H0
    found = attribution_patching(model, pairs, site="q")
    assert found.saturated[:, 1, 0].tolist() == [True, False, True, True, True]  # the sides of pair 1 are alike
    assert int(found.saturated.any(0).sum()) == 1


def test_bad_requests_are_refused():
    model, pairs = made("gpt2"), both_sides()
    with pytest.raises(ConfigError, match="no gradient"):
        attribution_patching(model, pairs, metric="exact_match")
    with pytest.raises(ConfigError, match="steps"):
        attribution_patching(model, pairs, steps=0)
