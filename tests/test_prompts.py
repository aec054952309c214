import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.datasets.arithmetic_prompts import tokenizer
from interp.errors import PromptError
from interp.prompts import PromptPairs, Prompts, encode

seldom = settings(deadline=None, derandomize=True, database=None, max_examples=40)


@pytest.fixture
def unchecked():
    """As a user has it: the shapes in the signatures are not checked."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@st.composite
def raw(draw):
    """Prompts as lists of ids, each with the place of a role (-1 where it has none), and the spare columns."""
    ids = draw(st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=6), min_size=1, max_size=5))
    roles = [draw(st.integers(-1, len(row) - 1)) for row in ids]
    return ids, roles, draw(st.integers(0, 3))


def laid_out(ids, roles, spare, side, pad=9):
    """The prompts in a table with padding on one side, roles as columns of that table."""
    width = max(map(len, ids)) + spare
    tokens = torch.full((len(ids), width), pad)
    mask = torch.zeros((len(ids), width), dtype=torch.bool)
    columns = []
    for i, (row, role) in enumerate(zip(ids, roles, strict=True)):
        start = width - len(row) if side == "left" else 0
        tokens[i, start : start + len(row)] = torch.tensor(row)
        mask[i, start : start + len(row)] = True
        columns.append(-1 if role < 0 else role + start)
    number = torch.arange(len(ids))
    return Prompts.from_tokens(tokens, mask, roles={"there": torch.tensor(columns)}, answers=number, groups=number // 2)


def identical(first, second):
    assert first.texts == second.texts
    assert first.read_names == second.read_names
    assert list(first.roles) == list(second.roles)
    for name in ("tokens", "lengths", "answers", "reads", "groups", "mask"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    for name in first.roles:
        assert torch.equal(first.roles[name], second.roles[name]), name
    pd.testing.assert_frame_equal(first.labels, second.labels)
    assert first.digest == second.digest


@seldom
@given(raw())
def test_the_side_of_the_padding_does_not_matter(case):
    ids, roles, spare = case
    left, right = (laid_out(ids, roles, spare, side) for side in ("left", "right"))
    identical(left, right)
    identical(left, laid_out(ids, roles, 0, "left", pad=3))
    assert left.roles["there"].tolist() == roles
    assert left.tokens.shape == (len(ids), max(map(len, ids)))
    for i, row in enumerate(ids):
        assert left.tokens[i, : len(row)].tolist() == row
        assert left.mask[i].tolist() == [True] * len(row) + [False] * (left.tokens.shape[1] - len(row))
        assert int(left.reads[i, 0]) == int(left.roles["last"][i]) == len(row) - 1


@seldom
@given(st.lists(st.booleans(), min_size=3, max_size=8))
def test_a_mask_has_one_piece(row):
    """Everything but a single run of tokens is refused; an empty row is a prompt without tokens."""
    text = "".join("x" if kept else " " for kept in row)
    tokens = torch.arange(len(row))[None]
    whole = torch.ones_like(tokens)
    table, mask = torch.cat([whole, tokens]), torch.tensor([[True] * len(row), row])
    if not text.strip():
        with pytest.raises(PromptError, match="prompt 1 is empty"):
            Prompts.from_tokens(table, mask)
    elif " " in text.strip():
        with pytest.raises(PromptError, match="has a hole"):
            Prompts.from_tokens(table, mask)
    else:
        found = Prompts.from_tokens(table, mask)
        start = text.index("x")
        assert found.tokens[1, : int(found.lengths[1])].tolist() == list(range(start, start + sum(row)))


def test_a_mask_of_integers_or_none_is_a_mask():
    tokens = torch.tensor([[5, 6, 7], [8, 9, 1]])
    whole = Prompts.from_tokens(tokens)
    assert whole.lengths.tolist() == [3, 3]
    identical(whole, Prompts.from_tokens(tokens, torch.ones(2, 3, dtype=torch.long)))


def plain(**changed):
    """Three prompts of lengths 3, 5 and 2."""
    tokens = torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 8], [9, 10, 0, 0, 0]])
    content = {
        "tokens": tokens,
        "mask": torch.arange(5) < torch.tensor([3, 5, 2])[:, None],
        "answers": torch.tensor([3, -1, 4]),
        "roles": {"operator": torch.tensor([1, 3, -1])},
        "labels": pd.DataFrame({"kind": ["a", "b", "c"]}),
        "groups": torch.tensor([0, 1, 0]),
    }
    return Prompts.from_tokens(**(content | changed))


@pytest.mark.parametrize(
    ("position", "wanted"),
    [
        (0, [0, 0, 0]),
        (2, [2, 2, -1]),
        (4, [-1, 4, -1]),
        (5, [-1, -1, -1]),
        (-1, [2, 4, 1]),
        (-2, [1, 3, 0]),
        (-3, [0, 2, -1]),
        (-5, [-1, 0, -1]),
        (-6, [-1, -1, -1]),
        ("operator", [1, 3, -1]),
        ("last", [2, 4, 1]),
    ],
)
def test_columns_of_a_role_or_an_index(position, wanted):
    found = plain()
    assert found.columns(position).tolist() == wanted
    assert found.table([position, 0]).tolist() == [[column, 0] for column in wanted]


def test_an_unknown_role_is_refused_with_the_known_ones():
    with pytest.raises(PromptError, match="no role 'sign' in these prompts; they have: last, operator"):
        plain().columns("sign")


def test_taking_prompts():
    found = plain()
    taken = found.take([2, 0, 2])
    assert taken.tokens.tolist() == [[9, 10, 0], [1, 2, 3], [9, 10, 0]]
    assert taken.lengths.tolist() == [2, 3, 2]
    assert taken.texts == ("prompt 2", "prompt 0", "prompt 2")
    assert taken.answers.tolist() == [[4], [3], [4]]
    assert taken.reads.tolist() == [[1], [2], [1]]
    assert taken.roles["operator"].tolist() == [-1, 1, -1]
    assert taken.labels["kind"].tolist() == ["c", "a", "c"]
    assert list(taken.labels.index) == [0, 1, 2]
    assert taken.groups.tolist() == [0, 0, 0]
    for index in (torch.tensor([2, 0]), np.array([2, 0]), (2, 0), [-1, 0]):
        identical(found.take(index), found.take([2, 0]))
    for mask in (torch.tensor([True, False, True]), np.array([True, False, True]), [True, False, True]):
        identical(found.take(mask), found.take([0, 2]))


@seldom
@given(raw(), st.data())
def test_taking_twice_is_taking_once(case, data):
    found = laid_out(*case, "right")
    first = data.draw(st.lists(st.integers(0, len(found) - 1), min_size=1, max_size=5))
    second = data.draw(st.lists(st.integers(0, len(first) - 1), min_size=1, max_size=5))
    identical(found.take(first).take(second), found.take([first[i] for i in second]))


def test_taking_none_is_refused():
    for index in ([], torch.zeros(3, dtype=torch.bool), np.array([], dtype=int)):
        with pytest.raises(PromptError, match="no prompt is left"):
            plain().take(index)


def test_a_mask_of_another_length_is_refused():
    """A mask made for other prompts would quietly pick the wrong ones."""
    with pytest.raises((PromptError, IndexError)):
        plain().take([True, False])


def several():
    """Two prompts read at three tokens; the second lacks the middle one."""
    return Prompts(
        tokens=torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0]]),
        lengths=torch.tensor([4, 3]),
        texts=("a", "b"),
        answers=torch.tensor([[2, 3, 4], [6, -1, 7]]),
        reads=torch.tensor([[0, 1, 2], [0, -1, 1]]),
        read_names=("tens", "carry", "ones"),
    )


def test_reading_fewer_answers():
    found = several()
    some = found.reading(["ones", "tens"])
    assert some.read_names == ("ones", "tens")
    assert some.answers.tolist() == [[4, 2], [7, 6]]
    assert some.reads.tolist() == [[2, 0], [1, 0]]
    assert torch.equal(some.tokens, found.tokens)
    assert found.read_names == ("tens", "carry", "ones")
    with pytest.raises(PromptError, match="no answer token 'hundreds'; they have:"):
        found.reading(["ones", "hundreds"])


def test_what_is_not_given_is_filled_in():
    found = several()
    assert found.groups.tolist() == [0, 1]
    assert len(found.labels) == 2
    assert len(found) == 2
    with pytest.raises(AttributeError):
        found.groups = torch.zeros(2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prompts.from_tokens(torch.zeros(0, 3, dtype=torch.long)), "there are no prompts"),
        (lambda: Prompts.from_tokens(torch.zeros(3, 0, dtype=torch.long)), "there are no prompts"),
        (lambda: plain(mask=torch.tensor([[1] * 5, [0] * 5, [1] * 5])), "prompt 1 is empty"),
        (lambda: plain(texts=["a"]), "one entry for each of the 3 prompts"),
        (lambda: plain(labels=pd.DataFrame({"kind": ["a"]})), "one entry for each of the 3 prompts"),
        (lambda: plain(groups=torch.tensor([0, 1])), "one entry for each of the 3 prompts"),
        (lambda: plain(roles={"sign": torch.tensor([0, 5, 0])}), "role 'sign' points outside of a prompt"),
        (lambda: plain(roles={"sign": torch.tensor([3, 0, 0])}), "role 'sign' points outside of a prompt"),
        (lambda: plain(roles={"sign": torch.tensor([0])}), "role 'sign' .* lacks a prompt"),
        (lambda: plain(roles={"sign": torch.tensor([0, 0, 0, 0])}), "role 'sign' .* lacks a prompt"),
        (lambda: plain(answers=torch.tensor([3, 4])), "answers"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_together_is_refused(make, message):
    with pytest.raises(PromptError, match=message):
        make()


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_role_in_the_padding_is_refused(side):
    """On either side: a role that no token has is a mistake, not an absent role."""
    mask = torch.tensor([[False, True, True], [True, True, True]])
    mask = mask if side == "left" else mask.flip(1)
    padding = 0 if side == "left" else 2
    with pytest.raises(PromptError, match="role 'sign'"):
        Prompts.from_tokens(torch.ones(2, 3).long(), mask, roles={"sign": torch.tensor([padding, 1])})


def test_the_digest_tells_what_is_fed_and_asked():
    found = plain()
    assert plain().digest == found.digest
    others = [
        plain(tokens=torch.tensor([[1, 2, 3, 0, 0], [4, 5, 6, 7, 9], [9, 10, 0, 0, 0]])),
        plain(answers=torch.tensor([3, 0, 4])),
        plain(roles={"operator": torch.tensor([1, 2, -1])}),
        plain(roles={"sign": torch.tensor([1, 3, -1])}),
        plain(groups=torch.tensor([0, 1, 2])),
        plain().take([0, 1]),
        plain().take([1, 0, 2]),
    ]
    assert len({found.digest, *(other.digest for other in others)}) == len(others) + 1


# Pairs


def pair(first=None, second=None):
    return PromptPairs(plain() if first is None else first, plain() if second is None else second)


def test_pairs_mark_what_differs():
    other = plain(tokens=torch.tensor([[1, 5, 3, 0, 0], [4, 5, 6, 7, 0], [9, 10, 0, 0, 7]]))
    # Padding differs in the last row and does not count.
    assert pair(None, other).changed.nonzero().tolist() == [[0, 1], [1, 4]]
    assert len(pair()) == 3
    assert pair().digest == f"{plain().digest}-{plain().digest}"


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (lambda: plain().take([0, 1]), "3 clean prompts are paired with 2 corrupted"),
        (lambda: plain().take([0, 1, 0]), "pair 2 has unequal lengths: 'prompt 2' has 2 tokens, 'prompt 0' has 3"),
        (lambda: plain(roles={}), "role 'operator' stands at different columns"),
        (lambda: plain(roles={"operator": torch.tensor([1, 2, -1])}), "role 'operator' stands at different columns"),
    ],
)
def test_pairs_that_do_not_align_are_refused(second, message):
    with pytest.raises(PromptError, match=message):
        pair(None, second())


def test_pairs_are_read_at_the_same_columns():
    with pytest.raises(PromptError, match="read at different columns"):
        PromptPairs(several(), several().reading(["ones"]))


def test_pairs_gain_a_role_on_both_sides():
    found = pair()
    more = found.with_role("changed", torch.tensor([0, 4, 1]))
    assert more.clean.roles["changed"].tolist() == more.corrupted.roles["changed"].tolist() == [0, 4, 1]
    assert "changed" not in found.clean.roles
    with pytest.raises(PromptError, match="points outside of a prompt"):
        found.with_role("changed", torch.tensor([0, 4, 2]))


def test_taking_pairs_takes_both_sides():
    taken = pair().take(torch.tensor([False, False, True]))
    assert len(taken) == 1
    assert taken.clean.texts == taken.corrupted.texts == ("prompt 2",)


# Texts


def test_texts_become_tokens():
    # <bos> is 1, digits are 4 to 13, + is 14, = is 17; spaces are dropped.
    assert encode("12 + 3=", tokenizer()) == [1, 5, 6, 14, 7, 17]
    assert encode("12", tokenizer()) == [1, 5, 6]
    found = Prompts.from_texts(["1+2=", "10+2="], tokenizer(), answers=["3", "12"], groups=torch.tensor([0, 0]))
    assert found.tokens.tolist() == [[1, 5, 14, 6, 17, 0], [1, 5, 4, 14, 6, 17]]
    assert found.lengths.tolist() == [5, 6]
    # The first token of each answer counts.
    assert found.answers.tolist() == [[7], [5]]
    assert found.reads.tolist() == [[4], [5]]
    assert found.texts == ("1+2=", "10+2=")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["is empty"]),
        (" \n\t", ["is empty"]),
        ("1+a=", ["'1+a='", "'a'", "cannot express"]),
        ("é漢1", ["'é' '漢'", "cannot express"]),
        ("1\n2", ["cannot express"]),
        ("<unk>", ["cannot express"]),
    ],
)
def test_text_that_has_no_tokens_is_refused(text, parts):
    with pytest.raises(PromptError) as caught:
        encode(text, tokenizer())
    for part in parts:
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(PromptError):
        Prompts.from_texts(["1+1=", text], tokenizer())
    with pytest.raises(PromptError):
        Prompts.from_texts(["1+1="], tokenizer(), answers=[text])


def test_only_so_many_strange_characters_are_named():
    with pytest.raises(PromptError) as caught:
        encode("abcdefgh" * 3, tokenizer())
    assert "'a' 'b' 'c' 'd' 'e' ..." in str(caught.value)


def test_texts_and_answers_must_match():
    with pytest.raises(PromptError, match="there are no prompts"):
        Prompts.from_texts([], tokenizer())
    with pytest.raises(PromptError, match="2 prompts need as many answers, got 1"):
        Prompts.from_texts(["1+1=", "2+2="], tokenizer(), answers=["2"])


class Failing:
    """A tokenizer that raises, as some do for what their vocabulary lacks."""

    unk_token_id = bos_token_id = eos_token_id = None

    def __call__(self, text, add_special_tokens=True):
        if text == "mute":
            return {"input_ids": []}
        raise Exception("WordLevel error: missing [UNK] token\nfrom the vocabulary")


def test_a_tokenizer_that_fails_is_quoted():
    with pytest.raises(PromptError, match=r"cannot express 'a': WordLevel error: missing .UNK. token from"):
        encode("a", Failing())
    with pytest.raises(PromptError, match="'mute' has no tokens"):
        encode("mute", Failing())
