"""The benchmarks: what is counted, what is compared, and that a tool which fails stops no other."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch

from benchmarks import measure as measuring
from benchmarks import ours, report, run, workers
from benchmarks.count import Count, operations
from benchmarks.growth import slope
from benchmarks.inputs import Case, Inputs, Shape, edge_names, shared_edges, write
from benchmarks.jobs import GPT2, JOBS, OURS, SHAPES, TRACED, Task, Tool, tasks
from benchmarks.measure import Settings, measure
from benchmarks.workers import ToolError, Worker, Workers, last_line

# By hand, at width 4 with 16 neurons and 2 heads: a product with a 4 x 4 weight is 2 * 16 = 32 operations, the MLP
# 2 * 2 * 4 * 16 = 256, a query's attention 2 * 2 * 4 = 16 for each key, one head's output 2 * 2 * 4 = 16, two logits
# 2 * 2 * 4 = 16.
ONE, TWO = (Shape("by hand", layers, 4, 2, 10) for layers in (1, 2))
CASE = Case(pairs=1, tokens=2, first=0)


def test_a_run_of_one_layer_and_two_positions():
    # Only the last column is read: 2 keys and 2 values (128), a query and an output (64), attention to 2 keys (32),
    # an MLP (256), two logits (16).
    assert Count(ONE, CASE).forward() == 128 + 64 + 32 + 256 + 16


def test_residual_patching_of_one_layer_and_two_positions():
    # The base run 496; of the other run keys and values of both columns and the last query (128 + 32). One cell only:
    # the embeddings differ in column 0 alone. It changes one key of the last query (16), its output, the MLP (32 + 256)
    # and the logits (16).
    assert operations("residual", ONE, CASE) == 496 + 160 + 320


def test_heads_and_ablation_of_one_layer():
    # In the last layer only the last column matters: for each of 2 heads its output, the MLP, the logits.
    assert operations("heads", ONE, CASE) == 496 + 160 + 2 * (16 + 256 + 16)
    assert operations("ablation", ONE, CASE) == 496 + 2 * (16 + 256 + 16)


def test_residual_patching_of_two_layers_and_two_positions():
    # Layer 0 whole: 4 * 32 + 256 + 16 at column 0, 4 * 32 + 256 + 32 at column 1. Layer 1 whole: 480.
    forward, source = 400 + 416 + 480 + 16, 400 + 416 + 160
    # (layer 0, column 0): two outputs and MLPs, one key each; then all of layer 1. (0, 1) changes nothing.
    first = 2 * (32 + 256) + 2 * 16 + 480 + 16
    # (1, 0): one key of the last query. (1, 1): the last query itself, over 2 keys.
    others = (16 + 32 + 256 + 16) + (32 + 32 + 256 + 16)
    assert operations("residual", TWO, CASE) == forward + source + first + others


def test_nothing_is_counted_before_the_first_difference():
    late = Count(TWO, Case(pairs=1, tokens=2, first=1))
    # (0, 1) and (1, 1) alone. Layer 0: 2 keys, output, MLP; layer 1: key, value, query, output, MLP, 2 keys.
    cells = (32 + 32 + 256) + (64 + 64 + 256 + 32) + 16 + (32 + 32 + 256 + 16)
    assert late.residual() == late.forward() + late.source() + cells


def test_counts_grow_with_pairs_and_are_below_the_naive_loop():
    for job in ("residual", "heads", "ablation"):
        one, four = (operations(job, GPT2, Case(pairs=pairs)) for pairs in (1, 4))
        assert one is not None
        assert four == 4 * one
        assert one < JOBS[job].cells(GPT2, Case()) * Count(GPT2, Case()).naive()
    assert operations("probing", GPT2, Case()) is None


def test_residual_patching_of_gpt2_takes_the_forward_passes_that_were_counted_elsewhere():
    # Every column patched at every layer (no skipping at layer 0) was counted as about 33.7 plain forward passes.
    count = Count(GPT2, Case(tokens=16, first=0))
    skipped = sum(count.entered(0, column, True) + count.layers(1, column) for column in range(1, 16))
    assert (count.residual() + skipped) / count.naive() == pytest.approx(33.7, abs=0.5)


def test_the_edges_of_a_graph():
    names = list(edge_names(1, 1))
    assert names[:3] == [("embed", "L0H0.q"), ("embed", "L0H0.k"), ("embed", "L0H0.v")]
    assert names[3:] == [
        ("embed", "mlp0"), ("L0H0", "mlp0"), ("embed", "logits"), ("L0H0", "logits"), ("mlp0", "logits"),
    ]  # fmt: skip
    assert len(set(edge_names(12, 12))) == 32_491  # GPT-2 small, as in Syed et al. (arXiv 2310.10348)


def test_inputs_are_one_file_and_pairs_differ_in_one_column(tmp_path):
    write(tmp_path / "a.safetensors", Shape("tiny", 1, 8, 2, 11))
    inputs = Inputs(tmp_path / "a.safetensors")
    pairs = inputs.pairs(Case(pairs=3, tokens=5, first=2))
    assert inputs.shape == Shape("tiny", 1, 8, 2, 11)
    assert (pairs.clean != pairs.corrupted).nonzero()[:, 1].tolist() == [2, 2, 2]
    assert bool((pairs.answers != pairs.foils).all())
    assert pairs.score(inputs.model()(pairs.clean).logits).shape == (3,)


def test_of_a_graph_all_edges_are_compared_but_those_of_the_first_column():
    features = torch.tensor([[0, 0, 3], [0, 1, 5], [1, 1, 2]])
    # By hand: 3 features, errors of 2 layers x 2 columns, 2 tokens, a bias; 3 features and 1 logit read them.
    edges = torch.arange(40.0).view(4, 10)
    kept = [1, 2, 4, 6, 7, 8]
    wanted = [10.0 * row + column for row in (1, 2, 3) for column in kept]
    assert shared_edges(edges, features, Shape("two", 2, 4, 2, 10), 2).tolist() == [wanted]


def test_graphs_are_drawn_of_the_transcoders_beside_the_weights(tmp_path):
    shape = Shape("tiny", 2, 8, 2, 40, features=300)
    write(tmp_path / "a.safetensors", shape)
    inputs = Inputs(tmp_path / "a.safetensors")
    assert sorted(file.name for file in inputs.transcoders.glob("layer_*")) == [
        "layer_0.safetensors",
        "layer_1.safetensors",
    ]
    found = ours.BASIC["graphs"](ours.load(inputs), inputs, Case(pairs=1, tokens=5)).grid(None, None)
    assert len(found) == 1
    assert bool(found.isfinite().all())
    assert [task.job.key for task in tasks(quick=False) if task.shape == TRACED] == ["graphs"]
    assert "graphs" not in {task.job.key for task in tasks(quick=True)}


def test_a_worker_answers_fails_and_dies(tmp_path):
    tool = Tool("fake", "tests.benchmarks.fake_peer", ("residual",))
    worker = Worker(tool, workers.environment(None), "cpu", tmp_path, patience=120)
    ask = {"inputs": "none", "case": asdict(Case(pairs=3))}
    try:
        assert worker.about["threads"] == 1
        assert worker.about["versions"].keys() == {"numpy"}
        reply = worker.ask(job="residual", out=str(tmp_path / "v.npy"), repeat=2, **ask)
        assert np.load(tmp_path / "v.npy").tolist() == [[3, 4, 5, 6]]
        assert all(len(reply[clock]) == 2 for clock in ("wall", "processor"))
        worker.ask(job="residual", cells=[2], out=str(tmp_path / "v.npy"), **ask)
        assert np.load(tmp_path / "v.npy").tolist() == [[5]]
        with pytest.raises(ToolError, match="ValueError: last line"):
            worker.ask(job="heads", **ask)
        worker.ask(job="residual", **ask)  # goes on after a failure
        with pytest.raises(ToolError):
            worker.ask(job="ablation", **ask)
    finally:
        worker.close()


class Told:
    """Stands for running workers: each tool's name says how it does."""

    device = "cpu"

    def __init__(self, folder, ours):
        self.logs, self.ours, self.asked = folder, ours, []

    def of(self, tool):
        if tool.name == "not installed":
            raise ToolError("no matching distribution")
        return Teller(self, tool)


class Teller:
    def __init__(self, told, tool):
        self.told, self.tool = told, tool

    def ask(self, *, job, case, inputs, cells=None, repeat=1, out=None):
        self.told.asked.append((self.tool.name, cells))
        if self.tool.name == "fails":
            raise ToolError("RuntimeError: out of memory")
        if job == "rate":
            np.save(out, np.array([[1e9, 3e9], [2e9, 4e9]]))
        elif out:
            values = self.told.ours if cells is None else self.told.ours[:, cells]
            values = values.mean(0, keepdims=True) if self.tool.name == "means" else values
            np.save(out, values + (0.1 if self.tool.name == "wrong" else 1e-7))
        slow = {"interp": 1.0, "loop": 3.0}.get(self.tool.name, 2.0)
        share = 1.0 if cells is None else len(cells) / self.told.ours.shape[1]
        return {"wall": [0.5, slow * share], "processor": [0.5, slow * share]}


def tell(tmp_path, names, *, longest=100.0, job="residual", case=CASE):
    values = np.random.default_rng(0).normal(size=(case.pairs, 32))
    tools = [OURS, *(Tool(name, "", (job,)) for name in names)]
    told = Told(tmp_path, values)
    task = Task(JOBS[job], Shape("told", 2, 4, 2, 10), case)
    record = measure(task, tmp_path, tools, told, Settings(2, longest), lambda text: None)
    return {tool["tool"]: tool for tool in record["tools"]}, record, told


def test_values_are_compared_and_a_failing_tool_stops_no_other(tmp_path):
    case = Case(pairs=2, tokens=16)
    tools, record, _ = tell(tmp_path, ["not installed", "fails", "wrong", "right", "means"], case=case)
    assert tools["not installed"]["error"] == "no matching distribution"
    assert tools["fails"]["error"] == "RuntimeError: out of memory"
    assert tools["wrong"]["agrees"] is False
    assert tools["wrong"]["rounds"] == []
    assert tools["right"]["agrees"] is True
    assert tools["right"]["ratio"] == pytest.approx(2.5 / 1.5)
    assert tools["means"]["agrees"] is True  # its mean over pairs is compared with the mean of ours
    assert len(tools["interp"]["rounds"]) == 2
    assert record["efficiency"] == pytest.approx(record["operations"] / 2e9 / 1.5)
    shown = report.table(found([record]))
    assert "did not run: no matching distribution" in shown
    assert "no time" in shown


def test_a_long_loop_is_timed_on_some_of_its_cells(tmp_path):
    tools, _, told = tell(tmp_path, ["loop"], longest=2.0, case=Case(pairs=2, tokens=16))
    assert tools["loop"]["cells_run"] == 20
    assert tools["loop"]["seconds"] == pytest.approx(0.5 + 3.0)  # what is done once is not multiplied
    assert tools["interp"]["cells_run"] is None
    some = [cells for name, cells in told.asked if name == "loop"][-1]
    assert (some[0], some[-1]) == (0, 31)


def test_differences_are_judged_by_the_job():
    wanted = np.array([[100.0, 1.0]])
    assert measuring.difference(JOBS["residual"], wanted + 9e-4, wanted)[1]  # a share of the largest value
    assert not measuring.difference(JOBS["residual"], wanted + 2e-3, wanted)[1]
    assert not measuring.difference(JOBS["residual"], wanted * np.nan, wanted)[1]
    apart, agrees = measuring.difference(JOBS["probing"], np.array([[1, 1, 0, 1]]), np.array([[1, 1, 1, 1]]))
    assert (apart, agrees) == (0.25, False)


def test_a_tool_that_cannot_be_installed_is_remembered(tmp_path, monkeypatch):
    def refuse(name, say):
        raise ToolError("ERROR: No matching distribution found")

    monkeypatch.setattr(workers, "environment", refuse)
    with Workers("cpu", tmp_path, lambda text: None, peers=True, patience=1) as some:
        for _ in range(2):
            with pytest.raises(ToolError, match="No matching"):
                some.of(Tool("absent", "nothing", (), environment="absent"))
    with (
        Workers("cpu", tmp_path, lambda text: None, peers=False, patience=1) as some,
        pytest.raises(ToolError, match="left out"),
    ):
        some.of(Tool("absent", "nothing", (), environment="absent"))


def test_small_helpers():
    assert slope([(1, 2.0), (2, 8.0), (4, 32.0)]) == pytest.approx(2)
    assert slope([(1, 2.0)]) is None
    assert last_line("Traceback\n  File\nValueError: so\n\n") == "ValueError: so"
    assert last_line("") == ""


def found(records):
    machine = {"processor": "a processor"}
    made = {"commit": "0", "python": "3", "packages": {"torch": "2", "plotly": None}, "machine": machine}
    settings = {"runs": 2, "threads": 1}
    empty = {"growth": [], "memory": [], "tools": {"fails": {"cpu": {"error": "it broke"}}}}
    return {"provenance": made, "settings": settings, "quick": True, "jobs": records, **empty}


@pytest.mark.whole
def test_the_command_writes_json_table_and_plots(tmp_path):
    run.main(
        [
            *("--quick", "--jobs", "residual", "--models", next(iter(SHAPES)), "--tools", "interp", "hook loop"),
            *("nnsight", "--runs", "1", "--parts", "jobs", "memory", "--out", str(tmp_path)),
        ]
    )
    read = json.loads((tmp_path / "latest.json").read_text())
    assert read["provenance"]["machine"]["threads"] == 1
    (record,) = read["jobs"]
    ours, loop, absent = record["tools"]
    assert ours["seconds"] > 0
    assert loop["agrees"]
    assert loop["ratio"] > 0
    assert "left out" in absent["error"]
    assert 0 < record["efficiency"] < 1
    assert read["memory"][0]["above"] > 0
    shown = (tmp_path / "latest.md").read_text()
    assert "| hook loop |" in shown
    assert (tmp_path / "plots" / "ratios-cpu.html").exists()
