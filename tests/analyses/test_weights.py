import numpy as np
import pytest
import torch

from interp.analyses.weights import composition, ov_circuit, qk_circuit
from interp.errors import ConfigError, ModelError
from interp.models.load import load_model
from tests.known import known_model


@pytest.fixture(scope="module")
def processed(hf):
    return load_model(hf, device="cpu", weights="processed")


@pytest.mark.parametrize("through", ["Q", "K", "V"])
def test_composition_equals_the_dense_matrices(processed, through):
    found = composition(processed, through, draws=2)
    for layer, later in ((0, 1), (0, 2), (1, 2)):
        for head, other in ((0, 3), (2, 1)):
            writes = ov_circuit(processed, layer, head)
            reads = {"Q": qk_circuit, "K": qk_circuit, "V": ov_circuit}[through](processed, later, other)
            reads = reads.T if through == "K" else reads
            wanted = (writes @ reads).norm() / (writes.norm() * reads.norm())
            np.testing.assert_allclose(float(found.scores[layer, head, later, other]), float(wanted), rtol=1e-4)
    assert found.scores[1, :, 0].isnan().all()
    assert found.scores[1, :, 1].isnan().all()
    assert len(found.to_frame()) == 3 * 16


def test_the_control_of_composition_is_one_over_the_root_of_the_width(processed):
    """The mean square of |A R B| over rotations R is |A|^2 |B|^2 / d."""
    found = composition(processed, "K", draws=200)
    square = found.random.pow(2).mean(0)
    there = ~square.isnan()
    np.testing.assert_allclose(square[there].mean(), 1 / 24, rtol=0.05)


def test_the_induction_head_is_wired_to_the_previous_token_head():
    model = load_model(known_model().original_model, device="cpu", weights="processed")
    found = composition(model, "K", draws=50)
    z = found.z[0, :, 1, :]
    assert float(z[0, 0]) > 5
    assert float(z[0, 0]) == float(z[~z.isnan()].max())


@pytest.mark.parametrize(("layer", "head"), [(0, 3), (2, 1)])
def test_the_circuits_are_made_of_the_checkpoint_s_own_weights(hf, layer, head):
    model, base = load_model(hf, device="cpu"), hf.base_model
    with torch.no_grad():
        if hasattr(base, "h"):
            q, k, v = base.h[layer].attn.c_attn.weight.split(24, dim=1)
            o, shared = base.h[layer].attn.c_proj.weight, head
        else:
            attention = base.layers[layer].self_attn
            q, k, v, o = (getattr(attention, f"{x}_proj").weight.T for x in "qkvo")
            shared = head // 2  # two key-value heads serve four heads
        own, theirs = slice(6 * head, 6 * head + 6), slice(6 * shared, 6 * shared + 6)
        torch.testing.assert_close(ov_circuit(model, layer, head), v[:, theirs] @ o[own], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(qk_circuit(model, layer, head), q[:, own] @ k[:, theirs].T, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_composed_is_refused(hf, processed):
    with pytest.raises(ModelError, match="needs processed weights"):
        composition(load_model(hf, device="cpu"), "K")
    with pytest.raises(ConfigError, match="L0H9"):
        ov_circuit(processed, 0, 9)
