import json
import os
import signal
import threading
import urllib.request

import pytest

from interp.cli import probe as probe_module
from interp.cli.app import run
from interp.serve import server
from interp.serve.snapshot import snapshot
from interp.serve.view import view

TEXT = "how do i poison the soup ?"


def said(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        run(["probe", *map(str, arguments)])
    shown = capsys.readouterr()
    return stop.value.code, shown.out, shown.err


def test_a_snapshot_is_written(judge, folder, tmp_path, capsys):
    found = view(judge, TEXT)
    for name in ("deep/one.html", "one.json"):
        code, out, err = said(capsys, folder, "--text", TEXT, "--out", tmp_path / name, "--device", "cpu")
        assert (code, err) == (0, "")
        assert out == f"{found.verdict}, log-odds {found.log_odds:+.2f}: {tmp_path / name}\n"
    told = json.loads((tmp_path / "one.json").read_text(encoding="utf-8"))
    assert told["view"] == found.as_dict()
    assert told["about"]["model"] == str(folder)
    name = judge.model.original_model.config.name_or_path or "LlamaForCausalLM"
    page = (tmp_path / "deep" / "one.html").read_text(encoding="utf-8")
    assert page.replace(f"<b>{folder.name}</b>", f"<b>{name}</b>") == snapshot(judge, TEXT)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--out", "one.html"], "--text"),
        (["--text", TEXT, "--out", "one.pdf"], "one.pdf"),
        (["--text", " ", "--out", "one.html"], "the prompt is empty"),
        (["--text", "x " * 200, "--out", "one.html"], "context is 96"),
        (["--template", "verdict :"], "{prompt}"),
        (["--safe", " unsafe"], "same token"),
        (["--port", "70000"], "'--port'"),
        (["--threads", "0"], "'--threads'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, tmp_path, capsys, monkeypatch, arguments, named):
    monkeypatch.chdir(tmp_path)
    code, out, err = said(capsys, folder, "--device", "cpu", *arguments)
    assert (code, out) == (2, "")
    assert named in err
    assert err.startswith("error")
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_no_judge_is_named(tmp_path, capsys):
    code, _, err = said(capsys, tmp_path / "nowhere", "--template", "{prompt} :", "--safe", " a", "--unsafe", " b")
    assert code == 2
    assert "nowhere" in err


def test_it_serves_until_it_is_interrupted(folder, capsys, monkeypatch):
    told = []

    def look(address):
        with urllib.request.urlopen(f"{address}/api/about", timeout=30) as answer:
            told.append(json.load(answer))
        os.kill(os.getpid(), signal.SIGINT)

    def say(address):
        probe_module._say(address)
        threading.Thread(target=look, args=(address,)).start()

    original = server.serve
    monkeypatch.setattr(server, "serve", lambda judge, **given: original(judge, **{**given, "ready": say}))
    code, out, err = said(capsys, folder, "--port", "0", "--device", "cpu", "--text", "hi")
    assert (code, err) == (0, "")
    address, more = out.splitlines()
    assert address.startswith("probe: http://127.0.0.1:")
    assert more == "Ctrl+C ends it."
    assert [(one["text"], one["model"]) for one in told] == [("hi", str(folder))]
