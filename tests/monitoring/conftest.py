import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from interp.datasets.judging import ANSWERS, TEMPLATE, judging_tokenizer
from interp.models.small import Architecture, build_small
from interp.monitoring.probe import judging_probe

SAID = {"template": TEMPLATE, "safe": f" {ANSWERS[0]}", "unsafe": f" {ANSWERS[1]}"}


@pytest.fixture(scope="session")
def tokenizer():
    return judging_tokenizer()


@pytest.fixture(scope="session")
def probe():
    return judging_probe(24, pairs=4, explained=2)


@pytest.fixture
def llama(tokenizer):
    return build_small(Architecture(width=16, mlp=24), len(tokenizer), 96, seed=0, special=(1, 2, 0))


@pytest.fixture
def dropping(tokenizer):
    """A GPT-2 with dropout on every path."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=96, n_embd=16, n_layer=2, n_head=2, resid_pdrop=0.2,
                   embd_pdrop=0.2, attn_pdrop=0.2, bos_token_id=1, eos_token_id=2, pad_token_id=0)
    )  # fmt: skip
