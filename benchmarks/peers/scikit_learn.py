"""scikit-learn: a loop over depths, tasks and folds, a standardised logistic regression in each.

The same work as `interp.probing` does: the real labels, dealt labels and a control task in five folds, and one fit to
all prompts.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.inputs import Case, Inputs
from benchmarks.worker import Work, serve, whole

FOLDS, STRENGTH, CONTROLS = 5, 0.1, 2


def probing(_: Any, inputs: Inputs, case: Case) -> Work:
    probed, labels = inputs["probed"].cpu().numpy(), inputs["labels"].cpu().numpy()
    generator = np.random.default_rng(0)
    tasks = [labels, *(generator.permutation(labels) for _ in range(CONTROLS))]
    split = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(labels, groups=np.arange(len(labels))))

    def run() -> np.ndarray:
        right = np.zeros((len(tasks), len(labels), len(probed)))
        for depth, x in enumerate(probed):
            for number, y in enumerate(tasks):
                for train, test in split:
                    right[number, test, depth] = _probe().fit(x[train], y[train]).predict(x[test]) == y[test]
            _probe().fit(x, labels)
        return right[0]

    def quiet() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            return run()

    return whole(quiet)


def _probe() -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=200))


JOBS = {"probing": probing}

if __name__ == "__main__":
    serve(lambda inputs: None, JOBS, ["scikit-learn", "numpy"])
