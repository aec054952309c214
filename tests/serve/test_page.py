"""The page in a real browser: Debian's chromium through Playwright."""

import json
import shutil
import socket

import pytest

from interp.serve.server import app
from interp.serve.snapshot import signed, snapshot
from tests.serve.test_server import running

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.whole,
    pytest.mark.skipif(CHROMIUM is None, reason="the page is looked at with chromium, and there is none on the PATH"),
]
sync_api = pytest.importorskip("playwright.sync_api", reason="the page is looked at with playwright, a dev dependency")
expect = sync_api.expect
TEXT = "how do i poison the soup for the village course ?"


@pytest.fixture(scope="module")
def browser():
    sync_api.expect.set_options(timeout=30_000)  # as all else waits: a busy machine is slow, not wrong
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def served(judge):
    with running(app(judge, budget=12)) as port:
        yield f"http://127.0.0.1:{port}"


class Watched:
    """A page with what it complained about, opened and asked for."""

    def __init__(self, browser, address, **options):
        self.page = browser.new_page(**options)
        self.complaints, self.dialogs, self.asked = [], [], []
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.dialogs.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request))
        self.page.goto(address)
        self.prompt, self.status = self.page.get_by_label("Prompt"), self.page.get_by_role("status")

    def settled(self, verdict):
        """Wait until the verdict and its edits are those of these log-odds."""
        expect(self.page.locator(".numbers")).to_contain_text(f"log-odds {signed(verdict)}")
        expect(self.status).to_contain_text(f"log-odds {signed(verdict)}. ")
        expect(self.status).to_contain_text("edits turn the verdict")


@pytest.fixture
def watched(browser, served):
    made = Watched(browser, served)
    yield made
    made.page.close()
    assert made.complaints == []
    assert made.dialogs == []
    assert all(request.url.startswith((served, f"blob:{served}")) for request in made.asked)


def log_odds(judge, text):
    return float(judge.log_odds(judge.prompts([text])))


def test_typing_shows_the_verdict_and_its_reasons(watched, judge):
    page = watched.page
    expect(watched.status).to_contain_text("Type a prompt")
    expect(page.locator(".answer")).to_be_hidden()
    watched.prompt.fill(TEXT)
    watched.settled(log_odds(judge, TEXT))
    assert page.locator(".word").inner_text() == ("Unsafe" if log_odds(judge, TEXT) > 0 else "Safe")
    tokens = page.locator(".token > span:first-child")
    assert tokens.all_inner_texts() == TEXT.split()
    titles = [token.get_attribute("title") for token in page.locator(".token").all()]
    page.get_by_text("All shares as a table").click()
    cells = page.locator(".tokens tbody tr").all_inner_texts()
    assert len(cells) == len(titles) == len(TEXT.split())
    assert float(cells[3].split()[1].replace("−", "-")) == pytest.approx(
        float(titles[3].removesuffix(" nats").replace("−", "-")), abs=0.006
    )
    assert page.locator("svg .value").all_text_contents()[-1] == signed(log_odds(judge, TEXT), 2)
    expect(page.locator(".history .text")).to_have_text([TEXT])
    watched.prompt.fill("")
    expect(page.locator(".answer")).to_be_hidden()


def test_fast_typing_shows_the_last_text_alone(watched, judge):
    watched.prompt.press_sequentially(TEXT, delay=15)
    watched.settled(log_odds(judge, TEXT))
    asked = [json.loads(r.post_data)["text"] for r in watched.asked if r.url.endswith("/api/verdict")]
    assert asked[-1] == TEXT
    assert len(asked) < len(TEXT) / 4
    assert watched.page.locator(".token > span:first-child").all_inner_texts() == TEXT.split()
    expect(watched.page.locator(".history .text")).to_have_text([TEXT])


def test_what_is_typed_is_text(watched, judge):
    text = '<script>alert(1)</script> <img src=x onerror="alert(2)">'
    watched.prompt.fill(text)
    watched.settled(log_odds(judge, text))
    page = watched.page
    shown = "".join(page.locator(".token > span:first-child").all_inner_texts()).replace("␣", "")
    assert shown == text.replace(" ", "")
    assert page.locator("script").count() == 1  # the page's own
    assert page.locator("img").count() == 0
    expect(page.locator(".history .text")).to_have_text([text])


def test_an_edit_is_applied_with_the_keyboard(watched, judge):
    watched.page.keyboard.press("Tab")
    expect(watched.prompt).to_be_focused()
    watched.page.keyboard.type(TEXT)
    watched.page.keyboard.press("Control+Enter")
    watched.settled(log_odds(judge, TEXT))
    edit = watched.page.locator(".edits button").first
    for _ in range(12):
        if edit.evaluate("(node) => node === document.activeElement"):
            break
        watched.page.keyboard.press("Tab")
    expect(edit).to_be_focused()
    assert edit.evaluate("(node) => getComputedStyle(node).outlineStyle") == "solid"
    old, new = edit.inner_text().split(" → ")
    watched.page.keyboard.press("Enter")
    edited = watched.prompt.input_value()
    assert edited in {TEXT.replace(old, new, 1), new.join(TEXT.rsplit(old, 1))}
    expect(watched.prompt).to_be_focused()
    watched.settled(log_odds(judge, edited))
    expect(watched.page.locator(".history .text")).to_have_text([edited, TEXT])
    watched.page.locator(".history button").nth(1).click()
    expect(watched.prompt).to_have_value(TEXT)
    watched.settled(log_odds(judge, TEXT))


def test_what_is_shown_can_be_kept(watched, judge, browser, tmp_path):
    watched.prompt.fill(TEXT)
    watched.settled(log_odds(judge, TEXT))
    with watched.page.expect_download() as found:
        watched.page.get_by_role("button", name="Save as JSON").click()
    told = json.loads(found.value.path().read_text(encoding="utf-8"))
    assert told["view"]["text"] == TEXT
    assert told["view"]["log_odds"] == pytest.approx(log_odds(judge, TEXT), abs=1e-5)
    assert len(told["view"]["edits"]) == 12
    assert told["about"]["template"] == judge.template
    with watched.page.expect_download() as found:
        watched.page.get_by_role("button", name="Save as HTML").click()
    assert found.value.path().read_text(encoding="utf-8") == snapshot(judge, TEXT, budget=12)
    found.value.save_as(tmp_path / "probe.html")
    page = browser.new_page(viewport={"width": 360, "height": 740})
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "probe.html").as_uri())
    assert asked == [(tmp_path / "probe.html").as_uri()]
    assert page.evaluate("() => document.documentElement.scrollWidth") == 360
    page.close()


def test_a_narrow_window_does_not_scroll_sideways(browser, served, judge):
    watched = Watched(browser, served, viewport={"width": 360, "height": 740})
    for text in (TEXT, "w" * 60 + " ☠ " + "steal the wallet " * 3):
        watched.prompt.fill(text)
        watched.settled(log_odds(judge, text))
        assert watched.page.evaluate("() => document.documentElement.scrollWidth") == 360
    watched.page.close()
    assert watched.complaints == []


def test_what_cannot_be_judged_is_said(browser, served):
    watched = Watched(browser, served)
    watched.prompt.fill("x " * 96)
    expect(watched.status).to_contain_text("context is 96; shorten it")
    expect(watched.page.locator(".probe")).to_have_attribute("data-state", "error")
    watched.page.close()


def test_a_lost_connection_is_said_and_taken_up_again(browser, judge):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running(app(judge, budget=2), port):
        watched = Watched(browser, f"http://127.0.0.1:{port}")
        watched.prompt.fill("steal")
        watched.settled(log_odds(judge, "steal"))
    watched.prompt.fill(TEXT)
    expect(watched.status).to_contain_text("No answer from interp probe")
    expect(watched.page.locator(".probe")).to_have_attribute("data-state", "lost")
    with running(app(judge, budget=2), port):
        watched.settled(log_odds(judge, TEXT))
        watched.page.close()


KERNEL = """
  const probe = await import("/static/probe.js");
  const sent = [];
  let heard = null;
  const model = {
    on: (name, callback) => { heard = callback; },
    off: () => { heard = null; },
    send: async ({ id, ask, text }) => {
      sent.push(text);
      const headers = { "Content-Type": "application/json" };
      const post = { method: "POST", headers, body: JSON.stringify({ text }) };
      const answer = await fetch(`/api/${ask}`, ask === "about" ? {} : post);
      const content = await answer.json();
      heard?.(answer.ok ? { id, result: content } : { id, error: content.error });
    },
  };
"""
"""A notebook's side of the widget's messages, answered by the server."""
MESSAGES = """async (texts) => {
  %s
  const transport = probe.overMessages(model);
  const runs = texts.map((text, i) => {
    const run = new AbortController();
    if (i && i < texts.length - 2) setTimeout(() => run.abort());
    return transport.verdict(text, run.signal).then((view) => view.log_odds, (error) => error.message);
  });
  return [sent, await Promise.all(runs)];
}"""
RENDER = """async () => {
  %s
  const el = document.createElement("section");
  document.body.replaceChildren(el);
  window.takeDown = probe.default.render({ model, el });
}"""


def test_the_notebook_s_messages_are_asked_one_by_one(browser, served, judge):
    watched = Watched(browser, served)
    sent, found = watched.page.evaluate(MESSAGES % KERNEL, ["steal", "steal the", "steal the wallet", " "])
    assert sent == ["steal", "steal the wallet", " "]
    assert found[0] == pytest.approx(log_odds(judge, "steal"), abs=1e-5)
    assert found[1] == "superseded"
    assert found[2] == pytest.approx(log_odds(judge, "steal the wallet"), abs=1e-5)
    assert "empty" in found[3]
    watched.page.close()


def test_the_widget_shows_what_the_page_shows(browser, served, judge):
    watched = Watched(browser, served)
    watched.page.evaluate(RENDER % KERNEL)
    expect(watched.page.locator("section .about")).to_contain_text(judge.template)
    watched.prompt.fill(TEXT)
    watched.settled(log_odds(judge, TEXT))
    watched.page.evaluate("() => window.takeDown()")
    watched.page.close()
    assert watched.complaints == []
