import numpy as np
import pytest
import torch

from interp.analyses.separation import separation
from interp.errors import PromptError
from interp.estimates import halves
from interp.prompts import Prompts
from interp.sites import Site
from interp.tensors import Activations


def made(n, apart, *, seed=0, depth=3, width=5):
    """Streams of noise in which the classes differ by `apart` along the first axis after the first layer."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(5, (n, 4), generator=generator)
    prompts = Prompts.from_tokens(tokens, groups=torch.arange(n))
    label = torch.arange(n) % 2 == 0
    stream = torch.randn(n, depth, 4, width, generator=generator)
    stream[label, 1:, :, 0] += apart
    tensors = {Site("resid_pre", layer): stream[:, layer] for layer in range(depth - 1)}
    tensors[Site("resid_post", depth - 2)] = stream[:, depth - 1]
    return Activations(prompts, tensors, depth - 1), label, stream


def test_scores_are_those_of_a_plain_loop():
    found, label, stream = made(40, 2.0)
    result = separation(found, label, position="last")
    x = stream[:, :, 3].double().numpy()
    y = label.numpy()
    first, second = halves(found.prompts.groups, seed=0)
    for learned, scored in ((first, second), (second, first)):
        for depth in range(3):
            high, low = (x[learned & (y == side), depth] for side in (True, False))
            way = high.mean(0) - low.mean(0)
            way /= np.linalg.norm(way)
            inner = np.concatenate([(high - high.mean(0)) @ way, (low - low.mean(0)) @ way])
            spread = np.sqrt((inner**2).sum() / (len(inner) - 2))
            middle = (high.mean(0) + low.mean(0)) / 2
            for i in np.flatnonzero(scored):
                assert float(result.scores[i, depth]) == pytest.approx((x[i, depth] - middle) @ way / spread, abs=1e-4)
    assert result.depths == ("embed", "layer 0", "layer 1")
    assert len(result.to_frame()) == 40 * 3


def test_what_is_apart_is_told_apart_and_what_is_not_is_at_chance():
    found, label, _ = made(400, 4.0)
    accuracy = separation(found, label, position="last").accuracy()
    # Two normal classes 4 standard deviations apart: Phi(2) = .977 on the right side.
    assert accuracy.value[1] == pytest.approx(0.977, abs=0.02)
    assert accuracy.low[0] < 0.5 < accuracy.high[0]


def test_no_prompt_is_scored_by_its_own_group():
    """Every group has one label and one random vector: seen in learning it would always be right."""
    found, label, _ = made(60, 0.0, width=200)
    assert float(separation(found, label, position="last").accuracy().value[1]) < 0.75


def test_absent_positions_and_wrong_labels():
    found, label, _ = made(20, 1.0)
    lacking = found.prompts.roles["last"].clone()
    lacking[:3] = -1
    prompts = Prompts.from_tokens(found.prompts.tokens, roles={"here": lacking})
    result = separation(Activations(prompts, found.tensors, 2), label, position="here")
    assert result.scores[:3].isnan().all()
    assert not result.scores[3:].isnan().any()
    with pytest.raises(PromptError, match="3 labels"):
        separation(found, label[:3], position="last")
    with pytest.raises(PromptError, match="either class"):
        separation(found, torch.ones(20, dtype=torch.bool), position="last")
