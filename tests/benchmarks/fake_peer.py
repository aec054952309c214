"""A worker whose jobs give numbers, fail, or end the process."""

import os

import numpy as np

from benchmarks.worker import Work, serve, whole


def counts(model, inputs, case):
    print("a tool may print")
    return Work(lambda begun, chosen: np.array([[begun + cell for cell in chosen or range(4)]]), lambda: case.pairs)


def fails(model, inputs, case):
    raise ValueError("first line\nlast line")


JOBS = {"residual": counts, "heads": fails, "ablation": lambda model, inputs, case: whole(lambda: os._exit(3))}

if __name__ == "__main__":
    serve(lambda inputs: "a model", JOBS, ["numpy"])
