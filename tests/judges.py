"""A tiny judge with weights large enough to have opinions, for tests."""

import torch

from interp.datasets.judging import ANSWERS, TEMPLATE, judging_tokenizer
from interp.models.judge import Judge
from interp.models.load import load_model
from interp.models.small import Architecture, build_small


def tiny(form="llama", *, seed=1, layers=2):
    """The plain Hugging Face model, and the judge on it."""
    tokenizer = judging_tokenizer()
    shape = Architecture(form=form, width=24, mlp=32, layers=layers)
    plain = build_small(shape, len(tokenizer), 96, seed=seed, special=(1, 2, 0)).eval()
    with torch.no_grad():
        for weight in plain.parameters():
            weight.mul_(3.0 if weight.ndim > 1 else 1.0)
    model = load_model(plain, tokenizer, device="cpu")
    return plain, Judge.of(model, template=TEMPLATE, safe=f" {ANSWERS[0]}", unsafe=f" {ANSWERS[1]}")


def ids_of(judge, text):
    """Token ids of a text in the judge's template, one row."""
    return judge.model.tokenizer(TEMPLATE.format(prompt=text), return_tensors="pt").input_ids


def odds_of(plain, judge, text, **options):
    """Log-odds by the plain model, one text at a time."""
    with torch.no_grad():
        logits = plain(ids_of(judge, text), **options).logits[0, -1]
    return logits[judge.unsafe] - logits[judge.safe]
