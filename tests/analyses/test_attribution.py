import numpy as np
import pytest
import torch

from interp.analyses.attribution import logit_attribution
from interp.errors import ConfigError, ModelError, PromptError
from interp.metrics import Targets
from interp.models.load import load_model
from interp.models.run import capture
from tests.conftest import padded
from tests.known import known_model, known_pairs
from tests.naive import Naive

SITES = ["resid_pre", "resid_post", "attn_out", "mlp_out", "z", "mlp_post"]
ANSWERS, FOILS = torch.tensor([3, 4, 5]), torch.tensor([7, 8, 9])


@pytest.fixture
def given(side):
    generator = torch.Generator().manual_seed(5)
    ids = [torch.randint(23, (length,), generator=generator) for length in (6, 9, 4)]
    return ids, padded(ids, side, answers=ANSWERS)


def frozen_norm(hf, x):
    """The final norm as a linear map, its scale that of x: a function of what is put through it."""
    base = hf.base_model
    norm = base.ln_f if hasattr(base, "ln_f") else base.norm
    if hasattr(norm, "bias"):
        scale = (x.var(unbiased=False) + norm.eps).sqrt()
        return (lambda part: (part - part.mean()) / scale * norm.weight), norm.bias
    scale = (x.pow(2).mean() + norm.variance_epsilon).sqrt()
    return (lambda part: part / scale * norm.weight), torch.zeros(len(x))


@pytest.mark.parametrize("split", ["layer", "head", "neuron"])
@pytest.mark.parametrize("foils", [True, False])
def test_every_part_equals_the_naive_twin_and_they_sum_to_the_metric(hf, model, given, split, foils):
    ids, prompts = given
    targets = Targets(ANSWERS[:, None], FOILS[:, None] if foils else None)
    found = logit_attribution(capture(model, prompts, SITES), model, targets=targets, split=split)
    torch.testing.assert_close(found.values.sum(1), found.total, atol=1e-5, rtol=1e-5)
    naive, unembedding = Naive(hf), hf.get_output_embeddings().weight
    with torch.no_grad():
        for i, row in enumerate(ids):
            logits = naive.logits(row)[-1]
            rest = logits[FOILS[i]] if foils else logits.mean()
            np.testing.assert_allclose(float(found.total[i]), float(logits[ANSWERS[i]] - rest), atol=1e-5, rtol=1e-5)
            way = unembedding[ANSWERS[i]] - (unembedding[FOILS[i]] if foils else unembedding.mean(0))
            through, bias = frozen_norm(hf, naive.read(row, "resid_post", 2)[-1])
            value = dict(zip(found.components, found.values[i].tolist(), strict=True))
            close = dict(atol=1e-5, rtol=1e-5)
            np.testing.assert_allclose(
                value["embed"], float(through(naive.read(row, "resid_pre", 0)[-1]) @ way), **close
            )
            np.testing.assert_allclose(value["final bias"], float(bias @ way), **close)
            for layer in range(3):
                for block, prefix in (("attn_out", f"L{layer}H"), ("mlp_out", f"L{layer}N")):
                    wanted = float(through(naive.read(row, block, layer)[-1]) @ way)
                    short = f"L{layer} {block.removesuffix('_out')}"
                    parts = [v for k, v in value.items() if k.startswith(prefix)]
                    own = value[short] if short in value else sum(parts) + value.get(f"{short} bias", 0)
                    np.testing.assert_allclose(own, wanted, **close)


def test_a_single_head_equals_the_difference_that_taking_it_out_of_the_sum_makes(hf, model, given):
    """W_O is linear: a head's share is that of attn_out minus attn_out with the head's z at zero, the norm held."""
    ids, prompts = given
    found = logit_attribution(capture(model, prompts, SITES), model, split="head")
    naive, unembedding = Naive(hf), hf.get_output_embeddings().weight
    i, layer, head = 1, 1, 2
    with torch.no_grad():
        through, _ = frozen_norm(hf, naive.read(ids[i], "resid_post", 2)[-1])
        z = naive.read(ids[i], "z", layer)[-1]
        attention = hf.base_model.h[layer].attn.c_proj if hasattr(hf.base_model, "h") else None
        out = attention.weight if attention is not None else hf.base_model.layers[layer].self_attn.o_proj.weight.T
        written = torch.zeros_like(z)
        written[head] = z[head]
        way = unembedding[ANSWERS[i]] - unembedding.mean(0)
        wanted = float(through(written.flatten() @ out) @ way)
    own = float(found.values[i, found.components.index(f"L{layer}H{head}")])
    np.testing.assert_allclose(own, wanted, atol=1e-5, rtol=1e-5)


def test_processed_weights_give_the_same_sum(hf, given):
    _, prompts = given
    targets = Targets(ANSWERS[:, None], FOILS[:, None])
    raw, processed = (load_model(hf, device="cpu", weights=w) for w in ("raw", "processed"))
    totals = [logit_attribution(capture(m, prompts, SITES), m, targets=targets).total for m in (raw, processed)]
    torch.testing.assert_close(*totals, atol=1e-4, rtol=1e-4)


def test_the_induction_head_of_the_known_model_writes_the_answer():
    pairs, model = known_pairs(), known_model()
    found = logit_attribution(capture(model, pairs.clean, SITES), model, targets=Targets.of(pairs), split="head")
    share = found.values / found.total[:, None]
    head = found.components.index("L1H0")
    assert float(share[:, head].min()) > 0.9
    torch.testing.assert_close(found.accumulated[:, -1], found.total, atol=1e-3, rtol=1e-4)
    assert len(found.to_frame()) == len(pairs) * len(found.components)


def test_what_cannot_be_attributed_is_refused(model, given):
    _, prompts = given
    bare = capture(model, padded([torch.arange(4)], "right"), SITES)
    with pytest.raises(PromptError, match="give answers"):
        logit_attribution(bare, model)
    with pytest.raises(ConfigError, match="not captured"):
        logit_attribution(capture(model, prompts, ["resid_pre", "resid_post"]), model)
    off = capture(model, prompts, SITES)
    off["attn_out", 1][:] += torch.linspace(-1, 1, 24) ** 3  # as if something normed it on its way
    with pytest.raises(ModelError, match="do not add up"):
        logit_attribution(off, model)
