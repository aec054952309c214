import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM, GPT2ForSequenceClassification, LlamaForSequenceClassification

import interp.models.load as load
from interp.datasets.arithmetic import Problem
from interp.datasets.arithmetic_prompts import to_prompts, tokenizer
from interp.errors import ConfigError, InterpError, ModelError
from interp.metrics import METRICS, Targets, logit
from interp.models.edits import Edit, Zero
from interp.models.load import info, load_model, require_weights, untrained
from interp.models.run import capture
from interp.models.sweeps import Edits, Readout, sweep
from interp.prompts import Prompts
from interp.sites import Site
from tests.conftest import CONFIGS, tiny

TOKENS = torch.randint(23, (3, 9), generator=torch.Generator().manual_seed(21))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def logits(model, tokens=TOKENS):
    with torch.inference_mode():
        found = model(tokens)
    return (found if isinstance(found, torch.Tensor) else found.logits).float()


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.fixture(scope="module", params=list(CONFIGS))
def form(request):
    return request.param


@pytest.fixture(scope="module")
def folder(form, tmp_path_factory):
    path = tmp_path_factory.mktemp(form)
    tiny(form).save_pretrained(path)
    return path


@pytest.fixture
def gpt2(tmp_path):
    path = tmp_path / "gpt2"
    tiny("gpt2").save_pretrained(path)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_logits_equal_the_plain_model(form, folder, origin, dtype):
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[dtype], attn_implementation="eager").eval()
    given = folder if origin == "folder" else tiny(form)
    model = load_model(given, device="cpu", dtype=DTYPES[dtype])
    expected, found = logits(plain), logits(model)
    # bfloat16 has 8 significant bits: two units in the last place of the largest logit.
    allowed = 1e-5 if dtype == "float32" else 2 * 2**-8 * float(expected.abs().max())
    torch.testing.assert_close(found, expected, atol=allowed, rtol=1e-5 if dtype == "float32" else 0)
    assert info(model).dtype == dtype
    assert info(model).check <= allowed


@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_processed_weights_keep_the_log_probabilities(form, folder, origin):
    given = folder if origin == "folder" else tiny(form)
    raw, processed = (load_model(given, device="cpu", weights=state) for state in ("raw", "processed"))
    expected, found = logits(tiny(form)), logits(processed)
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=1e-4, rtol=0)
    # A centred unembedding gives logits with mean 0 over the vocabulary; the plain ones have another.
    assert float(found.mean(-1).abs().max()) < 1e-4
    assert float(expected.mean(-1).abs().max()) > 1e-2
    assert (info(raw).weights, info(processed).weights) == ("raw", "processed")
    assert info(raw).digest == info(processed).digest  # which weights were loaded, not what became of them


@pytest.mark.parametrize("state", ["raw", "processed"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
def test_a_model_in_memory_is_left_as_it_was(form, state, dtype, training):
    given = tiny(form)
    given.config._attn_implementation = "sdpa"
    before, outputs, settings = weights(given), logits(given), given.config.to_dict()
    given.train(training)
    model = load_model(given, device="cpu", weights=state, dtype=DTYPES[dtype])
    logits(model)
    assert given.training == training
    assert all(p.requires_grad and p.dtype == torch.float32 for p in given.parameters())
    assert given.config.to_dict() == settings
    assert given.config._attn_implementation == "sdpa"
    given.eval()
    after = weights(given)
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(logits(given), outputs)


def test_a_loaded_model_does_not_follow_the_original(form):
    given = tiny(form)
    model = load_model(given, device="cpu")
    before = logits(model)
    with torch.no_grad():
        for parameter in given.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), before)


def test_attention_is_seen_whatever_the_original_computes_it_with(form):
    """The fused kernels give no pattern; each row of a pattern sums to 1."""
    given = tiny(form)
    given.set_attn_implementation("sdpa")
    pattern = capture(load_model(given, device="cpu"), Prompts.from_tokens(TOKENS), ["pattern"])["pattern", 1]
    torch.testing.assert_close(pattern.sum(-1), torch.ones(3, 4, 9), atol=1e-5, rtol=0)


def test_what_is_known_of_a_model(form, folder):
    stored, memory, other = (load_model(m, device="cpu") for m in (folder, tiny(form), tiny(form, seed=1)))
    known = info(stored)
    assert (known.n_layers, known.n_heads, known.d_model, known.device) == (3, 4, 24, "cpu")
    assert known.name == str(folder)
    assert known.architecture == type(tiny(form)).__name__
    assert known.digest == info(memory).digest != info(other).digest
    assert not any(p.requires_grad for p in stored.original_model.parameters())
    assert not any(m.training for m in stored.modules())


def test_parameters_are_counted_once(form, folder):
    """As in the checkpoint, whatever the wrapper makes of them: GPT-2's joined q, k and v are no extra parameters."""
    for state in ("raw", "processed"):
        known = info(load_model(folder, device="cpu", weights=state))
        assert known.n_parameters == sum(p.numel() for p in tiny(form).parameters())


def test_loading_leaves_every_random_state_alone(form, folder):
    before = torch.get_rng_state()
    for given in (folder, tiny(form)):
        torch.set_rng_state(before)
        load_model(given, device="cpu", weights="processed")
        assert torch.equal(torch.get_rng_state(), before)


def test_a_shipped_model_is_found_by_name_and_can_add():
    model = load_model("arithmetic-add3", device="cpu")
    prompts = to_prompts([Problem(59, "+", 73), Problem(999, "+", 1), Problem(7, "+", 2)])
    found = capture(model, prompts, ["logits"])["logits"]
    assert METRICS["exact_match"].score(found, Targets.of(prompts)).tolist() == [1, 1, 1]
    ids = model.tokenizer("59+73=")["input_ids"]
    assert ids == tokenizer()("59 + 73 =")["input_ids"]
    assert info(model).name == "arithmetic-add3"


# What is refused, each with one line that says what is wrong.


def refused(given, message, **options):
    with pytest.raises(InterpError, match=message) as caught:
        load_model(given, **{"device": "cpu", **options})
    assert isinstance(caught.value, ModelError | ConfigError)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    refused(tmp_path / "nowhere", "no model folder .*nowhere")
    refused("./nowhere", r"no model folder '\./nowhere'")
    refused("~/nowhere/at/all", "no model folder")
    refused("", "no model folder ''")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"")
    refused(path, "no model folder")


def test_a_folder_without_config_is_refused(gpt2):
    (gpt2 / "config.json").unlink()
    refused(gpt2, "gpt2 is not a model folder: it has no config.json")


@pytest.mark.parametrize("kept", [0, 7, 500, -40])
def test_truncated_weights_are_refused(gpt2, kept):
    path = gpt2 / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(gpt2) in refused(gpt2, "cannot load the model .* damaged")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "no such thing"}', "{}"])
def test_a_config_that_is_none_is_refused(gpt2, content):
    (gpt2 / "config.json").write_text(content, encoding="utf-8")
    assert str(gpt2) in refused(gpt2, "cannot load the model")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 5}, "lacks .* tensors"),
        ({"n_layer": 2}, "another model"),
        ({"n_embd": 32}, "gpt2"),
        ({"vocab_size": 29}, "gpt2"),
    ],
    ids=["more layers", "fewer layers", "wider", "more words"],
)
def test_weights_of_another_config_are_refused(gpt2, change, message):
    config = json.loads((gpt2 / "config.json").read_text(encoding="utf-8"))
    (gpt2 / "config.json").write_text(json.dumps(config | change), encoding="utf-8")
    refused(gpt2, message)


def test_a_checkpoint_of_another_architecture_is_refused(tmp_path):
    for name in ("llama", "gpt2"):
        tiny(name).save_pretrained(tmp_path / name)
    (tmp_path / "llama" / "config.json").replace(tmp_path / "gpt2" / "config.json")
    refused(tmp_path / "gpt2", "lacks .* tensors")


def test_a_checkpoint_that_lacks_one_tensor_is_refused(gpt2):
    content = load_file(gpt2 / "model.safetensors")
    del content["transformer.h.1.mlp.c_fc.weight"]
    save_file(content, gpt2 / "model.safetensors", {"format": "pt"})
    refused(gpt2, r"lacks 1 tensors .*transformer\.h\.1\.mlp\.c_fc\.weight")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_weights_that_are_no_numbers_are_refused(tmp_path, form, origin, value):
    given = tiny(form)
    name, parameter = list(given.named_parameters())[3]
    with torch.no_grad():
        parameter.flatten()[0] = value
    if origin == "folder":
        given.save_pretrained(tmp_path)
    refused(tmp_path if origin == "folder" else given, f"damaged: {name} holds nan or infinity")


@pytest.mark.parametrize("kind", [GPT2ForSequenceClassification, LlamaForSequenceClassification])
@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_a_classifier_is_refused(tmp_path, kind, origin):
    config = copy.deepcopy(CONFIGS["gpt2" if kind is GPT2ForSequenceClassification else "llama"])
    given = kind(config).eval()
    if origin == "folder":
        given.save_pretrained(tmp_path)
    refused(tmp_path if origin == "folder" else given, kind.__name__)


def test_weights_that_only_pickle_can_read_are_refused(gpt2):
    torch.save(load_file(gpt2 / "model.safetensors"), gpt2 / "pytorch_model.bin")
    (gpt2 / "model.safetensors").unlink()
    refused(gpt2, "has no .safetensors weights")


@pytest.mark.parametrize("name", ["no-such-owner/no-such-model", "no-such-model-at-all"])
def test_an_unknown_name_is_refused_offline(name):
    refused(name, f"cannot load the model {name}: .*check the name and the network")


@pytest.mark.parametrize("device", ["nowhere", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device):
    refused(tiny("gpt2"), device, device=device)


def test_something_else_than_a_model_is_refused():
    refused(nn.Linear(2, 2), "Linear")
    with pytest.raises(Exception, match="'folded'"):  # under the test run's type checks these come first
        load_model(tiny("gpt2"), weights="folded")


@pytest.mark.parametrize("state", ["raw", "processed"])
@pytest.mark.parametrize("how", ["one weight", "nan"])
def test_a_wrapper_that_computes_something_else_is_refused(monkeypatch, form, state, how):
    build = load.build_bridge_from_module

    def off(original, *args, **kwargs):
        model = build(original, *args, **kwargs)
        with torch.no_grad():
            last = list(model.original_model.parameters())[-1]
            last.mul_(torch.nan if how == "nan" else 1.01)
        return model

    monkeypatch.setattr(load, "build_bridge_from_module", off)
    refused(tiny(form), "does not compute what the original does", weights=state)


def test_a_wrapper_that_fails_is_refused(monkeypatch):
    def fails(*args, **kwargs):
        raise KeyError("no adapter")

    monkeypatch.setattr(load, "build_bridge_from_module", fails)
    refused(tiny("gpt2"), "cannot wrap .*no adapter")


# Untrained twins, and what needs processed weights.


@pytest.mark.parametrize("state", ["raw", "processed"])
def test_untrained_models_are_drawn_from_their_seeds_alone(form, state):
    model = load_model(tiny(form), device="cpu", weights=state)
    before = weights(model.original_model)
    torch.manual_seed(1)
    first = list(untrained(model, [0, 1, 7]))
    torch.manual_seed(2)
    state_before = torch.get_rng_state()
    again = list(untrained(model, [7, 0]))
    assert torch.equal(torch.get_rng_state(), state_before)
    outputs = [logits(m) for m in first]
    assert torch.equal(logits(again[0]), outputs[2])
    assert torch.equal(logits(again[1]), outputs[0])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.allclose(outputs[one], outputs[other])
    assert not any(torch.allclose(o, logits(model)) for o in outputs)
    assert [info(m).weights for m in first] == [state] * 3
    assert len({info(m).digest for m in (*first, model)}) == 4
    assert [info(m).name.endswith(f"(untrained, seed {s})") for m, s in zip(first, (0, 1, 7), strict=True)] == [
        True
    ] * 3
    assert all((info(m).n_layers, info(m).n_heads, info(m).d_model) == (3, 4, 24) for m in first)
    after = weights(model.original_model)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_untrained_models_keep_the_dtype(form):
    model = load_model(tiny(form), device="cpu", dtype=torch.bfloat16)
    (fresh,) = untrained(model, [0])
    assert info(fresh).dtype == "bfloat16"


def test_require_weights_says_what_to_do():
    raw, processed = (load_model(tiny("gpt2"), device="cpu", weights=state) for state in ("raw", "processed"))
    require_weights(raw, "raw", "this")
    require_weights(processed, "processed", "this")
    with pytest.raises(ModelError, match=r"this needs processed weights, .* raw ones; .*weights='processed'"):
        require_weights(raw, "processed", "this")
    with pytest.raises(ModelError, match=r"that needs raw weights, .* processed ones; .*weights='raw'"):
        require_weights(processed, "raw", "that")


def test_a_metric_of_centred_logits_is_refused_on_raw_weights(form):
    prompts = Prompts.from_tokens(TOKENS, answers=torch.tensor([3, 4, 5]))
    cells = Edits(prompts, [[Edit(Site("z", 1), Zero())]])
    readout = Readout.of(prompts, [METRICS["log_prob"], logit])
    with pytest.raises(ModelError, match="'logit' needs processed weights"):
        sweep(load_model(tiny(form), device="cpu"), cells, readout)
    processed = load_model(tiny(form), device="cpu", weights="processed")
    found = sweep(processed, cells, readout)
    expected = logits(processed)[torch.arange(3), -1, torch.tensor([3, 4, 5])]
    torch.testing.assert_close(found.base[:, 1], expected, atol=1e-5, rtol=1e-5)
