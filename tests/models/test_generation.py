import copy
from dataclasses import replace
from weakref import WeakKeyDictionary

import pytest
import torch

from interp.errors import ConfigError, ModelError, PromptError
from interp.models import generation
from interp.models.edits import Add, Constant, Copy, Edit, ProjectOut, Zero
from interp.models.generation import generate, stop_tokens
from interp.models.load import load_model
from interp.models.run import capture, edit
from interp.prompts import Prompts
from interp.sites import Site
from tests.conftest import padded, tiny
from tests.models.test_run import Broken, state
from tests.naive import Naive

SITES = ["resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "z", "q", "k", "v", "mlp_post"]
STREAM = SITES[:5]
STEPS = 5
VECTOR = torch.linspace(-2, 2, 24)
FULL = "a reason"


@pytest.fixture
def side():
    """The side that `ragged` is padded on; the other has a test of its own."""
    return "right"


@pytest.fixture(scope="module")
def three():
    """Prompts of two lengths, two of them in one batch."""
    generator = torch.Generator().manual_seed(9)
    return padded([torch.randint(23, (length,), generator=generator) for length in (5, 3, 5)], "right")


@pytest.fixture(scope="module", params=["raw", "processed"])
def weights(request, hf, model):
    return model if request.param == "raw" else load_model(hf, device="cpu", weights="processed")


@pytest.fixture
def full_passes(monkeypatch):
    """Generate without the cache."""

    def run(*args, **kwargs):
        with monkeypatch.context() as patch:
            patch.setattr(generation, "_cache_fault", lambda model, sites: FULL)
            found = generate(*args, **kwargs)
        assert found.path == f"full passes: {FULL}"
        return found

    return run


def spelled_out(naive, ids, changes, stop, steps=STEPS):
    """Tokens and stop probabilities by one plain forward pass over the whole text for each token."""
    tokens, probabilities = torch.full((steps,), -1), torch.full((steps,), torch.nan)
    n = len(ids)
    for step in range(steps):
        logits = naive.logits(ids, *changes(naive, ids, n))[-1]
        probabilities[step] = logits.softmax(-1)[list(stop)].sum()
        tokens[step] = logits.argmax()
        if int(tokens[step]) in stop:
            break
        ids = torch.cat([ids, tokens[step : step + 1]])
    return tokens, probabilities


def at_column(column, function):
    def change(x):
        x = x.clone()
        x[column] = function(x[column])
        return x

    return change


def no_head(head):
    def change(x):
        x = x.clone()
        x[:, head] = 0
        return x

    return change


def middle(naive, ids, layer, column):
    """No module carries the stream between attention and MLP: let attention write what is missing."""
    before = naive.read(ids, "resid_pre", layer)
    write = at_column(column, lambda x: x + VECTOR)(naive.read(ids, "resid_mid", layer)) - before
    return "attn_out", layer, lambda x: write


def everywhere(x):
    return x + VECTOR


# What is edited, and the same as functions of a plain model's tensors over the text so far (n columns of it prompt).
EDITS = {
    "nothing": ([], lambda naive, ids, n: []),
    "resid_pre at an index": (
        [Edit(Site("resid_pre", 1), Add(VECTOR), at=1)],
        lambda naive, ids, n: [("resid_pre", 1, at_column(1, everywhere))],
    ),
    "mlp_out at a role": (
        [Edit(Site("mlp_out", 0), Zero(), at="last")],
        lambda naive, ids, n: [("mlp_out", 0, at_column(n - 1, torch.zeros_like))],
    ),
    "resid_post everywhere": (
        [Edit(Site("resid_post", 1), Add(VECTOR))],
        lambda naive, ids, n: [("resid_post", 1, everywhere)],
    ),
    "direction projected out everywhere": (
        [Edit(Site("attn_out", 2), ProjectOut(VECTOR))],
        lambda naive, ids, n: [
            ("attn_out", 2, lambda x: x - torch.outer(x @ VECTOR, VECTOR) / (VECTOR @ VECTOR)),
        ],
    ),
    "resid_mid at the last": (
        [Edit(Site("resid_mid", 1), Add(VECTOR), at=-1)],
        lambda naive, ids, n: [middle(naive, ids, 1, n - 1)],
    ),
    "a head everywhere": ([Edit(Site("z", 1), Zero(), units=2)], lambda naive, ids, n: [("z", 1, no_head(2))]),
    "several": (
        [
            Edit(Site("z", 1), Zero(), units=2),
            Edit(Site("resid_mid", 0), Add(VECTOR), at=-1),
            Edit(Site("resid_post", 1), Zero(), at=0),
            Edit(Site("resid_post", 1), Add(VECTOR)),
        ],
        lambda naive, ids, n: [
            middle(naive, ids, 0, n - 1),
            ("z", 1, no_head(2)),
            ("resid_post", 1, lambda x: everywhere(at_column(0, torch.zeros_like)(x))),
        ],
    ),
}


@pytest.mark.parametrize("kind", EDITS)
def test_greedy_generation_equals_the_naive_loop(hf, model, ragged, kind):
    ids, prompts = ragged
    edits, changes = EDITS[kind]
    naive, stop = Naive(hf), (1, 3)
    found = generate(model, prompts, edits=edits, new_tokens=STEPS, stop=stop)
    assert found.path == "cache"
    for i, row in enumerate(ids):
        tokens, probabilities = spelled_out(naive, row, changes, stop)
        assert found.tokens[i].tolist() == tokens.tolist()
        torch.testing.assert_close(found.stop_prob[i], probabilities, atol=1e-5, rtol=0, equal_nan=True)
    if kind != "nothing":
        plain = generate(model, prompts, new_tokens=STEPS, stop=stop)
        assert float((plain.stop_prob - found.stop_prob)[:, 0].abs().max()) > 1e-4


def test_processed_weights_write_what_the_plain_model_writes(hf, weights, ragged):
    """The vector has mean 0, so centring keeps it."""
    ids, prompts = ragged
    naive = Naive(hf)
    for kind in ("nothing", "resid_mid at the last"):
        edits, changes = EDITS[kind]
        found = generate(weights, prompts, edits=edits, new_tokens=STEPS)
        for i, row in enumerate(ids):
            tokens, probabilities = spelled_out(naive, row, changes, [1])
            assert found.tokens[i].tolist() == tokens.tolist()
            torch.testing.assert_close(found.stop_prob[i], probabilities, atol=1e-5, rtol=0, equal_nan=True)


def grown_with(prompts, found):
    """The prompts with what was written after them, read at every column that predicted a token."""
    ids = [
        torch.cat([prompts.tokens[i, :length], found.tokens[i][found.tokens[i] >= 0]])
        for i, length in enumerate(prompts.lengths.tolist())
    ]
    steps = found.tokens.shape[1]
    reads = prompts.lengths[:, None] - 1 + torch.arange(steps)
    reads = torch.where(found.tokens >= 0, reads, -1)
    names = tuple(f"step {i}" for i in range(steps))
    return replace(padded(ids, "right"), reads=reads, answers=found.tokens, read_names=names)


@pytest.mark.parametrize("name", SITES)
def test_edits_at_every_site_equal_full_passes(weights, three, full_passes, name):
    value, units = (Add(VECTOR), None) if name in STREAM else (Zero(), [0, 1])
    even = torch.arange(5) % 2 == 0
    places = [None, "last", three.mask & even]
    edits = [Edit(Site(name, layer), value, at=at, units=units) for layer, at in enumerate(places)]
    found = generate(weights, three, edits=edits, new_tokens=4)
    slow = full_passes(weights, three, edits=edits, new_tokens=4)
    assert found.path == "cache"
    assert torch.equal(found.tokens, slow.tokens)
    torch.testing.assert_close(found.stop_prob, slow.stop_prob, atol=1e-5, rtol=0, equal_nan=True)
    # The same in one pass over the grown prompts, with the prompt's columns named by masks.
    grown = grown_with(three, found)
    columns = torch.arange(grown.tokens.shape[1])
    inside = columns < three.lengths[:, None]
    masks = [grown.mask, columns == three.lengths[:, None] - 1, (columns % 2 == 0) & inside]
    logits = edit(weights, grown, [replace(e, at=mask) for e, mask in zip(edits, masks, strict=True)])["logits"]
    torch.testing.assert_close(logits.softmax(-1)[..., 1], found.stop_prob, atol=1e-5, rtol=0, equal_nan=True)
    chosen = torch.where(found.tokens >= 0, logits.nan_to_num().argmax(-1), -1)
    assert torch.equal(chosen, found.tokens)


def test_the_side_of_the_padding_does_not_matter(model, ragged):
    ids, prompts = ragged
    edits = EDITS["several"][0]
    one, other = (generate(model, p, edits=edits, new_tokens=4) for p in (prompts, padded(ids, "left")))
    assert torch.equal(one.tokens, other.tokens)
    assert torch.equal(one.stop_prob.nan_to_num(), other.stop_prob.nan_to_num())


def test_batch_size_does_not_change_what_is_written(model):
    prompts = padded([torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10]), torch.tensor([4]), torch.tensor([3])], "left")
    edits = [Edit(Site("resid_pre", 1), Add(VECTOR), at="last")]
    found = [
        generate(model, prompts, edits=edits, new_tokens=5, memory=m, temperature=t)
        for m in (1, 1 << 30)
        for t in (0, 1)
    ]
    for one, other in zip(found[:2], found[2:], strict=True):
        assert torch.equal(one.tokens, other.tokens)
        torch.testing.assert_close(one.stop_prob, other.stop_prob, atol=1e-5, rtol=0, equal_nan=True)


class Seen:
    """Notes how many columns it is shown, and how many rows."""

    def __init__(self):
        self.shapes = []

    def new(self, old, site, prompts, units):
        self.shapes.append((old.shape[0], old.shape[1]))
        return old


def test_a_pass_over_a_new_token_shows_one_column(model, full_passes):
    prompts = padded([torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])], "left")
    for run in (generate, full_passes):
        for name in SITES if run is generate else ["resid_mid", "k"]:
            everywhere, prompt = Seen(), Seen()
            edits = [Edit(Site(name, 1), everywhere), Edit(Site(name, 1), prompt, at=0)]
            run(model, prompts, edits=edits, new_tokens=3, stop=())
            if run is generate:
                assert everywhere.shapes == [(2, 3), (2, 1), (2, 1)]
                assert prompt.shapes == [(2, 3)]
            assert set(everywhere.shapes) == {(2, 3), (2, 1)}
            assert set(prompt.shapes) == {(2, 3)}


def test_a_batch_ends_when_all_of_it_has_halted(model):
    prompts = padded([torch.tensor([5, 6, 7]), torch.tensor([8, 9, 10])], "left")
    first = generate(model, prompts, new_tokens=4, stop=()).tokens
    seen = Seen()
    stop = {int(first[0, 0]), int(first[1, 1])}
    found = generate(model, prompts, edits=[Edit(Site("z", 0), seen)], new_tokens=9, stop=[*stop])
    assert found.halted.all()
    assert len(seen.shapes) == int(found.lengths.max()) + 1
    assert found.tokens.shape == (2, 9)


def test_the_answer_ends_at_a_stop_token(model, ragged):
    _, prompts = ragged
    free = generate(model, prompts, new_tokens=STEPS, stop=())
    assert free.stop == ()
    assert not free.halted.any()
    assert free.lengths.tolist() == [STEPS] * 4
    assert (free.tokens >= 0).all()
    assert (free.stop_prob == 0).all()
    end = int(free.tokens[1, 2])
    found = generate(model, prompts, new_tokens=STEPS, stop=end)
    assert torch.equal(found.groups, prompts.groups)
    for i in range(4):
        places = (free.tokens[i] == end).nonzero().flatten().tolist()
        length = places[0] if places else STEPS
        assert int(found.lengths[i]) == length
        assert bool(found.halted[i]) == bool(places)
        assert found.tokens[i, : length + 1].tolist() == free.tokens[i, : length + 1].tolist()
        assert (found.tokens[i, length + 1 :] == -1).all()
        assert found.stop_prob[i, length + 1 :].isnan().all()
        assert not found.stop_prob[i, : length + 1].isnan().any()
    frame = found.to_frame()
    assert len(frame) == int((found.lengths + found.halted).sum())
    assert frame.groupby("prompt")["stopped"].any().tolist() == found.halted.tolist()
    assert (~frame["stopped"]).groupby(frame["prompt"]).sum().tolist() == found.lengths.tolist()
    assert set(frame["group"]) == set(prompts.groups.tolist())


def test_stop_tokens_are_those_that_the_model_names():
    plain = tiny("gpt2")
    assert stop_tokens(load_model(plain, device="cpu")) == (1,)
    several = copy.deepcopy(plain)
    several.config.eos_token_id = [4, 3]
    several.generation_config.eos_token_id = [4, 99]  # beyond the vocabulary: never written
    assert stop_tokens(load_model(several, device="cpu")) == (3, 4)
    several.config.eos_token_id = several.generation_config.eos_token_id = None
    nameless = load_model(several, device="cpu")
    assert stop_tokens(nameless) == ()
    found = generate(nameless, padded([torch.tensor([5])], "right"), new_tokens=3)
    assert (found.stop, found.halted.tolist(), found.lengths.tolist()) == ((), [False], [3])


def test_a_trained_model_answers_and_stops():
    model = load_model("arithmetic-add3", device="cpu")
    prompts = Prompts.from_texts(["123+456=", "999+001="], model.tokenizer)
    found = generate(model, prompts, new_tokens=5)
    assert [text.replace(" ", "") for text in found.texts(model.tokenizer)] == ["579", "1000"]
    assert found.halted.all()
    assert found.lengths.tolist() == [3, 4]
    assert found.stop == (model.tokenizer.eos_token_id,)
    assert found.stop_prob[[0, 1], [3, 4]].min() > 0.99
    assert found.stop_prob[:, :3].max() < 0.01


def test_sampling_depends_on_the_prompt_and_the_seed_alone(model, three, full_passes):
    asked = dict(new_tokens=5, temperature=1.5, stop=())
    found = generate(model, three, seed=3, **asked)
    torch.manual_seed(5)
    assert torch.equal(generate(model, three, seed=3, **asked).tokens, found.tokens)
    assert torch.equal(full_passes(model, three, seed=3, **asked).tokens, found.tokens)
    assert not torch.equal(generate(model, three, seed=4, **asked).tokens, found.tokens)
    for rows in ([2], [1, 0]):
        assert torch.equal(generate(model, three.take(rows), seed=3, **asked).tokens, found.tokens[rows])
    fewer = generate(model, three, seed=3, **{**asked, "new_tokens": 3})
    assert torch.equal(fewer.tokens, found.tokens[:, :3])
    ended = generate(model, three, seed=3, **{**asked, "stop": [int(found.tokens[0, 1])]})
    assert ended.lengths[0] <= 1
    assert torch.equal(ended.tokens[ended.tokens >= 0], found.tokens[ended.tokens >= 0])
    cold = generate(model, three, **{**asked, "temperature": 1e-300})
    assert torch.equal(cold.tokens, generate(model, three, new_tokens=5, stop=()).tokens)


def test_sampled_tokens_have_the_models_frequencies(model):
    """Repeats of a prompt draw on their own. Each count lies within 5 binomial standard deviations (+1)."""
    n, temperature = 4000, 1.7
    prompts = padded([torch.tensor([5, 6, 7])] * n, "right")
    found = generate(model, prompts, new_tokens=1, temperature=temperature, stop=())
    logits = capture(model, prompts.take([0]), ["logits"])["logits"][0, 0]
    wanted = (logits / temperature).softmax(-1)
    counts = torch.bincount(found.tokens[:, 0], minlength=23)
    assert ((counts - n * wanted).abs() <= 5 * (n * wanted * (1 - wanted)).sqrt() + 1).all()


def test_stop_prob_is_the_models_own_at_any_temperature(model, ragged):
    _, prompts = ragged
    cold, warm = (generate(model, prompts, new_tokens=1, temperature=t) for t in (0.0, 2.0))
    torch.testing.assert_close(cold.stop_prob, warm.stop_prob, atol=0, rtol=0)


def test_copies_and_constants_hold_in_the_prompt(model, three, full_passes):
    source = capture(model, replace(three, tokens=three.tokens.flip(0)), ["resid_pre"])
    table = torch.randn(5, 24, generator=torch.Generator().manual_seed(2))
    for value in (Copy(source), Constant(table)):
        edits = [Edit(Site("resid_pre", 1), value, at=three.mask)]
        found = generate(model, three, edits=edits, new_tokens=3)
        slow = full_passes(model, three, edits=edits, new_tokens=3)
        assert torch.equal(found.tokens, slow.tokens)
        first = edit(model, three, edits)["logits"][:, 0].softmax(-1)[:, 1]
        torch.testing.assert_close(found.stop_prob[:, 0], first, atol=1e-5, rtol=0)
        with pytest.raises(PromptError, match=r"resid_pre.1 acts on every token .* has no value for tokens not yet"):
            generate(model, three, edits=[Edit(Site("resid_pre", 1), value)], new_tokens=3)
    vector = [Edit(Site("resid_pre", 1), Constant(VECTOR))]
    found, slow = (run(model, three, edits=vector, new_tokens=3) for run in (generate, full_passes))
    assert torch.equal(found.tokens, slow.tokens)


def test_what_cannot_be_run_is_refused(model, ragged):
    _, prompts = ragged
    with pytest.raises(PromptError, match=r"prompt 1 has 9 tokens, and 8 new ones .* context of 16; ask for at most 7"):
        generate(model, prompts, new_tokens=8)
    with pytest.raises(PromptError, match="17 tokens and the model's context is 16"):
        generate(model, padded([torch.zeros(17, dtype=torch.long)], "right"), new_tokens=1)
    with pytest.raises(ConfigError, match=r"pattern.1 cannot be edited while a text grows"):
        generate(model, prompts, edits=[Edit(Site("pattern", 1), Zero(), at=1)], new_tokens=2)
    with pytest.raises(ConfigError, match="no layer 3"):
        generate(model, prompts, edits=[Edit(Site("z", 3), Zero())], new_tokens=2)
    with pytest.raises(ConfigError, match="no head 7"):
        generate(model, prompts, edits=[Edit(Site("z", 0), Zero(), units=7)], new_tokens=2)
    with pytest.raises(PromptError, match="no role 'verb'"):
        generate(model, prompts, edits=[Edit(Site("z", 0), Zero(), at="verb")], new_tokens=2)
    for wrong, message in (
        (dict(new_tokens=0), "new_tokens must be at least 1"),
        (dict(temperature=-1.0), "temperature"),
        (dict(temperature=float("nan")), "temperature"),
        (dict(seed=-1), "seed"),
        (dict(stop=[1, 23]), "no stop token 23"),
        (dict(stop=-1), "no stop token -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            generate(model, prompts, **{"new_tokens": 2, **wrong})


def test_undefined_logits_are_refused(model, ragged):
    _, prompts = ragged
    source = capture(model, prompts, ["resid_pre"])
    other = Copy(source, rows=torch.tensor([3, 3, 3, 3]))  # the shortest: its padding is nan
    with pytest.raises(PromptError, match=r"logits of prompt 0 are nan or infinite at step 0 under these edits"):
        generate(model, prompts, edits=[Edit(Site("resid_pre", 1), other, at=-1)], new_tokens=2)
    flood = tiny("gpt2")
    flooded = load_model(flood, device="cpu")
    with torch.no_grad():
        flooded.original_model.get_parameter(
            next(name for name, p in flooded.original_model.named_parameters() if p.shape == (23, 24))
        )[5] = torch.inf
    with pytest.raises(ModelError, match="are nan or infinite at step 0"):
        generate(flooded, padded([torch.tensor([5])], "right"), new_tokens=2)


def forgetful(model, edits):
    """A cache that forgets the prompt."""

    def step(grown):
        return model(grown[:, -1:], use_cache=False)[:, -1]

    return step


def failing(model, edits):
    def step(grown):
        raise ValueError("there is no cache")

    return step


@pytest.mark.parametrize(
    ("fake", "reason"),
    [(forgetful, "the key-value cache changes logits by"), (failing, "the key-value cache fails (ValueError)")],
)
def test_a_cache_that_cannot_be_trusted_is_not_used(hf, model, ragged, monkeypatch, fake, reason):
    ids, prompts = ragged
    monkeypatch.setattr(generation, "_FAULTS", WeakKeyDictionary())
    monkeypatch.setattr(generation, "_cached", fake)
    found = generate(model, prompts, new_tokens=STEPS)
    assert found.path.startswith(f"full passes: {reason}")
    for i, row in enumerate(ids):
        tokens, probabilities = spelled_out(Naive(hf), row, EDITS["nothing"][1], [1])
        assert found.tokens[i].tolist() == tokens.tolist()
        torch.testing.assert_close(found.stop_prob[i], probabilities, atol=1e-5, rtol=0, equal_nan=True)


@pytest.mark.parametrize("part", ["prompt", "new"])
def test_the_trial_of_the_cache_notices_a_lost_edit(model, monkeypatch, part):
    real = generation._cached
    lost = {"prompt": lambda old: old, "new": None}[part]
    monkeypatch.setattr(
        generation, "_cached", lambda model, edits: real(model, [replace(e, **{part: lost}) for e in edits])
    )
    for name in SITES:
        # What the last layer does to a column is felt there alone.
        layer = 1 if part == "prompt" else 2
        assert "changes logits" in generation._find_fault(model, frozenset([Site(name, layer)]))
    assert generation._find_fault(model, frozenset()) == ""


class BrokenLater:
    """Fails at the first new token."""

    def new(self, old, site, prompts, units):
        torch.rand(3)
        if old.shape[1] == 1:
            raise RuntimeError("broken on purpose")
        return old


@pytest.mark.parametrize("training", [False, True])
def test_nothing_is_left_behind(model, training, full_passes):
    prompts = padded([torch.tensor([5, 6, 7]), torch.tensor([8, 9]), torch.tensor([3, 4])], "right")
    capture(model, prompts, ["z"])  # the bridge wires itself at its first pass
    generation._FAULTS.clear()
    model.train(training)
    before = state(model)
    edits = [Edit(Site("resid_mid", 1), Add(VECTOR)), Edit(Site("z", 0), Zero(), at=0)]
    for run, temperature in ((generate, 0), (generate, 1), (full_passes, 0)):
        found = run(model, prompts, edits=edits, new_tokens=4, temperature=temperature)
        assert not any(part.is_inference() for part in (found.tokens, found.halted, found.lengths, found.stop_prob))
    assert state(model) == before
    for run in (generate, full_passes):
        for broken in (Broken(), BrokenLater()):
            with pytest.raises(RuntimeError, match="on purpose"):
                run(model, prompts, edits=[*edits, Edit(Site("resid_mid", 2), broken)], new_tokens=4, stop=())
            assert state(model) == before
    model.eval()
