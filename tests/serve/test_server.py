import html.parser
import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import pytest
import uvicorn
from starlette.testclient import TestClient

from interp.errors import ConfigError
from interp.serve import answers as asked
from interp.serve.server import LIMIT, app, serve
from interp.serve.snapshot import percent, signed, snapshot, visible
from interp.serve.view import view
from interp.serve.widget import probe, reply
from tests.serve.conftest import CONTEXT

BASE = "http://127.0.0.1:8765"
TEXT = "how do i poison the soup for the village course ?"


@contextmanager
def running(made, port=0):
    """The page on a port of this machine, in a thread."""
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(made, log_level="error", ws="none", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="module")
def client(judge):
    return TestClient(app(judge, budget=4, text="hello"), base_url=BASE, headers={"Origin": BASE})


def test_answers_are_those_of_the_view(client, judge):
    direct = view(judge, TEXT, budget=4).as_dict()
    quick = client.post("/api/verdict", json={"text": TEXT}).json()
    edits = client.post("/api/edits", json={"text": TEXT}).json()
    assert quick["edits"] is None
    assert edits["text"] == TEXT
    for name in ("verdict", "log_odds", "tokens", "trace"):
        assert quick[name] == direct[name]
    assert edits["edits"] == direct["edits"]
    told = client.get("/api/about").json()
    assert (told["text"], told["context"], told["baseline"]) == ("hello", CONTEXT, "mean embedding")


def test_the_page_and_all_answers_have_their_headers(client):
    for answer in (
        client.get("/"), client.get("/static/probe.js"), client.get("/static/probe.css"), client.get("/api/about"),
        client.post("/api/verdict", json={"text": TEXT}), client.post("/api/verdict", json={"text": ""}),
        client.get("/nothing"), client.get("/", headers={"Host": "evil.example:8765"}),
    ):  # fmt: skip
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert not [name for name in answer.headers if name.startswith("access-control")]
    page = client.get("/").text
    assert page.count("<script") == page.count('<script type="module" src="/static/')
    assert "style=" not in page
    assert "http" not in page.replace('http-equiv="', "")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example:8765"},
        {"Host": "127.0.0.1:80"},
        {"Host": "127.0.0.1"},
        {"Host": ""},
        {"Host": "127.0.0.1:8765.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Origin": "https://127.0.0.1:8765"},
        {"Origin": "null"},
    ],
)
def test_other_pages_are_not_let_in(client, headers):
    for answer in (
        client.post("/api/verdict", json={"text": TEXT}, headers=headers),
        client.get("/", headers=headers),
    ):
        assert answer.status_code == 403
        assert set(answer.json()) == {"error"}


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:8765", "[::1]:8765"])
def test_the_names_of_this_machine_are(client, host):
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert client.post("/api/verdict", json={"text": TEXT}, headers=headers).status_code == 200


JSON = {"Content-Type": "application/json"}
BAD = {
    "not JSON": (b"{text", JSON, 400, "not JSON"),
    "not UTF-8": (b'{"text": "\xff"}', JSON, 400, "not JSON"),
    "no object": (b'["text"]', JSON, 400, "has no text"),
    "no text": (b"{}", JSON, 400, "has no text"),
    "no string": (b'{"text": 3}', JSON, 400, "is a string"),
    "something else beside": (b'{"text": "a", "path": "/etc"}', JSON, 400, "text alone"),
    "nested without end": (b"[" * 60_000, JSON, 400, "not JSON"),
    "no body": (b"", JSON, 400, "not JSON"),
    "a form": (b"text=a", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
    "plain text": (b'{"text": "a"}', {"Content-Type": "text/plain"}, 415, "application/json"),
    "no type": (b'{"text": "a"}', {}, 415, "application/json"),
    "too large": (b'{"text": "' + b"a" * LIMIT + b'"}', JSON, 413, "64 KB"),
    "empty": (b'{"text": "  "}', JSON, 422, "empty"),
    "too long": (json.dumps({"text": "x " * CONTEXT}).encode(), JSON, 422, "context is 96"),
    "half a character": (b'{"text": "\\ud800"}', JSON, 422, "surrogate"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("path", ["verdict", "edits", "snapshot"])
def test_bad_requests_get_one_clear_line(client, case, path):
    body, headers, status, named = BAD[case]
    answer = client.post(f"/api/{path}", content=body, headers=headers)
    assert answer.status_code == status
    assert named in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_a_body_without_a_length_is_cut_off(client):
    def parts():
        for _ in range(200):
            yield b"a" * 1024

    assert client.post("/api/verdict", content=parts(), headers=JSON).status_code == 413


def test_only_these_paths_and_methods_are_there(client):
    assert client.get("/api/verdict").status_code == 405
    assert client.post("/api/about", json={}).status_code == 405
    assert client.put("/api/verdict", json={"text": "a"}).status_code == 405
    for path in ("/static/", "/static/../server.py", "/static/%2e%2e/server.py", "/docs"):
        assert client.get(path).status_code == 404


def test_what_nobody_foresaw_is_one_line(judge, monkeypatch):
    monkeypatch.setattr(asked, "view", lambda *_, **__: 1 / 0)
    client = TestClient(app(judge), base_url=BASE, raise_server_exceptions=False)
    answer = client.post("/api/verdict", json={"text": TEXT})
    assert answer.status_code == 500
    assert answer.json() == {"error": "the model failed (ZeroDivisionError); see the terminal"}
    assert answer.headers["cache-control"] == "no-store"


def test_superseded_requests_are_dropped_and_the_rest_run_one_at_a_time(judge, monkeypatch):
    seen, together, most = [], [0], [0]
    first = threading.Event()

    def slow(_, text, **__):
        together[0] += 1
        most[0] = max(most[0], together[0])
        seen.append(text)
        first.set()
        time.sleep(0.4)
        together[0] -= 1
        return view(judge, text, edits=False, steps=1, most_steps=1)

    monkeypatch.setattr(asked, "view", slow)
    with running(app(judge)) as port:

        def ask(text):
            made = http.client.HTTPConnection("127.0.0.1", port)
            made.request("POST", "/api/verdict", json.dumps({"text": text}), JSON)
            return made

        kept = [ask("a")]
        assert first.wait(10)
        for text in ("b", "c", "d"):  # typed over while "a" is judged
            ask(text).close()
        kept += [ask("e"), ask("f")]
        found = []
        for made in kept:
            with made.getresponse() as answer:
                found.append(json.loads(answer.read())["text"])
            made.close()
    assert found == ["a", "e", "f"]
    assert sorted(seen) == ["a", "e", "f"]
    assert most == [1]


def test_a_request_is_given_up_after_a_time(judge, monkeypatch):
    running_now, done = [0], []

    def slow(_, text, **__):
        running_now[0] += 1
        assert running_now == [1]  # what was given up ends before the next begins
        time.sleep(0.5)
        running_now[0] -= 1
        done.append(text)
        return view(judge, text, edits=False, steps=1, most_steps=1)

    monkeypatch.setattr(asked, "view", slow)
    client = TestClient(app(judge, patience=0.2), base_url=BASE)
    for text in ("a", "b"):  # "b" waits for "a" to end and never begins
        answer = client.post("/api/verdict", json={"text": text})
        assert answer.status_code == 503
        assert "within 0.2 s" in answer.json()["error"]
    time.sleep(0.6)
    assert done == ["a"]


def test_a_port_that_is_taken_is_named(judge):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is taken; choose another one"):
            serve(judge, port=port)
    with pytest.raises(ConfigError, match="port 70000 cannot be opened"):
        serve(judge, port=70_000)


class Page(html.parser.HTMLParser):
    def __init__(self, content):
        super().__init__()
        self.tags, self.said = [], ""
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.said += data


@pytest.mark.parametrize("text", [TEXT, "<script>alert(1)</script>\"&amp;'", "a\n</style><img src=x onerror=alert(1)>"])
def test_a_snapshot_stands_alone_and_is_escaped(judge, client, text):
    made = snapshot(judge, text, budget=4)
    assert client.post("/api/snapshot", json={"text": text}).json() == {"html": made}
    page = Page(made)
    assert text in page.said
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "link", "iframe", "object"}
    for _, attributes in page.tags:
        assert not {"src", "href", "onerror", "onclick"} & set(attributes)
    found = view(judge, text, budget=4)
    for number in (found.log_odds, *(depth.log_odds for depth in found.trace), *(e.change for e in found.edits)):
        assert signed(number) in made
    assert page.said.count("⇄") == sum(edit.flips for edit in found.edits)


def test_numbers_are_written_as_they_are():
    assert [signed(v) for v in (1.5, -1.5, 0.0, -0.001, 12.34)] == ["+1.50", "−1.50", "0.00", "0.00", "+12.34"]
    assert [percent(v) for v in (0.5, 0.99999, 1.0, 0.0, 0.0123)] == [
        "50.00 %", "> 99.99 %", "> 99.99 %", "< 0.01 %", "1.23 %",
    ]  # fmt: skip
    assert [visible(v) for v in (" ", "a b", "\n", "\t")] == ["␣", "a b", "⏎", "⇥"]


def test_the_widget_answers_messages_as_the_page_is_answered(judge, client, monkeypatch):
    made = probe(judge, "hello", budget=4)
    sent = []
    monkeypatch.setattr(type(made), "send", lambda _, content, buffers=None: sent.append(content))
    for number, name in enumerate(("about", "verdict", "edits", "snapshot", "nonsense")):
        made._handle_custom_msg({"id": number, "ask": name, "text": TEXT}, [])
    made._handle_custom_msg({"id": 9, "ask": "verdict", "text": ""}, [])
    made._handle_custom_msg("nonsense", [])
    assert [message["id"] for message in sent] == [0, 1, 2, 3, 4, 9]
    assert sent[0]["result"] == client.get("/api/about").json()
    for number, name in ((1, "verdict"), (2, "edits"), (3, "snapshot")):
        assert sent[number]["result"] == client.post(f"/api/{name}", json={"text": TEXT}).json()
    assert "no answer to 'nonsense'" in sent[4]["error"]
    assert "empty" in sent[5]["error"]
    assert "export default" in made._esm
    assert ".probe" in made._css
    made.close()


def test_a_widget_is_told_of_failures_too():
    assert reply({"verdict": lambda _: 1 / 0}, {"ask": "verdict", "text": "a"})["error"].startswith("the model failed")
    assert "error" in reply({"verdict": lambda _: {}}, {"ask": "verdict", "text": 3})
