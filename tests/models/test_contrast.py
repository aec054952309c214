from itertools import product

import numpy as np
import pytest
import torch

from interp.errors import ConfigError, PromptError
from interp.models import contrast
from interp.models.contrast import (
    TwinRuns,
    all_sites,
    cut,
    depth_name,
    end_prob,
    mean_deltas,
    offset_name,
    reading_end,
    stream_sites,
)
from interp.models.load import load_model
from interp.models.run import capture
from interp.sites import Site
from tests.conftest import tiny
from tests.models.test_run import state
from tests.naive import Naive
from tests.test_twins import CONTROL, LENGTHS, NEUTRAL, PLACES, GivenRuns, put, twins_of

SITES = all_sites(3)
OFFSETS = (-1, 0, 1, 3)
TOKENS = (CONTROL, *NEUTRAL)
CLOSE = dict(atol=1e-5, rtol=1e-5)


def naive_vectors(hf, ids, tokens=TOKENS, sites=SITES, offsets=OFFSETS, places=PLACES):
    """Hidden states of the plain model, one token, prompt and site at a time; nan beyond a prompt."""
    naive = Naive(hf)
    found = torch.full((len(tokens), len(ids), len(sites), len(offsets), 24), torch.nan)
    for (t, token), (p, place), (s, site) in product(enumerate(tokens), enumerate(places), enumerate(sites)):
        states = naive.read(put(ids[p], place, token), site.name, site.layer)
        for o, offset in enumerate(offsets):
            if 0 <= place + offset < len(states):
                found[t, p, s, o] = states[place + offset]
    return found


def vectors(runs):
    return torch.cat([batch.vectors for batch in runs], 1)


@pytest.fixture(scope="module", params=["left", "right"])
def made(request, hf, model):
    """Runs padded on either side, and what the naive loop finds."""
    ids, twins = twins_of(request.param)
    return TwinRuns(model, twins, SITES, offsets=OFFSETS), naive_vectors(hf, ids)


def test_vectors_equal_the_naive_loop(made):
    runs, wanted = made
    found = vectors(runs)
    torch.testing.assert_close(found, wanted, **CLOSE, equal_nan=True)
    there = torch.tensor([[0 <= p + o < n for o in OFFSETS] for p, n in zip(PLACES, LENGTHS, strict=True)])
    assert torch.equal(~found.isnan().any(-1), there[None, :, None].expand(5, -1, 10, -1))
    assert torch.cat([batch.rows for batch in runs]).tolist() == [0, 1, 2, 3]
    assert runs.size == found.numel() * 4


def test_a_delta_is_the_vector_less_the_mean_over_the_other_neutral_tokens(made):
    runs, wanted = made[0], made[1].double()
    (batch,) = runs
    for t in range(5):
        others = [u for u in range(1, 5) if u != t]
        torch.testing.assert_close(
            batch.deltas[t].double(), wanted[t] - sum(wanted[u] for u in others) / len(others), **CLOSE, equal_nan=True
        )
    torch.testing.assert_close(batch.center.double(), wanted[1:].mean(0), **CLOSE, equal_nan=True)
    assert float(batch.deltas[:, :, :, 0].nan_to_num().abs().max()) < 1e-5  # before the token no model sees it


@pytest.fixture(scope="module")
def one():
    """Runs of one form, for what does not depend on it."""
    model = load_model(tiny("llama"), device="cpu")
    return TwinRuns(model, twins_of()[1].take([0, 1, 2]), SITES, offsets=OFFSETS)


def test_no_budget_of_memory_changes_the_vectors(one, monkeypatch):
    runs, passes = one, []
    wanted = vectors(runs)
    real = contrast.forward
    monkeypatch.setattr(contrast, "forward", lambda *args, **kwargs: passes.append(1) or real(*args, **kwargs))
    for memory in (1, runs.size - 1, runs.size):
        again = TwinRuns(runs.model, runs.twins, SITES, offsets=OFFSETS, memory=memory)
        for _ in again:
            break  # stopped early: nothing may be kept of it
        passes.clear()
        torch.testing.assert_close(vectors(again), wanted, **CLOSE, equal_nan=True)
        first = len(passes)
        torch.testing.assert_close(vectors(again), wanted, **CLOSE, equal_nan=True)
        assert len(passes) == (2 * first if memory < runs.size else first)


@pytest.mark.parametrize("kept", [True, False])
def test_a_part_is_what_a_fresh_run_of_it_gives(one, kept):
    few = [Site("resid_post", 2), Site("mlp_out", 0)]
    whole = TwinRuns(one.model, one.twins, SITES, offsets=OFFSETS, memory=one.size - (0 if kept else 1))
    for options in (
        dict(sites=few),
        dict(offsets=(3, 0)),
        dict(rows=[2, 0]),
        dict(sites=few, offsets=(0,), rows=[False, True, True]),
        dict(sites=[Site("resid_pre", 2)], offsets=(2,)),  # neither is in the whole
    ):
        found = whole.part(**options)
        rows = options.pop("rows", range(3))
        fresh = TwinRuns(one.model, one.twins.take(rows), **{"sites": SITES, "offsets": OFFSETS, **options})
        torch.testing.assert_close(vectors(found), vectors(fresh), **CLOSE, equal_nan=True)
        assert (found.sites, found.offsets) == (fresh.sites, fresh.offsets)
        assert found.twins.prompts.digest == fresh.twins.prompts.digest
        assert torch.cat([batch.rows for batch in found]).tolist() == list(range(len(fresh.twins)))


def test_mean_deltas_leave_out_what_is_beyond_a_prompt(made):
    runs, wanted = made[0], made[1].double().numpy()
    found = mean_deltas(runs)
    for t in range(5):
        others = [u for u in range(1, 5) if u != t]
        with np.errstate(all="ignore"):
            means = np.nanmean(wanted[t] - wanted[others].mean(0), axis=0)
        np.testing.assert_allclose(found[t], means, **CLOSE)
    ends = runs.part(offsets=(3,), rows=[2, 3])  # both end at the token
    assert mean_deltas(ends).isnan().all()


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(model, training):
    _, twins = twins_of()
    capture(model, twins.prompts, ["z"])  # the bridge wires itself at its first pass
    model.train(training)
    before = state(model)
    runs = TwinRuns(model, twins, SITES)
    found = [*vectors(runs)[:1], mean_deltas(runs), vectors(runs.part(rows=[1])), end_prob(model, twins.prompts, 1)]
    assert state(model) == before
    assert not any(part.is_inference() for part in found)
    model.eval()


def test_what_cannot_be_run_is_refused(model):
    _, twins = twins_of()
    with pytest.raises(PromptError, match="at least two neutral tokens"):
        TwinRuns(model, twins.without("n10", "n11", "n12"))
    with pytest.raises(ConfigError, match="of the residual stream's width"):
        TwinRuns(model, twins, [Site("z", 0)])
    with pytest.raises(PromptError, match="has token id 23 and the model's vocabulary ends at 22"):
        TwinRuns(model, twins_of(neutral=(10, 23))[1])
    with pytest.raises(PromptError, match="has 17 tokens and the model's context is 16"):
        TwinRuns(model, twins_of(lengths=(17,), places=(2,))[1])


def test_names_of_places():
    assert stream_sites(2) == [Site("resid_pre", 0), Site("resid_post", 0), Site("resid_post", 1)]
    assert [depth_name(site) for site in all_sites(1)] == ["embed", "layer 0 attention", "layer 0 MLP", "layer 0"]
    assert depth_name(Site("resid_mid", 4)) == "layer 4 after attention"
    assert depth_name(Site("resid_pre", 4)) == "layer 4 before"
    assert [offset_name(o) for o in (-1, 0, 2)] == ["token-1", "token", "token+2"]


def test_the_end_is_read_at_the_token_and_after_it(hf, model, side):
    ids, twins = twins_of(side)
    asked = reading_end(twins.prompts, 5)
    assert asked.reads.tolist() == [[1, 2, 3, 4], [4, 5, 6, 7], [6, -1, -1, -1], [2, -1, -1, -1]]
    assert torch.equal(asked.answers, torch.where(asked.reads >= 0, 5, -1))
    assert asked.columns("token+1").tolist() == [2, 5, -1, -1]
    assert reading_end(twins.prompts, 5, (-2, 0)).reads.tolist() == [[-1, 1], [2, 4], [4, 6], [0, 2]]
    found = end_prob(model, twins.prompts, 5)
    for i, (row, place) in enumerate(zip(ids, PLACES, strict=True)):
        wanted = Naive(hf).logits(row).softmax(-1)[place : place + 4, 5].max()
        np.testing.assert_allclose(float(found[i]), float(wanted), **CLOSE)


def test_prompts_are_cut_after_the_token(side):
    ids, twins = twins_of(side, groups=[0, 0, 1, 1])
    found = cut(twins.prompts)
    for i, (row, place) in enumerate(zip(ids, PLACES, strict=True)):
        assert found.tokens[i, : place + 1].tolist() == row[: place + 1].tolist()
    assert found.lengths.tolist() == [place + 1 for place in PLACES]
    assert torch.equal(found.columns("token"), found.lengths - 1)
    assert found.groups.tolist() == [0, 0, 1, 1]


def test_batches_of_any_size_come_to_the_same(model):
    _, twins = twins_of()
    given = torch.randn(5, 4, 2, 1, 24, generator=torch.Generator().manual_seed(0))
    runs = GivenRuns(model, twins, given, stream_sites(3)[:2])
    assert len(list(runs)) == 2
    centred = given - given[1:].mean(0)
    centred[1:] *= 4 / 3
    torch.testing.assert_close(mean_deltas(runs), centred.mean(1), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(vectors(runs.part(rows=[3, 1])), given[:, [3, 1]], atol=0, rtol=0)
