"""Adapters, made and judged by PEFT itself: what `load_model` returns computes what PEFT's own forward does."""

import copy
import json
import shutil
import warnings
from functools import cache
from types import SimpleNamespace

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2ForSequenceClassification

import interp.models.adapters as adapters
import interp.models.load as load
from interp.datasets.arithmetic_prompts import tokenizer
from interp.errors import ConfigError, InterpError, ModelError
from interp.models.load import info, load_model
from tests.conftest import CONFIGS, tiny

TOKENS = (torch.arange(24) % 23).reshape(2, 12)  # every token once
INPUTS = {"gpt2": ["c_attn"], "llama": ["q_proj", "k_proj", "v_proj"], "qwen2": ["q_proj", "k_proj", "v_proj"]}
MLP = {"gpt2": ["c_fc", "mlp.c_proj"], "llama": ["gate_proj", "up_proj", "down_proj"]}
MLP["qwen2"] = MLP["llama"]
EMBEDDING = {"gpt2": "wte", "llama": "embed_tokens", "qwen2": "embed_tokens"}
CASES = {
    "attention": lambda form: dict(target_modules=INPUTS[form]),
    "mlp": lambda form: dict(target_modules=MLP[form]),
    "unembedding kept": lambda form: dict(target_modules=INPUTS[form], modules_to_save=["lm_head"]),
    "embedding kept": lambda form: dict(target_modules=MLP[form], modules_to_save=[EMBEDDING[form]]),
    "both ends kept": lambda form: dict(target_modules=INPUTS[form], modules_to_save=[EMBEDDING[form], "lm_head"]),
    "tokens": lambda form: dict(target_modules=MLP[form], trainable_token_indices=[3, 22]),
    "embedding": lambda form: dict(target_modules=[*MLP[form], EMBEDDING[form]]),
    "both ends": lambda form: dict(target_modules=[EMBEDDING[form], "lm_head"]),
    "biases": lambda form: dict(target_modules=INPUTS[form], bias="lora_only"),
}
KINDS = {
    "DoRA r=3": lambda t: peft.LoraConfig(r=3, use_dora=True, target_modules=t),
    "LoRA r=4": lambda t: peft.LoraConfig(r=4, init_lora_weights="pissa", rank_pattern={"q_proj": 2}, target_modules=t),
    "AdaLoRA r=8": lambda t: peft.AdaLoraConfig(total_step=10, target_modules=t),
    "LoHa r=8": lambda t: peft.LoHaConfig(target_modules=t),
    "LoKr r=8": lambda t: peft.LoKrConfig(target_modules=t),
    "IA3": lambda t: peft.IA3Config(target_modules=t, feedforward_modules=[]),
    "OFT": lambda t: peft.OFTConfig(oft_block_size=4, target_modules=t),
    "BOFT": lambda t: peft.BOFTConfig(boft_block_size=4, target_modules=t),
    "HRA r=8": lambda t: peft.HRAConfig(target_modules=t),
    "VeRA r=5": lambda t: peft.VeraConfig(r=5, target_modules=["q_proj"]),
    "LN tuning": lambda t: peft.LNTuningConfig(),
    "trainable tokens": lambda t: peft.TrainableTokensConfig(token_indices=[2, 5]),
}


def quiet(call, *args, **options):
    """PEFT warns of what it mends; only interp's own calls have to be silent."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return call(*args, **options)


def trained(base, config, adapter="default"):
    """The base with an adapter whose every trained tensor is random: nothing is left at zero."""
    config.task_type = "CAUSAL_LM"
    model = quiet(peft.get_peft_model, base, config, adapter).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def lora(form, case="attention", rank=4, **options):
    base = copy.deepcopy(tiny(form))  # its config is shared by all tests
    return trained(base, peft.LoraConfig(r=rank, lora_alpha=8, **{**CASES[case](form), **options}))


def logits(model, tokens=TOKENS):
    with torch.inference_mode():
        found = model(tokens)
    return (found if isinstance(found, torch.Tensor) else found.logits).float()


def without(model, tokens=TOKENS):
    def off():
        with model.disable_adapter():
            return logits(model, tokens)

    return quiet(off)


def saved(model, folder, base=None):
    quiet(model.save_pretrained, folder)
    if base is not None:
        rewritten(folder, base_model_name_or_path=str(base))
    return folder


def rewritten(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes), encoding="utf-8")


def changed(folder, change):
    path = folder / "adapter_model.safetensors"
    content = load_file(path)
    change(content)
    save_file(content, path, {"format": "pt"})


@cache
def truth(form, case):
    model = lora(form, case)
    on, off = logits(model), without(model)
    assert float((on - off).abs().max()) > 0.3  # an adapter that does nothing would prove nothing
    return {True: on, False: off}


@pytest.fixture(scope="module", params=list(CONFIGS))
def form(request):
    return request.param


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    path = tmp_path_factory.mktemp("bases")
    for name in CONFIGS:
        tiny(name).save_pretrained(path / name)
    return path


@pytest.fixture(scope="module")
def folders(bases, tmp_path_factory):
    path = tmp_path_factory.mktemp("adapters")
    return cache(lambda form, case: saved(lora(form, case), path / form / case.replace(" ", "-"), bases / form))


@pytest.fixture
def llama(bases, tmp_path):
    return saved(lora("llama"), tmp_path / "adapter", bases / "llama")


# It computes what PEFT does.


@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("case", CASES)
def test_logits_equal_pefts_own(form, folders, case, on):
    """From a folder and from memory, raw and processed."""
    expected = truth(form, case)[on]
    stored = load_model(folders(form, case), device="cpu", adapter=on)
    torch.testing.assert_close(logits(stored), expected, atol=2e-5, rtol=1e-5)
    memory = load_model(lora(form, case), device="cpu", adapter=on, weights="processed")
    torch.testing.assert_close(logits(memory).log_softmax(-1), expected.log_softmax(-1), atol=5e-5, rtol=0)
    assert (info(stored).weights, info(memory).weights) == ("raw", "processed")
    assert max(info(stored).check, info(memory).check) <= 5e-5
    assert info(stored).digest == info(memory).digest
    assert info(stored).adapter == info(memory).adapter
    if form == "gpt2" and on:
        assert info(stored).adapter.startswith("LoRA r=4, merged in float32")
    else:  # TransformerLens computes Llama's and Qwen2's adapters as PEFT does, wherever they are
        assert info(stored).adapter == ("LoRA r=4, merged in float32" if on else "LoRA r=4, switched off")


@pytest.mark.parametrize("state", ["raw", "processed"])
@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_origin_and_state_do_not_matter_to_each_other(form, folders, origin, state):
    given = folders(form, "attention") if origin == "folder" else lora(form)
    found, expected = logits(load_model(given, device="cpu", weights=state)), truth(form, "attention")[True]
    torch.testing.assert_close(found.log_softmax(-1), expected.log_softmax(-1), atol=5e-5, rtol=0)


@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_bfloat16_is_merged_in_float32_first(form, folders, origin):
    given = folders(form, "attention") if origin == "folder" else lora(form)
    model = load_model(given, device="cpu", dtype=torch.bfloat16)
    rounded = quiet(lora(form).merge_and_unload)
    for parameter in rounded.parameters():  # not the buffers: rotary angles keep their precision
        parameter.data = parameter.data.bfloat16()
    expected, exact = logits(rounded), truth(form, "attention")[True]
    # bfloat16 has 8 significant bits: two units in the last place of the largest logit.
    torch.testing.assert_close(logits(model), expected, atol=2 * 2**-8 * float(expected.abs().max()), rtol=0)
    spread = float((exact - exact.mean(-1, keepdim=True)).abs().max())
    torch.testing.assert_close(logits(model), exact, atol=0.1 * spread, rtol=0)  # what rounding does to these weights
    assert info(model).dtype == "bfloat16"
    assert info(model).adapter.startswith("LoRA r=4, merged in float32")


def test_float64_is_merged_in_float64(form):
    given = lora(form)
    model = load_model(given, device="cpu", dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(model(TOKENS), given.double()(TOKENS).logits, atol=1e-9, rtol=0)
    assert info(model).adapter.startswith("LoRA r=4, merged in float64")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_that_is_a_change_of_weights_is_merged(bases, tmp_path, kind):
    model = trained(copy.deepcopy(tiny("llama")), KINDS[kind](["q_proj", "v_proj"]))
    on, off = logits(model), without(model)
    assert float((on - off).abs().max()) > 0.1
    found = load_model(saved(model, tmp_path, bases / "llama"), device="cpu")
    torch.testing.assert_close(logits(found), on, atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(logits(load_model(model, device="cpu", adapter=False)), off, atol=2e-5, rtol=1e-5)
    assert info(found).adapter == f"{kind}, merged in float32"


def test_with_the_adapter_off_it_is_the_base_model(form, folders, bases):
    base = load_model(bases / form, device="cpu")
    for case in ("attention", "both ends kept", "tokens"):
        off = load_model(folders(form, case), device="cpu", adapter=False)
        assert info(off).digest == info(base).digest
        assert info(off).n_parameters == info(base).n_parameters
        assert info(load_model(folders(form, case), device="cpu")).digest != info(base).digest


def test_the_weights_that_analyses_read_hold_the_adapter(form):
    """W_Q moves by the adapter's own product, B A alpha / r, and nothing else does."""
    given = lora(form)
    model, base = (load_model(given, device="cpu", adapter=on) for on in (True, False))
    layer = given.get_base_model().get_submodule({"gpt2": "transformer.h.1.attn.c_attn"}.get(form) or Q_PROJ)
    product = (layer.lora_B["default"].weight @ layer.lora_A["default"].weight * 8 / 4)[:24]  # of joined q, k, v: q
    expected = product.detach().reshape(4, 6, 24).transpose(1, 2)
    assert float(expected.abs().max()) > 0.1
    moved = model.blocks[1].attn.W_Q - base.blocks[1].attn.W_Q
    torch.testing.assert_close(moved, expected, atol=1e-6, rtol=0)
    assert torch.equal(model.blocks[1].attn.W_O, base.blocks[1].attn.W_O)
    assert torch.equal(model.W_U, base.W_U)


Q_PROJ = "model.layers.1.self_attn.q_proj"


def test_tied_embeddings_stay_tied_unless_the_adapter_parts_them():
    def tied(case):
        original = load_model(lora("gpt2", case), device="cpu").original_model
        return original.config.tie_word_embeddings

    assert [tied(case) for case in ("attention", "tokens", "embedding kept", "embedding", "both ends")] == [
        True, True, False, False, False,
    ]  # fmt: skip


# What TransformerLens would have made of it.


def unmerged(model):
    live = copy.deepcopy(model).get_base_model()
    return load.build_bridge_from_module(
        live, type(live).__name__, hf_config=live.config, model_name="live", dtype=live.dtype
    ).eval()


@pytest.mark.parametrize("state", ["raw", "processed"])
@pytest.mark.parametrize("origin", ["folder", "memory"])
def test_an_adapter_that_transformerlens_drops_is_told(folders, origin, state):
    given = lora("gpt2")
    live = quiet(unmerged, given)
    torch.testing.assert_close(logits(live), without(given), atol=1e-5, rtol=1e-5)  # as if there were no adapter
    assert float((logits(live) - logits(given)).abs().max()) > 1
    probe = load._probe(given.get_base_model())
    off_by = float((logits(live, probe) - logits(given, probe)).abs().max())
    model = load_model(folders("gpt2", "attention") if origin == "folder" else given, device="cpu", weights=state)
    assert info(model).adapter == (
        f"LoRA r=4, merged in float32; TransformerLens would have dropped it (logits off by {off_by:.2g})"
    )


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_an_adapter_that_transformerlens_computes_is_told_of_no_fault(name):
    given = lora(name)
    torch.testing.assert_close(logits(quiet(unmerged, given)), logits(given), atol=1e-5, rtol=1e-5)
    assert info(load_model(given, device="cpu")).adapter == "LoRA r=4, merged in float32"


def test_a_part_that_transformerlens_drops_is_told():
    given = lora("gpt2", target_modules=["c_attn", "c_fc"])
    assert (
        "float32; TransformerLens would not have computed with all of it (logits off by"
        in info(load_model(given, device="cpu")).adapter
    )
    assert info(load_model(lora("gpt2", "mlp"), device="cpu")).adapter == "LoRA r=4, merged in float32"
    assert info(load_model(given, device="cpu", adapter=False)).adapter == "LoRA r=4, switched off"


def test_an_adapter_that_transformerlens_cannot_wrap_is_told_and_merged(monkeypatch, form):
    build, asked = load.build_bridge_from_module, []

    def refuses_adapters(original, *args, **options):
        asked.append(any(type(module).__module__.startswith("peft.") for module in original.modules()))
        if asked[-1]:
            warnings.warn("not like this", stacklevel=1)
            raise TypeError("unknown layer\nmore of it")
        return build(original, *args, **options)

    monkeypatch.setattr(load, "build_bridge_from_module", refuses_adapters)
    model = load_model(lora(form), device="cpu")
    assert asked == [True, False]
    assert info(model).adapter == (
        "LoRA r=4, merged in float32; TransformerLens cannot wrap it unmerged (TypeError: unknown layer)"
    )
    torch.testing.assert_close(logits(model), truth(form, "attention")[True], atol=2e-5, rtol=1e-5)


def test_a_model_without_adapter_has_nothing_to_tell(form):
    assert info(load_model(tiny(form), device="cpu")).adapter == ""


@pytest.mark.parametrize("what", ["weights", "tokens"])
def test_merging_that_changes_the_model_is_refused(monkeypatch, what):
    """Also where only one token in 23 is changed, which the random probe does not hold."""
    merge = adapters.merged
    if what == "tokens":
        seen = set(load._probe(tiny("llama")).flatten().tolist())
        missed = min(set(range(23)) - seen)
        given = trained(copy.deepcopy(tiny("llama")), peft.TrainableTokensConfig(token_indices=[missed]))
        monkeypatch.setattr(adapters, "merged", lambda model, on: merge(model, False))
    else:
        given = lora("llama")

        def off(model, on):
            found = merge(model, on)
            with torch.no_grad():
                found.model.layers[1].mlp.down_proj.weight.mul_(1.01)
            return found

        monkeypatch.setattr(adapters, "merged", off)
    refused(given, "does not compute what PEFT does: logits differ by")


# What is in memory is left as it was.


@pytest.mark.parametrize(("on", "training"), [(True, True), (False, False)], ids=["on, training", "off"])
@pytest.mark.parametrize("case", ["attention", "both ends kept", "tokens", "embedding"])
def test_a_model_in_memory_is_left_as_it_was(form, case, on, training):
    given = lora(form, case)
    given.get_base_model().config._attn_implementation = "sdpa"
    given.train(training)
    before = {name: value.clone() for name, value in given.state_dict().items()}
    learns = {name: parameter.requires_grad for name, parameter in given.named_parameters()}
    status, settings = given.get_model_status(), given.config.to_dict()
    random = torch.get_rng_state()
    model = load_model(given, device="cpu", adapter=on, weights="processed")
    assert torch.equal(torch.get_rng_state(), random)
    logits(model)
    assert given.training == training
    assert {name: parameter.requires_grad for name, parameter in given.named_parameters()} == learns
    assert (given.get_model_status(), given.config.to_dict()) == (status, settings)
    assert given.get_base_model().config._attn_implementation == "sdpa"
    after = given.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    kept = logits(model)
    with torch.no_grad():
        for parameter in given.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), kept)


def test_an_adapter_that_is_merged_already(form):
    given = lora(form)
    expected = {True: logits(given), False: without(given)}
    quiet(given.merge_adapter)
    for on in (True, False):
        model = load_model(given, device="cpu", adapter=on)
        torch.testing.assert_close(logits(model), expected[on], atol=2e-5, rtol=1e-5)
    assert given.get_model_status().merged_adapters == ["default"]


def test_several_active_adapters_are_merged_together(form):
    given = lora(form)
    second = peft.LoraConfig(r=2, target_modules=MLP[form])
    quiet(given.add_adapter, "second", second)
    for name, parameter in given.named_parameters():
        if ".second." in name:
            parameter.data.normal_(0, 0.2, generator=torch.Generator().manual_seed(len(name)))
    one = logits(given)
    quiet(given.base_model.set_adapter, ["default", "second"])
    both = logits(given)
    assert float((one - both).abs().max()) > 0.1
    model = load_model(given, device="cpu")
    torch.testing.assert_close(logits(model), both, atol=2e-5, rtol=1e-5)
    assert info(model).adapter.startswith("LoRA r=4 + LoRA r=2, merged in float32")


# A vocabulary that grew, base models and tokenizers.


def grown(form, size, folder, seed=3, **options):
    """A base model resized to so many tokens, then adapted; the folder is that of the base as it was."""
    base = copy.deepcopy(tiny(form))
    torch.manual_seed(seed)
    base.resize_token_embeddings(size, mean_resizing=False)
    base.name_or_path = str(folder)  # PEFT looks there whether the vocabulary was changed
    return trained(base, peft.LoraConfig(r=4, target_modules=INPUTS[form], **options))


@pytest.mark.parametrize(
    ("size", "kept"),
    [(24, "nothing"), (24, "embedding"), (24, "both ends"), (24, "tokens"), (26, "both ends"), (20, "nothing")],
)
def test_a_vocabulary_changed_before_training(bases, tmp_path, form, size, kept):
    options = {
        "nothing": {},
        "embedding": {"modules_to_save": [EMBEDDING[form]]},
        "both ends": {"modules_to_save": [EMBEDDING[form], "lm_head"]},
        "tokens": {"trainable_token_indices": [size - 1]},
    }[kept]
    given = grown(form, size, bases / form, **options)
    folder = saved(given, tmp_path)
    tokens = (torch.arange(24) % size).reshape(2, 12)
    on, off = logits(given, tokens), without(given, tokens)
    # 24 is also d_model, where TransformerLens mistakes the axis along which it centres the unembedding.
    model = load_model(folder, device="cpu", weights="raw" if size == 24 else "processed")
    assert (model.cfg.d_vocab, model.W_E.shape[0]) == (size, size)
    found = logits(model, tokens).log_softmax(-1)
    torch.testing.assert_close(found, on.log_softmax(-1), atol=5e-5, rtol=0)
    plain = load_model(folder, device="cpu", adapter=False)
    torch.testing.assert_close(logits(plain, tokens), off, atol=2e-5, rtol=1e-5)


def test_rows_that_the_base_model_lacks_are_its_mean_while_the_adapter_is_off(bases, tmp_path, form):
    given = grown(form, 24, bases / form, modules_to_save=[EMBEDDING[form], "lm_head"])
    folder = saved(given, tmp_path)
    changed(folder, lambda content: [content.pop(key) for key in list(content) if "original_module" in key])
    expected = given.get_base_model().get_input_embeddings().modules_to_save["default"].weight
    digests = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        on, off = (load_model(folder, device="cpu", adapter=state) for state in (True, False))
        torch.testing.assert_close(on.W_E, expected, atol=0, rtol=0)
        old = tiny(form).get_input_embeddings().weight
        torch.testing.assert_close(off.W_E, torch.cat([old, old.mean(0, keepdim=True)]), atol=0, rtol=0)
        torch.testing.assert_close(off.W_U[:, 23], off.W_U[:, :23].mean(1), atol=1e-6, rtol=0)
        digests.append((info(on).digest, info(off).digest))
    assert digests[0] == digests[1]


def test_new_tokens_that_nobody_saved_are_refused(bases, tmp_path):
    given = grown("llama", 24, "", modules_to_save=["embed_tokens"])  # PEFT cannot look, and keeps one end only
    folder = saved(given, tmp_path / "adapter", bases / "llama")
    refused(folder, "has 24 tokens and its base model 23; new rows of lm_head are in neither: give base=")
    resized = copy.deepcopy(tiny("llama"))
    torch.manual_seed(3)
    resized.resize_token_embeddings(24, mean_resizing=False)
    resized.save_pretrained(tmp_path / "base")
    model = load_model(folder, device="cpu", base=tmp_path / "base")
    torch.testing.assert_close(logits(model), logits(given), atol=2e-5, rtol=1e-5)


def test_where_the_base_model_is_found(monkeypatch, bases, tmp_path):
    there = tmp_path / "runs"
    shutil.copytree(bases / "llama", there / "base")
    folder = saved(lora("llama"), there / "adapter", "../base")
    digest = info(load_model(folder, device="cpu")).digest
    assert info(load_model(str(folder), device="cpu")).name == str(folder)
    rewritten(folder, base_model_name_or_path=str(there / "base"))
    assert info(load_model(folder, device="cpu")).digest == digest
    rewritten(folder, base_model_name_or_path="base")
    monkeypatch.chdir(there)
    assert info(load_model("adapter", device="cpu")).digest == digest
    rewritten(folder, base_model_name_or_path="somewhere/else")
    assert info(load_model(folder, device="cpu", base="base")).digest == digest
    tiny("llama", seed=1).save_pretrained(there / "other")
    assert info(load_model(folder, device="cpu", base=there / "other")).digest != digest


def test_a_shipped_model_as_base_and_whose_tokenizer_is_taken(tmp_path):
    base = load_model("arithmetic-add3", device="cpu")
    given = trained(
        AutoModelForCausalLM.from_config(base.original_model.config),
        peft.LoraConfig(r=2, target_modules=["q_proj"]),
    )
    folder = saved(given, tmp_path, "arithmetic-add3")
    model = load_model(folder, device="cpu")
    assert info(model).tokenizer == info(base).tokenizer != ""
    assert info(load_model(folder, device="cpu", adapter=False)).digest == info(base).digest
    own = tokenizer()
    own.add_tokens(["stop"])
    own.save_pretrained(folder)
    model = load_model(folder, device="cpu")
    assert model.tokenizer.get_vocab() == own.get_vocab() != base.tokenizer.get_vocab()
    assert load_model(folder, tokenizer(), device="cpu").tokenizer.get_vocab() == base.tokenizer.get_vocab()


def test_a_config_beside_the_adapter_does_not_hide_it(bases, tmp_path, llama):
    """Some trainers leave the base model's config.json with the adapter. With its weights it is ambiguous."""
    digest = info(load_model(llama, device="cpu")).digest
    shutil.copy(bases / "llama" / "config.json", llama)
    assert info(load_model(llama, device="cpu")).digest == digest
    shutil.copy(bases / "llama" / "model.safetensors", llama)
    refused(llama, "holds a model .* and an adapter .*: give the adapter a folder of its own")
    other = saved(lora("llama"), tmp_path / "other", bases / "llama")
    refused(other, r"the base model of the adapter .* holds adapter layers \(.*q_proj\)", base=llama)


# What is refused, each with one line that says what is wrong.


def refused(given, message, **options):
    with pytest.raises(InterpError, match=message) as caught:
        load_model(given, **{"device": "cpu", **options})
    assert len(str(caught.value).splitlines()) == 1
    return caught.value


@pytest.mark.parametrize("options", [{"adapter": False}, {"base": "arithmetic-add3"}], ids=["adapter", "base"])
def test_options_for_adapters_are_refused_elsewhere(bases, options):
    for given in (tiny("gpt2"), bases / "gpt2", "arithmetic-add3"):
        assert isinstance(refused(given, "this one has none", **options), ConfigError)
    error = refused(lora("gpt2"), "brings its base model with it", base=bases / "gpt2")
    assert isinstance(error, ConfigError)


def test_weights_that_only_pickle_can_read_are_refused(llama):
    torch.save(load_file(llama / "adapter_model.safetensors"), llama / "adapter_model.bin")
    load_model(llama, device="cpu")  # beside safetensors it is not looked at
    (llama / "adapter_model.safetensors").unlink()
    refused(llama, "only adapter_model.bin, which can run code .*; save the adapter again")
    (llama / "adapter_model.bin").unlink()
    refused(llama, "has no adapter_model.safetensors")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"peft_type": 3}', b"\xff\xfe\xff"])
def test_a_damaged_config_is_refused(llama, content):
    (llama / "adapter_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert str(llama) in str(refused(llama, r"adapter_config\.json is damaged: "))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "is a PREFIX_TUNING adapter, which interp cannot merge .*: LORA, "),
        ({"peft_type": "XLORA"}, "is a XLORA adapter"),
        ({"peft_type": "no such thing"}, "is a no such thing adapter"),
        ({"task_type": "SEQ_CLS"}, "is an adapter for SEQ_CLS, not for a causal language model"),
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "needs Megatron"),
        ({"use_later_kind": True}, "asks for use_later_kind, which this PEFT does not know: upgrade it"),
        ({"r": "four"}, "cannot load the adapter .* damaged or made for another base model"),
        ({"target_modules": ["c_attn"]}, "cannot load the adapter .*Target modules .*c_attn"),
        ({"r": 5}, "cannot load the adapter"),
        ({"use_dora": True}, "lacks 9 tensors of its config .*lora_magnitude_vector"),
        ({"modules_to_save": ["lm_head"]}, "cannot load the adapter .*lm_head"),
        ({"target_modules": ["q_proj"]}, "has 12 tensors without a place .*k_proj"),
        ({"alora_invocation_tokens": [1, 2]}, "cannot merge the adapter"),
        ({"base_model_name_or_path": None}, "names no base model; give one with base="),
        ({"base_model_name_or_path": ""}, "names no base model; give one with base="),
        ({"base_model_name_or_path": "./nowhere"}, "the base model of .* no model folder './nowhere'.*base="),
        ({"base_model_name_or_path": "no-owner/no-model"}, "the base model of .*no-owner/no-model.*base="),
    ],
)  # fmt: skip
def test_a_config_that_asks_for_something_else_is_refused(llama, changes, message):
    rewritten(llama, **changes)
    assert isinstance(refused(llama, message), ModelError)


def test_options_that_a_later_peft_leaves_empty_are_let_pass(llama):
    digest = info(load_model(llama, device="cpu")).digest
    rewritten(llama, use_later_kind=False, later_config=None, runtime_config={"a": 1}, auto_mapping={"b": 2})
    assert info(load_model(llama, device="cpu")).digest == digest


@pytest.mark.parametrize("name", ["gpt2", "qwen2", "wider", "deeper", "shallower", "nowhere", "adapter"])
def test_a_wrong_base_model_is_refused(bases, tmp_path, llama, name):
    sizes = {"wider": {"hidden_size": 32}, "deeper": {"num_hidden_layers": 4}, "shallower": {"num_hidden_layers": 2}}
    base = bases / name if name in CONFIGS else tmp_path / name
    if name in sizes:
        config = copy.deepcopy(CONFIGS["llama"])
        config.update(sizes[name])
        AutoModelForCausalLM.from_config(config).save_pretrained(base)
    message = {
        "gpt2": "cannot load the adapter .*Target modules",
        "qwen2": None,  # the same names and shapes: nothing to notice
        "wider": f"cannot load the adapter .* than {base}",
        "deeper": "lacks 6 tensors .*layers.3",
        "shallower": "has 6 tensors without a place .*layers.2",
        "nowhere": "the base model of the adapter .*no model folder",
        "adapter": "the base model of the adapter .*is not a model folder: it has no config.json",
    }[name]
    if message is None:
        load_model(llama, device="cpu", base=base)
    else:
        assert str(llama) in str(refused(llama, message, base=base))


@pytest.mark.parametrize("kept", [0, 7, 300, -40])
def test_truncated_adapters_are_refused(llama, kept):
    path = llama / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(llama) in str(refused(llama, "cannot load the adapter .* damaged"))


def test_adapters_that_lack_or_have_a_tensor_are_refused(llama):
    key = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"
    changed(llama, lambda content: content.update({key.replace("lora_B", "lora_C"): content[key].clone()}))
    refused(llama, r"has 1 tensors without a place \(.*layers\.1\.self_attn\.k_proj\.lora_C")
    changed(llama, lambda content: (content.pop(key.replace("lora_B", "lora_C")), content.pop(key)))
    refused(llama, r"lacks 1 tensors of its config \(.*layers\.1\.self_attn\.k_proj\.lora_B")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_adapters_that_are_no_numbers_are_refused(llama, value, on):
    key = "base_model.model.model.layers.1.self_attn.k_proj.lora_B.weight"
    changed(llama, lambda content: content[key].fill_(value))
    refused(llama, r"damaged: .*layers\.1\.self_attn\.k_proj\.lora_B.* holds nan or infinity", adapter=on)


def test_damaged_base_models_are_refused(bases, tmp_path, llama):
    shutil.copytree(bases / "llama", tmp_path / "base")
    content = load_file(tmp_path / "base" / "model.safetensors")
    del content["model.layers.1.mlp.up_proj.weight"]
    save_file(content, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    rewritten(llama, base_model_name_or_path=str(tmp_path / "base"))
    refused(llama, "the base model of the adapter .* lacks 1 tensors .*; give the right one with base=")


def test_models_in_memory_that_cannot_be_merged_are_refused():
    config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
    prompt = quiet(peft.get_peft_model, copy.deepcopy(tiny("llama")), config)
    for on in (True, False):
        refused(prompt, "is a PROMPT_TUNING adapter, which interp cannot merge", adapter=on)
    head = GPT2ForSequenceClassification(copy.deepcopy(CONFIGS["gpt2"]))
    refused(quiet(peft.get_peft_model, head, peft.LoraConfig(target_modules=["c_attn"])), "ForSequenceClassification")


def test_an_adapter_switched_off_by_its_owner_is_told_apart():
    given = lora("llama")
    given.base_model.disable_adapter_layers()
    refused(given, "the adapter of .* is switched off, at least in part: give adapter=False")
    off = load_model(given, device="cpu", adapter=False)
    torch.testing.assert_close(logits(off), truth("llama", "attention")[False], atol=2e-5, rtol=1e-5)
    assert given.get_model_status().enabled is False


def test_adapter_layers_outside_pefts_wrapper_are_refused(form):
    refused(lora(form).get_base_model(), r"holds adapter layers \(.*\) but is no PeftModel; give the PeftModel itself")


def test_quantised_weights_are_refused():
    given = lora("llama")
    weight = given.get_base_model().lm_head.weight
    weight.requires_grad_(False)
    weight.data = (weight.data * 10).to(torch.int8)
    refused(given, "has quantised weights; load it in float32 or bfloat16")


def test_peft_is_not_asked_for_where_there_is_no_adapter(monkeypatch):
    monkeypatch.setattr(adapters, "sys", SimpleNamespace(modules={}))
    assert not adapters.is_adapted(tiny("llama"))
