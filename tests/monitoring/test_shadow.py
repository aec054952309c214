import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2ForSequenceClassification

from interp.errors import ModelError
from interp.models.load import load_model
from interp.monitoring.shadow import Shadow, undisturbed, unwrapped
from tests.conftest import tiny


def shaken(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.mark.parametrize(("form", "in_place"), [("llama", True), ("qwen2", True), ("gpt2", False)])
def test_the_shadow_computes_what_the_trained_model_does(form, in_place):
    trained = tiny(form).train()
    shadow = Shadow(trained, None)
    assert bool(shadow._targets) == in_place  # GPT-2's joint query, key, value weights are cut apart
    tokens = torch.randint(23, (3, 8), generator=torch.Generator().manual_seed(1))
    for _ in range(2):
        shaken(trained)
        shadow.update()
        assert trained.training
        with torch.no_grad():
            wanted = trained.eval()(tokens).logits
            torch.testing.assert_close(shadow.model(tokens), wanted, atol=2e-5, rtol=0)
        trained.train()


def test_what_wraps_the_model_is_taken_off():
    trained = tiny("llama")
    assert unwrapped(nn.DataParallel(trained)) is trained
    compiled = nn.Module()
    compiled._orig_mod = nn.DataParallel(trained)
    assert unwrapped(compiled) is trained
    shadow = Shadow(nn.DataParallel(trained), None)
    shaken(trained)
    shadow.update()
    tokens = torch.arange(6)[None]
    torch.testing.assert_close(shadow.model(tokens), trained(tokens).logits.detach(), atol=2e-5, rtol=0)


@pytest.mark.parametrize("form", ["llama", "gpt2"])
def test_an_adapter_is_merged_in_a_copy(form):
    import peft

    torch.manual_seed(3)
    modules = ["c_attn"] if form == "gpt2" else ["q_proj", "v_proj"]
    config = peft.LoraConfig(r=2, target_modules=modules, fan_in_fan_out=form == "gpt2", lora_dropout=0.3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT uses what transformers calls old
        trained = peft.get_peft_model(tiny(form), config).train()
    shadow = Shadow(trained, None)
    with torch.no_grad():
        for name, parameter in trained.named_parameters():
            if "lora" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    shadow.update()
    tokens = torch.arange(6)[None]
    torch.testing.assert_close(shadow.model(tokens), trained.eval()(tokens).logits.detach(), atol=2e-5, rtol=0)
    with trained.disable_adapter():
        assert not torch.allclose(shadow.model(tokens), trained(tokens).logits, atol=1e-3)
    after = trained.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert any("lora" in name for name in after)


def test_half_precision_is_read_in_full():
    trained = tiny("llama")
    for parameter in trained.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)
    shadow = Shadow(trained, None)
    shadow.update()
    tokens = torch.arange(6)[None]
    wanted = load_model(trained, device="cpu")(tokens)
    torch.testing.assert_close(shadow.model(tokens), wanted, atol=2e-5, rtol=0)


def test_random_states_are_as_before():
    def states():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    wanted = states()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    with undisturbed():
        states()
    assert states() == wanted
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    with pytest.raises(ZeroDivisionError), undisturbed():
        1 / (states()[0] * 0)
    assert states() == wanted


def test_what_is_no_language_model_is_refused():
    with pytest.raises(ModelError, match="no Hugging Face causal language model"):
        Shadow(nn.Linear(2, 2), None)
    config = GPT2Config(vocab_size=23, n_positions=8, n_embd=8, n_layer=1, n_head=1, pad_token_id=0)
    with pytest.raises(ModelError, match="no Hugging Face causal language model"):
        Shadow(GPT2ForSequenceClassification(config), None)


def test_weights_that_are_not_whole_are_refused():
    trained = tiny("llama")
    shadow = Shadow(trained, None)
    trained.lm_head.weight = nn.Parameter(torch.zeros(5, 24))
    with pytest.raises(ModelError, match=r"lm_head.weight of the trained model has shape \(5, 24\)"):
        shadow.update()
