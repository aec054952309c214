"""`interp data safety-chat` from the outside: the file it writes, and what it refuses."""

import json

from interp.datasets.chatting import chats
from tests.cli import interp


def test_requests_are_written_as_the_options_say(tmp_path):
    words = ("--count", "30", "--seed", "4", "--held", "templates")
    finished = interp("data", "safety-chat", "--out", "file.jsonl", *words, cwd=tmp_path, logs=tmp_path)
    assert (finished.code, finished.out, finished.err) == (0, "30 rows: file.jsonl\n", "")
    rows = [json.loads(line) for line in (tmp_path / "file.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == [one.text for one in chats(30, seed=4, held="templates")]
    failed = interp("data", "safety-chat", "--out", "other.jsonl", "--held", "odd", cwd=tmp_path, logs=tmp_path)
    assert failed.code == 2
    assert "'odd' is not one of 'none'" in failed.err
