import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # what tests start runs beside other tests

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, Qwen2Config

from interp.models.load import load_model
from interp.prompts import Prompts

torch.set_num_threads(1)

WHOLE = ("test_study", "test_notebooks", "test_parallel")
"""Files that run whole studies and notebooks. They start first, so that no process ends alone with one."""


def pytest_collection_modifyitems(items):
    for item in items:
        if item.path.stem in WHOLE:
            item.add_marker("whole")
    items.sort(key=lambda item: "whole" not in item.keywords)


SIZES = dict(vocab_size=23, bos_token_id=0, eos_token_id=1, pad_token_id=2)
CONFIGS = {
    "gpt2": GPT2Config(n_positions=16, n_embd=24, n_layer=3, n_head=4, **SIZES),
    "llama": LlamaConfig(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=16, tie_word_embeddings=False, **SIZES,
    ),
    "qwen2": Qwen2Config(
        hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=16, tie_word_embeddings=False, **SIZES,
    ),
}  # fmt: skip


def tiny(form, seed=0):
    """A tiny Hugging Face model with random weights, large enough that nothing is near zero."""
    config = CONFIGS[form]
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "ln" in name or "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.25 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="session", params=list(CONFIGS))
def hf(request):
    return tiny(request.param)


@pytest.fixture(scope="session")
def model(hf):
    return load_model(hf, device="cpu")


@pytest.fixture(params=["left", "right"])
def side(request):
    return request.param


@pytest.fixture
def ragged(side):
    """Token ids of mixed length, and prompts made from them padded on either side."""
    generator = torch.Generator().manual_seed(7)
    ids = [torch.randint(23, (length,), generator=generator) for length in (5, 9, 7, 3)]
    return ids, padded(ids, side)


def padded(ids, side, **kwargs):
    width = max(map(len, ids))
    tokens = torch.full((len(ids), width), 2)
    mask = torch.zeros((len(ids), width), dtype=torch.bool)
    for row, content in enumerate(ids):
        span = slice(width - len(content), width) if side == "left" else slice(0, len(content))
        tokens[row, span] = content
        mask[row, span] = True
    return Prompts.from_tokens(tokens, mask, **kwargs)
