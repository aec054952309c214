"""Resuming is tested against the unbroken run, bit for bit; the loop's own numbers against sums written out here."""

import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

import interp.models.training as training
from interp.errors import DataError
from interp.models.small import Architecture, build_small
from interp.models.training import Evaluation, Schedule, train

SCHEDULE = Schedule(steps=12, learning_rate=0.05, warmup=4, evaluate_every=3, patience=99)
UNTIL_KILLED = "import tests.models.test_training as t; t.train_until_killed()"


class Tiny(nn.Module):
    """Predicts the next token from the running mean of embeddings; has matrices and vectors, as a transformer has."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.embed = nn.Parameter(torch.randn(7, 8, generator=generator))
        self.norm = nn.Parameter(torch.ones(8))
        self.unembed = nn.Parameter(torch.randn(8, 7, generator=generator))

    def forward(self, tokens, use_cache=False):
        x = self.embed[tokens].cumsum(1) / torch.arange(1, tokens.shape[1] + 1)[:, None]
        return SimpleNamespace(logits=torch.tanh(x * self.norm) @ self.unembed)


def batch(step):
    generator = torch.Generator().manual_seed(100 + step)
    tokens = torch.randint(7, (6, 5), generator=generator)
    return tokens, torch.rand(6, 5, generator=generator) < 0.6


def score(model):
    """Share of the next tokens that are right; low, so that nothing stops early."""
    tokens, _ = batch(-1)
    return {"right": float((model(tokens[:, :-1]).logits.argmax(-1) == tokens[:, 1:]).float().mean())}


def run(folder, model=None, *, batch=batch, score=score, schedule=SCHEDULE, recipe="recipe"):
    model = Tiny() if model is None else model
    path = Path(folder) / "training.safetensors"
    history = train(model, batch, score, schedule, checkpoint=path, recipe=recipe, progress=False)
    return model, history


def same(one, other):
    return all(torch.equal(x, y) for x, y in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


class Killed(Exception):
    pass


def dying(function, at):
    """The same function, which raises at its `at`-th call."""
    calls = iter(range(10**6))

    def call(argument):
        if next(calls) == at:
            raise Killed
        return function(argument)

    return call


@pytest.mark.parametrize(("where", "at"), [*(("batch", i) for i in range(12)), *(("score", i) for i in range(4))])
def test_a_broken_run_ends_as_an_unbroken_one(tmp_path, where, at):
    """Twelve steps, four evaluations: broken at any of them and taken up with fresh weights."""
    whole, expected = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path, **{where: dying({"batch": batch, "score": score}[where], at)})
    # The first checkpoint is written after three steps and their evaluation; from then on its weights count.
    kept = (tmp_path / "training.safetensors").exists()
    assert kept == (at >= (3 if where == "batch" else 1))
    resumed, history = run(tmp_path, Tiny(seed=9 if kept else 0))
    assert history == expected
    assert same(resumed, whole)


def train_until_killed():
    """What the child of the test below does: says when it has gone on past its second checkpoint, then waits."""

    def waiting(step):
        if step == 8:
            print("ready", flush=True)
            signal.pause()
        return batch(step)

    torch.set_num_threads(1)
    run(sys.argv[1], batch=waiting)


@pytest.mark.whole
def test_a_run_killed_by_the_system_ends_as_an_unbroken_one(tmp_path):
    here = Path(__file__).resolve().parents[2]
    child = subprocess.Popen(
        [sys.executable, "-c", UNTIL_KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=here,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here)},
    )  # fmt: skip
    with child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    seen = []

    def recorded(step):
        seen.append(step)
        return batch(step)

    resumed, history = run(tmp_path, Tiny(seed=5), batch=recorded)
    assert seen == list(range(6, 12))  # two evaluations of three steps were done
    whole, expected = run(tmp_path / "whole")
    assert history == expected
    assert same(resumed, whole)


@pytest.mark.parametrize("error", [OSError(28, "No space left"), SafetensorError("I/O error: No space left")])
def test_a_checkpoint_that_breaks_off_while_written_leaves_the_one_before(tmp_path, monkeypatch, error):
    """A full disk. safetensors has an error of its own for it."""
    written, broken = safetensors.torch.save_file, iter([False, True])

    def save(tensors, path, about):
        written(tensors, path, about)
        if next(broken):
            Path(path).write_bytes(Path(path).read_bytes()[:50])
            raise error

    monkeypatch.setattr(safetensors.torch, "save_file", save)
    with pytest.raises(DataError, match="No space left"):
        run(tmp_path)
    monkeypatch.setattr(safetensors.torch, "save_file", written)
    assert [p.name for p in tmp_path.iterdir()] == ["training.safetensors"]
    resumed, history = run(tmp_path, Tiny(seed=5))
    whole, expected = run(tmp_path / "whole")
    assert history == expected
    assert same(resumed, whole)


def test_a_finished_run_is_not_trained_on(tmp_path):
    whole, expected = run(tmp_path)
    again, history = run(tmp_path, Tiny(seed=5), batch=dying(batch, 0), score=dying(score, 0))
    assert history == expected
    assert same(again, whole)


def test_the_loss_is_the_mean_over_the_tokens_asked_for(tmp_path):
    """With a rate of nothing the weights stay, so each loss is -log p by hand, over two steps and their mean."""
    schedule = Schedule(steps=2, learning_rate=1e-30, weight_decay=0.0, evaluate_every=2)
    model, history = run(tmp_path, schedule=schedule)
    losses = []
    for step in range(2):
        tokens, asked = batch(step)
        logits = Tiny()(tokens).logits.detach().double()
        terms = [
            math.log(sum(math.exp(x) for x in logits[row, column - 1].tolist()))
            - float(logits[row, column - 1, tokens[row, column]])
            for row in range(6)
            for column in range(1, 5)
            if asked[row, column]
        ]
        losses.append(sum(terms) / len(terms))
    assert [e.step for e in history] == [2]
    assert history[0].loss == pytest.approx(sum(losses) / 2, rel=1e-6)
    assert same(model, Tiny())


def test_training_learns_and_decays_matrices_only(tmp_path):
    _, history = run(tmp_path, schedule=Schedule(steps=60, learning_rate=0.05, warmup=1, evaluate_every=20))
    assert history[-1].loss < history[0].loss
    # Nothing asked for reaches `unused`: only decay could move it, and vectors are not decayed.
    for shape, moved in (((4,), False), ((4, 4), True)):
        extra = Tiny()
        extra.unused = nn.Parameter(torch.ones(shape))

        def forward(tokens, use_cache=False, extra=extra):
            return SimpleNamespace(logits=Tiny.forward(extra, tokens).logits + 0 * extra.unused.sum())

        extra.forward = forward
        run(tmp_path / str(moved), extra)
        assert bool((extra.unused < 1).all()) == moved
        assert bool((extra.unused == 1).all()) != moved


def test_the_rate_warms_up_and_falls_as_a_cosine():
    schedule = Schedule(steps=1000, learning_rate=2.0, warmup=100, final_share=0.1)
    # Warm-up is (step + 1) / 100; the cosine is (1 + cos(pi step / 1000)) / 2, never below 0.1.
    assert schedule.rate(0) == pytest.approx(2.0 * 0.01)
    assert schedule.rate(49) == pytest.approx(2.0 * 0.5 * (1 + math.cos(0.049 * math.pi)) / 2)
    assert schedule.rate(500) == pytest.approx(2.0 * 0.5)
    assert schedule.rate(999) == schedule.rate(5000) == pytest.approx(0.2)
    rates = [schedule.rate(step) for step in range(100, 1000)]
    assert rates == sorted(rates, reverse=True)


def scripted(scores):
    """A score that follows a script, and the weights it was shown."""
    script, shown = iter(scores), []

    def score(model):
        shown.append({name: value.clone() for name, value in model.state_dict().items()})
        return {"scripted": next(script), "beside": 0.5}

    return score, shown


@pytest.mark.parametrize(
    ("scores", "patience", "evaluations", "best"),
    [
        ([0.1, 0.5, 0.4, 0.3, 0.2, 0.9], 3, 5, 1),  # three in a row that are no better than 0.5
        ([0.1, 0.5, 0.4, 0.6, 0.2, 0.3], 3, 6, 3),  # 0.6 came in time
        ([0.5, 0.5, 0.5, 0.5], 2, 3, None),  # as good is not better
        ([0.2, 1.0, 1.0, 0.0], 9, 3, None),  # perfect twice is enough
        ([0.2, 1.0, 0.5, 1.0, 0.9, 0.8], 9, 6, None),  # not in a row
        ([1.0, 1.0, 1.0, 1.0], 12, 3, None),  # longer patience asks for more
        ([-3.0, -2.0, -1.0], 9, 3, 2),  # any scale will do
    ],
)
def test_training_stops_early_and_keeps_the_best_weights(tmp_path, scores, patience, evaluations, best):
    score, shown = scripted(scores)
    schedule = Schedule(steps=len(scores), learning_rate=0.05, warmup=1, evaluate_every=1, patience=patience)
    model, history = run(tmp_path, score=score, schedule=schedule)
    assert [e.score for e in history] == scores[:evaluations]
    assert [e.step for e in history] == list(range(1, evaluations + 1))
    top = [i for i, s in enumerate(scores[:evaluations]) if s == max(scores[:evaluations])]
    assert best is None or top == [best]
    assert any(all(torch.equal(shown[i][n], v) for n, v in model.state_dict().items()) for i in top)


def test_a_resumed_run_stops_where_the_unbroken_one_does(tmp_path):
    scores = [0.1, 0.5, 0.4, 0.3, 0.2, 0.9]
    schedule = Schedule(steps=6, learning_rate=0.05, warmup=1, evaluate_every=1, patience=3)
    whole, expected = run(tmp_path / "whole", score=scripted(scores)[0], schedule=schedule)
    with pytest.raises(Killed):
        run(tmp_path, score=dying(scripted(scores)[0], 3), schedule=schedule)
    resumed, history = run(tmp_path, Tiny(seed=5), score=scripted(scores[3:])[0], schedule=schedule)
    assert history == expected
    assert same(resumed, whole)


def test_the_last_steps_are_evaluated_too(tmp_path):
    _, history = run(tmp_path, schedule=Schedule(steps=8, learning_rate=0.05, evaluate_every=5))
    assert [e.step for e in history] == [5, 8]


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path):
    run(tmp_path)
    before = (tmp_path / "training.safetensors").read_bytes()
    with pytest.raises(DataError, match="another recipe"):
        run(tmp_path, recipe="other")
    assert (tmp_path / "training.safetensors").read_bytes() == before


@pytest.mark.parametrize("damage", ["truncated", "header only", "empty", "garbage", "folder", "lacks a tensor"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    path = tmp_path / "training.safetensors"
    run(tmp_path)
    content = path.read_bytes()
    if damage == "folder":
        path.unlink()
        path.mkdir()
    elif damage == "lacks a tensor":
        with training.safe_open(path, "pt") as file:
            kept = {key: file.get_tensor(key) for key in file.keys() if key != "model.norm"}  # noqa: SIM118
            about = file.metadata()
        safetensors.torch.save_file(kept, path, about)
    else:
        short = {"truncated": content[:-40], "header only": content[:20], "empty": b"", "garbage": b"garbage" * 50}
        path.write_bytes(short[damage])
    model = Tiny(seed=5)
    with pytest.raises(DataError, match=r"training\.safetensors"):
        run(tmp_path, model)
    assert same(model, Tiny(seed=5))


def states():
    # Python's own generator is left out: the type checker of the test run draws from it.
    return torch.get_rng_state().tolist(), str(np.random.get_state())  # noqa: NPY002


def test_no_random_state_is_touched(tmp_path):
    before = states()
    run(tmp_path)
    run(tmp_path)
    assert states() == before


def test_the_model_is_left_ready_and_nothing_is_printed(tmp_path, capfd):
    model, history = run(tmp_path)
    assert not model.training
    assert capfd.readouterr() == ("", "")
    assert all(isinstance(e, Evaluation) and math.isfinite(e.loss) for e in history)


@pytest.mark.parametrize("form", ["llama", "gpt2"])
def test_logits_that_nobody_asks_for_change_nothing(tmp_path, form):
    def trained(only_asked):
        model = build_small(Architecture(form=form, width=8, heads=2, mlp=8), 7, 8, seed=0, special=(1, 2, 0))
        train(
            model, last, score, SCHEDULE, checkpoint=tmp_path / f"{only_asked}.safetensors", recipe="", progress=False,
            only_asked=only_asked,
        )  # fmt: skip
        return model.state_dict()

    def last(step):
        tokens, _ = batch(step)
        return tokens, torch.arange(5) == 3 + torch.arange(6)[:, None] % 2

    some, every = trained(True), trained(False)
    for name, value in some.items():
        torch.testing.assert_close(value, every[name], atol=1e-5, rtol=1e-4)
