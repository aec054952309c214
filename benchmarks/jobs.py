"""What is asked of every tool, and which tools answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.inputs import Case, Shape

SMALL = Shape("4 layers x 128", 4, 128, 4, 1000)
MIDDLE = Shape("6 layers x 512", 6, 512, 8, 50257)
GPT2 = Shape("GPT-2 small", 12, 768, 12, 50257)
TRACED = Shape("12 layers x 256", 12, 256, 8, 1000, features=4000)
"""With transcoders; the others have none."""
SHAPES = {shape.name: shape for shape in (SMALL, MIDDLE, TRACED, GPT2)}


@dataclass(frozen=True)
class Job:
    """One question, and what its answer looks like."""

    key: str
    title: str
    answer: str
    """What the values are that are compared."""
    cells: Callable[[Shape, Case], int] | None = None
    """How many cells a loop goes through; None where the job is no loop."""
    tolerance: float = 1e-5
    """Largest difference of two tools' values that counts as none, for values up to one; of larger ones, this share."""
    agreement: bool = False
    """Whether the values are right or wrong answers, and the difference is the share that are not the same."""


JOBS = {
    job.key: job
    for job in (
        Job(
            "residual", "Residual patching, layers x positions", "logit difference of each pair under each patch",
            lambda shape, case: shape.layers * case.tokens,
        ),
        Job(
            "heads", "Head patching, layers x positions x heads", "logit difference of each pair under each patch",
            lambda shape, case: shape.layers * case.tokens * shape.heads,
        ),
        Job(
            "ablation", "Zero ablation of every head", "logit difference of each prompt without each head",
            lambda shape, case: shape.layers * shape.heads,
        ),
        Job("edges", "Edge attribution", "score of each edge, of each pair or the mean over pairs"),
        Job("nodes", "Attribution patching of every head", "score of each head, summed over positions"),
        Job(
            "probing", "Linear probes at every depth, five folds, two controls", "held-out answers, right or wrong",
            tolerance=0.01, agreement=True,
        ),
        Job("lens", "Logit lens at every depth", "log-probability of the answer"),
        Job("tokens", "Integrated gradients of the tokens, 32 steps", "share of each token"),
        Job(
            "graphs", f"Attribution graph of a prompt, {TRACED.features:,} features a layer, all nodes",
            "every edge into and out of features, errors and tokens, but for what stands at the first column",
        ),
    )
}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """A worker: which module, in which environment, and what it can do."""

    name: str
    module: str
    jobs: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    environment: str | None = None
    """Name of the requirements file beside the peers; None where the project's own environment serves."""
    samples: Callable[[int], int] = field(default=lambda cells: 20)
    """How many cells stand for all where all would take too long; 0: always all."""


GENERIC = "interp, generic path"
OURS = Tool("interp", "benchmarks.ours", tuple(JOBS), samples=lambda cells: 0)
TOOLS = (
    OURS,
    Tool(
        GENERIC, "benchmarks.ours", ("residual", "heads", "ablation"), ("--generic",),
        samples=lambda cells: cells // 10 if cells > 400 else 0,  # spread thinly it has no batches
    ),
    Tool("TransformerLens", "benchmarks.peers.transformer_lens", ("residual", "heads", "edges", "nodes", "lens")),
    Tool("hook loop", "benchmarks.peers.hook_loop", ("residual", "heads", "ablation")),
    Tool("captum", "benchmarks.peers.captum", ("tokens",)),
    Tool("scikit-learn", "benchmarks.peers.scikit_learn", ("probing",)),
    Tool("nnsight", "benchmarks.peers.nnsight", ("residual", "heads", "ablation"), environment="nnsight"),
    Tool("pyvene", "benchmarks.peers.pyvene", ("residual", "heads", "ablation"), environment="pyvene"),
    Tool("auto-circuit", "benchmarks.peers.auto_circuit", ("edges",), environment="auto_circuit"),
    Tool("circuit-tracer", "benchmarks.peers.circuit_tracer", ("graphs",), environment="circuit_tracer"),
    Tool(
        "circuit-tracer, batches of 32", "benchmarks.peers.circuit_tracer", ("graphs",), ("--batch", "32"),
        environment="circuit_tracer",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """A job on a model and a case."""

    job: Job
    shape: Shape
    case: Case = field(default_factory=Case)


def tasks(quick: bool) -> list[Task]:
    """Everything that is run; with `quick`, small models and one of middle size."""
    shapes = [SMALL] if quick else [SMALL, MIDDLE, GPT2]
    found = [Task(job, shape) for job in JOBS.values() for shape in shapes if job.key != "graphs"]
    # Probes see drawn activations, whose number and width alone matter.
    found = [task for task in found if task.job.key != "probing" or task.shape == shapes[-1]]
    if quick:
        return [*found, Task(JOBS["residual"], MIDDLE, Case(pairs=1))]
    others = [Task(JOBS["residual"], GPT2, Case(first=2)), Task(JOBS["residual"], GPT2, Case(pairs=1))]
    others += [Task(JOBS["heads"], GPT2, Case(first=2)), Task(JOBS["graphs"], TRACED, Case(pairs=1))]
    return [*found, *others]
