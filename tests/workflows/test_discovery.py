"""Heads found among many: the planted one, and none where there is nothing, as often as stated."""

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from interp.analyses.ablation import Ablation
from interp.analyses.patching import Patching
from interp.errors import ConfigError, PromptError
from interp.estimates import halves, ratio
from interp.evidence import Claim
from interp.prompts import Prompts
from interp.workflows.discovery import Task, Trial, discover, patched_heads, specialisation

SEEDS = 200


def trial(rng, n=80, planted=0.0):
    """Effects and controls of two layers of three heads; L1H2 has more than its control."""
    shared = rng.normal(size=(n, 1, 1))
    own, control = (torch.from_numpy(0.3 * rng.normal(size=(n, 2, 3)) + shared).float() for _ in range(2))
    own[:, 1, 2] += planted
    return Trial(own, control, torch.arange(n))


def discovered(rng, n=80, planted=0.0, tasks=2, minimum=0.1):
    trials = {f"task {i}": trial(rng, n, planted if i == 0 else 0.0) for i in range(tasks)}
    return discover(
        trials, layers=(0, 1), heads=("0", "1", "2"), unit="u", control_name="c", minimum=minimum
    )  # fmt: skip


def compatible(count, level=0.05):
    """Whether a rate is compatible with a level: its exact binomial lower bound does not exceed it."""
    return stats.binomtest(int(count), SEEDS).proportion_ci(0.95, "exact").low <= level


def supported(result, task):
    best = result.best(task)
    claim = Claim("x", "x", best.effect, best.control, "x", best.difference, result.minimum, "x")
    return claim.verdict == "supported"


def test_the_planted_head_is_found_and_measured():
    result = discovered(np.random.default_rng(0), planted=0.6)
    assert [tuple(cell) for cell in result.found().nonzero().tolist()] == [(1, 2, 0)]
    best = result.best("task 0")
    assert (best.layer, best.column, best.searched) == (1, "2", 6)
    np.testing.assert_allclose(float(best.difference.value), 0.6, atol=0.2)
    rows = result.rows("task 0")
    assert rows[0]["head"] == "L1H2"
    assert rows[0]["found"]
    frame = result.to_frame()
    assert len(frame) == 12
    assert frame.loc[frame["found"], ["layer", "head", "task"]].to_numpy().tolist() == [[1, "2", "task 0"]]


@pytest.mark.whole
def test_noise_is_found_and_supported_no_more_often_than_stated():
    found = claims = 0
    for seed in range(SEEDS):
        result = discovered(np.random.default_rng(seed), 40, minimum=0.0)
        found += bool(result.found().any())
        claims += supported(result, "task 0")
    assert compatible(found), found
    assert compatible(claims), claims


def patching_of(rng, n=48, shift=0.0):
    clean, corrupted = torch.full((n,), 2.0), torch.full((n,), -2.0)
    noise = [torch.from_numpy(rng.normal(size=(n, 2, 3))).float() for _ in range(2)]
    noise[0][:, 0, 1] += shift
    control = corrupted[:, None, None] + noise[1]
    control[0] = torch.nan  # a pair of a layout of its own
    return Patching(
        site="z", direction="denoising", metric="logit_diff", unit="logits", differs="carry", threshold=0.1,
        layers=(0, 1), axis="head", columns=("0", "1", "2"),
        patched=corrupted[:, None, None] + noise[0], control=control, clean=clean, corrupted=corrupted,
        groups=torch.arange(n),
    )  # fmt: skip


@pytest.mark.whole
def test_heads_of_pairs_whose_clean_sides_are_exchanged_are_no_finding():
    """The control patches from another pair: with nothing planted, own and other pair are exchangeable."""
    found = claims = 0
    for seed in range(SEEDS):
        result = patched_heads({"carry": patching_of(np.random.default_rng(seed))}, minimum=0.0)
        found += bool(result.found().any())
        claims += supported(result, "carry")
    assert compatible(found), found
    assert compatible(claims), claims
    planted = patched_heads({"carry": patching_of(np.random.default_rng(0), shift=2.0)})
    assert [tuple(cell) for cell in planted.found().nonzero().tolist()] == [(0, 1, 0)]
    np.testing.assert_allclose(float(planted.best("carry").difference.value), 0.5, atol=0.2)


def test_patching_of_other_sites_has_no_heads():
    made = patching_of(np.random.default_rng(0))
    with pytest.raises(ConfigError, match="site z"):
        patched_heads({"carry": Patching(**{**vars(made), "axis": "position", "site": "resid_pre"})})


def ablated(rng, n=240, planted=0.0):
    """Digits that break when heads are ablated, more often where the operands are long; and which ask for a carry."""
    long, asked = rng.random(n) < 0.5, rng.random(n) < 0.5
    chance = np.broadcast_to(0.2 + 0.3 * long[:, None, None], (n, 2, 3)).copy()
    chance[:, 1, 0] += planted * asked
    broken = torch.from_numpy(rng.random((n, 2, 3)) < chance).float()[..., None]
    labels = pd.DataFrame({"carry": asked.astype(int), "long": long.astype(int)})
    prompts = Prompts.from_tokens(torch.zeros(n, 1, dtype=torch.long), labels=labels)
    base = torch.ones(n, 1)
    made = Ablation("z", "mean", (0, 1), "head", ("0", "1", "2"), ("exact_match",), base[:, None, None] - broken, base,
                    prompts.groups)  # fmt: skip
    return made, prompts


TASKS = {"use-carry": Task("exact_match", "carry", ("long",))}


def test_a_head_that_serves_a_sub_task_is_found():
    result = specialisation(*ablated(np.random.default_rng(3), 600, planted=0.45), TASKS)
    assert [tuple(cell) for cell in result.found().nonzero().tolist()] == [(1, 0, 0)]
    best = result.best("use-carry")
    np.testing.assert_allclose(float(best.difference.value), 0.45, atol=0.12)


@pytest.mark.whole
def test_sub_tasks_whose_labels_are_shuffled_have_no_head():
    """The heads do break digits, and some more than others; but not for the shuffled label."""
    found = claims = 0
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        made, prompts = ablated(rng, planted=0.45)
        shuffled = prompts.labels.assign(carry=rng.permutation(prompts.labels["carry"].to_numpy()))
        given = Prompts.from_tokens(prompts.tokens, labels=shuffled)
        result = specialisation(made, given, TASKS, minimum=0.0)
        found += bool(result.found().any())
        claims += supported(result, "use-carry")
    assert compatible(found), found
    assert compatible(claims), claims


def test_what_cannot_be_tested_is_nan_or_refused():
    few = discovered(np.random.default_rng(0), 12, planted=5.0)
    assert few.effect.isnan().all()
    assert not few.found().any()
    with pytest.raises(PromptError, match="give more prompts"):
        few.best("task 0")
    with pytest.raises(ConfigError, match="there is no task"):
        few.best("nothing")
    with pytest.raises(ConfigError, match="at least one task"):
        discover({}, layers=(0,), heads=("0",), unit="", control_name="")
    made, prompts = ablated(np.random.default_rng(0))
    one = Prompts.from_tokens(prompts.tokens, labels=prompts.labels.assign(carry=1))
    with pytest.raises(PromptError, match="no sub-task has prompts"):
        specialisation(made, one, TASKS)


def test_shares_of_patched_heads_are_ratios_of_means():
    """The confirming half by hand, with a clean-corrupted difference that varies from pair to pair."""
    rng = np.random.default_rng(1)
    made = patching_of(rng, shift=2.0)
    clean = made.clean + torch.from_numpy(rng.normal(size=len(made.clean))).float()
    made = Patching(**{**vars(made), "clean": clean})
    best = patched_heads({"carry": made}).best("carry")
    rows = torch.from_numpy(halves(made.groups)[1])
    rows &= ~made.control.isnan().flatten(1).any(1)
    own = made.moved[rows][:, 0, 1]
    wanted = ratio(own - made.control_moved[rows][:, 0, 1], (clean - made.corrupted)[rows], made.groups[rows])
    for end in ("value", "n"):
        np.testing.assert_allclose(getattr(best.difference, end), getattr(wanted, end), rtol=1e-5)
    np.testing.assert_allclose(float(best.difference.low), float(wanted.low), atol=0.02)


def test_a_sub_task_has_the_same_pairs_whatever_else_is_asked():
    made, prompts = ablated(np.random.default_rng(3), 300)
    more = {"long": Task("exact_match", "long"), **TASKS}
    alone, beside = (specialisation(made, prompts, tasks).best("use-carry") for tasks in (TASKS, more))
    assert float(alone.effect.value) == float(beside.effect.value)
    with pytest.raises(PromptError, match="the ablation is of 300 prompts"):
        specialisation(made, prompts.take(range(20)), TASKS)
    with pytest.raises(ConfigError, match="at least one kind"):
        patched_heads({})
