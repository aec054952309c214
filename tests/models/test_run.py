from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import interp
from interp.errors import ConfigError, InterpError, ModelError, PromptError
from interp.metrics import METRICS
from interp.models.edits import Add, Constant, Copy, Edit, ProjectOut, Zero
from interp.models.run import capture, edit
from interp.models.sweeps import Edits, Readout, sweep
from interp.prompts import PromptPairs
from interp.sites import Site
from tests.conftest import padded
from tests.naive import Naive

SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "pattern", "mlp_post"]


@pytest.mark.parametrize("name", SITES)
def test_capture_equals_the_naive_loop(hf, model, ragged, name):
    ids, prompts = ragged
    found = capture(model, prompts, [name, "logits"], memory=1)
    naive = Naive(hf)
    for i, row in enumerate(ids):
        torch.testing.assert_close(found["logits"][i, 0], naive.logits(row)[-1], atol=1e-5, rtol=1e-5)
        for layer in range(3):
            here, wanted = found[name, layer][i], naive.read(row, name, layer)
            n = len(row)
            real = here[:, :n, :n] if name == "pattern" else here[:n]
            torch.testing.assert_close(real, wanted, atol=1e-5, rtol=1e-5)
            beyond = here[:, n:] if name == "pattern" else here[n:]
            assert beyond.isnan().all()
            if name == "pattern":
                assert (here[:, :n, n:] == 0).all()


def test_batch_size_does_not_change_what_is_captured(model, ragged):
    _, prompts = ragged
    one, all_ = (capture(model, prompts, ["z"], memory=m) for m in (1, 1 << 30))
    torch.testing.assert_close(one["z", 1], all_["z", 1], equal_nan=True, atol=1e-5, rtol=1e-5)


VECTOR = torch.linspace(-1, 1, 24)
VALUES = {
    "zero": (Zero(), lambda x: torch.zeros_like(x)),
    "constant": (Constant(VECTOR**2), lambda x: (VECTOR**2).expand_as(x)),
    "add": (Add(VECTOR, 2.0), lambda x: x + 2 * VECTOR),
    "project out": (ProjectOut(VECTOR), lambda x: x - torch.outer(x @ VECTOR, VECTOR) / (VECTOR @ VECTOR)),
}


@pytest.mark.parametrize("name", ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"])
@pytest.mark.parametrize("kind", VALUES)
def test_stream_edits_equal_the_naive_loop(hf, model, ragged, name, kind):
    ids, prompts = ragged
    value, function = VALUES[kind]
    naive = Naive(hf)
    for layer in range(3):
        found = edit(model, prompts, [Edit(Site(name, layer), value, at=1)])

        def at_one(x):
            return torch.cat([x[:1], function(x[1:2]), x[2:]])

        for i, row in enumerate(ids):
            if name == "resid_mid":
                # No module carries the stream between attention and MLP: let attention write what is missing.
                write = at_one(naive.read(row, "resid_mid", layer)) - naive.read(row, "resid_pre", layer)
                wanted = naive.logits(row, ("attn_out", layer, lambda x, w=write: w))
            else:
                wanted = naive.logits(row, (name, layer, at_one))
            torch.testing.assert_close(found["logits"][i, 0], wanted[-1], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["z", "mlp_post"])
def test_unit_edits_equal_the_naive_loop(hf, model, ragged, name):
    ids, prompts = ragged
    naive = Naive(hf)
    for units in (2, [0, 3]):

        def zeroed(x, units=units):
            x = x.clone()
            x[:, units] = 0
            return x

        found = edit(model, prompts, [Edit(Site(name, 1), Zero(), units=units)])
        for i, row in enumerate(ids):
            wanted = naive.logits(row, (name, 1, zeroed))
            torch.testing.assert_close(found["logits"][i, 0], wanted[-1], atol=1e-5, rtol=1e-5)


def test_pattern_edit_replaces_the_attention_of_one_head(hf, model, ragged):
    """Uniform attention in one head, then z must be the mean of v over the allowed positions."""
    ids, prompts = ragged
    width = prompts.tokens.shape[1]
    uniform = torch.tril(torch.ones(width, width)) / torch.arange(1, width + 1)[:, None]
    found = edit(model, prompts, [Edit(Site("pattern", 1), Constant(uniform), units=1)], ["z", "v", "pattern"])
    groups = 4 // found["v", 1].shape[2]
    for i, row in enumerate(ids):
        v = found["v", 1][i, : len(row), 1 // groups]
        mean = v.cumsum(0) / torch.arange(1, len(row) + 1)[:, None]
        torch.testing.assert_close(found["z", 1][i, : len(row), 1], mean, atol=1e-5, rtol=1e-5)


def test_a_budget_of_nothing_is_refused(model, ragged):
    _, prompts = ragged
    asked = prompts.__class__.from_tokens(prompts.tokens, prompts.mask, answers=torch.tensor([3, 4, 5, 6]))
    edits, readout = Edits(asked, [[Edit(Site("resid_pre", 0), Zero())]]), Readout.of(asked, ["log_prob"])
    for run in (lambda: capture(model, prompts, ["z"], memory=0), lambda: sweep(model, edits, readout, memory=-5)):
        with pytest.raises(ConfigError, match="memory is a budget in bytes"):
            run()


@pytest.mark.parametrize("memory", [1 << 14, 1 << 30])
def test_sweep_equals_edit_cell_by_cell(model, ragged, memory):
    ids, prompts = ragged
    other = capture(model, padded([row.flip(0) for row in ids], "right"), SITES)
    cells = [[Edit(Site(name, layer), Copy(other), at=-1)] for name in SITES for layer in range(3)]
    cells += [[Edit(Site("z", layer), Zero(), units=h) for h in (0, 2)] for layer in range(3)]
    cells += [[Edit(Site("resid_pre", 0), Zero(), at=0), Edit(Site("mlp_out", 2), Add(VECTOR))]]
    metrics = [METRICS[name] for name in ("log_prob", "rank")]
    asked = prompts.__class__.from_tokens(prompts.tokens, prompts.mask, answers=torch.tensor([3, 4, 5, 6]))
    readout = Readout.of(asked, metrics)
    found = sweep(model, Edits(asked, cells), readout, memory=memory)
    for c, cell in enumerate(cells):
        logits = edit(model, asked, cell)["logits"]
        wanted = torch.stack([metric.score(logits, readout.targets) for metric in metrics], 1)
        torch.testing.assert_close(found.values[:, c], wanted, atol=1e-5, rtol=1e-5)
    base = capture(model, asked, ["logits"])["logits"]
    torch.testing.assert_close(found.base[:, 0], metrics[0].score(base, readout.targets), atol=1e-5, rtol=1e-5)


def state(model):
    hooks = sum(len(point.fwd_hooks) + len(point.bwd_hooks) for point in model.hook_dict.values())
    torch_hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    forwards = [block.__dict__.get("forward") for block in model.blocks]
    starts = [[getattr(block, f"_{end}_at_layer_idx", None) for end in ("start", "stop")] for block in model.blocks]
    modes = [m.training for m in [*model.modules(), *model.original_model.modules()]]
    grads = [(p.requires_grad, p.grad) for p in model.original_model.parameters()]
    chance = torch.get_rng_state().tolist(), str(np.random.get_state())  # noqa: NPY002
    return hooks, torch_hooks, forwards, starts, modes, grads, torch.is_grad_enabled(), chance


class Broken:
    def new(self, old, site, prompts, units):
        torch.rand(3)
        raise RuntimeError("broken on purpose")


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(model, ragged, training):
    _, prompts = ragged
    capture(model, prompts, ["z"])  # the bridge wires itself at its first pass
    model.train(training)
    before = state(model)
    broken = [Edit(Site("resid_mid", 1), Broken())]
    capture(model, prompts, ["resid_pre", "logits"])
    edit(model, prompts, [Edit(Site("z", 1), Zero())])
    asked = prompts.__class__.from_tokens(prompts.tokens, prompts.mask, answers=torch.tensor([3, 4, 5, 6]))
    readout = Readout.of(asked, [METRICS["log_prob"]])
    sweep(model, Edits(asked, [[Edit(Site("z", 1), Zero())]]), readout)
    found = capture(model, asked, ["resid_pre", "resid_post", "pattern"])
    interp.logit_lens(found, model)
    interp.attention_statistics(found)
    interp.head_scores(found)
    interp.patching(model, PromptPairs(asked, asked.take([0, 1, 2, 3])), metric="log_prob")
    interp.unembed(model, found["resid_post", 2])
    interp.info(model)
    for _ in interp.untrained(model, [0]):
        break
    assert state(model) == before
    for call in (
        lambda: edit(model, prompts, broken),
        lambda: sweep(model, Edits(asked, [broken]), readout),
    ):
        with pytest.raises(RuntimeError, match="on purpose"):
            call()
    for call in (
        lambda: edit(model, prompts, [Edit(Site("z", 1), Zero(), units=99)]),
        lambda: capture(model, prompts, ["nothing"]),
        lambda: interp.logit_lens(capture(model, asked, ["z"]), model),
        lambda: interp.patching(model, PromptPairs(asked, asked), metric="nothing"),
        lambda: interp.patching(model, PromptPairs(asked, asked), site="z", units=[9]),
    ):
        with pytest.raises(InterpError):
            call()
    with pytest.raises(RuntimeError):
        interp.unembed(model, torch.zeros(2, 5))
    assert state(model) == before
    model.eval()


def test_what_cannot_be_run_is_refused(model):
    long = padded([torch.zeros(17, dtype=torch.long)], "right")
    with pytest.raises(PromptError, match="17 tokens and the model's context is 16"):
        capture(model, long, ["z"])
    foreign = padded([torch.tensor([5, 23])], "right")
    with pytest.raises(PromptError, match="token id 23"):
        capture(model, foreign, ["z"])
    with pytest.raises(ConfigError, match="no layer 3"):
        capture(model, padded([torch.tensor([5])], "right"), [Site("z", 3)])
    with pytest.raises(ConfigError, match="no site 'zz'"):
        capture(model, padded([torch.tensor([5])], "right"), ["zz"])
    with pytest.raises(ConfigError, match="no head 7"):
        edit(model, padded([torch.tensor([5])], "right"), [Edit(Site("z", 0), Zero(), units=7)])


def test_a_site_that_the_architecture_lacks_is_refused(model):
    del_name = "blocks.0.hook_resid_mid"
    points = dict(model.hook_dict)
    assert del_name in points
    from interp.models.run import _point

    points.pop(del_name)
    with pytest.raises(ModelError, match="has no site resid_mid"):
        _point(model, points, Site("resid_mid", 0))


def test_threads_that_share_a_model_do_not_disturb_each_other(model, ragged):
    _, prompts = ragged

    def asked(layer):
        found = edit(model, prompts, [Edit(Site("resid_post", layer), Zero(), at=-1)], ["resid_pre", "logits"])
        return found["logits"], found["resid_pre", 1].nan_to_num()

    wanted = [asked(0), asked(1)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: asked(i % 2), range(24)))
    for i, (logits, stream) in enumerate(found):
        assert torch.equal(logits, wanted[i % 2][0])
        assert torch.equal(stream, wanted[i % 2][1])
