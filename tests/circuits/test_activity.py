"""Activity over prompts against the features that a capture reads; triples and their three parts."""

import numpy as np
import pytest
import torch

from interp.circuits.activity import feature_activity
from interp.circuits.attached import transcoders_attached
from interp.circuits.triples import KINDS, benchmark_prompts, triples_of
from interp.datasets.chatting import TEMPLATE, chat_tokenizer
from interp.datasets.safety import CATEGORIES, safety_triples
from interp.errors import ConfigError, PromptError
from interp.models.run import capture
from interp.sites import Site
from tests.circuits.test_attached import prompts_of
from tests.circuits.test_graph import KINDS as FORMS_OF_TRANSCODERS
from tests.circuits.test_graph import drawn
from tests.models.test_sweeps import made


@pytest.mark.parametrize("form", ["gpt2", "llama", "gemma2"])
@pytest.mark.parametrize("kind", FORMS_OF_TRANSCODERS)
@pytest.mark.parametrize("skip", [0, 1])
def test_it_is_what_a_capture_reads(form, kind, skip):
    model, transcoders, prompts = made(form), drawn(kind), prompts_of()
    found = feature_activity(model, transcoders, prompts, skip=skip, memory=1)
    with transcoders_attached(model, transcoders):
        kept = capture(model, prompts, ["features"])
    whole = np.zeros((len(prompts), 3, 24)), np.zeros((len(prompts), 3, 24)), np.full((len(prompts), 3, 24), -1)
    for layer in range(3):
        for row, length in enumerate(prompts.lengths.tolist()):
            own = kept[Site("features", layer)][row, :length].numpy()
            whole[1][row, layer] = own[length - 1]
            whole[0][row, layer] = own[skip:].max(0)
            whole[2][row, layer] = np.where(own[skip:].max(0) > 0, own[skip:].argmax(0) + skip, -1)
    layer, number = found.features.T
    for wanted, got in zip(whole, (found.largest, found.answer, found.column), strict=True):
        np.testing.assert_allclose(got, wanted[:, layer, number], atol=1e-5)
    silent = np.ones((3, 24), bool)
    silent[layer, number] = False
    assert not whole[0][:, silent].any()
    assert found.names[0] == f"L{layer[0]}_F{number[0]}"
    assert found.index(found.features[3:4]).tolist() == [3]
    everything = feature_activity(model, transcoders, prompts, skip=skip)
    np.testing.assert_allclose(everything.largest, found.largest, atol=1e-5)


def test_what_cannot_be_read_is_said():
    model, transcoders, prompts = made("llama"), drawn("relu"), prompts_of()
    with pytest.raises(PromptError, match="no token left"):
        feature_activity(model, transcoders, prompts, skip=6)
    with pytest.raises(ConfigError, match="L0_F900 is active on none"):
        feature_activity(model, transcoders, prompts).index([(0, 900)])


def test_triples_of_the_benchmark_are_dealt_by_category_and_subcategory():
    prompts = benchmark_prompts(safety_triples(), chat_tokenizer(), template=TEMPLATE)
    found = triples_of(prompts)
    assert len(prompts) == 3 * len(found.pairs)
    assert prompts.texts[found.rows[0, 0]].startswith("user : ")
    for at, kind in enumerate(KINDS):
        assert set(prompts.labels["kind"][found.rows[:, at]]) == {kind}
        assert list(prompts.labels["pair"][found.rows[:, at]]) == list(found.pairs)
    for name in CATEGORIES:
        n = int(found.chosen(name).sum())
        assert found.chosen(name, "confirmation").sum() == n // 2
        assert found.chosen(name, "causal").sum() == n // 4
        assert 13 <= n // 2 <= 20
    sub = prompts.labels["subcategory"][found.rows[:, 0]].to_numpy()
    for name in set(sub):
        n = (sub == name).sum()
        assert abs((found.part[sub == name] == 1).sum() - n / 2) <= 2
    assert set(found.groups()) == {f"{c}{s}" for c in CATEGORIES for s in ("", "_safe_contrast", "_benign_act")}
    again = triples_of(prompts.take(torch.arange(len(prompts)).flip(0)))
    part = dict(zip(found.pairs, found.part.tolist(), strict=True))
    assert part == dict(zip(again.pairs, again.part.tolist(), strict=True)), "whatever the order of the prompts"
    assert (triples_of(prompts, seed=1).part != found.part).any()
    alone = triples_of(prompts.take(np.flatnonzero(prompts.labels["category"] == "deception")))
    assert all(part[pair] == at for pair, at in zip(alone.pairs, alone.part.tolist(), strict=True))


def test_a_triple_that_lacks_a_kind_is_named():
    prompts = benchmark_prompts(safety_triples()[:3], chat_tokenizer())
    with pytest.raises(PromptError, match="it needs one of each kind"):
        triples_of(prompts.take(torch.arange(8)))
    with pytest.raises(ConfigError, match="sum to 1"):
        triples_of(prompts, shares=(0.5, 0.4, 0.3))
