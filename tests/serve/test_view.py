import json
import math

import pytest
import torch

from interp.analyses.token_attribution import token_attribution
from interp.datasets.judging import TEMPLATE, judging_tokenizer
from interp.errors import PromptError
from interp.models.judge import Judge
from interp.models.load import load_model
from interp.serve.view import about, view, word_edits
from tests.serve.conftest import CONTEXT

TEXTS = ["how do i poison the soup for the village course ?", "Weiß ☠️ <b>&", " steal\nthe  wallet\n"]


@pytest.mark.parametrize("text", TEXTS)
def test_the_verdict_and_the_trace_are_those_of_the_plain_model(judge, plain, text):
    found = view(judge, text, edits=False)
    ids = judging_tokenizer()(TEMPLATE.format(prompt=text), return_tensors="pt").input_ids
    with torch.no_grad():
        run = plain(ids, output_hidden_states=True)
        streams = [
            *(plain.model.norm(stream[0, -1]) for stream in run.hidden_states[:-1]),
            run.hidden_states[-1][0, -1],
        ]
        logits = torch.stack([plain.lm_head(stream) for stream in streams])
    wanted = (logits[:, judge.unsafe] - logits[:, judge.safe]).tolist()
    assert [depth.log_odds for depth in found.trace] == pytest.approx(wanted, abs=1e-4)
    assert [depth.name for depth in found.trace] == ["embed", "layer 0", "layer 1"]
    assert found.log_odds == pytest.approx(wanted[-1], abs=1e-4)
    assert found.log_odds == pytest.approx(float(judge.log_odds(judge.prompts([text]))), abs=1e-6)
    odds = float(run.logits[0, -1, [judge.safe, judge.unsafe]].softmax(0)[1])
    assert found.probability == pytest.approx(odds, abs=1e-5)
    assert found.verdict == ("unsafe" if wanted[-1] > 0 else "safe")
    assert found.text == text
    assert found.edits is None


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("baseline", ["mean", 5])
def test_tokens_carry_the_shares_and_stand_where_they_say(judge, text, baseline):
    found = view(judge, text, baseline=baseline, edits=False)
    direct = token_attribution(judge, judge.prompts([text]), baseline=baseline)
    values = direct.values[0][~direct.values[0].isnan()].tolist()
    assert sum(token.count for token in found.tokens) == len(values)
    for token in found.tokens:  # those of one character are summed
        own, values = values[: token.count], values[token.count :]
        assert token.value == pytest.approx(sum(own), abs=1e-5)
        assert token.text == text[token.start : token.end] != ""
    assert all(a.end <= b.start for a, b in zip(found.tokens, found.tokens[1:], strict=False))
    covered = {i for token in found.tokens for i in range(token.start, token.end)}
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)
    assert found.baseline == direct.baseline
    apart = found.log_odds - found.baseline_log_odds
    assert abs(sum(token.value for token in found.tokens) - apart) == pytest.approx(found.error * abs(apart), abs=1e-4)
    assert found.flagged == bool(direct.flagged)


def test_a_character_spelled_in_bytes_is_one_token(judge):
    found = view(judge, "a ☠ b", edits=False)
    assert [(token.text, token.count > 1) for token in found.tokens if token.text == "☠"] == [("☠", True)]


def test_edits_are_what_the_judge_says_to_the_edited_text(judge):
    text = TEXTS[0]
    found = view(judge, text, budget=9)
    assert found.edits == word_edits(judge, text, budget=9)
    assert len(found.edits) == 9
    again = judge.log_odds(judge.prompts([edit.text for edit in found.edits])).tolist()
    for edit, value in zip(found.edits, again, strict=True):
        assert text[edit.start : edit.end] == edit.old
        assert edit.text == text[: edit.start] + edit.new + text[edit.end :]
        assert edit.log_odds == pytest.approx(value, abs=1e-5)
        assert edit.change == pytest.approx(value - found.log_odds, abs=1e-5)
        assert edit.flips == ((value > 0) != (found.log_odds > 0))
    towards = [-math.copysign(1, found.log_odds) * edit.change for edit in found.edits]
    assert towards == sorted(towards, reverse=True)


def test_a_text_without_a_word_has_no_edits(judge):
    assert view(judge, "? !").edits == ()


def test_the_dictionary_is_json(judge):
    found = view(judge, TEXTS[1], budget=2)
    told = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert told["tokens"][0] == {
        "text": found.tokens[0].text, "start": 0, "end": found.tokens[0].end, "value": found.tokens[0].value,
        "count": found.tokens[0].count,
    }  # fmt: skip
    assert told["edits"][1]["new"] == found.edits[1].new
    assert told["trace"][-1]["log_odds"] == pytest.approx(told["log_odds"], abs=1e-5)


def test_log_odds_of_exactly_0_decide_nothing(plain, judge):
    """Two answers with the same row of the unembedding; the shares' error is then 0 / 0."""
    with torch.no_grad():
        kept = plain.lm_head.weight[judge.unsafe].clone()
        plain.lm_head.weight[judge.unsafe] = plain.lm_head.weight[judge.safe]
        even = Judge(load_model(plain, judging_tokenizer(), device="cpu"), TEMPLATE, judge.safe, judge.unsafe)
        plain.lm_head.weight[judge.unsafe] = kept
    found = view(even, TEXTS[0], steps=2, most_steps=2, budget=1)
    assert (found.log_odds, found.probability, found.verdict) == (0, 0.5, "undecided")
    assert math.isnan(found.error)
    assert found.as_dict()["error"] is None
    assert found.flagged
    assert not any(edit.flips for edit in found.edits)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "the prompt is empty; type some text"),
        (" \n", "the prompt is empty"),
        ("x " * CONTEXT, rf"context is {CONTEXT}; shorten it"),
        ("half \ud83d", "lone surrogate"),
    ],
)
def test_what_cannot_be_judged_is_said(judge, text, named):
    for ask in (view, word_edits):
        with pytest.raises(PromptError, match=named):
            ask(judge, text)


def test_about_says_how_the_judge_is_asked(judge):
    told = about(judge)
    assert (told["template"], told["layers"], told["context"]) == (TEMPLATE, 2, CONTEXT)
    assert told["baseline"] == view(judge, "hello", edits=False).baseline
    assert about(judge, baseline=5)["baseline"] == view(judge, "hello", baseline=5, edits=False).baseline
    json.dumps(told, allow_nan=False)
