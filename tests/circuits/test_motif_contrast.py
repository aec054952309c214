"""A motif planted on one side of pairs is confirmed; where sides are exchanged at random, at most 5 % of runs do so."""

from typing import Any

import numpy as np
import pytest
from scipy import stats

from interp.circuits.motif_contrast import edge_set_contrast, triad_contrast
from interp.circuits.wiring import FEATURE, LOGIT, joined
from interp.errors import ConfigError
from interp.estimates import proportion
from interp.results import load, save
from tests.circuits.test_wiring import wired

PAIRS = 28
SEARCH = np.arange(PAIRS) < PAIRS // 2
PLANTED = "L0_F0 -> L1_F1 (+), L1_F1 -> sorry (+)"


def sides(seed, noise=14, chances=(0.9, 0.1)):
    """Both sides of pairs: edges at random among few features, and a chain to the answer, mostly on the first side."""
    rng = np.random.default_rng(seed)
    nodes = [(FEATURE, i % 3, i) for i in range(9)] + [(LOGIT, 3, 7)]
    possible = [(a, b) for a in range(9) for b in range(10) if nodes[a][1] < nodes[b][1]]
    possible = [ends for ends in possible if ends not in ((0, 1), (1, 9))]
    found = []
    for chance in chances:
        parts = []
        for _ in range(PAIRS):
            chosen = [possible[i] for i in rng.choice(len(possible), noise, replace=False)]
            planted = [(0, 1), (1, 9)] if rng.random() < chance else []
            edges = [(*ends, float(rng.choice([-1, 1]))) for ends in chosen] + [(*ends, 1.0) for ends in planted]
            parts.append(wired(3, nodes, edges))
        found.append(joined(parts))
    return found


@pytest.fixture(scope="module")
def planted():
    first, second = sides(0)
    return edge_set_contrast(first, second, SEARCH, words={7: "sorry"})


def test_a_planted_set_is_confirmed(planted, tmp_path):
    frame = planted.to_frame().set_index("motif")
    assert len(frame) > 100
    row = frame.to_dict("index")[PLANTED]
    assert row["confirmed"]
    assert row["confirmed_p"] <= 0.05
    assert row["low"] > 0
    own = {PLANTED, "L0_F0 -> L1_F1 (+)", "L1_F1 -> sorry (+)"}
    confirmed = set(frame.index[frame["confirmed"]])
    assert own <= confirmed
    assert all(one in own or any(part in own for part in one.split(", ")) for one in confirmed)
    save(planted, tmp_path / "contrast")
    again = load(tmp_path / "contrast")
    np.testing.assert_array_equal(again.first, planted.first)
    assert again.motifs == planted.motifs
    assert bool((again.confirmed == planted.confirmed).all())


def test_its_sentence_is_of_the_pairs_that_did_not_choose(planted):
    at = planted.motifs.index(PLANTED)
    one, other = (proportion(side[~SEARCH, at]) for side in (planted.first, planted.second))
    percent = [f"{100 * float(x):.0f}" for x in (one.value, one.low, one.high, other.value, other.low, other.high)]
    assert planted.sentence(at) == (
        f"{PLANTED}: in {percent[0]} % [{percent[1]}, {percent[2]}] of harmful prompts, "
        f"{percent[3]} % [{percent[4]}, {percent[5]}] of their safe contrasts"
    )


def test_a_planted_class_of_triads_is_confirmed():
    first, second = sides(1, noise=5, chances=(1.0, 0.0))
    found = triad_contrast(first, second, np.flatnonzero(SEARCH))
    at = found.motifs.index("feature -> feature (+) -> logit (+)")
    assert found.confirmed[at]
    assert "in each of harmful prompts" in found.sentence(at)
    assert not triad_contrast(first, first, SEARCH).confirmed.any()


def exchanged(both, turn):
    at = np.arange(PAIRS)
    return both.take(np.where(turn, at + PAIRS, at)), both.take(np.where(turn, at, at + PAIRS))


def test_sides_exchanged_at_random_confirm_nothing():
    """200 times. All that is sought is tested (discovery 1), so that the family-wise level is put to the test."""
    both = joined(sides(2, noise=8))
    rng = np.random.default_rng(0)
    tested = confirmed = 0
    for _ in range(200):
        one, other = exchanged(both, rng.random(PAIRS) < 0.5)
        found = edge_set_contrast(one, other, SEARCH, size=2, support=0.15, discovery=1, resamples=499)
        tested += bool((found.confirmed_p <= 0.05).any())
        confirmed += bool(found.confirmed.any())
    for count in (tested, confirmed):
        assert stats.binomtest(count, 200).proportion_ci(0.95, "exact").low <= 0.05, (tested, confirmed)
    assert tested > 0  # the test can reject


def test_exchanging_the_sides_of_a_pair_turns_its_difference():
    """What the level of the test rests on, for triads as for sets."""
    first, second = sides(3)
    turn = np.arange(PAIRS) % 3 == 0
    before = triad_contrast(first, second, SEARCH, discovery=1)
    after = triad_contrast(*exchanged(joined([first, second]), turn), SEARCH, discovery=1)
    assert before.motifs == after.motifs
    sign = np.where(turn, -1, 1)[:, None]
    np.testing.assert_array_equal((before.first - before.second) * sign, after.first - after.second)


def test_groups_stay_together_and_bad_options():
    first, second = sides(4)
    pairs = np.arange(PAIRS)
    found = triad_contrast(first, second, SEARCH, groups=pairs // 2)
    assert int(found.difference().n[0]) == PAIRS // 4
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        (dict(search=SEARCH[:-1]), "a mask of 28 pairs"),
        (dict(search=[0, 99]), "a mask of 28 pairs"),
        (dict(search=SEARCH, groups=np.zeros(PAIRS, int)), "both sides of the split"),
        (dict(search=SEARCH, groups=[0, 1]), "2 groups do not fit"),
        (dict(search=pairs[:-3]), "3 groups of pairs cannot show"),
        (dict(search=np.zeros(PAIRS, bool)), "no pair is left"),
        (dict(search=SEARCH, level=0.0), "levels"),
    )
    for options, message in wrong:
        with pytest.raises(ConfigError, match=message):
            triad_contrast(first, second, **options)
    with pytest.raises(ConfigError, match="as many first as second"):
        edge_set_contrast(first, second.take([0]), SEARCH)
    none = edge_set_contrast(first, second, SEARCH, support=1.0)
    assert none.motifs == ()
    assert not len(none.to_frame())
