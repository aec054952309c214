import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.errors import ConfigError, PromptError
from interp.metrics import METRICS, Targets, join, named
from interp.prompts import PromptPairs
from tests.conftest import padded

NAN = math.nan
VOCABULARY = 11


def case(seed=0, n=7, reads=3, dtype=torch.float64):
    """Random logits and ragged answers: prompt 0 has none, prompt 1 one, the others any number of them."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, reads, VOCABULARY, generator=generator, dtype=dtype)
    answers = torch.randint(VOCABULARY, (n, reads), generator=generator)
    foils = torch.randint(VOCABULARY, (n, reads), generator=generator)
    answers[torch.rand(n, reads, generator=generator) < 0.3] = -1
    foils[torch.rand(n, reads, generator=generator) < 0.2] = -1
    answers[0] = -1
    answers[1] = torch.tensor([4, *[-1] * (reads - 1)])
    reference = torch.randn(n, reads, VOCABULARY, generator=generator, dtype=dtype).log_softmax(-1)
    return logits, Targets(answers, foils, reference)


def naive(name, logits, answers, foils, reference):
    """One prompt, token by token, in plain numbers."""
    parts = []
    for row, answer, foil, wanted in zip(logits.tolist(), answers, foils, reference.tolist(), strict=True):
        if answer < 0:
            continue
        total = sum(math.exp(x) for x in row)
        probability = math.exp(row[answer]) / total
        if name == "logit":
            parts.append(row[answer])
        elif name == "logit_diff":
            if foil >= 0 and foil != answer:
                parts.append(row[answer] - row[foil])
        elif name == "log_prob":
            parts.append(math.log(probability))
        elif name == "prob":
            parts.append(probability)
        elif name == "rank":
            parts.append(sum(x >= row[answer] for i, x in enumerate(row) if i != answer))
        elif name == "exact_match":
            parts.append(float(row.index(max(row)) == answer))
        elif name == "kl":
            parts.append(
                sum(math.exp(q) * (q - math.log(math.exp(x) / total)) for q, x in zip(wanted, row, strict=True))
            )
    if not parts:
        return NAN
    return {
        "logit": lambda: sum(parts) / len(parts),
        "logit_diff": lambda: sum(parts) / len(parts),
        "log_prob": lambda: sum(parts),
        "prob": lambda: math.prod(parts),
        "rank": lambda: max(parts),
        "exact_match": lambda: float(all(parts)),
        "kl": lambda: sum(parts) / len(parts),
    }[name]()


@pytest.mark.parametrize("name", list(METRICS))
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_equals_the_loop(name, seed):
    logits, targets = case(seed, n=12)
    found = METRICS[name].score(logits, targets)
    wanted = [
        naive(name, logits[i], targets.answers[i].tolist(), targets.foils[i].tolist(), targets.reference[i])
        for i in range(12)
    ]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float64), equal_nan=True)
    assert found[0].isnan()
    assert not found[2:].isnan().all()


def test_the_loop_meets_right_answers():
    """Random logits are seldom right everywhere; here they are, and one prompt is wrong at its last token only."""
    logits, targets = case(n=4)
    answers = logits.argmax(-1)
    answers[3, 2] = logits[3, 2].argmin()
    right = Targets(answers, targets.foils, targets.reference)
    assert METRICS["exact_match"].score(logits, right).tolist() == [1, 1, 1, 0]
    assert METRICS["rank"].score(logits, right).tolist() == [0, 0, 0, VOCABULARY - 1]


def test_kl_is_torchs():
    logits, targets = case()
    every = Targets(targets.answers.clamp(min=0), None, targets.reference)
    wanted = F.kl_div(logits.log_softmax(-1), targets.reference, reduction="none", log_target=True).sum(-1).mean(1)
    torch.testing.assert_close(METRICS["kl"].score(logits, every), wanted)


def test_kl_by_hand():
    # From (1/2, 1/4, 1/4) to uniform: 1/2 ln(3/2) + 2 * 1/4 ln(3/4) = 1/2 ln(9/8).
    reference = torch.tensor([[[0.5, 0.25, 0.25]]]).log()
    found = METRICS["kl"].score(torch.zeros(1, 1, 3), Targets(torch.tensor([[0]]), None, reference))
    assert float(found) == pytest.approx(0.5 * math.log(9 / 8), abs=1e-6)
    same = METRICS["kl"].score(reference + 7, Targets(torch.tensor([[0]]), None, reference))
    assert float(same) == pytest.approx(0, abs=1e-6)


def test_kl_of_a_token_that_cannot_come_is_nothing():
    """0 log 0 = 0: from (1/2, 1/2, 0) to uniform is ln 2 * -1 + ln 3 = ln(3/2)."""
    reference = torch.tensor([[[0.5, 0.5, 0.0]]]).log()
    wanted = F.kl_div(torch.zeros(1, 1, 3).log_softmax(-1), reference.exp(), reduction="none").sum()
    assert float(wanted) == pytest.approx(math.log(1.5), abs=1e-6)
    found = METRICS["kl"].score(torch.zeros(1, 1, 3), Targets(torch.tensor([[0]]), None, reference))
    assert float(found) == pytest.approx(math.log(1.5), abs=1e-6)


def test_logit_diff_turns_its_sign_with_answer_and_foil():
    logits, targets = case(n=20)
    there = METRICS["logit_diff"].score(logits, targets)
    back = METRICS["logit_diff"].score(logits, Targets(targets.foils, targets.answers))
    torch.testing.assert_close(there, -back, equal_nan=True, rtol=0, atol=0)
    assert not there.isnan().all()


def test_logit_diff_needs_a_token_that_differs():
    logits = torch.randn(3, 2, VOCABULARY)
    answers = torch.tensor([[1, 2], [1, 2], [1, -1]])
    foils = torch.tensor([[1, 2], [1, 3], [4, 3]])
    found = METRICS["logit_diff"].score(logits, Targets(answers, foils))
    assert found[0].isnan()
    # Prompt 1 differs at its second token alone, prompt 2 has its first alone.
    torch.testing.assert_close(
        found[1:], torch.stack([logits[1, 1, 2] - logits[1, 1, 3], logits[2, 0, 1] - logits[2, 0, 4]])
    )


@pytest.mark.parametrize("name", ["log_prob", "prob", "logit_diff", "kl", "rank", "exact_match"])
def test_a_shift_of_all_logits_changes_nothing(name):
    logits, targets = case()
    score = METRICS[name].score
    torch.testing.assert_close(score(logits + 5.0, targets), score(logits, targets), equal_nan=True)
    assert METRICS[name].weights == "any"


def test_the_logit_alone_is_for_centred_unembeddings():
    logits, targets = case()
    score = METRICS["logit"].score
    torch.testing.assert_close(score(logits + 5.0, targets), score(logits, targets) + 5.0, equal_nan=True)
    assert METRICS["logit"].weights == "processed"


@settings(deadline=None, derandomize=True, database=None, max_examples=20)
@given(st.permutations(range(7)), st.integers(0, 50))
def test_each_prompt_is_scored_by_itself(order, seed):
    logits, targets = case(seed)
    rows = torch.tensor(order)
    for metric in METRICS.values():
        moved = metric.score(logits[rows], targets.take(rows))
        torch.testing.assert_close(moved, metric.score(logits, targets)[rows], equal_nan=True, rtol=0, atol=0)
        alone = torch.cat([metric.score(logits[i : i + 1], targets.take(torch.tensor([i]))) for i in range(7)])
        torch.testing.assert_close(alone, metric.score(logits, targets), equal_nan=True)


@settings(deadline=None, derandomize=True, database=None, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 50))
def test_absent_reads_add_nothing(more, seed):
    logits, targets = case(seed)

    def wider(part, fill):
        return torch.cat([part, torch.full((len(part), more, *part.shape[2:]), fill, dtype=part.dtype)], 1)

    wide = Targets(wider(targets.answers, -1), wider(targets.foils, -1), wider(targets.reference, 0.0))
    for metric in METRICS.values():
        found = metric.score(wider(logits, 9.0), wide)
        torch.testing.assert_close(found, metric.score(logits, targets), equal_nan=True)


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        # Rows: [2, nan, 3], [nan, nan, nan], [0.5, nan, nan], [0, 1, 1], [-4, -2, -3].
        ("sum", [5, NAN, 0.5, 2, -9]),
        ("mean", [2.5, NAN, 0.5, 2 / 3, -3]),
        ("product", [6, NAN, 0.5, 0, -24]),
        ("max", [3, NAN, 0.5, 1, -2]),
    ],
)
def test_joins(how, wanted):
    values = torch.tensor([[2, NAN, 3], [NAN, NAN, NAN], [0.5, NAN, NAN], [0, 1, 1], [-4, -2, -3]])
    torch.testing.assert_close(join(values, how, ~values.isnan()), torch.tensor(wanted), equal_nan=True)


def test_all_is_one_only_where_every_token_is():
    values = torch.tensor([[1, NAN, 1], [NAN, NAN, NAN], [0, NAN, NAN], [0, 1, 1], [1, 1, 1]])
    torch.testing.assert_close(join(values, "all", ~values.isnan()), torch.tensor([1, NAN, 0, 0, 1]), equal_nan=True)


def test_ties_count_against_the_answer():
    """A flat distribution has no top: rank 0 means the top alone, and greedy decoding takes the first of the best."""
    logits = torch.zeros(3, 1, 4)
    targets = Targets(torch.tensor([[0], [2], [3]]))
    assert METRICS["rank"].score(logits, targets).tolist() == [3, 3, 3]
    assert METRICS["exact_match"].score(logits, targets).tolist() == [1, 0, 0]
    two = torch.tensor([[[0.0, 5.0, 5.0, -1.0]]])
    assert [float(METRICS["rank"].score(two, Targets(torch.tensor([[i]])))) for i in range(4)] == [2, 1, 1, 3]


@pytest.mark.parametrize("name", list(METRICS))
def test_logits_that_are_nan_have_no_score(name):
    """An overflow in half precision must not look like a top rank or like a wrong answer."""
    _, targets = case(n=2, dtype=torch.float32)
    every = Targets(targets.answers.clamp(min=0), (targets.answers.clamp(min=0) + 1) % VOCABULARY, targets.reference)
    assert METRICS[name].score(torch.full((2, 3, VOCABULARY), NAN), every).isnan().all()


@pytest.mark.parametrize("name", list(METRICS))
def test_a_nan_token_is_not_an_absent_token(name):
    """The answer has two tokens and the logits of one are nan: the rest is not the score of the answer."""
    logits, targets = case(n=4, reads=2, dtype=torch.float32)
    answers = torch.tensor([[1, 2]] * 4)
    logits[:, 1] = NAN
    assert METRICS[name].score(logits, Targets(answers, answers + 1, targets.reference)).isnan().all()


def test_a_token_that_cannot_come_has_probability_zero():
    logits = torch.tensor([[[0.0, 0.0, -math.inf]]])
    targets = Targets(torch.tensor([[2]]))
    assert float(METRICS["prob"].score(logits, targets)) == 0
    assert float(METRICS["log_prob"].score(logits, targets)) == -math.inf
    assert float(METRICS["rank"].score(logits, targets)) == 2


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[[1e4, 0.0, -1e4]]])
    targets = Targets(torch.tensor([[1]]))
    assert float(METRICS["log_prob"].score(logits, targets)) == -1e4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["log_prob", "rank", "kl"])
def test_half_precision_logits_are_scored_in_full(name, dtype):
    """Logits rounded to half precision are what the model gave; the score must not be rounded a second time.

    A bfloat16 holds 8 bits: ranks above 256 and log-probabilities beyond two digits are lost in it.
    """
    generator = torch.Generator().manual_seed(0)
    logits = (4 * torch.randn(6, 2, 3000, generator=generator)).to(dtype)
    answers = torch.randint(3000, (6, 2), generator=generator)
    reference = torch.randn(6, 2, 3000, generator=generator).log_softmax(-1)
    metric = METRICS[name]
    found = metric.score(logits, Targets(answers, None, reference)).double()
    wanted = metric.score(logits.double(), Targets(answers, None, reference.double()))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_what_a_metric_lacks_is_said():
    logits, targets = case()
    with pytest.raises(PromptError, match="logit_diff needs a wrong answer"):
        METRICS["logit_diff"].score(logits, Targets(targets.answers))
    with pytest.raises(PromptError, match="kl needs a reference"):
        METRICS["kl"].score(logits, Targets(targets.answers))
    with pytest.raises(ConfigError, match="no metric 'accuracy'; choose from logit_diff, log_prob"):
        named(["rank", "accuracy"])


def test_metrics_by_name():
    assert [metric.name for metric in named(["rank", "kl", "rank"])] == ["rank", "kl", "rank"]
    assert named([]) == []
    assert all(name == metric.name for name, metric in METRICS.items())
    assert {name for name, metric in METRICS.items() if metric.weights == "processed"} == {"logit"}
    assert {name for name, metric in METRICS.items() if metric.uses_foils} == {"logit_diff"}


def test_targets_of_prompts_and_of_pairs():
    ids = [torch.tensor([3, 4, 5]), torch.tensor([6, 7])]
    clean = padded(ids, "right", answers=torch.tensor([8, 9]))
    corrupted = padded(ids, "right", answers=torch.tensor([1, -1]))
    alone, paired = Targets.of(clean), Targets.of(PromptPairs(clean, corrupted))
    assert alone.answers.tolist() == [[8], [9]]
    assert alone.foils is None
    assert paired.answers.tolist() == [[8], [9]]
    assert paired.foils.tolist() == [[1], [-1]]
    assert paired.take(torch.tensor([1, 1, 0])).foils.tolist() == [[-1], [-1], [1]]
    assert alone.take(torch.tensor([1])).foils is None


def test_nothing_is_changed_in_place():
    logits, targets = case()
    before = [t.clone() for t in (logits, targets.answers, targets.foils, targets.reference)]
    for metric in METRICS.values():
        metric.score(logits, targets)
    for now, then in zip((logits, targets.answers, targets.foils, targets.reference), before, strict=True):
        assert torch.equal(now, then)
