import numpy as np
import pytest
import torch

from interp.analyses.deltas import delta_norms
from interp.analyses.halting import random_like
from interp.errors import PromptError
from interp.models.contrast import stream_sites
from interp.models.load import load_model
from interp.sites import Site
from interp.workflows.checkpoints import along_training
from tests.conftest import CONFIGS, tiny
from tests.models.test_contrast import naive_vectors
from tests.naive import Naive
from tests.test_twins import NEUTRAL, PLACES, put, twins_of

END, SITE = 5, Site("resid_post", 1)
CLOSE = dict(atol=1e-5, rtol=1e-4)


def added(vector, column):
    def change(x):
        x = x.clone()
        x[column] += vector
        return x

    return ("resid_post", 1, change)


@pytest.mark.parametrize("form", list(CONFIGS))
def test_every_checkpoint_equals_its_pieces(form):
    plain = {name: tiny(form, seed) for name, seed in (("step 0", 0), ("step 9", 1))}
    models = {name: load_model(hf, device="cpu") for name, hf in plain.items()}
    sought_ids, searched = twins_of(seed=11)
    ids, tried = twins_of("left", groups=[0, 0, 1, 1])
    final = torch.randn(24, generator=torch.Generator().manual_seed(0))
    found = along_training(iter(models.items()), searched, tried, SITE, END, final, random_directions=2, seed=4)
    drawn = tried.partners(4)[1]
    for c, (name, hf) in enumerate(plain.items()):
        naive = Naive(hf)
        vectors = naive_vectors(hf, sought_ids, sites=[SITE], offsets=(0,))[:, :, 0, 0]
        own = (vectors[0] - vectors[1:].mean(0)).mean(0)
        random = random_like(final[None, None], 2, seed=4)[:, 0, 0]
        marks = [(vectors[n] - vectors[[m for m in range(1, len(vectors)) if m != n]].mean(0)).mean(0) for n in (1, 2)]
        norms = delta_norms(models[name], tried, sites=stream_sites(3), offsets=(0,))
        torch.testing.assert_close(found.norm[:, c], norms.values[:, :, 0, 1])
        torch.testing.assert_close(found.null_norm[:, c], norms.null[:, :, :, 0, 1].mean(1))
        gaps = []
        for row, place, other in zip(sought_ids, PLACES, searched.partners(4)[1], strict=True):
            ends = [
                naive.logits(one).softmax(-1)[place : place + 4, END].max()
                for one in (row, put(row, place, NEUTRAL[other]))
            ]
            gaps.append(float(ends[0] - ends[1]))
        np.testing.assert_allclose(found.course[c], np.mean(gaps), **CLOSE)
        for p, (row, place) in enumerate(zip(ids, PLACES, strict=True)):
            twin = put(row, place, NEUTRAL[drawn[p]])

            def end(given, *vectors, naive=naive, place=place):
                edits = [added(vector, place) for vector in vectors]
                return float(naive.logits(given, *edits).softmax(-1)[place : place + 4, END].max())

            np.testing.assert_allclose(found.end_prob[p, c], end(row), **CLOSE)
            np.testing.assert_allclose(found.neutral_end_prob[p, c], end(twin), **CLOSE)
            np.testing.assert_allclose(found.own[p, c], end(twin, own / own.norm() * final.norm()), **CLOSE)
            np.testing.assert_allclose(found.final[p, c], end(twin, final), **CLOSE)
            for r in range(2):
                np.testing.assert_allclose(found.rivals[p, r, c], end(twin, random[r]), **CLOSE)
                mark = marks[r] / marks[r].norm() * final.norm()
                wanted = torch.nan if int(drawn[p]) == r else end(twin, mark)
                np.testing.assert_allclose(found.rivals[p, 2 + r, c], wanted, **CLOSE)
    assert found.checkpoints == ("step 0", "step 9")
    assert found.depths == ("embed", "layer 0", "layer 1", "layer 2")
    assert (found.where, found.groups.tolist()) == ("layer 1, token", [0, 0, 1, 1])
    assert len(found.to_frame()) == 8


def test_there_must_be_a_checkpoint():
    twins = twins_of()[1]
    with pytest.raises(PromptError, match="there is no checkpoint"):
        along_training([], twins, twins, SITE, END, torch.zeros(24))
