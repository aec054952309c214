"""Parts in processes of their own end like parts one after the other; what goes wrong there is said here."""

import os
from functools import partial

import pytest

from interp.errors import ConfigError, DataError
from interp.reports.page import write_report
from interp.studies.catalogue import comparison
from interp.studies.parallel import carry_out_parts
from interp.studies.settings import ANALYSES, Settings
from interp.studies.study import run_study
from tests.studies.test_study import digests

SETTINGS = Settings(problems=20, pairs_per_kind=20, untrained=0, analyses={a: a == "logit-lens" for a in ANALYSES})
BUILD = partial(comparison, "arithmetic-add3", "arithmetic-add3-seed1", SETTINGS, device="cpu", command="interp")


def dies_elsewhere(process):
    if os.getpid() != process:
        os._exit(1)
    return BUILD()


def finished(out):
    return {p: p.stat().st_mtime_ns for p in out.glob("*/*/done.json")}


def verdicts(run):
    return [[(claim["name"], claim["verdict"]) for claim in part["claims"]] for part in run["parts"]]


def test_two_processes_write_what_one_writes(tmp_path):
    study = BUILD()
    carry_out_parts(BUILD, study, tmp_path / "two", jobs=2, png=False, progress=False)
    before = finished(tmp_path / "two")
    assert {path.parents[1].name for path in before} == {part.name for part in study.parts[:2]}
    two = run_study(study, tmp_path / "two", png=False, progress=False)
    assert before.items() <= finished(tmp_path / "two").items()
    one = run_study(study, tmp_path / "one", png=False, progress=False)
    assert digests(tmp_path / "two").keys() == digests(tmp_path / "one").keys()
    assert verdicts(one) == verdicts(two)
    # Nothing is left to do, so no process is started: this builder could not even be sent to one.
    carry_out_parts(lambda: study, study, tmp_path / "two", jobs=2, png=False, progress=False)


def test_a_process_that_dies_is_said_in_one_line(tmp_path):
    with pytest.raises(ConfigError, match="--jobs 1"):
        carry_out_parts(partial(dies_elsewhere, os.getpid()), BUILD(), tmp_path, jobs=2, png=False, progress=False)


def test_a_comparison_lists_what_differs_and_keeps_to_its_folder(tmp_path):
    example = {"text": "59 + 73", "carries": ["ones"]}
    settings = SETTINGS.model_copy(update={"examples": Settings(examples=[example]).examples})
    study = comparison("arithmetic-add3", "arithmetic-add3-steps", settings, device="cpu", command="interp")
    run = run_study(study, tmp_path, png=False, progress=False)
    assert [bool(part["notes"]) for part in run["parts"]] == [False, True, False]  # no carries with worked steps
    (table,) = run["parts"][-1]["highlights"]
    assert table["columns"][2:4] == ["arithmetic-add3", "arithmetic-add3-steps"]
    assert table["rows"]
    assert "### Where they differ" in write_report(tmp_path)[1].read_text(encoding="utf-8")
    with pytest.raises(DataError, match="holds the run compare-arithmetic-add3-arithmetic-add3-steps"):
        run_study(BUILD(), tmp_path, png=False, progress=False)
