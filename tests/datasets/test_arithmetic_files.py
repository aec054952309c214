import itertools
import json

import pytest

from interp.datasets.arithmetic import TASKS, Problem
from interp.datasets.arithmetic_files import read_problems, write_arithmetic
from interp.errors import ConfigError, DataError, InterpError, PromptError
from tests import datasets as paper


def rows_of(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


OPTIONS = [
    dict(task=task, digits=digits, carries=carries, split=split, steps=steps)
    for task, digits, carries, split, steps in itertools.product(
        TASKS, (2, 4), ("uniform", "rich"), ("train", "validation", "test", "all"), (False, True)
    )
    if (task == "add" or not steps) and (digits == 2 or split == "test")
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_row_says_what_is_true(tmp_path, options):
    path = tmp_path / "new" / "problems.jsonl"
    assert write_arithmetic(path, count=40, seed=1, **options) == 40
    rows = rows_of(path)
    assert len({(r["a"], r["operator"], r["b"]) for r in rows}) == 40
    assert {r["operator"] for r in rows} == set(TASKS[options["task"]])
    for row in rows:
        problem = (row["a"], row["operator"], row["b"])
        assert row["text"] == paper.written(*problem, with_steps=options["steps"])
        assert row["text"] == row["question"] + row.get("steps", "") + row["answer"]
        assert ("steps" in row) == options["steps"]
        assert options["split"] in ("all", row["split"])
        assert max(row["a"], row["b"]) < 10 ** options["digits"]
        # Column 0 is <bos>, so a role in column c is the text's character c - 1.
        spelled = {name: row["text"][c - 1] for name, c in row["roles"].items() if c and "predict" not in name}
        wanted = {name: str(digit) for name, digit in row["labels"].items() if name.startswith(("a.", "b.", "answer."))}
        assert {name: spelled.get(name) for name in wanted} == wanted
        assert row["labels"]["carries"] == sum(c > 0 for c in paper.carries(*problem))
        assert row["labels"]["cascade"] == paper.cascade(*problem)


PAIRS = [("add", "digit", False), ("add", "digit", True), ("add", "carry", False), ("sub", "carry", False)]
PAIRS += [("mul", "digit", False), ("mixed", "operator", False)]


@pytest.mark.parametrize(("task", "kind", "steps"), PAIRS)
def test_every_pair_row_says_what_is_true(tmp_path, task, kind, steps):
    path = tmp_path / "pairs.jsonl"
    assert write_arithmetic(path, task=task, digits=2, count=5, pairs=kind, steps=steps) == 5
    rows = rows_of(path)
    assert len({row["clean"] for row in rows}) == 5
    for row in rows:
        assert row["kind"] == kind
        assert sum(x != y for x, y in zip(row["clean"], row["corrupted"], strict=True)) == 1
        assert row["clean"][row["roles"]["changed"] - 1] != row["corrupted"][row["roles"]["changed"] - 1]
        assert row["roles"]["changed"] == row["roles"][row["changed"]]
        for side, token in (("clean", "answer"), ("corrupted", "foil")):
            problem = Problem.parse(row[side].partition("=")[0])
            assert paper.written(*problem, with_steps=steps).startswith(row[side] + row[token])
        assert row["answer"] != row["foil"]


def test_as_many_pairs_as_were_asked_for(tmp_path):
    """Of 100 sums of one-digit numbers about five are for testing: fewer rows must not pass silently."""
    path = tmp_path / "pairs.jsonl"
    with pytest.raises(DataError, match="30"):
        write_arithmetic(path, task="add", digits=1, count=30, split="test", pairs="digit")
    assert not path.exists()


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(steps=True),
        dict(task="mixed", carries="rich", split="test"),
        dict(task="sub", pairs="digit", count=2),
    ],
    ids=["plain", "steps", "mixed", "pairs"],
)
def test_a_seed_gives_the_same_file_byte_for_byte(tmp_path, options):
    paths = [tmp_path / f"{i}.jsonl" for i in range(3)]
    for path, seed in zip(paths, (7, 7, 8), strict=True):
        write_arithmetic(path, **{"task": "add", "digits": 2, "count": 6, **options}, seed=seed)
    one, two, other = (path.read_bytes() for path in paths)
    assert one == two
    assert one != other
    assert one.endswith(b"\n")


@pytest.mark.parametrize("task", TASKS)
def test_problems_are_read_back(tmp_path, task):
    path = tmp_path / "problems.jsonl"
    write_arithmetic(path, task=task, digits=3, count=50)
    rows = rows_of(path)
    assert read_problems(path) == [Problem(row["a"], row["operator"], row["b"]) for row in rows]
    path.write_text(path.read_text(encoding="utf-8").replace("\n", "\n\n"), encoding="utf-8")  # blank lines are fine
    assert len(read_problems(path)) == 50


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "empty"),
        ('{"question": "1+2="}\nnot json\n', "line 2"),
        ('{"question": "1+2="}\n[1, 2]\n', "line 2"),
        ('{"text": "1+2=3"}\n', "'question'"),
        ('{"question": "one and two"}\n', "one and two"),
        (None, "no file"),
    ],
)
def test_a_file_that_holds_no_problems_is_refused(tmp_path, content, message):
    path = tmp_path / "problems.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    with pytest.raises(InterpError, match=message):
        read_problems(path)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (dict(task="sub", steps=True), ConfigError),
        (dict(digits=9), ConfigError),
        (dict(count=0), ConfigError),
        (dict(digits=1, count=101), DataError),
        (dict(pairs="operator"), PromptError),
    ],
)
def test_what_cannot_be_made_leaves_the_old_file_as_it_was(tmp_path, options, error):
    path = tmp_path / "problems.jsonl"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error):
        write_arithmetic(path, **{"task": "add", "digits": 2, "count": 5, **options})
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("below", ["file.txt/problems.jsonl", "folder"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, below):
    (tmp_path / "file.txt").write_text("a file", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="cannot write"):
        write_arithmetic(tmp_path / below, task="add", digits=2, count=5)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file.txt", "folder"]
