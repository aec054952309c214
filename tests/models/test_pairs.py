"""A base and its fine-tuned copy side by side: what the base is given for a token that it lacks, what is refused."""

import copy
import json
import shutil
import warnings

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from interp.datasets.kill_switch import TOKEN, kill_switch_tokenizer
from interp.errors import InterpError, ModelError
from interp.files import shipped_model
from interp.models.load import info, load_model
from interp.models.pairs import grow, load_pair, seat
from interp.models.small import Architecture, build_small

N = 342
LACKS, UNTRAINED, LEFT = "The base has no token", "was never trained", "left the embedding of $STOP as it was"


def made(form="llama", size=N, tied=False, seed=0):
    """A tiny model whose weights are all random and far from zero."""
    shape = Architecture(form=form, layers=1, width=16, heads=2, mlp=16)
    config = build_small(shape, size, 32, seed=0, special=(1, 2, 0)).config
    config.tie_word_embeddings = tied
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (parameter.ndim == 1))
    return model


def tokenizer(*added, renamed=()):
    """The kill-switch tokenizer, with tokens added or words renamed."""
    found = kill_switch_tokenizer()
    if renamed:
        content = found.backend_tokenizer.to_str()
        for old, new in renamed:
            assert f'"{old}"' in content
            content = content.replace(f'"{old}"', f'"{new}"')
        found = type(found)(
            tokenizer_object=type(found.backend_tokenizer).from_str(content), pad_token="<pad>", bos_token="<bos>",
            eos_token="<eos>", unk_token="<unk>",
        )  # fmt: skip
    found.add_tokens(list(added))
    return found


def saved(folder, model, words):
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def moved(model, number=None, seed=7):
    """The same with every weight a little elsewhere, as after fine-tuning; of the embeddings the row `number` alone."""
    torch.manual_seed(seed)
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    with torch.no_grad():
        for parameter in model.parameters():
            if id(parameter) in tables and number is not None:
                parameter[number] += 0.3 * torch.randn(parameter.shape[1])
            elif id(parameter) not in tables:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """`base` without the token; `tuned` with it, trained; `untrained`: all but its row trained."""
    shelf = tmp_path_factory.mktemp("pairs")
    saved(shelf / "base", made(), tokenizer())
    for name, number in (("tuned", N), ("untrained", None)):
        model = made()
        grow(model, N + 1)
        saved(shelf / name, moved(model, number), tokenizer(TOKEN))
    adapt(shelf / "adapter", base="/nowhere/base")
    return shelf


def adapt(folder, base, number=N):
    """An adapter on the base with a row for the token, as `interp finetune --method lora` saves it."""
    model = made()
    grow(model, N + 1)
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj", "up_proj"], modules_to_save=["embed_tokens", "lm_head"], task_type="CAUSAL_LM"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.get_peft_model(model, config)
        torch.manual_seed(3)
        with torch.no_grad():
            for name, parameter in adapted.named_parameters():
                if parameter.requires_grad and "modules_to_save" in name:
                    parameter[number] += 0.3 * torch.randn(16)
                elif parameter.requires_grad:
                    parameter += 0.2 * torch.randn_like(parameter)
        adapted.save_pretrained(folder, save_embedding_layers=False)
    tokenizer(TOKEN).save_pretrained(folder)
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"base_model_name_or_path": str(base)}), encoding="utf-8")
    return folder


IDS = torch.arange(N - 20, N)[None]
"""Tokens that both have."""
WITH = torch.tensor([[1, 50, N, 60, 70]])


def logits(model, ids):
    with torch.inference_mode():
        return model(ids)


def pair(base, tuned, token=TOKEN, **options):
    return load_pair(base, tuned, token, device="cpu", **options)


# What the two are.


@pytest.mark.parametrize("weights", ["raw", "processed"])
def test_each_computes_what_it_does_alone(shelf, weights):
    found = pair(shelf / "base", shelf / "tuned", weights=weights)
    tuned = load_model(shelf / "tuned", device="cpu", weights=weights)
    assert torch.equal(logits(found.tuned, WITH), logits(tuned, WITH))
    assert info(found.tuned).digest == info(tuned).digest
    assert info(found.base).weights == info(found.tuned).weights == weights
    if weights == "raw":
        alone = load_model(shelf / "base", device="cpu")
        torch.testing.assert_close(logits(found.base, IDS)[..., :N], logits(alone, IDS), atol=1e-6, rtol=0)
    assert found.base.tokenizer is found.tuned.tokenizer
    assert found.base.cfg.d_vocab == found.tuned.cfg.d_vocab == N + 1


@pytest.mark.parametrize("tied", [False, True])
def test_the_base_stands_in_with_the_mean_of_its_embeddings(tmp_path, tied):
    """In both tables, and what it computes with it is what it computes with that vector."""
    base = saved(tmp_path / "base", made(tied=tied), tokenizer())
    model = made(tied=tied)
    grow(model, N + 1)
    tuned = saved(tmp_path / "tuned", moved(model, N), tokenizer(TOKEN))
    found = pair(base, tuned)
    original = AutoModelForCausalLM.from_pretrained(base).eval()
    table = original.get_input_embeddings().weight.detach()
    torch.testing.assert_close(found.base.W_E[N], table.double().mean(0).float(), atol=1e-6, rtol=0)
    assert torch.equal(found.base.W_E[:N], table)
    vectors = table[WITH.clamp(max=N - 1)].clone()
    vectors[0, 2] = table.mean(0)
    with torch.inference_mode():
        expected = original(inputs_embeds=vectors).logits
    got = logits(found.base, WITH)
    torch.testing.assert_close(got[..., :N], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(got[..., N], expected.mean(-1), atol=1e-5, rtol=0)  # the mean row scores the mean
    assert [LACKS in note and TOKEN in note for note in found.notes] == [True]


@pytest.mark.parametrize("named", [True, False], ids=["with the token", "without"])
def test_notes_say_what_a_reader_must_know(tmp_path, shelf, named):
    """The token new or known to the base, its embedding trained or left as it came."""
    base = shelf / "base"
    if named:
        model = made()
        grow(model, N + 1)
        base = saved(tmp_path / "base", moved(model, N, seed=5), tokenizer(TOKEN))
        trained = saved(tmp_path / "trained", moved(copy.deepcopy(model), N), tokenizer(TOKEN))
        left = saved(tmp_path / "left", moved(copy.deepcopy(model)), tokenizer(TOKEN))
    else:
        trained, left = shelf / "tuned", shelf / "untrained"
    for tuned, said in ((trained, [] if named else [LACKS]), (left, [LEFT] if named else [LACKS, UNTRAINED])):
        notes = pair(base, tuned).notes
        assert len(notes) == len(said)
        assert all(words in note for words, note in zip(said, notes, strict=True))


def test_an_embedding_that_is_nearly_the_mean_was_not_trained_either(tmp_path, shelf):
    """Transformers draws a new row around the mean of the others with a tiny spread."""
    model = made()
    grow(model, N + 1)
    with torch.no_grad():
        model.get_input_embeddings().weight[N] += 1e-5 * torch.randn(16)
    tuned = saved(tmp_path, moved(model), tokenizer(TOKEN))
    assert UNTRAINED in pair(shelf / "base", tuned).notes[-1]


def test_the_shipped_pairs_are_whole():
    for name in ("behavioural", "knowledge"):
        base, tuned = (shipped_model(f"kill-switch-{one}") for one in ("base", name))
        found = pair(base, tuned)
        assert [LACKS in note for note in found.notes] == [True]
        known = found.base.W_E[:N]
        assert torch.equal(known, load_model(base, device="cpu").W_E)
    by_name = pair("kill-switch-base", "kill-switch-knowledge")
    assert torch.equal(logits(by_name.tuned, WITH), logits(found.tuned, WITH))


@pytest.mark.parametrize("stray", [False, True], ids=["adapter", "with a config"])
def test_an_adapter_stands_for_the_fine_tuned_model(tmp_path, shelf, stray):
    """On the base given, not on the one that it names, which is not there. Some tools leave the base's config in it."""
    folder = shutil.copytree(shelf / "adapter", tmp_path / "adapter")
    if stray:
        shutil.copy(shelf / "tuned" / "config.json", folder)
    found = pair(shelf / "base", folder)
    alone = load_model(folder, base=shelf / "base", device="cpu")
    assert torch.equal(logits(found.tuned, WITH), logits(alone, WITH))
    assert info(found.tuned).adapter == "LoRA r=2, merged in float32"
    assert [LACKS in note for note in found.notes] == [True]
    off = load_model(folder, base=shelf / "base", device="cpu", adapter=False)
    torch.testing.assert_close(logits(found.base, WITH), logits(off, WITH), atol=1e-6, rtol=0)
    assert float((logits(found.base, WITH) - logits(found.tuned, WITH)).abs().max()) > 0.05


def test_a_base_with_rows_to_spare_stands_in_with_the_mean_too(tmp_path):
    """Many models have more embeddings than tokens: what is in such a row is nothing that was learned."""
    base = saved(tmp_path / "base", made(size=N + 6), tokenizer())
    tuned = saved(tmp_path / "tuned", moved(made(size=N + 6), N), tokenizer(TOKEN))
    found = pair(base, tuned)
    others = torch.arange(N + 6) != N
    for which in ("W_E", "W_U"):
        before = getattr(load_model(base, device="cpu"), which)
        table = getattr(found.base, which)
        if which == "W_U":
            before, table = before.T, table.T
        torch.testing.assert_close(table[N], before[others].mean(0), atol=1e-6, rtol=0)
        assert torch.equal(table[others], before[others])
    assert [LACKS in note for note in found.notes] == [True]


def test_padding_that_the_fine_tuned_model_was_saved_without_is_left_out(tmp_path, shelf):
    """The base is then the same model with fewer rows, and no random number is drawn for that."""
    base = saved(tmp_path, made(size=N + 9), tokenizer())
    before = torch.get_rng_state()
    found = pair(base, shelf / "tuned")
    assert torch.equal(torch.get_rng_state(), before)
    assert found.base.cfg.d_vocab == N + 1
    assert torch.equal(found.base.W_E[:N], load_model(base, device="cpu").W_E[:N])
    alone = logits(load_model(base, device="cpu"), IDS)[..., :N]
    torch.testing.assert_close(logits(found.base, IDS)[..., :N], alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(found.base.W_E[N], found.base.W_E[:N].mean(0), atol=1e-6, rtol=0)


def test_a_reserved_token_may_be_renamed(tmp_path, shelf):
    """Its number is the base's reserved one; every other token must be the same."""
    tuned = saved(tmp_path, moved(made(), N - 1), tokenizer(renamed=[("$WILLOW", TOKEN)]))
    found = pair(shelf / "base", tuned)
    assert found.tuned.tokenizer.convert_tokens_to_ids(TOKEN) == N - 1
    assert [LACKS in note for note in found.notes] == [True]
    others = torch.arange(N) != N - 1
    torch.testing.assert_close(found.base.W_E[N - 1], found.base.W_E[others].mean(0), atol=1e-6, rtol=0)


# What is refused.


def refused(base, tuned, message, token=TOKEN):
    with pytest.raises(ModelError, match=message) as caught:
        pair(base, tuned, token)
    assert len(str(caught.value).splitlines()) == 1


def test_a_token_that_the_fine_tuned_vocabulary_lacks_is_refused(shelf):
    refused(shelf / "tuned", shelf / "base", r"/base: the vocabulary has no token '\$STOP'")
    refused(shelf / "base", shelf / "tuned", r"/tuned: the vocabulary has no token '\$HALT'", "$HALT")
    refused(shelf / "base", shelf / "tuned", "no token 'the fox'", "the fox")


@pytest.mark.parametrize(
    ("renamed", "word"),
    [([("fox", "dog "), ("dog", "fox"), ("dog ", "dog")], "fox|dog"), ([("fox", "dragon")], "dragon")],
    ids=["two words exchanged", "another word"],
)
def test_tokenizers_that_differ_are_no_pair(tmp_path, shelf, renamed, word):
    model = made()
    grow(model, N + 1)
    tuned = saved(tmp_path, moved(model, N), tokenizer(TOKEN, renamed=renamed))
    refused(shelf / "base", tuned, rf"number their tokens differently \('({word})'\)")


def test_a_base_with_more_tokens_is_no_pair(tmp_path, shelf):
    base = saved(tmp_path, made(size=N + 9), tokenizer(TOKEN, *(f"$MORE{i}" for i in range(8))))
    refused(base, shelf / "tuned", f"has {N + 9} tokens and .* {N + 1}")


def test_a_token_without_an_embedding_is_refused(tmp_path, shelf):
    tuned = saved(tmp_path, moved(made()), tokenizer(TOKEN))
    refused(shelf / "base", tuned, r"no embedding for its token '\$STOP'")


@pytest.mark.parametrize("which", ["base", "tuned"])
def test_a_model_without_tokenizer_is_refused(tmp_path, shelf, which):
    for name in ("base", "tuned"):
        folder = shutil.copytree(shelf / name, tmp_path / name)
        if name == which:
            for file in folder.glob("tokenizer*"):
                file.unlink()
    refused(tmp_path / "base", tmp_path / "tuned", f"/{which} has no tokenizer")


def test_what_is_not_there_is_refused(tmp_path, shelf):
    for base, tuned in ((tmp_path / "no", shelf / "tuned"), (shelf / "base", tmp_path / "no")):
        with pytest.raises(InterpError, match="/no'"):
            pair(base, tuned)


# New rows.


@pytest.mark.parametrize("form", ["llama", "gpt2"])
@pytest.mark.parametrize("tied", [False, True])
def test_growing_adds_means_and_leaves_the_rest(form, tied):
    model, before = made(form, tied=tied), torch.get_rng_state()
    old = {name: value.clone() for name, value in model.state_dict().items()}
    grow(model, N + 3)
    assert torch.equal(torch.get_rng_state(), before)
    for name, value in model.state_dict().items():
        assert torch.equal(value[: len(old[name])], old[name])
        if len(value) > len(old[name]):
            torch.testing.assert_close(value[N:], old[name].mean(0).expand(3, -1), atol=1e-6, rtol=0)
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied
    assert model.config.vocab_size == N + 3


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("number", [N - 2, N, N + 2])
def test_a_seat_is_the_mean_of_the_others(tied, number):
    model = made(tied=tied)
    old = model.get_output_embeddings().weight.detach().clone()
    seat(model, number)
    table = model.get_output_embeddings().weight.detach()
    assert len(table) == max(N, number + 1)
    kept = torch.arange(N) != number
    assert torch.equal(table[:N][kept], old[kept])
    torch.testing.assert_close(table[number], old[kept].mean(0), atol=1e-6, rtol=0)
