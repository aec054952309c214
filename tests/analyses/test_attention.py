import numpy as np
import torch

from interp.analyses.attention import attention_patterns, attention_statistics
from interp.models.run import capture


def test_statistics_equal_loops(model, ragged):
    ids, prompts = ragged
    activations = capture(model, prompts, ["pattern"])
    found = attention_statistics(activations)
    for p, row in enumerate(ids):
        queries = range(1, len(row))
        uniform = [np.log(q + 1) for q in queries]
        np.testing.assert_allclose(found.uniform_entropy[p], np.mean(uniform), rtol=1e-5)
        np.testing.assert_allclose(found.uniform_distance[p], np.mean([q / 2 for q in queries]), rtol=1e-5)
        np.testing.assert_allclose(found.uniform_first[p], np.mean([1 / (q + 1) for q in queries]), rtol=1e-5)
        for layer in range(3):
            for head in range(4):
                pattern = activations["pattern", layer][p, head, : len(row), : len(row)].double().numpy()
                entropy = np.mean([-sum(w * np.log(w) for w in pattern[q] if w > 0) for q in queries])
                distance = np.mean([sum(w * (q - k) for k, w in enumerate(pattern[q])) for q in queries])
                first = np.mean([pattern[q, 0] for q in queries])
                np.testing.assert_allclose(found.entropy[p, layer, head], entropy, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(found.distance[p, layer, head], distance, rtol=1e-4, atol=1e-5)
                np.testing.assert_allclose(found.first[p, layer, head], first, rtol=1e-4, atol=1e-6)


def test_chosen_queries(model, ragged):
    ids, prompts = ragged
    activations = capture(model, prompts, ["pattern"])
    found = attention_statistics(activations, at=["last", 6])
    for p, row in enumerate(ids):
        chosen = {len(row) - 1, *([6] if len(row) > 6 else [])}
        wanted = np.mean([activations["pattern", 1][p, 2, q, 0].item() for q in chosen])
        np.testing.assert_allclose(found.first[p, 1, 2], wanted, rtol=1e-5)
    assert attention_statistics(activations, at=[8]).entropy[0].isnan().all()


def test_patterns_carry_their_tokens(model, ragged):
    ids, prompts = ragged
    found = attention_patterns(capture(model, prompts, ["pattern"]))
    assert [len(t) for t in found.tokens] == [len(row) for row in ids]
    assert found.tokens[0][0] == str(ids[0][0].item())
    sums = found.patterns.sum(-1)
    torch.testing.assert_close(sums[~sums.isnan()], torch.ones_like(sums[~sums.isnan()]), atol=1e-5, rtol=1e-5)
