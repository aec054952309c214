import pytest
import torch

from interp.datasets.judging import ANSWERS, TEMPLATE, judging_tokenizer
from interp.models.judge import Judge
from interp.models.load import load_model
from interp.models.small import Architecture, build_small

CONTEXT = 96


@pytest.fixture(scope="session")
def plain():
    """A judge that was never trained, with weights large enough that verdicts differ."""
    model = build_small(Architecture(width=24, mlp=32), len(judging_tokenizer()), CONTEXT, seed=1, special=(1, 2, 0))
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3.0 if weight.ndim > 1 else 1.0)
    return model.eval()


@pytest.fixture(scope="session")
def judge(plain):
    model = load_model(plain, judging_tokenizer(), device="cpu")
    return Judge.of(model, template=TEMPLATE, safe=f" {ANSWERS[0]}", unsafe=f" {ANSWERS[1]}")


@pytest.fixture(scope="session")
def folder(plain, tmp_path_factory):
    """The same judge as a folder that says how it is asked."""
    from interp.files import write_json
    from interp.models.judge import FILE

    made = tmp_path_factory.mktemp("judge")
    plain.save_pretrained(made)
    judging_tokenizer().save_pretrained(made)
    write_json(made / FILE, {"template": TEMPLATE, "safe": f" {ANSWERS[0]}", "unsafe": f" {ANSWERS[1]}"})
    return made
