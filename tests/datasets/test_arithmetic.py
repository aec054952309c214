import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.datasets.arithmetic import PLACES, TASKS, Problem, columns, labels, sample, split_of
from interp.errors import ConfigError, DataError, PromptError
from tests import datasets as paper

TWO_DIGITS = list(itertools.product(range(100), "+-*", range(100)))
_rng = np.random.default_rng(5)
THREE_DIGITS = [(int(a), "+-*"[i % 3], int(b)) for i, (a, b) in enumerate(_rng.integers(0, 1000, (3000, 2)))]
EDGES = [(999, "+", 1), (9999, "+", 1), (1000, "-", 1), (1, "-", 1000), (0, "*", 0), (9999, "*", 9999), (445, "+", 555)]


def expected_labels(a, operator, b):
    answer = paper.answer(a, operator, b)
    row = {"a": a, "operator": operator, "b": b, "result": int(answer)}
    for name, digits in (("a", str(a)), ("b", str(b)), ("answer", answer.lstrip("-"))):
        row |= {f"{name}.{paper.PLACES[i]}": int(digit) for i, digit in enumerate(reversed(digits))}
    out = paper.carries(a, operator, b)
    row |= {"carries": sum(c > 0 for c in out), "cascade": paper.cascade(a, operator, b)}
    if operator != "*":
        found = paper.subtasks(a, operator, b)
        out = out + [0] * (len(found["base-add"]) - len(out))
        row |= {f"{name}.{paper.PLACES[i]}": v for name, values in found.items() for i, v in enumerate(values)}
    return row | {f"carry.{paper.PLACES[i]}": c for i, c in enumerate(out)}


def test_the_oracle_can_do_sums():
    for a, operator, b in TWO_DIGITS + THREE_DIGITS + EDGES:
        assert paper.answer(a, operator, b) == str({"+": a + b, "-": a - b, "*": a * b}[operator])
    assert paper.steps(59, 73) == "12;13;"
    # 445 + 555: ones make a carry, tens and hundreds hand it on. The thousands get it through two nines.
    assert paper.subtasks(445, "+", 555) == {
        "base-add": [True, False, False, False],
        "make-carry": [True, False, False, False],
        "make-nine": [False, True, True, False],
        "use-carry": [False, True, False, False],
        "use-nine": [False, False, True, True],
    }


@pytest.mark.parametrize("problems", [TWO_DIGITS, THREE_DIGITS, EDGES], ids=["two digits", "three digits", "edges"])
def test_labels_equal_the_sum_on_paper(problems):
    for a, operator, b in problems:
        assert labels(Problem(a, operator, b)) == expected_labels(a, operator, b)


def test_columns_equal_the_sum_on_paper():
    for a, operator, b in [p for p in TWO_DIGITS + THREE_DIGITS + EDGES if p[1] != "*"]:
        found = columns(Problem(a, operator, b))
        wanted = paper.on_paper(a, operator, b)[0]
        assert [(c.a, c.b, c.carry_in, c.total % 10, c.carry_out) for c in found] == wanted
        assert [c.alone for c in found] == [x + y if operator == "+" else x - y for x, y, *_ in wanted]


def test_steps_are_the_columns_totals():
    assert Problem(59, "+", 73).steps == "12;13;"
    assert Problem(999, "+", 1).steps == "10;10;10;"
    for a, operator, b in TWO_DIGITS + THREE_DIGITS:
        if operator == "+":
            assert Problem(a, operator, b).steps == paper.steps(a, b)
    for operator in "-*":
        with pytest.raises(ConfigError, match="addition only"):
            _ = Problem(5, operator, 3).steps


@given(st.integers(0, 10**6), st.sampled_from("+-*"), st.integers(0, 10**6), st.sampled_from(["", " ", "  "]))
def test_a_problem_survives_being_written_and_read(a, operator, b, gap):
    problem = Problem(a, operator, b)
    assert Problem.parse(problem.question) == problem
    assert Problem.parse(f"{gap}{a}{gap}{operator}{gap}{b}{gap}={gap}") == problem


@pytest.mark.parametrize(
    "text",
    ["", " ", "5", "5 &9", "5 +", "+ 5", "5 / 9", "1 + 2 + 3", "1 + 2 = 3", "-5 + 3", "5 + -3", "٣ + ٤", "²+1",
     "five + 3", "5 9 + 3", "5.0 + 3", pytest.param("9" * 5000 + " + 1", id="5000 digits")],
)  # fmt: skip
def test_what_is_no_problem_is_refused(text):
    with pytest.raises(PromptError, match="no arithmetic example"):
        Problem.parse(text)


def test_a_number_with_more_places_than_have_names_is_refused():
    for problem in (Problem(10**8, "+", 1), Problem(99_999_999, "+", 1), Problem(10**5, "*", 10**5)):
        with pytest.raises(PromptError):
            labels(problem)


def sides(problems):
    a, b = (np.array([getattr(p, name) for p in problems]) for name in "ab")
    return a, b


def split(problem):
    return str(split_of(np.array([problem[0]]), problem[1], np.array([problem[2]]))[0])


@pytest.mark.parametrize("operator", "+-*")
def test_turned_around_twins_share_a_split(operator):
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 10_000, (2, 50_000))
    grid = np.indices((100, 100)).reshape(2, -1)
    for x, y in ((a, b), (grid[0], grid[1])):
        same = split_of(x, operator, y) == split_of(y, operator, x)
        if operator == "-":
            assert not same.all()  # 5 - 3 is another problem than 3 - 5
        else:
            assert same.all()


def test_splits_are_ninety_five_and_five_percent_for_every_operator_and_size():
    """A hash of distinct problems is a fair die: within five standard deviations of its share."""
    for operator, top in itertools.product("+-*", (100, 1000)):
        a, b = np.triu_indices(top)  # a <= b: no twin is counted twice
        found = Counter(split_of(a, operator, b).tolist())
        for name, share in (("train", 0.90), ("validation", 0.05), ("test", 0.05)):
            spread = math.sqrt(len(a) * share * (1 - share))
            assert abs(found[name] - len(a) * share) < 5 * spread


def twins(problems):
    return {(p.operator, *((p.a, p.b) if p.operator == "-" else sorted((p.a, p.b)))) for p in problems}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("carries", ["uniform", "rich"])
def test_splits_never_share_a_problem(task, carries):
    found = {name: set() for name in ("train", "validation", "test")}
    for seed, (name, seen) in itertools.product((0, 1), found.items()):
        rng = np.random.default_rng(seed)
        problems = sample(rng, 20_000, task=task, carries=carries, split=name)
        assert {split(p) for p in problems[:50]} == {name}
        seen |= twins(problems)
    for one, other in itertools.combinations(found.values(), 2):
        assert not one & other


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("carries", ["uniform", "rich"])
@pytest.mark.parametrize("name", ["train", "validation", "test", "all"])
def test_distinct_problems_are_distinct_and_of_their_kind(task, carries, name):
    rng = np.random.default_rng(3)
    problems = sample(rng, 800, task=task, digits=3, carries=carries, split=name, distinct=True)
    assert len(problems) == len(set(problems)) == 800
    assert {p.operator for p in problems} == set(TASKS[task])
    assert all(0 <= p.a < 1000 and 0 <= p.b < 1000 for p in problems)
    if name != "all":
        a, b = sides(problems)
        for operator in TASKS[task]:
            kept = np.array([p.operator == operator for p in problems])
            assert (split_of(a[kept], operator, b[kept]) == name).all()


@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_every_mixture_of_lengths_is_equally_likely(digits):
    """Uniform problems fall into digits x digits cells; each count is binomial, five standard deviations allowed."""
    problems = sample(np.random.default_rng(4), 36_000, task="add", digits=digits)
    assert len(problems) == 36_000
    found = Counter((len(str(p.a)), len(str(p.b))) for p in problems)
    share = 1 / digits**2
    assert set(found) == set(itertools.product(range(1, digits + 1), repeat=2))
    for count in found.values():
        assert abs(count - 36_000 * share) <= 5 * math.sqrt(36_000 * share * (1 - share))


def test_the_second_factor_may_be_shorter():
    problems = sample(np.random.default_rng(4), 5000, task="mul", digits=3, multiplier_digits=1)
    assert {len(str(p.b)) for p in problems} == {1}
    assert {len(str(p.a)) for p in problems} == {1, 2, 3}


@pytest.mark.parametrize(
    ("task", "digits", "longest"), [("add", 2, 1), ("add", 3, 2), ("add", 4, 3), ("sub", 3, 1), ("sub", 4, 2)]
)
def test_rich_samples_have_more_and_longer_chains(task, digits, longest):
    """A sum's chain may end in a new column; a borrow has to end within the larger number, one column earlier."""
    n, chains = 20_000, {}
    for carries in ("uniform", "rich"):
        problems = sample(np.random.default_rng(6), n, task=task, digits=digits, carries=carries)
        chains[carries] = np.array([paper.cascade(*p) for p in problems])
        assert chains[carries].max() == longest
    for length in range(1, longest + 1):
        few, many = ((chains[kind] >= length).mean() for kind in ("uniform", "rich"))
        # Five standard deviations of the difference of two shares.
        assert many - few > 5 * math.sqrt((few * (1 - few) + many * (1 - many)) / n)


@pytest.mark.parametrize("task", ["add", "sub"])
def test_a_third_of_rich_problems_lie_at_the_edge_of_a_chain(task):
    """What the docstring says. A few numbers are too short or too long to be moved."""
    chains = {}
    for carries in ("uniform", "rich"):
        problems = sample(np.random.default_rng(6), 20_000, task=task, digits=4, carries=carries)
        a, b = sides(problems)
        large, small = np.maximum(a, b), np.minimum(a, b)
        edge = np.zeros(len(a), bool)
        for modulus in (100, 1000, 10_000):
            one, other = large % modulus, small % modulus
            beyond = one + other - (modulus - 1) if task == "add" else other - one
            edge |= (beyond >= 0) & (beyond <= 2)
        chains[carries] = np.mean([paper.cascade(*p) >= 1 for p in problems])
    assert edge.mean() > 1 / 3 - 5 * math.sqrt(2 / 9 / 20_000)
    assert chains["rich"] > 2 * chains["uniform"]


def test_rich_changes_nothing_in_products():
    uniform, rich = (sample(np.random.default_rng(0), 500, task="mul", carries=c) for c in ("uniform", "rich"))
    assert uniform == rich


def test_a_seed_gives_the_same_problems_again():
    one, two, other = (sample(np.random.default_rng(seed), 300, task="mixed", carries="rich") for seed in (8, 8, 9))
    assert one == two
    assert one != other


@pytest.mark.parametrize("name", ["all", "train", "validation", "test"])
@pytest.mark.parametrize("task", ["add", "sub", "mul", "mixed"])
def test_all_there_are_can_be_had_and_no_more(task, name):
    there = set(map(Problem._make, itertools.product(range(10), TASKS[task], range(10))))
    if name != "all":
        there = {p for p in there if split(p) == name}
    found = sample(np.random.default_rng(1), len(there), task=task, digits=1, split=name, distinct=True)
    assert set(found) == there
    with pytest.raises(DataError, match=f"not {len(there) + 1}"):
        sample(np.random.default_rng(1), len(there) + 1, task=task, digits=1, split=name, distinct=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(task="div"), "no task 'div'"),
        (dict(digits=0), "not 0"),
        (dict(digits=5), "not 5"),
        (dict(count=0), "not 0"),
        (dict(count=-3), "not -3"),
        (dict(task="mul", multiplier_digits=4), "not 4"),
        (dict(task="mul", multiplier_digits=0), "not 0"),
    ],
)
def test_wrong_options_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        sample(np.random.default_rng(0), **{"count": 5, **options})


def test_a_count_beyond_all_memory_is_refused():
    with pytest.raises(DataError):
        sample(np.random.default_rng(0), 10**13, distinct=True)


def test_places_have_their_names():
    assert PLACES == paper.PLACES
