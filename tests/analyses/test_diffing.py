import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp.analyses.diffing import crossed_readout, difference_lens
from interp.datasets.sentences import tokenizer
from interp.errors import ModelError
from interp.models.load import load_model
from tests.conftest import CONFIGS, SIZES, tiny
from tests.naive import Naive
from tests.test_twins import LENGTHS, NEUTRAL, PLACES, put, twins_of

END = 5
CLOSE = dict(atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request):
    """Two plain models of a form, and both loaded."""
    plain = [tiny(request.param, seed) for seed in (0, 1)]
    return plain, [load_model(one, device="cpu") for one in plain]


@pytest.fixture
def side(pair):
    """Both sides of padding over the three forms; all six are tried where the vectors are made."""
    return "right" if pair[0][0].config.model_type == "llama" else "left"


def head_of(hf, stream):
    """The plain model's own final norm and unembedding on states of any model."""
    norm = hf.transformer.ln_f if hasattr(hf, "transformer") else hf.model.norm
    with torch.no_grad():
        return hf.get_output_embeddings()(norm(stream))


def test_every_body_goes_through_every_head(pair, side):
    plain, models = pair
    ids, twins = twins_of(side, groups=[0, 0, 1, 1])
    found = crossed_readout(*models, twins, END, seed=3)
    drawn = twins.partners(3)[1]
    for p, (row, place) in enumerate(zip(ids, PLACES, strict=True)):
        for own, given in ((found.values, row), (found.neutral, put(row, place, NEUTRAL[drawn[p]]))):
            for b, body in enumerate(plain):
                stream = Naive(body).read(given, "resid_post", 2)[place : place + 4]
                for h, head in enumerate(plain):
                    wanted = head_of(head, stream).softmax(-1)[:, END].max()
                    np.testing.assert_allclose(own[p, b, h], wanted, **CLOSE)
                # A body through its own head is the model.
                whole = Naive(body).logits(given).softmax(-1)[place : place + 4, END].max()
                np.testing.assert_allclose(own[p, b, b], whole, **CLOSE)
    assert (found.bodies, found.heads) == (("base", "fine-tuned"), ("base", "fine-tuned"))
    assert found.groups.tolist() == [0, 0, 1, 1]
    assert len(found.to_frame()) == 4 * 2 * 2


def test_the_lens_on_the_difference_equals_float64_by_hand(pair, side):
    plain, models = pair
    ids, twins = twins_of(side)
    found = difference_lens(*models, twins.prompts, {"end": END, "S": 20}, neutral=[7, 8, 9], first=5, top=4)
    naive, n = [Naive(one) for one in plain], min(LENGTHS)
    assert found.positions == ("0", "1", "2")  # no further than the shortest prompt
    tuned = plain[1]
    norm = tuned.transformer.ln_f if hasattr(tuned, "transformer") else tuned.model.norm
    weight, centred = norm.weight.detach().double().numpy(), hasattr(norm, "bias")
    unembedding = tuned.get_output_embeddings().weight.detach().double().numpy().T
    sites = [("resid_pre", 0), *(("resid_post", layer) for layer in range(3))]
    for s, site in enumerate(sites):
        before, after = (np.stack([one.read(row, *site)[:n].double().numpy() for row in ids]) for one in naive)
        apart = after - before
        np.testing.assert_allclose(
            found.relative[:, s], np.linalg.norm(apart, axis=-1) / np.linalg.norm(before, axis=-1), **CLOSE
        )
        for position in range(n):
            mean = apart[:, position].mean(0)
            share = (mean**2).sum() / np.mean([(x**2).sum() for x in apart[:, position]])
            np.testing.assert_allclose(found.shared[s, position], share, **CLOSE)
            # The norm's scale multiplies all changes of a place alike, which neither z nor rank sees.
            change = ((mean - mean.mean() if centred else mean) * weight) @ unembedding
            z = (change - change.mean()) / change.std()
            np.testing.assert_allclose(found.z[s, position], z[[END, 20]], **CLOSE)
            np.testing.assert_allclose(found.neutral[:, :, s, position].mean(0), z[[7, 8, 9]], **CLOSE)
            for p, one in enumerate(apart[:, position]):
                own = ((one - one.mean() if centred else one) * weight) @ unembedding
                wanted = (own - own.mean())[[END, 20]] / change.std()
                np.testing.assert_allclose(found.promotion[p, s, position], wanted, **CLOSE)
            assert found.rank[s, position].tolist() == [int((change > change[i]).sum()) for i in (END, 20)]
            assert found.top[s, position].tolist() == np.argsort(-change)[:4].tolist()
    assert found.words == ("end", "S")
    assert found.depths == ("embed", "layer 0", "layer 1", "layer 2")
    assert set(found.names) == {str(i) for i in found.top.unique().tolist()}
    assert len(found.to_frame()) == 4 * 4 * 3


def test_a_model_does_not_differ_from_itself():
    words = {f"w{i}": i for i in range(4, 23)} | {"<pad>": 0, "<bos>": 1, "<eos>": 2, "<unk>": 3}
    model = load_model(tiny("llama"), tokenizer(words), device="cpu")
    found = difference_lens(model, model, twins_of()[1].prompts, {"end": END}, first=2)
    assert (found.relative == 0).all()
    assert found.shared.isnan().all()
    assert found.z.isnan().all()
    assert found.names[str(int(found.top[0, 0, 0]))] in words


@pytest.mark.parametrize("other", [dict(n_layer=2), dict(n_embd=28), dict(vocab_size=21)])
def test_models_of_other_shapes_are_not_compared(pair, other):
    sizes = dict(n_positions=16, n_embd=24, n_layer=3, n_head=4, **SIZES)
    small = load_model(GPT2LMHeadModel(GPT2Config(**{**sizes, **other})).eval(), device="cpu")
    twins = twins_of()[1]
    for call in (
        lambda: crossed_readout(pair[1][0], small, twins, END),
        lambda: difference_lens(small, pair[1][0], twins.prompts, {"end": END}),
    ):
        with pytest.raises(ModelError, match=r"differ in layers, width or vocabulary .*24, 23.*fine-tuned copy"):
            call()
