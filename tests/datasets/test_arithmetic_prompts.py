import itertools
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp.datasets.arithmetic import Problem, labels, sample, split_of
from interp.datasets.arithmetic_pairs import draw_pairs, minimal_pairs
from interp.datasets.arithmetic_prompts import BOS, EOS, PAD, render, to_prompts, to_tokens, tokenizer
from interp.errors import PromptError
from tests import datasets as paper

TOKENIZER = tokenizer()


def spell(ids):
    """Tokens side by side."""
    return "".join(TOKENIZER.convert_ids_to_tokens([int(i) for i in ids]))


EDGES = [Problem(*p) for p in ((0, "+", 0), (999, "+", 1), (9, "-", 10), (100, "-", 999), (5, "-", 5), (0, "*", 7))]


def problems(operators="+-*", n=60):
    """Problems of mixed length, a twin among them, and the edges."""
    task = {"+": "add", "-": "sub", "*": "mul", "+-*": "mixed"}[operators]
    drawn = sample(np.random.default_rng(11), n, task=task, digits=3, carries="rich")
    found = [*drawn, *(p for p in EDGES if p.operator in operators)]
    return [*found, *(p._replace(a=p.b, b=p.a) for p in found[:5])]


CASES = [("+-*", False), ("+", False), ("-", False), ("*", False), ("+", True)]


def columns_by_hand(problem, steps, answered):
    """Column of every role, counted from the lengths of the parts. Column 0 is `<bos>`, text starts in column 1."""
    a, b, answer = str(problem.a), str(problem.b), paper.answer(*problem)
    equals = len(a) + len(b) + 2
    found = {"bos": 0, "operator": len(a) + 1, "=": equals}
    found |= {f"a.{paper.PLACES[p]}": len(a) - p for p in range(len(a))}
    found |= {f"b.{paper.PLACES[p]}": len(a) + 1 + len(b) - p for p in range(len(b))}
    after = {}
    n_steps = max(len(a), len(b)) if steps else 0
    for p in range(n_steps):
        for i, part in enumerate(("carry", "digit", "mark"), 1):
            after[f"step.{paper.PLACES[p]}.{part}"] = equals + 3 * p + i
    end = equals + 3 * n_steps + len(answer)
    if answer[0] == "-":
        after["sign"] = end - len(answer) + 1
    after |= {f"answer.{paper.PLACES[p]}": end - p for p in range(len(answer.lstrip("-")))}
    found |= {f"predict.{name}": column - 1 for name, column in {**after, "end": end + 1}.items()} | after
    length = end + 1 if answered else equals + 1
    return {name: column for name, column in found.items() if column < length} | {"last": length - 1}


@pytest.mark.parametrize(("operators", "steps"), CASES)
@pytest.mark.parametrize("answered", [True, False])
def test_every_role_stands_where_counting_puts_it(operators, steps, answered):
    listed = problems(operators)
    prompts = to_prompts(listed, steps=steps, answered=answered)
    for i, problem in enumerate(listed):
        found = {name: int(columns[i]) for name, columns in prompts.roles.items() if int(columns[i]) >= 0}
        assert found == columns_by_hand(problem, steps, answered)


@pytest.mark.parametrize(("operators", "steps"), CASES)
def test_every_role_points_at_the_token_it_names(operators, steps):
    listed = problems(operators)
    prompts = to_prompts(listed, steps=steps)
    for i, problem in enumerate(listed):
        answer = paper.answer(*problem)
        digits = {"a": str(problem.a), "b": str(problem.b), "answer": answer.lstrip("-")}
        totals = paper.steps(problem.a, problem.b).split(";")[:-1] if steps else []
        wanted = {"bos": "<bos>", "operator": problem.operator, "=": "=", "last": answer[-1]}
        wanted |= {
            f"{name}.{place}": digit
            for name, number in digits.items()
            for place, digit in zip(paper.PLACES, reversed(number), strict=False)
        }
        for place, total in zip(paper.PLACES, totals, strict=False):
            wanted |= dict(
                zip((f"step.{place}.{part}" for part in ("carry", "digit", "mark")), total + ";", strict=True)
            )
        if answer.startswith("-"):
            wanted["sign"] = "-"
        found = {
            name: spell([prompts.tokens[i, columns[i]]])
            for name, columns in prompts.roles.items()
            if int(columns[i]) >= 0 and not name.startswith("predict.")
        }
        assert found == wanted


@pytest.mark.parametrize(("operators", "steps"), CASES)
def test_every_read_column_predicts_its_answer_token(operators, steps):
    listed = problems(operators)
    prompts = to_prompts(listed, steps=steps)
    for i, problem in enumerate(listed):
        text = paper.written(*problem, with_steps=steps)
        asked = text[text.index("=") + 1 :]
        read = prompts.reads[i] >= 0
        assert (prompts.answers[i] >= 0).tolist() == read.tolist()
        # Every token after "=" and the end are asked for, one column ahead of where they stand.
        assert sorted(prompts.reads[i, read].tolist()) == list(range(text.index("=") + 1, len(text) + 1))
        by_column = dict(zip(prompts.reads[i, read].tolist(), prompts.answers[i, read].tolist(), strict=True))
        assert spell(by_column[c] for c in sorted(by_column)) == f"{asked}<eos>"
        for name, column, token in zip(prompts.read_names, prompts.reads[i], prompts.answers[i], strict=True):
            if column >= 0 and name != "end":
                assert int(prompts.roles[name][i]) == int(column) + 1
                assert int(prompts.tokens[i, column + 1]) == int(token)
            if column >= 0:
                assert int(prompts.roles[f"predict.{name}"][i]) == int(column)


@pytest.mark.parametrize(("operators", "steps"), CASES)
def test_a_prompt_without_answer_ends_at_the_equals_sign(operators, steps):
    listed = problems(operators)
    prompts = to_prompts(listed, steps=steps, answered=False)
    for i, problem in enumerate(listed):
        text = paper.written(*problem, with_steps=steps)
        assert prompts.texts[i] == problem.question
        assert spell(prompts.tokens[i, : prompts.lengths[i]]) == f"<bos>{problem.question}"
        assert prompts.reads[i].tolist() == [len(problem.question)] == [int(prompts.roles["="][i])]
        assert spell(prompts.answers[i]) == text[len(problem.question)]
    assert prompts.read_names == ("next",)


@pytest.mark.parametrize(("operators", "steps"), CASES)
def test_tokens_texts_labels_and_groups(operators, steps):
    listed = problems(operators)
    prompts = to_prompts(listed, steps=steps)
    for i, problem in enumerate(listed):
        text = paper.written(*problem, with_steps=steps)
        assert render(problem, steps) == prompts.texts[i] == text
        n = int(prompts.lengths[i])
        assert prompts.tokens[i, :n].tolist() == TOKENIZER(text)["input_ids"]
        assert (prompts.tokens[i, n:] == PAD).all()
        assert n == len(text) + 1
        row = prompts.labels.iloc[i].dropna().to_dict()
        assert row == labels(problem)
    for i, j in itertools.combinations(range(len(listed)), 2):
        same = listed[i].operator == listed[j].operator and sorted(listed[i][::2]) == sorted(listed[j][::2])
        assert (prompts.groups[i] == prompts.groups[j]) == same


def test_steps_read_as_on_paper():
    assert render(Problem(59, "+", 73), steps=True) == "59+73=12;13;132"
    assert render(Problem(999, "+", 1), steps=True) == "999+1=10;10;10;1000"
    assert render(Problem(9, "-", 10), steps=False) == "9-10=-1"


@given(st.lists(st.text("0123456789+-*=;", min_size=1, max_size=20), min_size=1, max_size=5), st.booleans())
def test_the_tokenizer_and_to_tokens_agree(texts, end):
    table = to_tokens(texts, end=end)
    assert table.shape == (len(texts), max(map(len, texts)) + 1 + end)
    for row, text in zip(table.tolist(), texts, strict=True):
        ids = TOKENIZER(text)["input_ids"] + [EOS] * end
        assert row == ids + [PAD] * (len(row) - len(ids))
        assert row[0] == BOS
        assert spell(i for i in row if i not in (PAD, BOS, EOS)) == text


def test_the_tokenizer_drops_spaces_and_marks_what_it_lacks():
    assert TOKENIZER("59 + 73 =")["input_ids"] == TOKENIZER("59+73=")["input_ids"]
    for foreign in "&➕x/":
        assert TOKENIZER(f"5{foreign}9")["input_ids"][2] == TOKENIZER.unk_token_id


@pytest.mark.parametrize("text", ["5 + 9", "5&9", "5➕9"])
def test_to_tokens_agrees_with_the_tokenizer_or_refuses(text):
    """Padding in the middle of a prompt would be neither."""
    try:
        found = to_tokens([text])[0].tolist()
    except PromptError:
        return
    assert found == TOKENIZER(text)["input_ids"]


def test_no_problems_are_refused():
    with pytest.raises(PromptError, match="no problems"):
        to_prompts([])


@cache
def pairs_of(kind, operators, steps):
    listed = list(dict.fromkeys(problems(operators, 24)))
    return minimal_pairs(listed, kind, operators=operators, steps=steps)


PAIRS = [
    ("digit", "+", False), ("digit", "+", True), ("digit", "-", False), ("digit", "*", False), ("digit", "+-*", False),
    ("carry", "+", False), ("carry", "-", False), ("carry", "+-*", False), ("operator", "+-*", False),
]  # fmt: skip


def read_back(prompts, i):
    """The problem, what is given of its answer, and the token asked for, all from the tokens."""
    text = spell(prompts.tokens[i, 1 : prompts.lengths[i]])
    question, _, given_ = text.partition("=")
    return Problem.parse(question), given_, spell(prompts.answers[i])


def answer_place(problem, given_, steps):
    """Which digit of the answer comes after what is given: its place from the ones up, -1 for the sign."""
    answer = paper.answer(*problem)
    done = len(given_) - (len(paper.steps(problem.a, problem.b)) if steps else 0)
    return -1 if answer[done] == "-" else len(answer) - 1 - done


@pytest.mark.parametrize(("kind", "operators", "steps"), PAIRS)
def test_a_pair_differs_in_one_token_and_asks_for_the_true_ones(kind, operators, steps):
    pairs = pairs_of(kind, operators, steps)
    clean, corrupted = pairs.clean, pairs.corrupted
    assert len(pairs) >= 3
    assert torch.equal(clean.lengths, corrupted.lengths)
    assert torch.equal(clean.reads[:, 0], clean.lengths - 1)
    assert torch.equal(corrupted.reads, clean.reads)
    assert (clean.answers != corrupted.answers).all()
    for i in range(len(pairs)):
        differing = (clean.tokens[i] != corrupted.tokens[i]).nonzero().flatten().tolist()
        assert len(differing) == 1
        assert int(clean.roles["changed"][i]) == int(corrupted.roles["changed"][i]) == differing[0]
        sides = [read_back(side, i) for side in (clean, corrupted)]
        assert sides[0][1] == sides[1][1]  # what is given of the answer is the same
        for (problem, given_, token), side in zip(sides, (clean, corrupted), strict=True):
            full = paper.written(*problem, with_steps=steps)
            start = f"{problem.question}{given_}"
            assert full.startswith(start + token)
            assert side.texts[i] == start
        one, other = sides[0][0], sides[1][0]
        if kind == "operator":
            assert (one.a, one.b) == (other.a, other.b)
            assert one.operator != other.operator
            assert other.operator in operators
        else:
            assert one.operator == other.operator
            assert (one.a == other.a) != (one.b == other.b)


@pytest.mark.parametrize(("operators", "steps"), [("+", False), ("+", True), ("-", False)])
def test_digit_pairs_change_no_carry(operators, steps):
    pairs = pairs_of("digit", operators, steps)
    for i in range(len(pairs)):
        one, other = (read_back(side, i)[0] for side in (pairs.clean, pairs.corrupted))
        assert paper.carries(*one) == paper.carries(*other), f"{one.question} {other.question}"


@pytest.mark.parametrize("operators", ["+", "-"])
def test_carry_pairs_flip_a_carry_that_travels_to_the_token_read(operators):
    pairs = pairs_of("carry", operators, False)
    for i in range(len(pairs)):
        (one, given_, _), (other, *_) = (read_back(side, i) for side in (pairs.clean, pairs.corrupted))
        columns = [paper.on_paper(*p)[0] for p in (one, other)]
        digits = [[column[:2] for column in side] for side in columns]
        (changed,) = [p for p, (x, y) in enumerate(zip(*digits, strict=True)) if x != y]
        assert columns[0][changed][4] != columns[1][changed][4]
        place = answer_place(one, given_, False)
        assert place > changed
        if place < len(digits[0]):
            assert digits[0][place] == digits[1][place]
            assert columns[0][place][2] != columns[1][place][2]
        # Every column between hands the flip on.
        assert all(columns[0][p][4] != columns[1][p][4] for p in range(changed, min(place, len(digits[0]))))


@pytest.mark.parametrize("operators", ["-", "+-*"])
@pytest.mark.parametrize("kind", ["digit", "carry"])
def test_pairs_of_differences_keep_the_sign(operators, kind):
    pairs = pairs_of(kind, operators, False)
    seen = 0
    for i in range(len(pairs)):
        one, other = (read_back(side, i)[0] for side in (pairs.clean, pairs.corrupted))
        if one.operator == "-":
            seen += 1
            assert (one.a < one.b) == (other.a < other.b)
    assert seen


def decided(side, i, kind, changed, given_, steps):
    """What the side's changed token, or the carry that comes into the column read, is."""
    problem = read_back(side, i)[0]
    if kind != "carry":
        return spell([side.tokens[i, changed]])
    return str(paper.carries(*problem)[answer_place(problem, given_, steps) - 1])


@pytest.mark.parametrize(("kind", "operators", "steps"), PAIRS)
def test_roles_and_labels_of_a_pair_say_what_changed(kind, operators, steps):
    pairs = pairs_of(kind, operators, steps)
    for i in range(len(pairs)):
        problem, given_, _ = read_back(pairs.clean, i)
        row = pairs.clean.labels.iloc[i]
        by_hand = columns_by_hand(problem, steps, True)
        length = int(pairs.clean.lengths[i])
        wanted = {name: column for name, column in by_hand.items() if column < length} | {"last": length - 1}
        wanted["changed"] = by_hand[row["changed"]]
        name, place = row["changed"][:1], row["changed"][1:]
        other = {"a": "b", "b": "a"}.get(name, "none") + place
        if kind != "operator" and other in by_hand:
            wanted["partner"] = by_hand[other]
        found = {n: int(c[i]) for n, c in pairs.clean.roles.items() if int(c[i]) >= 0}
        assert found == wanted
        assert row["kind"] == kind
        for side in (pairs.clean, pairs.corrupted):
            assert side.labels["decides"].iloc[i] == decided(side, i, kind, wanted["changed"], given_, steps)
        assert by_hand[row["target"]] == length  # the token asked for would stand in the next column
        if kind == "operator":
            assert spell([pairs.clean.tokens[i, wanted["changed"]]]) == problem.operator
        assert len(given_) == length - len(problem.question) - 1


def twin_exists(problem, kind):
    """Whether any other digit anywhere makes a twin, tried one by one on paper."""
    for name in ("a", "b"):
        digits = str(getattr(problem, name))
        for i, digit in itertools.product(range(len(digits)), "0123456789"):
            changed = digits[:i] + digit + digits[i + 1 :]
            if digit == digits[i] or str(int(changed)) != changed:
                continue
            twin = problem._replace(**{name: int(changed)})
            one, other = paper.answer(*problem), paper.answer(*twin)
            if one == other or len(one) != len(other) or (one[0] == "-") != (other[0] == "-"):
                continue
            at = next(j for j, (x, y) in enumerate(zip(one, other, strict=True)) if x != y)
            moved = paper.carries(*problem) != paper.carries(*twin)
            if kind == "digit" and not moved:
                return True
            if kind == "carry" and moved and len(one) - 1 - at > len(digits) - 1 - i:
                return True
    return False


@pytest.mark.parametrize("operators", ["+", "-"])
@pytest.mark.parametrize("kind", ["digit", "carry"])
def test_problems_are_left_out_only_where_no_twin_exists(kind, operators):
    task = {"+": "add", "-": "sub"}[operators]
    listed = sample(np.random.default_rng(3), 16, task=task, digits=2, distinct=True)
    pairs = minimal_pairs(listed, kind, operators=operators)
    kept = [read_back(pairs.clean, i)[0] for i in range(len(pairs))]
    assert kept == [p for p in listed if twin_exists(p, kind)]
    assert kept


@pytest.mark.parametrize(
    ("kind", "task"), [("digit", "add"), ("carry", "add"), ("digit", "sub"), ("operator", "mixed")]
)
def test_both_sides_of_drawn_pairs_are_of_the_split(kind, task):
    pairs = draw_pairs(np.random.default_rng(0), 4, kind, task=task, digits=2, split="train")
    assert len(pairs) == 4
    problems = [read_back(side, i)[0] for side in (pairs.clean, pairs.corrupted) for i in range(4)]
    assert len(set(problems[:4])) == 4
    for a, operator, b in problems:
        assert split_of(np.array([a]), operator, np.array([b])).tolist() == ["train"]


def test_a_seed_gives_the_same_pairs_again():
    listed = problems("+", 5)[:5]
    one, two, other = (minimal_pairs(listed, "digit", seed=seed) for seed in (1, 1, 2))
    assert one.digest == two.digest
    assert one.digest != other.digest


@pytest.mark.parametrize(
    ("listed", "kind", "options"),
    [
        ([Problem(5, "+", 3)], "operator", {}),
        ([Problem(5, "*", 3)], "carry", {}),
        ([Problem(59, "+", 73)], "carry", {"steps": True}),  # the changed column's step comes before the carry
        ([], "digit", {}),
    ],
)
def test_no_pair_at_all_is_refused(listed, kind, options):
    with pytest.raises(PromptError, match=kind):
        minimal_pairs(listed, kind, **options)
