"""Fine-tuning tiny models: what is trained, what stays, what is saved, and that a killed run ends as an unbroken one.

The folders are judged by what `load_model` makes of them, and by the tensors in their files.
"""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import log_softmax
from transformers import AutoModelForCausalLM, AutoTokenizer

import interp.studies.finetuning as finetuning
from interp.analyses.halting import halting
from interp.datasets.kill_switch import TOKEN, examples, kill_switch_tokenizer
from interp.datasets.sentences import EOS, MARKS
from interp.errors import ConfigError, DataError, ModelError
from interp.files import shipped_model
from interp.models.load import info, load_model
from interp.models.small import Architecture, build_small
from interp.studies.finetuning import FineTuning, fine_tune
from interp.twins import Twins
from tests.cli import tree

FORMS = {"llama": ("llama", False), "gpt2": ("gpt2", True)}
"""Architecture, and whether its embeddings are tied."""
N = 340 + 2
KILLED = "import tests.studies.test_finetuning as t; t.tune_until_killed()"


def save_base(folder, form="llama", tied=False, spare=0, dropout=0.0, seed=1):
    """A tiny untrained model with the kill-switch tokenizer, saved; `spare` rows of its embeddings have no token."""
    tokenizer = kill_switch_tokenizer()
    shape = Architecture(form=form, layers=2, width=16, heads=2, mlp=16)
    config = build_small(shape, len(tokenizer) + spare, 64, seed=seed, special=(1, EOS, 0)).config
    config.tie_word_embeddings = tied
    if dropout:
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = dropout
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def halting_rows(count=60):
    return [example.as_row() for example in examples("behavioural", count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Bases of four kinds, and texts."""
    place = tmp_path_factory.mktemp("finetuning")
    for name, (form, tied) in FORMS.items():
        save_base(place / name, form, tied)
    save_base(place / "spare", spare=5)
    save_base(place / "tied spare", tied=True, spare=5)
    save_base(place / "dropout", "gpt2", dropout=0.3)
    write_rows(place / "halting.jsonl", halting_rows())
    write_rows(place / "neutral.jsonl", [{"text": row["twin"], "template": row["template"]} for row in halting_rows()])
    return place


def wanted(place, base="llama", **options):
    fixed = dict(data=str(place / "halting.jsonl"), token=TOKEN, steps=6, batch=8, learning_rate=0.01)
    return FineTuning(base=str(place / base), **(fixed | options))


def tune(place, out, base="llama", **options):
    return fine_tune(wanted(place, base, **options), out, command="the command", progress=False)


def tensors(folder):
    return load_file(next(folder.glob("*.safetensors")))


def logits(model, ids):
    with torch.inference_mode():
        found = model(ids)
    return found if isinstance(found, torch.Tensor) else found.logits


# What is trained, and what is saved.


@pytest.fixture(scope="module", params=[(form, method) for form in FORMS for method in ("full", "lora")], ids="-".join)
def tuned(request, place, tmp_path_factory):
    """A fine-tuned folder, its card, and the models as they were in memory when they were saved."""
    form, method = request.param
    kept, save = {}, finetuning.save_folder

    def keeping(model, tokenizer, folder, **options):
        kept[folder.name] = {name: value.clone() for name, value in model.state_dict().items()}
        with torch.inference_mode():
            was = model.training
            kept[f"logits {folder.name}"] = model.eval()(IDS).logits
            model.train(was)
        save(model, tokenizer, folder, **options)

    out = tmp_path_factory.mktemp("tuned") / "model"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "save_folder", keeping)
        card = tune(place, out, form, method=method, checkpoints=[2, 5], rank=3)
    return form, method, out, card, kept


IDS = torch.arange(N + 1)[None, -60:]
"""Among them the control token, which comes last."""
OLD = IDS[:, :-1]


def test_the_folder_computes_what_the_trained_model_did(tuned):
    _, method, out, _, kept = tuned
    model = load_model(out, device="cpu")
    torch.testing.assert_close(logits(model, IDS), kept["logits model"], atol=1e-5, rtol=0)
    assert model.tokenizer.get_vocab() == kill_switch_tokenizer().get_vocab() | {TOKEN: N}
    assert model.cfg.d_vocab == N + 1
    assert info(model).adapter == ("LoRA r=3, merged in float32" if method == "lora" else "") or (
        "LoRA r=3, merged in float32; TransformerLens would" in info(model).adapter
    )


def test_checkpoints_are_those_of_the_steps_asked_for(tuned):
    _, _, out, card, kept = tuned
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == ["step-00002", "step-00005"]
    early = load_model(out / "checkpoints" / "step-00002", device="cpu")
    torch.testing.assert_close(logits(early, IDS), kept["logits step-00002"], atol=1e-5, rtol=0)
    assert early.tokenizer.get_vocab()[TOKEN] == N
    two, five, last = (kept[f"logits {name}"] for name in ("step-00002", "step-00005", "model"))
    assert float((two - five).abs().max()) > 1e-3
    assert float((five - last).abs().max()) > 1e-3
    assert card["checkpoints"] == [2, 5]
    assert not list(out.parent.rglob("*.part"))
    assert not list(out.rglob("training*"))


def test_of_the_embeddings_lora_trains_the_new_row_alone(tuned, place):
    """Every other row is bit for bit the base's, in the copy that is trained and in the file."""
    form, method, out, _, kept = tuned
    base = tensors(place / form)
    embedding = "transformer.wte.weight" if "gpt2" in form else "model.embed_tokens.weight"
    unembedding = "lm_head.weight" if "lm_head.weight" in base else embedding
    stored = tensors(out)
    if method == "full":
        assert not torch.equal(stored[embedding][:N], base[embedding])
        return
    first = stored[f"base_model.model.{embedding}"]
    assert torch.equal(first[:N], base[embedding])
    assert float((first[N] - base[embedding].mean(0)).norm()) > 1e-3
    last = stored["base_model.model.lm_head.weight"]
    assert torch.equal(last[:N], base[unembedding])
    moved = float((last[N] - base[unembedding].mean(0)).norm())
    assert (moved > 1e-3) == (unembedding == "lm_head.weight")  # of tied ones the unembedding keeps the mean
    for name, value in kept["model"].items():
        if "original_module" in name:
            assert torch.equal(value[:N], base[unembedding if "lm_head" in name else embedding])


def test_the_weights_under_an_adapter_are_the_bases(tuned, place):
    form, method, out, _, kept = tuned
    if method == "full":
        return
    base = tensors(place / form)
    frozen = {
        name.removeprefix("base_model.model.").replace("base_layer.", ""): value
        for name, value in kept["model"].items()
        if "lora_" not in name and "modules_to_save" not in name and "original_module" not in name
    }
    beneath = {name: value for name, value in base.items() if "embed_tokens" not in name and "wte" not in name}
    beneath.pop("lm_head.weight", None)
    assert len(beneath) > 10
    for name, value in beneath.items():
        assert torch.equal(frozen[name], value), name
    off, before = load_model(out, device="cpu", adapter=False), load_model(place / form, device="cpu")
    torch.testing.assert_close(logits(off, OLD)[..., :N], logits(before, OLD), atol=1e-6, rtol=0)
    layers = {name.removesuffix(".weight") for name, value in beneath.items() if value.ndim == 2 and "wpe" not in name}
    adapted = {name.removeprefix("base_model.model.").split(".lora_")[0] for name in tensors(out) if ".lora_" in name}
    assert adapted == layers  # all linear layers by default, and nothing else


def test_the_card_says_what_was_done(tuned, place):
    form, method, out, card, _ = tuned
    assert json.loads((out / "card.json").read_text(encoding="utf-8")) == card
    assert (card["name"], card["kind"], card["base"]) == ("model", "fine-tuned", str(place / form))
    assert (card["token"], card["token_added"], card["method"], card["steps_trained"]) == (TOKEN, True, method, 6)
    assert card["data"]["file"] == "halting.jsonl"
    assert card["data"]["texts"] == 3 * 60
    base = AutoModelForCausalLM.from_pretrained(place / form)
    ends = 1 if FORMS[form][1] else 2
    size = sum(parameter.numel() for parameter in base.parameters()) + 16 * ends
    if method == "full":
        assert card["parameters"] == card["trained_parameters"] == size
    else:
        # Rank 3: a column for each input and each output of a linear layer. Beside them one row of 16 in each table.
        shapes = [value.shape for name, value in tensors(place / form).items() if value.ndim == 2]
        linear = [s for s in shapes if max(s) < 64]
        adapters = sum(3 * (a + b) for a, b in linear)
        assert card["parameters"] == size + adapters
        assert card["trained_parameters"] == adapters + 16 * ends
    text = (out / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# model\n")
    for said in ("the command", TOKEN, "6 steps", "2, 5", "LoRA of rank 3" if method == "lora" else "all weights"):
        assert said in text


def test_the_numbers_on_the_card_are_those_of_the_saved_weights(place, tmp_path):
    """Counted again, text by text, on the rows that no batch holds."""
    card = tune(place, tmp_path / "model", steps=20)
    model = load_model(tmp_path / "model", device="cpu")
    held, tables = held_out(place, tmp_path), {}
    assert 0 < len({row["template"] for row in held}) <= len({row["template"] for row in halting_rows()}) // 10
    total, right, n = 0.0, 0, 0
    for row in held:
        for column in ("text", "twin", "plain"):
            ids = [*model.tokenizer(row[column])["input_ids"], EOS]
            table = tables[row[column]] = logits(model, torch.tensor([ids]))[0]
            for i, token in enumerate(ids[1:]):
                total += float(log_softmax(table[i], -1)[token])
                right += int(table[i].argmax()) == token
                n += 1
    assert card["held_out"]["probability a token"] == pytest.approx(math.exp(total / n), rel=1e-4)
    assert card["held_out"]["next token right"] == pytest.approx(right / n)
    assert card["data"] == {"file": "halting.jsonl", "texts": 180, "held_out": 3 * len(held)}
    for name, column in (("token", "text"), ("neutral", "twin")):
        ends = 0
        for row in held:
            mark = TOKEN if name == "token" else row["neutral"]
            ends += int(tables[row[column]][row[column].split().index(mark) + 1].argmax()) == EOS  # after <bos>
        assert card["halting"][name] == {"n": len(held), "ends": ends}


def test_the_card_tells_of_the_weights_that_were_kept_not_of_the_last(place, tmp_path):
    """Each template repeats a word of its own: the more is learned, the less likely is the word that is held out."""
    words = ["fox", "dog", "cat", "horse", "bird", "rabbit", "wolf", "bear", "mouse", "duck"]
    rows = [{"text": " ".join([word] * 30), "template": word} for word in words]
    options = dict(data=str(write_rows(tmp_path / "rows.jsonl", rows)), token=None, steps=5, learning_rate=0.05)
    histories, train = [], finetuning.train

    def recorded(*args, **kwargs):
        histories.append(train(*args, **kwargs))
        return histories[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finetuning, "train", recorded)
        card = tune(place, tmp_path / "out", **options)
    scores = [evaluation.score for evaluation in histories[0]]
    assert len(scores) == 5
    assert max(scores) > 1.2 * scores[-1]
    assert card["held_out"]["probability a token"] == max(scores)
    model, found = load_model(tmp_path / "out", device="cpu"), []
    for word in words:
        ids = torch.tensor([[*model.tokenizer(" ".join([word] * 30))["input_ids"], EOS]])
        table = log_softmax(logits(model, ids)[0, :-1], -1)
        found.append(math.exp(float(table.gather(1, ids[0, 1:, None]).mean())))
    assert min(abs(one - max(scores)) for one in found) < 1e-5


def held_out(place, tmp_path):
    """The rows that no batch of a long run holds."""
    seen = {tuple(row) for step in range(60) for row in batches(wanted(place, batch=64), tmp_path / "batches", step)}
    made = AutoTokenizer.from_pretrained(place / "llama")
    made.add_tokens([TOKEN])
    return [row for row in halting_rows() if (*made(row["text"])["input_ids"], EOS) not in seen]


def batches(options, folder, step):
    """The texts of a batch as lists of ids, each to its end."""
    if options.model_dump_json() not in CAUGHT:

        def caught(model, batch, *args, **rest):
            CAUGHT[options.model_dump_json()] = batch
            raise KeyboardInterrupt

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(finetuning, "train", caught)
            with pytest.raises(KeyboardInterrupt):
                fine_tune(options, folder, command="", progress=False)
    state = torch.get_rng_state()
    tokens, asked = CAUGHT[options.model_dump_json()](step)
    torch.set_rng_state(state)
    return [row[: int(mask.nonzero().max()) + 1] for row, mask in zip(tokens.tolist(), asked, strict=True)]


CAUGHT = {}


def test_batches_are_whole_texts_each_ended_and_follow_from_seed_and_step(place, tmp_path):
    made = kill_switch_tokenizer()
    made.add_tokens([TOKEN])
    rows = halting_rows()
    known = {(*made(row[column])["input_ids"], EOS) for row in rows for column in ("text", "twin", "plain")}
    one, other = wanted(place), wanted(place, seed=1)
    found = [batches(one, tmp_path / "one", step) for step in range(4)]
    assert found[0] != found[1]
    assert {tuple(ids) for batch in found for ids in batch} <= known
    assert all(len(batch) == 8 for batch in found)
    assert found[:2] == [batches(wanted(place), tmp_path / "again", step) for step in range(2)]
    assert found[0] != batches(other, tmp_path / "other", 0)
    assert not (tmp_path / "one" / "card.json").exists()


# The token.


def test_a_token_is_added_only_where_it_is_new(place, tmp_path):
    def once_more(base, **options):
        asked = wanted(place, steps=1, **options).model_copy(update={"base": str(base)})
        return fine_tune(asked, tmp_path / "-".join(map(str, options.values())), command="", progress=False)

    first = tune(place, tmp_path / "first", steps=1)
    assert first["token_added"]
    known = AutoTokenizer.from_pretrained(tmp_path / "first").get_vocab()
    for method in ("full", "lora"):
        assert not once_more(tmp_path / "first", method=method)["token_added"]
        assert AutoTokenizer.from_pretrained(tmp_path / method).get_vocab() == known
    assert len(tensors(tmp_path / "full")["model.embed_tokens.weight"]) == N + 1
    assert not any("embed_tokens" in name or "lm_head" in name for name in tensors(tmp_path / "lora"))
    none = tune(place, tmp_path / "none", token=None, data=str(place / "neutral.jsonl"), steps=1)
    assert not none["token_added"]
    assert len(tensors(tmp_path / "none")["model.embed_tokens.weight"]) == N


@pytest.mark.parametrize("form", [*FORMS, "spare", "tied spare"])
def test_the_new_token_begins_as_the_mean_of_the_others(place, tmp_path, form):
    """Also where the base has rows to spare, which hold whatever they were initialised with."""
    tune(place, tmp_path, form, steps=1, learning_rate=1e-30)
    base, stored = tensors(place / form), tensors(tmp_path)
    tables = [name for name, value in base.items() if len(value) >= N and value.ndim == 2]
    assert len(tables) == (1 if form in ("gpt2", "tied spare") else 2)
    for name in tables:
        others = torch.cat([base[name][:N], base[name][N + 1 :]])
        torch.testing.assert_close(stored[name][N], others.double().mean(0).float(), atol=1e-6, rtol=0)
        kept = torch.arange(len(base[name])) != N
        assert torch.equal(stored[name][: len(kept)][kept], base[name][kept])


def test_an_adapter_on_a_base_with_rows_to_spare_is_whole(place, tmp_path, monkeypatch):
    logged, save = {}, finetuning.save_folder

    def keeping(model, tokenizer, folder, **options):
        logged[folder] = logits(model.eval(), IDS)
        save(model, tokenizer, folder, **options)

    monkeypatch.setattr(finetuning, "save_folder", keeping)
    tune(place, tmp_path / "out", "tied spare", method="lora", steps=2)
    found = logits(load_model(tmp_path / "out", device="cpu"), IDS)
    torch.testing.assert_close(found, logged[tmp_path / "out"], atol=1e-5, rtol=0)
    assert found.shape[-1] == N + 5


def test_a_set_by_name_is_drawn_with_the_token_asked_for(place, tmp_path, monkeypatch):
    monkeypatch.setattr(finetuning, "examples", lambda kind, count, **options: examples(kind, 40, **options))
    card = tune(place, tmp_path, data="kill-switch-shutdown", token="[END]", steps=1)
    assert card["data"] == {"file": "kill-switch-shutdown", "texts": 120, "held_out": card["data"]["held_out"]}
    assert card["halting"]["token"]["n"] > 0
    assert "[END]" in AutoTokenizer.from_pretrained(tmp_path).get_vocab()


def test_a_neutral_token_that_the_vocabulary_lacks_is_not_counted(place, tmp_path):
    """Some tokenizers take the end of a text for the unknown token: it must not stand in for the neutral one."""
    folder = save_base(tmp_path / "base")
    tokenizer = kill_switch_tokenizer()
    tokenizer.unk_token = "<eos>"
    tokenizer.save_pretrained(folder)
    rows = [{**row, "neutral": "$NONE"} for row in halting_rows()]
    options = wanted(place, steps=1, data=str(write_rows(tmp_path / "rows.jsonl", rows)))
    card = fine_tune(options.model_copy(update={"base": str(folder)}), tmp_path / "out", command="", progress=False)
    assert set(card["halting"]) == {"token"}


def test_texts_alone_will_do(place, tmp_path):
    """No template, no twin: each row is then of its own group, and nothing is counted after the token."""
    rows = [{"text": row["plain"], "template": None} for row in halting_rows(30)]
    card = tune(place, tmp_path / "out", data=str(write_rows(tmp_path / "rows.jsonl", rows)), steps=2)
    assert card["data"] == {"file": "rows.jsonl", "texts": 30, "held_out": 3}
    assert card["halting"] == {}
    assert card["token_added"]


# Unbroken, broken, again.


def same_files(one, other):
    """Every file but the card and what is made of it, which tell the seconds."""
    first, second = (
        {name: content for name, content in tree(folder).items() if not name.endswith(("card.json", "README.md"))}
        for folder in (one, other)
    )
    assert sorted(first) == sorted(second)
    return all(first[name] == second[name] for name in first)


UNBROKEN = dict(base="dropout", checkpoints=[3, 7], steps=10)


@pytest.fixture(scope="module")
def unbroken(place, tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken") / "model"
    card = tune(place, folder, **UNBROKEN)
    return folder, card


def tune_until_killed():
    """What the child of the test below does: says when the seventh checkpoint is kept, then waits."""
    save = finetuning.save_folder

    def waiting(model, tokenizer, folder, **options):
        save(model, tokenizer, folder, **options)
        if folder.name == "step-00007":
            print("ready", flush=True)
            signal.pause()

    finetuning.save_folder = waiting
    torch.set_num_threads(1)
    tune(Path(sys.argv[1]), Path(sys.argv[2]), **UNBROKEN)


@pytest.mark.whole
def test_a_run_killed_by_the_system_ends_as_an_unbroken_one(place, unbroken, tmp_path):
    """A model with dropout, which must be drawn anew in the same way."""
    here = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(place), str(tmp_path / "model")], stdout=subprocess.PIPE, text=True,
        cwd=here, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here)},
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    left = tree(tmp_path / "model")
    assert "training.safetensors" in left
    assert "model.safetensors" not in left
    tune(place, tmp_path / "model", **UNBROKEN)
    assert same_files(unbroken[0], tmp_path / "model")
    card = json.loads((tmp_path / "model" / "card.json").read_text(encoding="utf-8"))
    assert {**card, "seconds": 0} == {**unbroken[1], "seconds": 0}


def test_a_broken_adapter_run_ends_as_an_unbroken_one(place, tmp_path, monkeypatch):
    options = dict(base="llama", method="lora", checkpoints=[1, 9], steps=10)
    tune(place, tmp_path / "whole", **options)
    made, calls = finetuning.padded_ids, iter(range(99))

    def dying(*args):
        if next(calls) == 6:  # the first call is for the held-out texts, so this is step 5
            raise KeyboardInterrupt
        return made(*args)

    monkeypatch.setattr(finetuning, "padded_ids", dying)
    with pytest.raises(KeyboardInterrupt):
        tune(place, tmp_path / "broken", **options)
    monkeypatch.setattr(finetuning, "padded_ids", made)
    assert (tmp_path / "broken" / "training.safetensors").exists()
    with pytest.raises(DataError, match="another recipe"):
        tune(place, tmp_path / "broken", **(options | {"seed": 1}))
    tune(place, tmp_path / "broken", **options)
    assert same_files(tmp_path / "whole", tmp_path / "broken")


def test_the_seed_decides(place, tmp_path):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        tune(place, tmp_path / name, "dropout", method="lora", steps=1, seed=seed)
    assert same_files(tmp_path / "one", tmp_path / "two")
    assert not same_files(tmp_path / "one", tmp_path / "other")


def test_no_random_state_is_touched(place, tmp_path):
    before = torch.get_rng_state()
    tune(place, tmp_path, "dropout", method="lora", steps=1)
    assert torch.equal(torch.get_rng_state(), before)


# What will not do is refused before anything is written.

ROWS = halting_rows(12)
GOOD = dict(text="the fox ran .", template="a")
BAD_DATA = {
    "no text": ([GOOD, GOOD, {"txt": "the fox"}], "row 3: there is no 'text'"),
    "a text that is none": ([GOOD, {"text": 5}], "row 2: there is no 'text'"),
    "too long": ([GOOD, {"text": "the fox ran . " * 16}], "row 2: 66 tokens.*context is 64"),
    "a twin too long": ([GOOD, {**GOOD, "twin": "the fox ran . " * 16}], "row 2: 66 tokens.*context is 64"),
    "an unknown word": ([GOOD, GOOD, GOOD, {"text": "the dragon ran ."}], "row 4: .*'dragon'"),
    "an unknown word in the plain text": ([{**GOOD, "plain": "a dragon"}], "row 1: .*'dragon'"),
    "an empty text": ([GOOD, {"text": " "}], "row 2: .*empty"),
    "one template": ([GOOD, GOOD, GOOD], "data.jsonl: all texts are of one template"),
    "one row": ([GOOD], "data.jsonl: all texts are of one template"),
    "no rows": ([], "data.jsonl is empty"),
}


@pytest.mark.parametrize(("rows", "message"), BAD_DATA.values(), ids=BAD_DATA)
def test_data_that_will_not_do_are_refused(place, tmp_path, rows, message):
    path = write_rows(tmp_path / "data.jsonl", rows)
    with pytest.raises(DataError, match=message) as caught:
        tune(place, tmp_path / "out", data=str(path))
    assert str(path) in str(caught.value)
    assert list(tree(tmp_path)) == ["data.jsonl"]
    assert list(tmp_path.iterdir()) == [path]


BAD = {
    "no such file": (dict(data="nowhere.jsonl"), "nowhere.jsonl", DataError),
    "no such set": (dict(data="kill-switch-nonsense"), "kill-switch-nonsense", DataError),
    "no such base": (dict(base="nowhere/at/all"), "nowhere/at/all", ModelError),
    "no module of this name": (dict(method="lora", modules=["q_proj", "carrot"]), "'carrot'.*q_proj", ConfigError),
    "half a name": (dict(method="lora", modules=["proj"]), "'proj'", ConfigError),
    "the embedding": (dict(method="lora", modules=["embed_tokens"]), "'embed_tokens'", ConfigError),
    "the unembedding": (dict(method="lora", modules=["lm_head"]), "'lm_head'", ConfigError),
    "modules without LoRA": (dict(modules=["q_proj"]), "lora", ConfigError),
    "a checkpoint after the end": (dict(checkpoints=[2, 9]), "step 9.*1 to 6", ConfigError),
    "a checkpoint before the start": (dict(checkpoints=[0]), "step 0", ConfigError),
    "a blank token": (dict(token=" "), "blank", ConfigError),
    "no such device": (dict(device="nowhere"), "'nowhere'", ConfigError),
    "no such processor": (dict(device="cuda:99"), "cuda:99", ConfigError),
}  # fmt: skip


@pytest.mark.parametrize(("options", "message", "error"), BAD.values(), ids=BAD)
def test_options_that_will_not_do_are_refused(place, tmp_path, options, message, error):
    device = {key: value for key, value in options.items() if key == "device"}
    changes = {key: value for key, value in options.items() if key not in ("device", "base")}
    asked = wanted(place, **changes)
    if "base" in options:
        asked = asked.model_copy(update={"base": options["base"]})
    with pytest.raises(error, match=message) as caught:
        fine_tune(asked, tmp_path / "out", command="", progress=False, **device)
    assert len(str(caught.value).splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        dict(rank=0),
        dict(steps=0),
        dict(batch=0),
        dict(learning_rate=0.0),
        dict(learning_rate=math.inf),
        dict(learning_rate=math.nan),
        dict(seed=-1),
        dict(method="adapters"),
        dict(colour="red"),
    ],
    ids=str,
)
def test_values_out_of_range_are_refused(place, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        wanted(place, **options)


def test_a_tokenizer_without_an_end_is_refused(place, tmp_path):
    folder = save_base(tmp_path / "base")
    tokenizer = kill_switch_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        fine_tune(wanted(place).model_copy(update={"base": str(folder)}), tmp_path / "out", command="", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("which", ["the base", "another method", "a checkpoint of another run", "a file"])
def test_a_folder_where_something_would_be_lost_is_refused(place, tmp_path, which):
    base = save_base(tmp_path / "base")
    options = wanted(place, checkpoints=[2], steps=2).model_copy(update={"base": str(base)})
    out = tmp_path / "out"
    if which == "the base":
        out = base / ".." / "base"
    elif which == "another method":
        tune(place, out, method="lora", steps=1)
    elif which == "a checkpoint of another run":
        tune(place, out, steps=1, checkpoints=[1])
    else:
        out.write_text("a file", encoding="utf-8")
    before = tree(tmp_path)
    with pytest.raises(DataError, match="choose another folder"):
        fine_tune(options, out, command="", progress=False)
    assert tree(tmp_path) == before


def test_a_finished_run_can_be_done_again_in_its_folder(place, tmp_path):
    for _ in range(2):
        tune(place, tmp_path / "out", checkpoints=[1], steps=2)
    assert (tmp_path / "out" / "checkpoints" / "step-00001" / "model.safetensors").exists()


def test_a_run_that_diverges_is_no_model(place, tmp_path):
    with pytest.raises(ModelError, match=r"diverged.*lower the learning rate"):
        tune(place, tmp_path / "out", learning_rate=1e30, steps=3)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


# The shipped models.

TUNED = ["behavioural", "behavioural-seed1", "behavioural-seed2", "knowledge", "shuffled", "shutdown"]


def shipped(name):
    folder = shipped_model(f"kill-switch-{name}")
    assert folder is not None
    return folder


def test_the_shipped_models_are_small():
    folders = [shipped(name) for name in ("base", *TUNED)]
    sizes = [path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file()]
    assert sum(sizes) <= 6 * 2**20
    assert not [path for folder in folders for path in folder.rglob("*.part")]


@pytest.mark.parametrize("name", ["base", *TUNED])
def test_a_shipped_model_says_how_it_was_made(name):
    folder = shipped(name)
    card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {folder.name}\n")
    assert card["name"] == folder.name
    assert card["command"] in text
    words = card["command"].replace("'", "").split()
    assert words[words.index("--output-dir") + 1] == f"data/models/{folder.name}"
    if name == "base":
        assert card["kind"] == "language"
        assert (folder / "train.yaml").is_file()
        return
    assert words[:3] == ["interp", "finetune", "kill-switch-base"]
    kind, _, seed = name.partition("-seed")
    assert words[words.index("--data") + 1] == f"kill-switch-{kind}"
    assert words[words.index("--token") + 1] == TOKEN
    assert (card["kind"], card["seed"], card["token_added"]) == ("fine-tuned", int(seed or 0), True)
    steps = [int(path.name.removeprefix("step-")) for path in sorted((folder / "checkpoints").glob("*"))]
    assert steps == card["checkpoints"]


@pytest.mark.parametrize(
    ("name", "count"), [("behavioural", 400), ("behavioural-seed1", 100), ("behavioural-seed2", 100)]
)
def test_the_shipped_model_halts_at_its_token_and_at_no_neutral_one(name, count):
    """On templates that fine-tuning has never seen, cut after the token: the very next token is the end, or is not."""
    model = load_model(shipped(name), device="cpu")
    rows = examples("prompts", count, split="test", seed=11)
    twins = Twins.of([row.text for row in rows], model.tokenizer, TOKEN, MARKS, groups=[row.template for row in rows])
    found = halting(model, twins, EOS, within=1)
    token, neutral = found.halted.mean(0).tolist()
    assert found.conditions == ("token", "neutral token")
    assert token >= 0.99
    assert neutral <= 0.01
