import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, log_loss, roc_auc_score

from interp.estimates import Estimate
from interp.monitoring.claims import claims, sentences
from interp.monitoring.learning import Course, balanced, course, half_way, parts, simultaneous, told, unchanged
from interp.monitoring.probe import Pair, Probe
from interp.monitoring.records import read_records
from tests.monitoring.test_records import ABOUT, made_probe, made_snapshot, written

N = 80
SIGNS = torch.tensor([1.0 if i % 2 == 0 else -1.0 for i in range(N)])


def big_probe():
    return Probe(
        tuple(f"text {i}" for i in range(N)), tuple(i % 2 == 0 for i in range(N)), tuple(i // 4 for i in range(N)),
        {"category": tuple("ab"[i // 2 % 2] for i in range(N)), "kind": tuple("xy"[i % 2] for i in range(N))}, (),
        tuple(Pair(f"s {i}", f"u {i}", i) for i in range(20)), (0,),
    )  # fmt: skip


def learned(strength, seed, *, late=0.0, layer=0.0, moves=0.0):
    """A snapshot whose log-odds tell the classes apart as strongly as given; category b less so by `late`."""
    torch.manual_seed(seed)
    pull = torch.full((N,), float(strength))
    pull[torch.tensor([i // 2 % 2 == 1 for i in range(N)])] -= late
    separation = torch.randn(N, 3)
    separation[:, 2] += layer * SIGNS
    return dict(
        log_odds=pull * SIGNS + torch.randn(N), separation=separation,
        moved=torch.stack([torch.randn(20) * 0.1, moves + 0.1 * torch.randn(20)], 1),
        head_attention=torch.zeros(4, 2, 3), head_direct=torch.zeros(4, 2, 3), head_ablation=torch.zeros(4, 2, 3),
    )  # fmt: skip


def recorded(out, snapshots, *, same=False):
    probe = big_probe()
    writer = written(out, [], probe)
    for step, parts_of in snapshots.items():
        writer.append(made_snapshot(probe, 0 if same else step, **parts_of), step=step, seconds=0.1, training=10.0)
    return read_records(out)


@pytest.fixture
def training(tmp_path):
    strengths = {0: 0.0, 10: 0.0, 20: 1.0, 40: 3.0, 80: 3.0}
    return recorded(
        tmp_path, {step: learned(s, step, layer=s, moves=s) for step, s in strengths.items()}
    )  # fmt: skip


def test_the_course_equals_other_people_s_metrics(training):
    found, truth = course(training), np.array(training.probe.unsafe)
    for i, odds in enumerate(training.log_odds):
        assert found.accuracy.value[i] == pytest.approx(((odds > 0) == truth).mean())
        assert found.f1[i] == pytest.approx(f1_score(truth, odds > 0))
        assert found.auc.value[i] == pytest.approx(roc_auc_score(truth, odds))
        assert found.loss.value[i] == pytest.approx(log_loss(truth, 1 / (1 + np.exp(-odds))))
    assert 0.4 < found.chance.mean() < 0.6
    assert found.p == 0.001


def test_convergence_is_the_first_of_those_that_stay():
    values = np.array([0.5, 0.97, 0.9, 0.96, 0.985, 0.97])
    same = Estimate(values, values, values, values * np.nan, np.ones(6, dtype=int))
    made = Course(same, same, values, same, np.zeros((2, 6)), np.array([0.5, 0.6]))
    assert made.converged == 3  # .96, .985, .97 are within .02 of .97; .90 is not
    assert made.p == pytest.approx(1 / 3)


def test_half_way():
    curve = np.array([[0.5, 0.8, 0.6, 0.8, 0.9], [0.5, 0.52, 0.5, 0.5, 0.55], [0.9] * 5, [np.nan] * 5])
    assert half_way(curve).tolist() == [3, -1, 0, -1]  # .7 is the middle; the second never gets .1 up


def test_balanced_accuracy_does_not_care_how_many_there_are():
    right = np.array([[1.0], [1.0], [1.0], [0.0]])
    unsafe = np.array([True, True, True, False])
    assert balanced(right, unsafe, np.ones(4, dtype=bool)).tolist() == [0.5]
    assert balanced(right, unsafe, unsafe).tolist() == [1.0]


def test_parts_are_told_apart_by_auc(training):
    rows = {(row.column, row.value): row for row in parts(training, course(training))}
    truth, odds = np.array(training.probe.unsafe), training.log_odds[-1]
    category = np.array(training.probe.labels["category"])
    assert rows["category", "a"].told[-1] == pytest.approx(roc_auc_score(truth[category == "a"], odds[category == "a"]))
    assert rows["kind", "x"].truth == "unsafe"
    assert rows["kind", "x"].told[-1] == pytest.approx(roc_auc_score(truth, odds))
    whole = rows["", "all texts"]
    assert whole.half == 20
    assert whole.low in (0, 10, 20)
    assert whole.high in (20, 40)


def test_intervals_over_cells_hold_together():
    """Of 300 draws of 6 independent cells nearly 95 % have all six true means inside: the naive ones have 74 %."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 3)
    inside = 0
    for seed in range(300):
        values = np.repeat(rng.normal(size=(40, 6)), 3, axis=0) + rng.normal(size=(120, 6))
        found = simultaneous(values, groups, seed=seed, resamples=399)
        inside += bool(((found.low <= 0) & (found.high >= 0)).all())
    assert inside >= stats.binom.ppf(0.001, 300, 0.93)
    assert inside <= stats.binom.ppf(0.999, 300, 0.97)
    one = simultaneous(np.array([[1.0, np.nan]] * 9), np.arange(9))
    assert one.value[0] == 1
    assert np.isnan(one.value[1])
    assert np.isnan(simultaneous(np.ones((7, 1)), np.arange(7)).low).all()


def test_what_was_learned_is_claimed(training):
    found = {claim.name: claim for claim in claims(training)}
    assert found["judges"].verdict == found["taught"].verdict == found["specialised-2"].verdict == "supported"
    assert found["specialised-1"].verdict != "supported"
    assert found["critical"].verdict == "supported"
    assert "layer 1" in found["critical"].statement
    assert "looking" not in found  # four texts of one template have no second half
    assert found["apart-category"].verdict != "supported"
    right = told(training)
    change = right[:, -1, 2] - right[:, 0, 2]
    assert float(found["specialised-2"].difference.value) == pytest.approx(change.mean())
    verdicts = {claim.name: claim.verdict for claim in found.values()}
    said = sentences(training, course(training), parts(training, course(training)), verdicts)
    assert "stays, from step 40 on" in said[0]
    assert said[1] == "Layers that came to tell safe from unsafe: layer 1."


def test_a_category_that_comes_late_is_seen(tmp_path):
    steps = {0: learned(0, 0), 10: learned(4, 1, late=4), 20: learned(4, 2)}
    found = {claim.name: claim for claim in claims(recorded(tmp_path, steps))}["apart-category"]
    assert found.verdict == "supported"
    assert "at step 10" in found.statement
    assert "on b than on a" in found.statement
    assert float(found.effect.value) == pytest.approx(0.5, abs=0.1)  # at chance, with all of the way to go
    assert float(found.control.value) < 0.7


def test_a_category_that_stays_harder_is_not_late(tmp_path):
    steps = {0: learned(0, 0), 10: learned(4, 1, late=3.5), 20: learned(4, 1, late=3.5)}
    found = {claim.name: claim for claim in claims(recorded(tmp_path, steps))}["apart-category"]
    assert found.verdict != "supported"


def test_a_training_that_changed_nothing_says_so(tmp_path):
    same = learned(0.0, 0)
    recording = recorded(tmp_path, dict.fromkeys((0, 10, 20), same), same=True)
    assert unchanged(recording)
    found = claims(recording)
    assert {claim.name: claim.verdict for claim in found if claim.control_name == "first snapshot"} == {
        "taught": "not supported", "specialised-1": "not supported", "specialised-2": "not supported",
        "critical": "not supported",
    }  # fmt: skip
    verdicts = {claim.name: claim.verdict for claim in found}
    said = sentences(recording, course(recording), parts(recording, course(recording)), verdicts)
    assert said == ["Nothing changed: the first and the last snapshot are of the same judge, text by text."]


def test_random_models_are_not_called_judges(tmp_path):
    """Twenty trainings that only drew new random judges: no more claims of learning than chance gives."""
    supported = {"judges": 0, "taught": 0, "specialised": 0, "apart": 0}
    for seed in range(20):
        steps = {0: learned(0, 2 * seed), 10: learned(0, 2 * seed + 1)}
        for claim in claims(recorded(tmp_path / str(seed), steps)):
            name = claim.name.split("-")[0]
            if name in supported:
                supported[name] += claim.verdict == "supported"
    assert max(supported.values()) <= 2  # at most 2.5 % each, and a minimum effect on top: P(3 or more of 40) < .08


def test_one_snapshot_says_nothing_of_learning(tmp_path):
    written(tmp_path, [0], made_probe(20), ABOUT)
    recording = read_records(tmp_path)
    assert [claim.name for claim in claims(recording)] == ["judges"]
    assert "one snapshot" in sentences(recording, course(recording), [], {})[0]


def test_intervals_of_few_groups_are_wide_enough():
    """300 draws of 8 normal values: at nominal 95 % the binomial bound is 274."""
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        found = simultaneous(rng.normal(size=(8, 1)), np.arange(8), seed=seed, resamples=999)
        hits += bool(found.low[0] <= 0 <= found.high[0])
    assert hits >= 274
    assert np.isnan(simultaneous(np.ones((9, 1)), np.arange(9)).low).all()  # all agree: nothing is known of the error
