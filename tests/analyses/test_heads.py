import numpy as np
import pytest
import torch

from interp.analyses.heads import COMMON, attends, head_scores
from interp.errors import ConfigError, PromptError
from interp.models.run import capture
from tests.conftest import padded
from tests.known import known_model, known_pairs


@pytest.fixture(scope="module")
def known():
    prompts = known_pairs().clean
    return capture(known_model(), prompts, ["pattern"])


def test_hand_built_heads_get_the_scores_they_must_have(known):
    scores = head_scores(known)
    value = scores.values.nanmean(0)
    job = {name: i for i, name in enumerate(scores.scores)}
    assert value[0, 0, job["previous token"]] > 0.999
    assert value[1, 0, job["induction"]] > 0.999
    # The idle heads attend uniformly, so they score exactly what uniform attention does.
    for name in COMMON:
        for layer in (0, 1):
            here, uniform = scores.values[:, layer, 1, job[name]], scores.uniform[:, job[name]]
            torch.testing.assert_close(here, uniform, atol=1e-6, rtol=1e-5, equal_nan=True)


def test_role_to_role(known):
    jobs = {"reads B": attends({"second A": ["B"]}), "reads A": attends({"second A": ["first A"]})}
    scores = head_scores(known, jobs, track=["second A"])
    induction = scores.values[:, 1, 0].nanmean(0)
    assert induction[0] > 0.999
    assert induction[1] < 1e-3
    # B stands at the same column in all prompts of a layout: its attention is wholly positional. The uniform head: 0.
    assert induction[2] > 0.7
    assert scores.values[:, 1, 1, 2].abs().nan_to_num().max() < 1e-5


def naive(pattern, tokens):
    """Scores of one prompt and head, by loops over queries and keys."""
    found = {"previous token": [], "duplicate token": [], "induction": []}
    for q in range(len(tokens)):
        if q >= 1:
            found["previous token"].append(pattern[q, q - 1])
        duplicates = [k for k in range(q) if tokens[k] == tokens[q]]
        if duplicates:
            found["duplicate token"].append(sum(pattern[q, k] for k in duplicates))
        followers = [k for k in range(1, q) if tokens[k - 1] == tokens[q]]
        if followers:
            found["induction"].append(sum(pattern[q, k] for k in followers))
    return {name: float(np.mean(values)) if values else float("nan") for name, values in found.items()}


def test_scores_equal_loops(model, ragged):
    ids, prompts = ragged
    activations = capture(model, prompts, ["pattern"])
    scores = head_scores(activations)
    for p, row in enumerate(ids):
        for layer in range(3):
            for head in range(4):
                pattern = activations["pattern", layer][p, head].numpy()
                wanted = naive(pattern, row.tolist())
                for s, name in enumerate(scores.scores):
                    np.testing.assert_allclose(
                        scores.values[p, layer, head, s].item(), wanted[name], atol=1e-6, equal_nan=True
                    )


def test_refusals(known):
    with pytest.raises(ConfigError, match="at least one job"):
        head_scores(known, {})
    with pytest.raises(PromptError, match="no role 'C'"):
        head_scores(known, {"x": attends({"C": ["B"]})})
    with pytest.raises(ConfigError, match="pattern"):
        head_scores(known.__class__(known.prompts, {}, 2))


def test_a_job_that_no_prompt_has_is_nan_not_zero(model):
    prompts = padded([torch.tensor([3, 4, 5])], "right")
    scores = head_scores(capture(model, prompts, ["pattern"]))
    assert scores.values[..., scores.scores.index("induction")].isnan().all()
    assert scores.to_frame().shape == (3 * 4 * 3, 6)


@pytest.mark.parametrize("memory", [1, 1 << 30])
def test_prompts_are_scored_as_their_activations(model, ragged, memory):
    _, prompts = ragged
    for jobs, at in ((None, ["last", 1]), ({}, [0]), (None, None)):
        wanted = head_scores(capture(model, prompts, ["pattern"]), jobs, track=at)
        found = head_scores(prompts, jobs, track=at, model=model, memory=memory)
        assert (found.scores, found.layers) == (wanted.scores, wanted.layers)
        torch.testing.assert_close(found.values, wanted.values, atol=1e-6, rtol=1e-5, equal_nan=True)
        torch.testing.assert_close(found.uniform, wanted.uniform, equal_nan=True)
    with pytest.raises(ConfigError, match="model="):
        head_scores(prompts)
