import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from interp.datasets.sentences import tokenizer as word_tokenizer
from interp.errors import PromptError
from interp.models.contrast import TwinBatch, TwinRuns
from interp.twins import Twins, ordinary_tokens, single_token
from tests.conftest import padded

CONTROL, NEUTRAL = 20, (10, 11, 12, 13)
LENGTHS, PLACES = (5, 9, 7, 3), (1, 4, 6, 2)
"""The last two prompts end at the token."""


def twins_of(side="right", *, lengths=LENGTHS, places=PLACES, neutral=NEUTRAL, groups=None, seed=3):
    """Prompts of the tokens 3 to 9 with the control token at these places: their ids one by one, and the twins."""
    generator = torch.Generator().manual_seed(seed)
    ids = [torch.randint(3, 10, (length,), generator=generator) for length in lengths]
    for row, place in zip(ids, places, strict=True):
        row[place] = CONTROL
    before = [max(lengths) - length if side == "left" else 0 for length in lengths]
    roles = {"token": torch.tensor(places) + torch.tensor(before)}
    prompts = padded(ids, side, roles=roles, groups=None if groups is None else torch.tensor(groups))
    return ids, Twins(prompts, "S", torch.tensor(neutral), tuple(f"n{i}" for i in neutral))


def put(row, place, token):
    """One prompt with another token at a place."""
    row = row.clone()
    row[place] = token
    return row


class GivenRuns(TwinRuns):
    """Vectors [token, prompt, site, offset, d_model] that are given, some prompts at a time."""

    def __init__(self, model, twins, vectors, sites, offsets=(0,), chunk=2):
        super().__init__(model, twins, sites, offsets=offsets)
        self.vectors, self.chunk = vectors, chunk

    def _run(self):
        for rows in torch.arange(len(self.twins)).split(self.chunk):
            yield TwinBatch(rows, self.vectors[:, rows])


def test_the_token_is_replaced_at_its_role_and_nowhere_else(side):
    ids, twins = twins_of(side)
    assert (twins.control, len(twins)) == (CONTROL, 4)
    assert twins.ids.tolist() == [CONTROL, *NEUTRAL]
    for given in (11, torch.tensor(11), torch.tensor([11, 12, 13, 10])):
        found = twins.with_token(given)
        for i, (row, place) in enumerate(zip(ids, PLACES, strict=True)):
            wanted = put(row, place, 11 if not isinstance(given, torch.Tensor) or given.ndim == 0 else given[i])
            assert found.tokens[i, : len(row)].tolist() == wanted.tolist()
        assert torch.equal(found.lengths, twins.prompts.lengths)
        assert torch.equal(found.roles["token"], torch.tensor(PLACES))
    assert twins.control == CONTROL  # what was given is left as it was


def test_partners_are_neutral_tokens_drawn_by_the_seed():
    _, twins = twins_of(lengths=(4,) * 400, places=(2,) * 400)
    prompts, drawn = twins.partners(0)
    assert torch.equal(prompts.tokens[:, 2], twins.neutral[drawn])
    assert torch.equal(prompts.tokens, twins.partners(0)[0].tokens)
    assert not torch.equal(drawn, twins.partners(1)[1])
    # Each of four tokens: 100 of 400, within 5 binomial standard deviations (8.7).
    assert (torch.bincount(drawn, minlength=4) - 100).abs().max() < 44


def test_a_neutral_token_is_treated_as_the_control_token():
    ids, twins = twins_of(groups=[0, 0, 1, 1])
    found = twins.treating("n12")
    assert (found.token, found.control, found.names) == ("n12", 12, ("n10", "n11", "n13"))
    assert found.ids.tolist() == [12, 10, 11, 13]  # the control token is left out
    for i, (row, place) in enumerate(zip(ids, PLACES, strict=True)):
        assert found.prompts.tokens[i, : len(row)].tolist() == put(row, place, 12).tolist()
    assert torch.equal(found.prompts.groups, twins.prompts.groups)
    fewer = twins.without("n10", "n13")
    assert (fewer.names, fewer.neutral.tolist(), fewer.control) == (("n11", "n12"), [11, 12], CONTROL)
    some = twins.take([2, 0])
    assert some.prompts.roles["token"].tolist() == [6, 1]
    assert some.names == twins.names


def test_what_are_no_twins_is_refused():
    ids, twins = twins_of()
    prompts = twins.prompts

    def made(prompts=prompts, neutral=NEUTRAL, names="abcd"):
        return Twins(prompts, "S", torch.tensor(neutral, dtype=torch.long), tuple(names))

    for wrong, message in (
        (dict(names="abc"), "need as many names"),
        (dict(neutral=(), names=""), "0 neutral tokens"),
        (dict(neutral=(10, 11, 12, CONTROL)), "the control token 'S' is among the neutral tokens"),
        (dict(neutral=(10, 11, 12, 10)), "given twice"),
        (dict(prompts=padded(ids, "right")), "there is no role 'token'"),
        (dict(prompts=padded(ids, "right", roles={"token": torch.tensor([1, 4, -1, 2])})), "every prompt needs"),
        (dict(prompts=padded(ids, "right", roles={"token": torch.tensor([1, 4, 5, 2])})), "prompt 2 has token id"),
    ):
        with pytest.raises(PromptError, match=message):
            made(**wrong)
    for call in (twins.treating, twins.without):
        with pytest.raises(PromptError, match="there is no neutral token 'n99'; there are: n10, n11, n12, n13"):
            call("n99")
    with pytest.raises(PromptError, match="0 neutral tokens"):
        twins.without(*twins.names)


PLAIN = ("fox", "dog", "saw", "the", "a", "it", "to", "runs")
WORDS = {w: i for i, w in enumerate(("<pad>", "<bos>", "<eos>", "<unk>", "$STOP", "$A", "$B", *PLAIN))}


def test_twins_from_texts():
    known = word_tokenizer(WORDS)
    found = Twins.of(["the fox $STOP saw it", "$STOP dog"], known, "$STOP", ["$A", "$B"], groups=["x", "y"])
    assert found.prompts.tokens.tolist() == [[1, 10, 7, 4, 9, 12], [1, 4, 8, 0, 0, 0]]  # <bos> in front
    assert found.prompts.roles["token"].tolist() == [3, 1]
    assert (found.neutral.tolist(), found.names, found.token) == ([5, 6], ("$A", "$B"), "$STOP")
    assert found.prompts.groups.tolist() == [0, 1]
    assert found.prompts.texts == ("the fox $STOP saw it", "$STOP dog")
    for groups in ("bab", [2, 1, 2], [("t", 1), ("t", 0), ("t", 1)]):
        same = Twins.of(["$STOP a", "$STOP dog", "fox $STOP"], known, "$STOP", ["$A"], groups=groups)
        assert same.prompts.groups.tolist() == [1, 0, 1]


def test_texts_that_make_no_twins_are_refused():
    known = word_tokenizer(WORDS)
    for texts, neutral, message in (
        (["fox"], ["$A"], r"stands 0 times in 'fox'; it must once"),
        (["$STOP fox $STOP"], ["$A"], "stands 2 times"),
        (["$STOP fox"], ["$C"], r"no token '\$C'"),
        (["$STOP fox"], ["$STOP"], "among the neutral tokens"),
        (["$STOP fox"], ["$A", "$A"], "given twice"),
        (["$STOP wombat"], ["$A"], "cannot express: 'wombat'"),
        ([], ["$A"], "there are no texts"),
    ):
        with pytest.raises(PromptError, match=message):
            Twins.of(texts, known, "$STOP", neutral)


def pieces():
    """A byte-level vocabulary: words that start with a blank, and ends of words."""
    vocabulary = {w: i for i, w in enumerate(["<eos>", "Ġfox", "Ġdog", "Ġof", "ing", "tion", "Ġ,", "Ġrun", "s", "Ġ"])}
    inner = Tokenizer(models.BPE(vocabulary, [], fuse_unk=False))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<eos>")


def test_a_single_token_is_one_that_the_vocabulary_has_as_a_whole():
    known = word_tokenizer(WORDS)
    assert single_token("$STOP", known) == WORDS["$STOP"]
    assert single_token(" fox ", known) == WORDS["fox"]  # by what the tokenizer makes of it
    assert single_token("Ġfox", pieces()) == 1
    for wrong in ("wombat", "fox dog", ""):
        with pytest.raises(PromptError, match="has no token"):
            single_token(wrong, known)


def test_ordinary_tokens_are_whole_words():
    known = word_tokenizer(WORDS)
    # Of the words above: not the special ones, the marks or those of two letters.
    found = ordinary_tokens(known)
    assert sorted(found) == ["dog", "fox", "runs", "saw", "the"]
    assert found == ordinary_tokens(known)
    assert any(ordinary_tokens(known, seed=seed) != found for seed in range(1, 4))
    # Where the vocabulary marks the start of a word: not the end of one, a word of two letters or a comma.
    assert sorted(ordinary_tokens(pieces())) == ["Ġdog", "Ġfox", "Ġrun"]
