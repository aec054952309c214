"""Both paths of a sweep against each other and against a plain loop; what the packed one leaves out; its budget."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from interp.errors import ConfigError, ModelError, PromptError
from interp.models.edits import Add, Constant, Copy, Edit, ProjectOut, Zero
from interp.models.load import load_model
from interp.models.run import capture, edit
from interp.models.sweeps import Edits, Readout, blocks, generic, packed, places, runs, state, sweep, unedited
from interp.models.sweeps.grid import changed
from interp.prompts import PromptPairs, Prompts
from interp.sites import Site
from interp.tensors import Activations

VOCABULARY, LAYERS, WIDTH = 60, 3, 32
SMALL = {
    "num_hidden_layers": LAYERS, "hidden_size": WIDTH, "intermediate_size": 48, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 32,
}  # fmt: skip
FORMS = {
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(n_layer=3, n_embd=32, n_head=4, vocab_size=60, n_positions=32)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SMALL)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=4, head_dim=8)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SMALL)),
    "gemma2": lambda: Gemma2ForCausalLM(Gemma2Config(**SMALL, head_dim=8, sliding_window=4)),
}
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "q", "k", "v", "z", "pattern", "mlp_post")
LENGTHS = torch.tensor([9, 7, 9, 5, 11])


def plain(form):
    """A Hugging Face model whose weights are large enough that every part counts."""
    torch.manual_seed(3)
    found = FORMS[form]()
    with torch.no_grad():
        for parameter in found.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            else:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    return found


def neox():
    """A form whose blocks are not written as functions."""
    config = GPTNeoXConfig(
        num_hidden_layers=2, hidden_size=32, intermediate_size=48, num_attention_heads=4, vocab_size=60,
        max_position_embeddings=32,
    )  # fmt: skip
    return GPTNeoXForCausalLM(config)


def made(form, weights="raw", dtype=torch.float32):
    return load_model(plain(form), device="cpu", weights=weights, dtype=dtype)


def both_sides(reads=True):
    """Pairs of mixed length; the second differs nowhere, and some prompts are read twice."""
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(11) < LENGTHS[:, None]
    tokens = torch.randint(1, VOCABULARY, (5, 11), generator=generator) * mask
    other = tokens.clone()
    other[:, 2] = (other[:, 2] + 7) % VOCABULARY * mask[:, 2]
    other[:, 4] = (other[:, 4] + 3) % VOCABULARY * mask[:, 4]
    other[1] = tokens[1]

    def prompts(ids, answers):
        found = Prompts.from_tokens(ids, mask, answers=answers)
        if not reads:
            return found
        columns = torch.stack([LENGTHS - 1, torch.tensor([6, -1, 3, 4, 7])], 1)
        wanted = torch.stack([answers, (answers + 5) % VOCABULARY], 1).masked_fill(columns < 0, -1)
        return dataclasses.replace(found, reads=columns, answers=wanted, read_names=("last", "earlier"))

    answers, foils = (torch.randint(VOCABULARY, (5,), generator=generator) for _ in range(2))
    return PromptPairs(prompts(tokens, answers), prompts(other, foils))


def grid(model, pairs):
    """Cells of every kind of edit at every site, alone and together."""
    source = capture(model, pairs.clean, SITES)
    everywhere = torch.linspace(-1, 1.5, WIDTH)
    cells = []
    for layer in range(LAYERS):
        for name in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
            site = Site(name, layer)
            cells += [[Edit(site, Copy(source), at=at)] for at in (0, 2, 4, 8, -1, None)]
            cells += [[Edit(site, Zero())], [Edit(site, Add(0.3 * everywhere), at=3)]]
            cells += [[Edit(site, ProjectOut(everywhere))], [Edit(site, Constant(0.1 * everywhere), at=-1)]]
        for name in ("q", "k", "v", "z", "pattern", "mlp_post"):
            for units in (0, [0, 1], None):
                cells += [[Edit(Site(name, layer), Copy(source), at=at, units=units)] for at in (None, 3, -1)]
                cells.append([Edit(Site(name, layer), Zero(), units=units)])
    resampled = Copy(source, torch.tensor([2, 1, 0, 3, 4]))
    cells += [
        [Edit(Site("z", 0), Zero(), units=1), Edit(Site("z", 2), resampled, units=[0, 2]),
         Edit(Site("mlp_out", 1), Zero(), at=1)],
        [Edit(Site("resid_pre", 2), Copy(source), at=5), Edit(Site("attn_out", 0), Copy(source), at=7),
         Edit(Site("resid_post", 2), Add(everywhere))],
        [Edit(Site("z", 1), Add(torch.ones(8)), units=1), Edit(Site("z", 1), ProjectOut(torch.arange(8.0)), units=1),
         Edit(Site("q", 1), Zero(), at=4), Edit(Site("pattern", 2), Zero(), units=0)],
        [Edit(Site("mlp_post", 0), Zero(), units=3), Edit(Site("mlp_post", 2), Zero(), units=4)],
        [Edit(Site("attn_out", 1), Zero()), Edit(Site("resid_mid", 1), Add(everywhere))],
        [Edit(Site("resid_pre", 2), Add(everywhere), at=3), Edit(Site("resid_post", 1), Copy(source), at=3)],
    ]  # fmt: skip
    return cells


@pytest.mark.parametrize("weights", ["raw", "processed"])
@pytest.mark.parametrize("form", FORMS)
def test_both_paths_give_the_same_numbers(form, weights):
    model, pairs = made(form, weights), both_sides()
    edits = Edits(pairs.corrupted, grid(model, pairs)[:: 1 if weights == "raw" else 3])
    wide, narrow = (Readout.of(pairs, metrics) for metrics in (["logit_diff", "log_prob"], ["logit_diff"]))
    wanted = sweep(model, edits, wide, path="generic")
    assert "MLPs on the columns from the edit on" in wanted.reason
    for readout, memory in ((wide, 1 << 30), (narrow, 1 << 30), (wide, 3_000_000)):
        found = sweep(model, edits, readout, path="packed", memory=memory)
        assert found.path == "packed"
        assert not found.values.is_inference()
        known = wanted.values[..., : found.values.shape[-1]]
        torch.testing.assert_close(found.values, known, atol=2e-5, rtol=1e-5, equal_nan=True)
        torch.testing.assert_close(found.base, wanted.base[:, : found.base.shape[-1]], equal_nan=True)


@pytest.mark.parametrize("path", ["packed", "generic"])
def test_a_path_equals_one_edited_run_for_each_cell(path):
    model, pairs = made("llama"), both_sides()
    cells = grid(model, pairs)[::7]
    readout = Readout.of(pairs, ["logit_diff"])
    found = sweep(model, Edits(pairs.corrupted, cells), readout, path=path)
    for number, cell in enumerate(cells):
        logits = edit(model, pairs.corrupted, cell)["logits"]
        wanted = readout.score(logits, torch.arange(5))
        torch.testing.assert_close(found.values[:, number], wanted, atol=2e-5, rtol=1e-5, equal_nan=True)


@pytest.mark.parametrize("form", ["gpt2", "llama"])
def test_bfloat16_stays_within_its_rounding(form):
    model, pairs = made(form, dtype=torch.bfloat16), both_sides()
    cells = grid(model, pairs)[::5]
    readout = Readout.of(pairs, ["logit_diff"])
    one, other = (sweep(model, Edits(pairs.corrupted, cells), readout, path=path) for path in ("packed", "generic"))
    torch.testing.assert_close(one.values, other.values, atol=0.1, rtol=0.1, equal_nan=True)


def test_an_unknown_architecture_takes_the_generic_path_and_says_so():
    model, pairs = load_model(neox(), device="cpu"), both_sides()
    edits, readout = Edits(pairs.corrupted, [[Edit(Site("attn_out", 1), Zero())]]), Readout.of(pairs, ["logit_diff"])
    found = sweep(model, edits, readout)
    assert found.path == "generic"
    assert "GPTNeoXForCausalLM" in found.reason
    with pytest.raises(ModelError, match="GPTNeoX"):
        sweep(model, edits, readout, path="packed")


def test_functions_that_are_not_the_model_s_are_refused(monkeypatch):
    model, pairs = made("gpt2"), both_sides()
    edits, readout = Edits(pairs.corrupted, [[Edit(Site("attn_out", 1), Zero())]]), Readout.of(pairs, ["logit_diff"])
    with torch.no_grad():
        model.original_model.transformer.h[1].attn.scaling *= 2
    found = sweep(model, edits, readout)
    assert found.path == "generic"
    assert "own logits" in found.reason


def test_the_generic_path_runs_no_cell_that_writes_what_stood_there(monkeypatch):
    model, pairs = made("gpt2"), both_sides()
    source = capture(model, pairs.clean, ["resid_pre", "resid_post"])
    copies = {name: Copy(source) for name in ("resid_pre", "resid_post")}
    cells = [[Edit(Site("resid_pre", 1), copies["resid_pre"], at=at)] for at in (0, 1, 2)]
    cells += [[Edit(Site("resid_post", 0), copies["resid_post"], at=1)], [Edit(Site("resid_pre", 1), Zero(), at=1)]]
    rows = []
    batch = generic._batch

    def counted(model, prompts, every, chosen, *rest, **options):
        rows.extend(chosen if every is cells else ())
        return batch(model, prompts, every, chosen, *rest, **options)

    monkeypatch.setattr(generic, "_batch", counted)
    found = sweep(model, Edits(pairs.corrupted, cells), Readout.of(pairs, ["logit_diff"]), path="generic")
    assert rows == [2, 4]  # pairs differ from column 2 on
    torch.testing.assert_close(found.values[:, [0, 1, 3]], found.base[:, None].expand(-1, 3, -1), equal_nan=True)


@pytest.mark.parametrize("extra", ["parallel blocks", "other tokens too", "batches as given"])
def test_the_generic_path_leaves_mlps_out_only_where_that_changes_nothing(extra):
    """NeoX blocks add attention and MLP; MLPs that look at other tokens, or refuse some alone, run on all columns."""
    if extra == "parallel blocks":
        model = load_model(neox(), device="cpu")
    else:
        model = made("gpt2")
        mixes = {
            "other tokens too": lambda module, given, out: out + 0.3 * out.cumsum(1),
            "batches as given": lambda module, given, out: out[:, : given[0].shape[1] // (given[0].shape[0] > 1)],
        }
        model.blocks[1].mlp.original_component.register_forward_hook(mixes[extra])
    pairs = both_sides()
    source = capture(model, pairs.clean, ["resid_pre", "z"])
    cells = [[Edit(Site(name, layer), Copy(source), at=at)] for name in ("resid_pre", "z") for layer in (0, 1)
             for at in (2, 4, 6)]  # fmt: skip
    readout = Readout.of(pairs, ["logit_diff"])
    found = sweep(model, Edits(pairs.corrupted, cells), readout, path="generic")
    reasons = {"parallel blocks": "from the edit on", "batches as given": "refuse some alone: ZeroDivisionError"}
    assert reasons.get(extra, "without them are not the model's") in found.reason
    for number, cell in enumerate(cells):
        wanted = readout.score(edit(model, pairs.corrupted, cell)["logits"], torch.arange(5))
        torch.testing.assert_close(found.values[:, number], wanted, atol=2e-5, rtol=1e-5, equal_nan=True)


def test_the_generic_path_runs_mlps_on_the_columns_from_the_edit_on(monkeypatch):
    """Pairs differ at columns 2 and 4; in the last layer only what is read goes through the MLP."""
    model, pairs = made("gpt2"), both_sides(reads=False)
    source = capture(model, pairs.clean, ["resid_pre"])
    seen = []
    only = generic.only_at

    def noted(model, tokens):
        seen.append({layer: some.sum(1).tolist() for layer, some in tokens.items()})
        return only(model, tokens)

    monkeypatch.setattr(generic, "only_at", noted)
    sweep(
        model, Edits(pairs.corrupted, [[Edit(Site("resid_pre", 1), Copy(source), at=4)]]),
        Readout.of(pairs, ["logit_diff"]), path="generic",
    )  # fmt: skip
    assert seen[-1] == {1: [1, 3, 5, 5, 7], 2: [1] * 5}  # by length


def test_a_small_change_beside_a_huge_dimension_is_a_change():
    base = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    base[:, 0] = 3e3
    moved = base.clone()
    moved[1, 5] += 2e-3
    moved[2] *= 1 + 1e-6
    assert changed(moved, base).tolist() == [False, True, False, False]


@pytest.fixture
def checks(monkeypatch):
    """How many tokens the longest prompt of every check had."""
    seen = []

    def noted(model, prompts, sites, **options):
        seen.append(int(prompts.lengths.max()))
        return capture(model, prompts, sites, **options)

    monkeypatch.setattr(runs, "capture", noted)
    return seen


def test_a_model_is_checked_once_for_as_long_as_it_stays_as_it_is(checks):
    model, pairs = made("gpt2"), both_sides()
    short = pairs.take([1, 3])

    def swept(some, path="packed"):
        edits = Edits(some.corrupted, [[Edit(Site("z", 1), Zero(), units=0)]])
        return sweep(model, edits, Readout.of(some, ["logit_diff"]), path=path).values

    swept(short)
    swept(short)
    assert checks == [7]
    swept(pairs)  # longer ones may go other ways
    swept(short)
    assert checks == [7, 11]
    with torch.no_grad():
        model.original_model.transformer.h[1].mlp.c_fc.bias.add_(0.1)
    torch.testing.assert_close(swept(pairs), swept(pairs, "generic"), atol=2e-5, rtol=1e-5, equal_nan=True)
    model.original_model.transformer.h[0].mlp.c_fc.bias.data = torch.ones(128)
    torch.testing.assert_close(swept(pairs), swept(pairs, "generic"), atol=2e-5, rtol=1e-5, equal_nan=True)
    model.cfg.default_prepend_bos = not model.cfg.default_prepend_bos
    swept(pairs)
    assert checks == [7, 11, 11, 11, 11]


def _hooked_point(model):
    model.blocks[1].hook_mlp_out.add_perma_hook(lambda tensor, hook: 2 * tensor)


def _hooked_module(model):
    model.original_model.transformer.h[1].ln_1.register_forward_hook(lambda module, given, made: 2 * made)


def _other_forward(model):
    model.blocks[1].mlp.forward = lambda *given, **options: 2 * given[0]


def _other_module(model):
    model.blocks[0].mlp.original_component.act = torch.nn.Tanh()


def _other_number(model):
    """What the functions read here the bridge reads elsewhere."""
    model.original_model.transformer.h[1].attn.scaling = 2.0


@pytest.mark.parametrize(
    ("change", "why", "differs"),
    [
        (_hooked_point, "hooked into it", True),
        (_hooked_module, "hooked into it", True),
        (_other_forward, "own logits", True),
        (_other_module, "own logits", True),
        (_other_number, "own logits", False),
    ],
)
def test_a_model_that_was_changed_after_its_check_is_not_mistaken_for_itself(change, why, differs):
    model, pairs = made("gpt2"), both_sides()
    edits, readout = Edits(pairs.corrupted, [[Edit(Site("z", 0), Zero())]]), Readout.of(pairs, ["logit_diff"])
    before = sweep(model, edits, readout)
    change(model)
    found = sweep(model, edits, readout)
    assert (before.path, found.path) == ("packed", "generic")
    assert why in found.reason
    assert differs != torch.allclose(found.base.nan_to_num(), before.base.nan_to_num(), atol=1e-3)
    shown = unedited(model, pairs.corrupted, ["resid_post"]).tensors
    for site, tensor in capture(model, pairs.corrupted, ["resid_post"]).tensors.items():
        torch.testing.assert_close(shown[site], tensor, equal_nan=True)


def test_a_hook_that_acts_on_some_prompts_alone_is_heeded():
    """The check looks at the two longest prompts; this one changes another."""
    model, pairs = made("gpt2"), both_sides()
    edits, readout = Edits(pairs.corrupted, [[Edit(Site("z", 0), Zero())]]), Readout.of(pairs, ["logit_diff"])
    model.blocks[1].hook_mlp_out.add_perma_hook(lambda tensor, hook: tensor * (1 + (tensor.shape[1] <= 5)))
    found, wanted = sweep(model, edits, readout), sweep(model, edits, readout, path="generic")
    assert found.path == "generic"
    assert torch.equal(found.base.nan_to_num(), wanted.base.nan_to_num())


@pytest.mark.parametrize("weights", ["raw", "processed"])
@pytest.mark.parametrize("form", FORMS)
def test_running_a_model_leaves_its_state_as_it_was(form, weights):
    model, pairs = made(form, weights), both_sides()
    before = state.state_of(model)
    assert before is not None
    capture(model, pairs.clean, [*SITES, "logits"])
    sweep(model, Edits(pairs.clean, [[Edit(Site("z", 0), Zero())]]), Readout.of(pairs, ["logit_diff"]), path="generic")
    assert state.state_of(model) == before
    model.run_with_cache(pairs.clean.tokens)  # of TransformerLens itself; it leaves hooks of transformers behind
    assert state.state_of(model) == before


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("weights", "dtype", "memory"),
    [("raw", torch.float32, 1 << 30), ("processed", torch.float32, 1), ("raw", torch.bfloat16, 1 << 30)],
)
def test_unedited_runs_show_what_capture_shows(form, weights, dtype, memory):
    model, pairs = made(form, weights, dtype), both_sides()
    wanted = capture(model, pairs.clean, [*SITES, "logits"])
    found = unedited(model, pairs.clean, [*SITES, "logits"], memory=memory)
    assert found.tensors.keys() == wanted.tensors.keys()
    for site, tensor in wanted.tensors.items():
        coarse = dtype == torch.bfloat16
        torch.testing.assert_close(
            found[site], tensor, atol=0.1 if coarse else 2e-5, rtol=0.05 if coarse else 1e-5, equal_nan=True
        )
        assert not found[site].is_inference()


def test_the_longest_prompts_need_not_be_read():
    """They say nothing about the functions then: those that are read do."""
    model, pairs = made("gpt2"), both_sides()
    reads = pairs.clean.reads.masked_fill(LENGTHS[:, None] > 8, -1)
    prompts = dataclasses.replace(pairs.clean, reads=reads, answers=pairs.clean.answers.masked_fill(reads < 0, -1))
    edits, readout = Edits(prompts, [[Edit(Site("z", 0), Zero())]]), Readout.of(prompts, ["log_prob"])
    found, wanted = (sweep(model, edits, readout, path=path) for path in ("auto", "generic"))
    assert found.path == "packed"
    torch.testing.assert_close(found.values, wanted.values, atol=2e-5, rtol=1e-5, equal_nan=True)
    unread = dataclasses.replace(prompts, reads=reads.fill_(-1), answers=prompts.answers.fill_(-1))
    kept, captured = (take(model, unread, ["z"]).tensors for take in (unedited, capture))
    assert all(torch.equal(kept[site].nan_to_num(), tensor.nan_to_num()) for site, tensor in captured.items())


@pytest.mark.parametrize("form", ["gpt2", "llama"])
@pytest.mark.parametrize("memory", [1 << 30, 1])
def test_places_that_no_prompt_of_a_tile_has_change_nothing(form, memory):
    model, pairs = made(form), both_sides()
    cells = [[Edit(Site(name, layer), Zero(), at=9)] for name in ("q", "k", "v", "pattern", "z") for layer in (0, 2)]
    for prompts in (pairs.corrupted, pairs.corrupted.take([1, 3])):
        edits, readout = Edits(prompts, cells), Readout.of(prompts, ["log_prob"])
        found, wanted = (sweep(model, edits, readout, memory=memory, path=path) for path in ("packed", "generic"))
        torch.testing.assert_close(found.values, wanted.values, atol=2e-5, rtol=1e-5, equal_nan=True)


def test_unedited_runs_of_an_unknown_architecture_go_through_the_bridge():
    model, pairs = load_model(neox(), device="cpu", weights="raw"), both_sides()
    wanted = capture(model, pairs.clean, ["z", "logits"])
    found = unedited(model, pairs.clean, ["z", "logits"])
    for site, tensor in wanted.tensors.items():
        torch.testing.assert_close(found[site], tensor, equal_nan=True)


def test_the_activation_of_gpt2_is_torchs_own():
    x = torch.cat([torch.linspace(-12, 12, 10001), torch.tensor([-1e30, -1e4, -0.0, 1e4, 1e30, torch.nan])])
    wanted = torch.nn.functional.gelu(x.double(), approximate="tanh")
    with torch.inference_mode():
        torch.testing.assert_close(blocks.gelu_tanh(x).double(), wanted, atol=1e-6, rtol=1e-6, equal_nan=True)
        half = x.bfloat16()
        assert torch.equal(
            blocks.gelu_tanh(half).nan_to_num(), torch.nn.functional.gelu(half, approximate="tanh").nan_to_num()
        )


def test_no_row_begins_where_nothing_changes(monkeypatch):
    """Pairs differ from column 2 on: patches before it, and those of the equal pair, are the base run's score."""
    model, pairs = made("llama"), both_sides()
    source = capture(model, pairs.clean, ["resid_pre"])
    cells = [[Edit(Site("resid_pre", layer), Copy(source), at=at)] for layer in range(LAYERS) for at in range(5)]
    carried = []
    attention = packed._Climb._attention

    def counted(self, layer, block, base, rows):
        carried.extend(rows.prompt[rows.row].tolist())
        return attention(self, layer, block, base, rows)

    monkeypatch.setattr(packed._Climb, "_attention", counted)
    found = sweep(model, Edits(pairs.corrupted, cells), Readout.of(pairs, ["logit_diff"]))
    for number, (_, at) in enumerate((layer, at) for layer in range(LAYERS) for at in range(5)):
        same = torch.arange(5) == 1 if at >= 2 else torch.ones(5, dtype=torch.bool)
        assert torch.equal(found.values[same, number].nan_to_num(), found.base[same].nan_to_num())
    assert carried
    assert 1 not in carried


def test_work_below_and_before_the_edit_is_left_out():
    model, pairs = made("gpt2"), both_sides(reads=False)
    source = capture(model, pairs.clean, ["resid_pre"])
    tokens = []
    whole = packed._Climb._attention

    def counted(self, layer, block, base, rows):
        tokens.append((layer, len(rows.row)))
        return whole(self, layer, block, base, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed._Climb, "_attention", counted)
        cells = [[Edit(Site("resid_pre", 1), Copy(source), at=4)]]
        sweep(model, Edits(pairs.corrupted, cells), Readout.of(pairs, ["logit_diff"]))
    assert [layer for layer, _ in tokens] == [1, 2]
    carried = int((LENGTHS - 4).clamp(min=0).sum())
    # The pair that differs nowhere is dropped when its edit writes what stood there. Into layer 1 one column comes
    # changed; its attention hands the change on to all later ones.
    assert [count for _, count in tokens] == [4, carried - 3]


def test_a_grid_of_places_is_swept_in_any_number_of_tiles():
    model, pairs = made("gemma2"), both_sides()
    spots = places(model, pairs.corrupted, "z", at="last")
    source = capture(model, pairs.clean, ["z"])
    edits = Edits(pairs.corrupted, spots.cells([Copy(source), Zero()]))
    readout = Readout.of(pairs, ["logit_diff"])
    whole = sweep(model, edits, readout)
    for memory in (1, 1_000_000):
        torch.testing.assert_close(
            sweep(model, edits, readout, memory=memory).values, whole.values, atol=2e-5, rtol=1e-5, equal_nan=True
        )


def test_edits_that_do_not_fit_the_prompts_are_refused_before_anything_runs():
    model, pairs = made("gpt2"), both_sides()
    prompts, site = pairs.clean, Site("resid_pre", 1)
    source = capture(model, prompts.take([0, 1, 2]), [site])
    mask = prompts.mask
    readout = Readout.of(pairs, ["logit_diff"])
    for wrong, said in (
        (Edit(site, Copy(source), at=0), "for 3 prompts, not for 5"),
        (Edit(site, Zero(), at=mask[:, :4]), "true or false"),
        (Edit(site, Zero(), at=mask[:3]), "true or false"),
    ):
        right = Edit(site, Zero(), at=0)
        with pytest.raises(PromptError, match=said):
            sweep(model, Edits(prompts, [[right], [wrong]]), readout)
        with pytest.raises(PromptError, match=said):
            edit(model, prompts, [wrong])
    for rows in ([0, -1, 0, 0, 0], [0, 3, 0, 0, 0]):
        with pytest.raises(PromptError, match="from 0 to 2"):
            Copy(source, torch.tensor(rows))
    with pytest.raises(ConfigError, match="length 0"):
        ProjectOut(torch.zeros(32))
    for value in (Add(torch.ones(3, 32)), ProjectOut(torch.ones(3, 32))):
        with pytest.raises(PromptError, match="3 vectors"):
            sweep(model, Edits(prompts, [[Edit(site, value, at=0)]]), readout)
    for value in (Add(torch.ones(31)), Constant(torch.ones(31))):
        with pytest.raises(ConfigError, match="not fit"):
            sweep(model, Edits(prompts, [[Edit(site, value, at=0)]]), readout)
    with pytest.raises(ConfigError, match="no prompt axis"):
        Edit(site, Constant(torch.ones(5, 11, 32)))
    for units in ([False, True], torch.tensor([False, True, False, False]), np.array([1.7]), [True]):
        with pytest.raises(ConfigError, match="by its number"):
            Edit(Site("z", 1), Zero(), units=units)
    with pytest.raises(ConfigError, match="by its number"):
        places(model, prompts, "z", units=[False, True])
    with pytest.raises(ConfigError, match="at least one head"):
        Edit(Site("z", 1), Zero(), units=[])
    for units in ([-1], [9]):
        with pytest.raises(ConfigError, match="there is no head"):
            places(model, prompts, "z", units=units)
    with pytest.raises(ConfigError, match="by its number"):
        places(model, prompts, "z", layers=[False, True])
    with pytest.raises(ConfigError, match="at least one layer"):
        places(model, prompts, "z", layers=[])
    with pytest.raises(PromptError, match="at least one position"):
        places(model, prompts, "resid_pre", positions=[])
    with pytest.raises(PromptError, match="no prompt has a token 99"):
        places(model, prompts, "z", at=99)
    with pytest.raises(ConfigError, match="not edited"):
        places(model, prompts, "logits")


def test_the_generic_path_knows_a_layer_in_which_nothing_changes():
    model, pairs = made("gpt2"), both_sides()
    source = capture(model, pairs.clean, [Site("resid_pre", 0), Site("resid_pre", 1)])
    cells = [[Edit(Site("resid_pre", layer), Copy(source), at=0)] for layer in (0, 1)]
    found = sweep(model, Edits(pairs.clean, cells), Readout.of(pairs, ["logit_diff"]), path="generic")
    torch.testing.assert_close(found.values, found.base[:, None].expand_as(found.values), equal_nan=True)


@pytest.mark.parametrize("path", ["packed", "generic"])
def test_a_constant_for_each_column_and_numbers_of_numpy(path):
    model, pairs = made("gpt2"), both_sides()
    prompts, readout = pairs.clean, Readout.of(pairs, ["logit_diff"])
    longest, width = prompts.tokens.shape[1], int(model.cfg.d_model)
    table = torch.randn(longest, width, generator=torch.Generator().manual_seed(1))
    each = Copy(Activations(prompts, {Site("mlp_out", 1): table.expand(5, -1, -1).clone()}, LAYERS))
    cells = [[Edit(Site("mlp_out", 1), value, at=at)] for value in (Constant(table), each) for at in (None, 2)]
    heads = [[Edit(Site("z", 1), Zero(), units=one, at=at)] for one, at in ((np.int64(1), np.int64(-1)), (1, -1))]
    several = [[Edit(Site("z", 1), Zero(), units=some)] for some in (np.arange(2), [0, 1])]
    assert (
        Edit(Site("z", 1), Zero(), units=torch.tensor(1)).numbers
        == Edit(Site("z", 1), Zero(), units=np.array(1)).numbers
    )
    found = sweep(model, Edits(prompts, [*cells, *heads, *several]), readout, path=path).values[..., 0]
    torch.testing.assert_close(found[:, :2], found[:, 2:4], equal_nan=True)
    torch.testing.assert_close(found[:, 4], found[:, 5], equal_nan=True)
    torch.testing.assert_close(found[:, 6], found[:, 7], equal_nan=True)


@pytest.mark.parametrize("form", ["gpt2", "llama", "mistral", "qwen2"])
def test_long_prompts_mix_their_values_without_a_pattern(form, monkeypatch):
    """With the limit set below these 11 columns: the same numbers."""
    model, pairs = made(form), both_sides()
    source = capture(model, pairs.clean, [Site(name, 1) for name in ("resid_pre", "z", "q", "v")])
    cells = [[Edit(Site(name, 1), Copy(source), at=at)] for name in ("resid_pre", "z", "q", "v") for at in (None, 3)]
    edits, readout = Edits(pairs.corrupted, cells), Readout.of(pairs, ["logit_diff"])
    written = sweep(model, edits, readout, path="packed").values
    monkeypatch.setattr(blocks, "_LONG", 0)
    monkeypatch.setattr(blocks.Network, "pattern", None)  # nobody asks for it
    unwritten = sweep(model, edits, readout, path="packed").values
    torch.testing.assert_close(written, unwritten, atol=2e-5, rtol=1e-5, equal_nan=True)
    assert not torch.equal(written.nan_to_num(), unwritten.nan_to_num())
