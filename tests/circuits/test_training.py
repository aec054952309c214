"""Transcoders learn planted features, every form trains, and their quality is what a plain loop finds."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel

from interp.circuits.formats import read_transcoders, write_transcoders
from interp.circuits.training import TranscoderShape, _Jump, _Made, quality, replaced_logits, train_transcoders
from interp.circuits.transcoders import Transcoder, Transcoders
from interp.errors import ConfigError, DataError, ModelError
from interp.models.load import load_model
from interp.models.run import capture
from interp.prompts import Prompts
from interp.sites import Site
from tests.circuits.test_graph import drawn
from tests.models.test_sweeps import LAYERS, WIDTH, made, neox, plain

MLP = ("c_fc.weight", "c_fc.bias", "c_proj.weight", "c_proj.bias")
TINY = {"features": 48, "steps": 40, "tokens": 128, "learning_rate": 5e-3}


def asked(seed, count=24, columns=8):
    tokens = torch.randint(4, 60, (count, columns), generator=torch.Generator().manual_seed(seed))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[::3, -2:] = False
    return Prompts.from_tokens(tokens, mask)


@pytest.mark.parametrize("form", ["per-layer", "skip", "cross-layer"])
@pytest.mark.parametrize("activation", ["topk", "jumprelu", "relu"])
def test_every_form_learns_and_comes_back_from_a_file(tmp_path, form, activation):
    shape = TranscoderShape(form=form, activation=activation, **TINY)
    model = made("llama")
    if form == "cross-layer" and activation == "topk":
        with pytest.raises(ConfigError, match="no file format; choose jumprelu or relu"):
            train_transcoders(model, asked, shape)
        return
    found = train_transcoders(model, asked, shape)
    before = quality(model, train_transcoders(model, asked, shape.model_copy(update={"steps": 1})), asked(99))
    after = quality(model, found, asked(99))
    assert (after.explained > before.explained + 0.02).all()
    assert found.cross == (form == "cross-layer")
    assert all((one.skip is not None) == (form == "skip") for one in found.layers)
    write_transcoders(found, tmp_path)
    again = quality(model, read_transcoders(tmp_path), asked(99))
    torch.testing.assert_close(again.explained, after.explained, rtol=0, atol=0)
    assert again.recovered == after.recovered


def test_the_same_seed_gives_the_same_weights():
    shape = TranscoderShape(**{**TINY, "steps": 5})
    one, other = (train_transcoders(made("gpt2"), asked, shape) for _ in range(2))
    for a, b in zip(one.layers, other.layers, strict=True):
        assert torch.equal(a.encoder, b.encoder)
        assert torch.equal(a.decoder, b.decoder)


def test_a_training_that_was_killed_goes_on_to_the_same_weights(tmp_path):
    shape, model = TranscoderShape(activation="jumprelu", **{**TINY, "steps": 7}), made("llama")
    whole = train_transcoders(model, asked, shape)

    def die(step):
        if step == 5:
            raise KeyboardInterrupt
        return asked(step)

    state = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_transcoders(model, die, shape, checkpoint=state, every=2)
    seen = []
    again = train_transcoders(model, lambda step: seen.append(step) or asked(step), shape, checkpoint=state, every=2)
    assert seen == [0, 4, 5, 6]  # 0 for the scales
    for one, other in zip(whole.layers, again.layers, strict=True):
        for name in ("encoder", "encoder_bias", "decoder", "decoder_bias", "threshold"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name
    with pytest.raises(DataError, match="belongs to another training"):
        train_transcoders(model, asked, shape.model_copy(update={"seed": 1}), checkpoint=state)
    with pytest.raises(DataError, match="belongs to another training"):
        train_transcoders(model, asked, shape, checkpoint=state, data="others")
    with pytest.raises(DataError, match="belongs to another training"):
        train_transcoders(made("gpt2"), asked, shape, checkpoint=state)
    state.write_bytes(b"no tensors")
    with pytest.raises(DataError, match=r"state\.safetensors"):
        train_transcoders(model, asked, shape, checkpoint=state)


def test_planted_features_are_found_again():
    """A sparse dictionary is trained on what a sparse dictionary wrote: its directions come back."""
    generator = torch.Generator().manual_seed(0)
    planted = F.normalize(torch.randn(12, 16, generator=generator), dim=-1)
    shape = TranscoderShape(features=24, k=3)
    module = _Made(1, 16, shape, torch.zeros(1, 16), generator)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    quiet = torch.zeros(1, 24)
    for _ in range(800):
        codes = torch.rand(1, 256, 12, generator=generator) * (torch.rand(1, 256, 12, generator=generator) < 0.15)
        x = codes @ planted * 4
        loss, active = module(x, x, quiet > 40, warm=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        quiet = torch.where(active, 0.0, quiet + 1)
    found = F.normalize(module.decoder[0, :, 0].detach(), dim=-1)
    assert ((planted @ found.T).amax(1) > 0.95).float().mean() >= 0.9


def test_dead_features_are_asked_to_explain_what_is_left():
    generator = torch.Generator().manual_seed(0)
    module = _Made(2, 8, TranscoderShape(features=16, k=2), torch.zeros(2, 8), generator)
    with torch.no_grad():
        module.encoder_bias[:, 8:] = 0.01
    x = torch.randn(2, 64, 8, generator=generator)
    dead = torch.zeros(2, 16, dtype=torch.bool)
    alone, _ = module(x, x, dead, warm=1.0)
    dead[:, 8:] = True
    both, _ = module(x, x, dead, warm=1.0)
    assert both > alone
    slopes = torch.autograd.grad(both - alone, module.decoder)[0]
    assert slopes[:, 8:].abs().max() > 0
    assert slopes[:, :8].abs().max() == 0


def test_a_threshold_has_the_gradient_of_a_smoothed_step():
    """With inputs spread evenly the straight-through gradient is that of the expected count and value."""
    before = torch.linspace(0, 1, 200_001)[None, :, None]
    threshold = torch.full((1, 1, 1), 0.4, requires_grad=True)
    value, on = _Jump.apply(before, threshold)
    (value.mean() + on.mean()).backward()
    # d/dt of the integral of x from t to 1, and of 1 - t
    assert threshold.grad is not None
    assert threshold.grad.item() == pytest.approx(-0.4 - 1, abs=1e-3)


@pytest.mark.parametrize("form", ["gpt2", "llama"])
def test_quality_is_what_a_plain_loop_finds(form):
    """Inputs and outputs of the MLPs by hooks on the Hugging Face model itself."""
    alone, prompts, transcoders = plain(form), asked(5), drawn("jumprelu")
    seen = []
    for block in alone.transformer.h if form == "gpt2" else alone.model.layers:
        block.mlp.register_forward_hook(lambda _, given, out: seen.append((given[0].detach(), out.detach())))
    alone.eval()(prompts.tokens)
    found = quality(load_model(plain(form), device="cpu", weights="raw"), transcoders, prompts, batch=7)
    real = prompts.mask
    assert found.tokens == int(real.sum())
    for layer, one in enumerate(transcoders.layers):
        x, y = (part[real] for part in seen[layer])
        active = one.encode(x)
        error = y - active @ one.decoder[:, 0] - one.decoder_bias
        share = 1 - error.square().sum() / (y - y.mean(0)).square().sum()
        torch.testing.assert_close(found.explained[layer], share, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.l0[layer], (active > 0).float().sum(-1).mean(), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.dead[layer], 1 - (active > 0).any(0).float().mean())


def test_transcoders_that_are_the_mlps_recover_everything_and_silent_ones_nothing():
    """An MLP of ReLU neurons is a transcoder of itself; one that writes its mean recovers nothing."""
    torch.manual_seed(0)
    config = GPT2Config(
        n_layer=LAYERS, n_embd=WIDTH, n_head=4, vocab_size=60, n_positions=32, activation_function="relu"
    )
    alone = GPT2LMHeadModel(config)
    with torch.no_grad():
        for parameter in alone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    kept = dict(alone.named_parameters())
    weights = [[kept[f"transformer.h.{layer}.mlp.{name}"].detach().clone() for name in MLP] for layer in range(LAYERS)]
    model, prompts = load_model(alone, device="cpu", weights="raw"), asked(3)
    whole = Transcoders(tuple(Transcoder(up.T, a, down[:, None], b) for up, a, down, b in weights))
    found = quality(model, whole, prompts)
    assert found.recovered == pytest.approx(1, abs=1e-5)
    torch.testing.assert_close(found.explained, torch.ones(LAYERS), rtol=0, atol=1e-5)
    kept = capture(model, prompts, ["logits", "mlp_out"])
    torch.testing.assert_close(replaced_logits(model, prompts, whole), kept[Site("logits")], rtol=0, atol=1e-4)
    means = [kept[Site("mlp_out", layer)][prompts.mask].mean(0) for layer in range(LAYERS)]
    nothing = Transcoder(torch.zeros(4, WIDTH), torch.full((4,), -1.0), torch.zeros(4, 1, WIDTH), means[0])
    silent = quality(model, Transcoders(tuple(replace(nothing, decoder_bias=mean) for mean in means)), prompts)
    assert silent.recovered == pytest.approx(0, abs=1e-4)
    assert silent.dead.tolist() == [1.0] * LAYERS


def test_transcoders_read_gemma_where_their_files_say():
    model = made("gemma2")
    shape = TranscoderShape(reads="normalized", **TINY)
    found = quality(model, train_transcoders(model, asked, shape), asked(99))
    assert (found.explained > 0).all()


def test_an_unknown_architecture_is_said():
    with pytest.raises(ModelError, match="cannot be trained or judged: the blocks of GPTNeoX"):
        train_transcoders(load_model(neox(), device="cpu", weights="raw"), asked, TranscoderShape(**TINY))
