"""The dashboard of a run: what is refused before anything is written, and its pages in a real browser."""

import json
import math
import re
import shutil

import pytest

from interp.errors import DataError
from interp.files import read_json, write_json
from interp.reports.dashboard import PAGES, write_dashboard
from tests.reports.circuit_run import CATEGORIES, HOSTILE, make_run

CHROMIUM = shutil.which("chromium")


def in_browser(test):
    missing = pytest.mark.skipif(CHROMIUM is None, reason="the pages are looked at with chromium, not on the PATH here")
    return pytest.mark.whole(missing(test))


def changed(path, change):
    content = read_json(path)
    change(content)
    write_json(path, content)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = make_run(tmp_path_factory.mktemp("run"))
    write_dashboard(made)
    return made


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """5,000 features, as many as a study of a real model keeps."""
    made = make_run(tmp_path_factory.mktemp("large"), features=5000, layers=26, graphs=0, hostile=False)
    write_dashboard(made)
    return made


@pytest.fixture
def small(tmp_path):
    return make_run(tmp_path / "run", features=12, graphs=1)


# ---------------------------------------------------------------- what is written


def test_six_pages_with_their_data_and_nothing_from_elsewhere(run):
    out = run / "dashboard"
    assert sorted(path.name for path in out.iterdir()) == sorted(
        ["assets", "data", *(f"{name}.html" for name in PAGES)]
    )
    for path in out.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "https://" not in text, path
            assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), path
    for name in PAGES:
        page = (out / f"{name}.html").read_text()
        assert "default-src 'none'" in page
        assert HOSTILE not in page
    for path in (out / "data").iterdir():
        assert "<" not in path.read_text()
    assert not list(run.glob(".dashboard*"))


def test_data_is_a_call_with_a_string_of_json(run):
    text = (run / "dashboard" / "data" / "features.js").read_text()
    start, end = "interp.put('features', '", "');\n"
    assert text.startswith(start)
    assert text.endswith(end)
    inner = text.removeprefix(start).removesuffix(end).replace("\\'", "'").replace("\\\\", "\\")
    found, source = json.loads(inner), read_json(run / "category_features.json")
    assert found["names"] == [one["name"] for one in source["features"]]
    assert found["top"][0][0][0] == HOSTILE
    group = source["groups"][0]["name"]
    wanted = [one["groups"].get(group, {}).get("frequency", {}).get("value") for one in source["features"]]
    for value, exact in zip(found["values"][0]["frequency"]["value"], wanted, strict=True):
        assert value is None if exact is None else value == pytest.approx(exact, rel=1e-3)


def test_the_overview_says_the_findings_with_their_verdicts(run):
    page = (run / "dashboard" / "index.html").read_text()
    for verdict in ("supported", "not supported", "undecided", "described"):
        assert f">{verdict}<" in page
    assert "34 features tell harmful_content" in page
    assert "&lt;/script&gt;" in page
    assert "features per graph" in page
    for name in PAGES:
        assert f'href="{name}.html"' in page


def test_a_run_without_motifs_graphs_or_words_has_a_dashboard(tmp_path):
    write_json(tmp_path / "config.json", {"model": "m", "categories": ["one"]})
    write_json(tmp_path / "category_features.json", {"groups": [], "features": []})
    write_json(tmp_path / "contrasting_features.json", {"categories": {}})
    index = write_dashboard(tmp_path)
    assert index == tmp_path / "dashboard" / "index.html"
    assert "No findings were written down" in index.read_text()


def test_undefined_numbers_are_null(tmp_path, small):
    text = (small / "category_features.json").read_text().replace('"importance": 99.0', '"importance": NaN')
    (small / "category_features.json").write_text(text)
    write_dashboard(small)
    data = (small / "dashboard" / "data" / "features.js").read_text()
    assert "NaN" not in data
    assert '"importance":[null,' in data


def remove(name):
    return lambda run: (run / name).unlink()


def edit(name, change):
    return lambda run: changed(run / name, change)


def write(name, text):
    return lambda run: (run / name).write_text(text)


GRAPH = f"graphs/{CATEGORIES[0]}/{CATEGORIES[0]}-weapons-01.json"
WRONG = {
    "no config": (remove("config.json"), "there is no file .*config.json"),
    "no features": (remove("category_features.json"), "there is no file .*category_features.json"),
    "no contrasts": (remove("contrasting_features.json"), "there is no file .*contrasting_features.json"),
    "not json": (write("category_features.json", '{"groups": ['), "category_features.json: Invalid JSON"),
    "not text": (lambda run: (run / "config.json").write_bytes(b"\xff\xfe"), "cannot read .*config.json"),
    "no model": (edit("config.json", lambda c: c.pop("model")), "config.json: model: Field required"),
    "verdict": (
        edit("config.json", lambda c: c["findings"][0].update(verdict="yes")),
        r"config.json: findings.0.verdict: Input should be 'supported'",
    ),
    "category": (edit("config.json", lambda c: c["categories"].append("../x")), "cannot be part of a file's name"),
    "number": (
        edit("category_features.json", lambda c: c["features"][3].update(layer="low")),
        r"category_features.json: features.3.layer: Input should be a valid integer",
    ),
    "token": (
        edit("category_features.json", lambda c: c["features"][1]["contexts"][0].update(tokens=[1])),
        r"category_features.json: features.1.contexts.0.tokens.0: Input should be a valid string",
    ),
    "sign": (
        edit(f"{CATEGORIES[0]}_motifs.json", lambda c: c["sets"][0]["edges"][0].update(sign=0)),
        r"_motifs.json: sets.0.edges.0.sign: ",
    ),
    "link": (edit(GRAPH, lambda c: c["links"][2].update(source="9_9_9")), r"links.2: there is no node '9_9_9'"),
    "place": (edit(GRAPH, lambda c: c["nodes"][0].update(ctx_idx=99)), r"nodes.0.ctx_idx: there is no token 99"),
    "layer": (edit(GRAPH, lambda c: c["nodes"][0].update(layer="x")), "'x' is neither the number of a layer nor E"),
    "twice": (edit(GRAPH, lambda c: c["nodes"].append(c["nodes"][0])), "two nodes have the same node_id"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_wrong_run_is_refused_in_one_line_and_nothing_is_left(small, what):
    spoil, said = WRONG[what]
    spoil(small)
    before = sorted(small.rglob("*"))
    with pytest.raises(DataError, match=said) as caught:
        write_dashboard(small)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert sorted(small.rglob("*")) == before


def test_an_older_dashboard_stays_until_the_new_one_is_whole(small):
    index = write_dashboard(small)
    (small / "dashboard" / "old.txt").write_text("old")
    WRONG["link"][0](small)
    with pytest.raises(DataError):
        write_dashboard(small)
    assert index.exists()
    assert (small / "dashboard" / "old.txt").exists()
    changed(small / GRAPH, lambda content: content["links"].pop(2))
    write_dashboard(small)
    assert not (small / "dashboard" / "old.txt").exists()


# ---------------------------------------------------------------- what is seen and done


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the pages are looked at with playwright")
    sync_api.expect.set_options(timeout=30_000)  # as all else waits: a busy machine is slow, not wrong
    with sync_api.sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def opened(browser):
    """Open pages of a run; in the end none of them has complained, executed a text or asked for anything else."""
    pages = []

    def opening(run, name, address="", **options):
        page = browser.new_page(viewport={"width": 1280, "height": 800}, **options)
        page.complaints, page.asked = [], []
        page.on("console", lambda m: page.complaints.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (page.complaints.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.asked.append(request.url))
        page.goto(f"file://{run}/dashboard/{name}.html{address}")
        pages.append((run, page))
        return page

    yield opening
    for run, page in pages:
        assert page.complaints == []
        assert all(url.startswith(f"file://{run}/dashboard/") for url in page.asked)
        assert page.evaluate("window.broken") is None
        assert page.locator("img").count() == 0
        page.close()


def expect(locator):
    from playwright.sync_api import expect as expecting

    return expecting(locator)


def rows(page):
    return page.locator("#rows tbody tr[data-id]")


def tops(run, key, group="harmful_content"):
    """Names of the features by a number of theirs in a group, the largest first."""
    found = read_json(run / "category_features.json")["features"]
    some = [(one["groups"].get(group, {}).get(key), i, one["name"]) for i, one in enumerate(found)]
    some = [
        (-math.inf if value is None else value["value"] if isinstance(value, dict) else value, i, n)
        for value, i, n in some
    ]
    return [name for _, _, name in sorted(some, key=lambda row: (-row[0], row[1]))]


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_offline_and_fits(run, opened, name, scheme):
    page = opened(run, name, color_scheme=scheme)
    assert page.title().startswith(PAGES[name].title)
    expect(page.locator("nav a[aria-current=page]")).to_have_text(PAGES[name].title)
    for width in (1280, 700):
        page.set_viewport_size({"width": width, "height": 800})
        page.wait_for_timeout(50)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.emulate_media(media="print")
    page.pdf()


@in_browser
def test_hostile_texts_stay_text(run, opened):
    page = opened(run, "index")
    expect(page.locator(".findings")).to_contain_text(HOSTILE)
    page = opened(run, "transcoder_tokens")
    expect(rows(page).first.locator(".c-top .chip").first).to_have_text(HOSTILE)
    rows(page).first.click()
    expect(page.locator(".contexts mark").first).to_have_text(HOSTILE)
    page = opened(run, "feature_heatmap")
    page.locator("#heat").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#tip")).to_contain_text(HOSTILE)
    page = opened(run, "motifs")
    expect(page.locator("svg.motif title").filter(has_text="window.broken").first).to_have_text(HOSTILE)
    page = opened(run, "graph")
    expect(page.locator("#side")).to_contain_text(HOSTILE)


@in_browser
def test_the_table_is_searched_and_sorted(run, opened):
    page = opened(run, "transcoder_tokens")
    expect(page.locator("#count")).to_have_text("60 features")
    assert rows(page).locator(".name").all_inner_texts()[:5] == tops(run, "importance")[:5]
    head = page.get_by_role("columnheader", name="Active in")
    expect(head).to_have_attribute("aria-sort", "none")
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(page.get_by_role("columnheader", name="Importance")).to_have_attribute("aria-sort", "none")
    assert rows(page).locator(".name").all_inner_texts()[:5] == tops(run, "frequency")[:5]
    head.get_by_role("button").click()
    expect(head).to_have_attribute("aria-sort", "ascending")
    wanted = read_json(run / "category_features.json")["features"][7]["name"]
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type(wanted.lower())
    expect(rows(page).locator(".name")).to_have_text([wanted])
    expect(page.locator("#count")).to_have_text("1 of 60")
    page.locator("#search").fill("no such feature")
    expect(page.get_by_text("No feature has all of these words.")).to_be_visible()


@in_browser
def test_the_table_by_keys_alone(run, opened):
    page = opened(run, "transcoder_tokens")
    names = rows(page).locator(".name").all_inner_texts()
    page.keyboard.press("/")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#rows tr:focus .name")).to_have_text(names[1])
    page.keyboard.press("Enter")
    expect(page.locator("#rows tr:focus")).to_have_attribute("aria-expanded", "true")
    source = next(one for one in read_json(run / "category_features.json")["features"] if one["name"] == names[1])
    cases = page.locator(".unfolded .case")
    expect(cases).to_have_count(len(source["contexts"]))
    for case, wanted in zip(cases.all(), source["contexts"], strict=True):
        assert case.locator("mark").text_content() == wanted["tokens"][wanted["at"]]
        assert case.locator(".context").text_content() == "".join(wanted["tokens"])
    page.keyboard.press("End")
    expect(page.locator("#rows tr:focus")).to_have_attribute("aria-rowindex", "61")
    page.keyboard.press("Home")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator(".unfolded")).to_have_count(0)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()


@in_browser
def test_the_heat_map_by_mouse(run, opened):
    page = opened(run, "feature_heatmap")
    sheet = page.locator("#heat canvas")
    page.locator("#rank").select_option(label="harmful content, harmful")
    first, second, *_ = tops(run, "importance")
    sheet.hover(position={"x": 300, "y": 33})  # the second row, in its first column
    tip = page.locator("#tip")
    expect(tip.locator("h3")).to_have_text(second)
    source = next(one for one in read_json(run / "category_features.json")["features"] if one["name"] == second)
    expect(tip).to_contain_text(f"of {source['groups']['harmful_content']['frequency']['n']} prompts")
    expect(tip).to_contain_text("harmful content, harmful")
    expect(tip).to_contain_text(source["top_tokens"][0][0].strip())
    sheet.click(position={"x": 300, "y": 33})
    expect(page.locator("#side .card h3")).to_have_text([second])
    sheet.click(position={"x": 300, "y": 11})
    expect(page.locator("#side .card h3")).to_have_text([first, second])
    page.get_by_role("button", name=f"let {first} go").click()
    expect(page.locator("#side .card h3")).to_have_text([second])
    page.locator(".heat-head .group button").nth(1).click()
    expect(page.locator("#rank")).to_have_value("1")
    expect(page.locator(".heat-head .group").nth(1)).to_have_attribute("aria-sort", "descending")


@in_browser
def test_the_heat_map_by_keys_alone(run, opened):
    page = opened(run, "feature_heatmap")
    while page.evaluate("document.activeElement.id") != "heat":
        page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("r")
    order = tops(run, "importance", "harmful_content_safe_contrast")
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    expect(page.locator("#heat-row")).to_contain_text(order[3])
    expect(page.locator("#heat-cell")).to_contain_text("harmful content, safe contrast")
    expect(page.locator("#tip h3")).to_have_text(order[3])
    page.keyboard.press("Enter")
    expect(page.locator("#side .card h3")).to_have_text([order[3]])
    page.keyboard.press("End")
    expect(page.locator("#heat-row")).to_contain_text(order[-1])
    assert page.evaluate("document.getElementById('heat').scrollTop") > 0
    page.keyboard.press("Escape")
    expect(page.locator("#tip")).to_be_hidden()


@in_browser
def test_contrasts_are_drawn_listed_and_hidden_by_class(run, opened):
    page = opened(run, "contrast_analysis")
    source = read_json(run / "contrasting_features.json")
    category = source["categories"][CATEGORIES[0]]["features"]
    confirmed = [one for one in category if one["confirmed"]]
    toggles = page.locator("#classes button")
    words = [one for one in category if one["survives_safe_contrast"] and not one["confirmed"]]
    expect(toggles.nth(3)).to_contain_text(f"confirmed{len(confirmed)}")
    expect(toggles.nth(2)).to_contain_text(f"survives the safe contrast alone{len(words)}")
    toggles.nth(0).focus()
    page.keyboard.press("Enter")
    expect(toggles.nth(0)).to_have_attribute("aria-pressed", "false")
    expect(toggles.nth(0)).to_be_focused()
    kept = [one for one in category if one["discovered"] or one["confirmed"]]
    expect(page.locator("#count")).to_have_text(f"{len(kept)} of {len(category)}")
    largest = max(kept, key=lambda one: one["effect"]["value"])
    expect(rows(page).first.locator(".name")).to_have_text(largest["name"])
    page.locator("#scatter").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator("#tip h3")).to_contain_text(largest["name"])
    expect(page.locator("#tip")).to_contain_text(f"{largest['effect']['n']} pairs")
    page.keyboard.press("Enter")
    expect(page.locator(".unfolded")).to_contain_text(largest["sentence"])
    page.locator("#category").select_option(label="cybercrime")
    other = source["categories"]["cybercrime"]["features"]
    kept = [one for one in other if one["discovered"] or one["confirmed"]]
    expect(page.locator("#count")).to_have_text(f"{len(kept)} of {len(other)}")
    causal = page.locator("#causal article")
    expect(causal.locator(".badge")).to_have_text(["supported", "undecided", "not supported"])
    expect(causal.first).to_contain_text("1.31")
    expect(causal.first).to_contain_text("0.12")


@in_browser
def test_a_point_is_found_under_the_pointer(run, opened):
    page = opened(run, "contrast_analysis")
    lone = max(
        read_json(run / "contrasting_features.json")["categories"][CATEGORIES[0]]["features"],
        key=lambda one: one["harmful_mean"],
    )
    while page.locator("#tip h3").count() == 0 or lone["name"] not in page.locator("#tip h3").inner_text():
        page.locator("#scatter").focus()
        page.keyboard.press("ArrowDown")  # the tip by keys tells where the point is
    mark = page.evaluate(
        "(name) => { const box = document.getElementById('scatter').getBoundingClientRect();"
        " const id = interp.get('contrasts').categories[0].features.findIndex((one) => one.name === name);"
        " const spot = interp.contrast.spots().find((one) => one.id === id);"
        " return [box.x + spot.x, box.y + spot.y, id]; }",
        lone["name"],
    )
    page.locator("#scatter").blur()
    expect(page.locator("#tip")).to_be_hidden()
    page.mouse.move(mark[0] + 1, mark[1] + 1)
    expect(page.locator("#tip h3")).to_contain_text(lone["name"])
    expect(page.locator("#rows tr.pointed .name")).to_contain_text(lone["name"])


@in_browser
def test_columns_are_told_as_they_are_computed(run, opened):
    """An effect is a standardised difference, and influence that on the log-odds of refusal."""
    head = opened(run, "contrast_analysis").get_by_role("columnheader", name="Effect")
    expect(head).to_have_attribute("title", re.compile("standard deviation"))
    head = opened(run, "transcoder_tokens").get_by_role("columnheader", name="Influence")
    expect(head).to_have_attribute("title", re.compile("log-odds of refusal"))


@in_browser
def test_motifs_are_drawn_with_their_support(run, opened):
    page = opened(run, "motifs")
    source = read_json(run / f"{CATEGORIES[0]}_motifs.json")
    expect(page.locator("#count")).to_contain_text("30 of 30 motifs, 41 harmful and 41 safe graphs")
    expect(page.locator(".set")).to_have_count(24)
    page.get_by_role("button", name="Show 6 more").click()
    expect(page.locator(".set")).to_have_count(30)
    best = max(source["sets"], key=lambda one: one["support_harmful"]["value"] - one["support_safe"]["value"])
    first = page.locator(".set").first
    expect(first.locator(".edge")).to_have_count(len(best["edges"]))
    expect(first.locator(".edge.minus")).to_have_count(sum(edge["sign"] < 0 for edge in best["edges"]))
    expect(first.locator(".numbers")).to_contain_text(f"{100 * best['support_harmful']['value']:.0f} %")
    page.get_by_label("confirmed alone").check()
    expect(page.locator(".set")).to_have_count(min(24, sum(one["confirmed"] for one in source["sets"])))
    triads = page.locator("#triads tbody tr")
    expect(triads).to_have_count(4)
    expect(triads.filter(has_text="chain")).to_contain_text("80.2")
    expect(triads.filter(has_text="triangle").locator("svg.triad .edge")).to_have_count(3)


def graph_of(run, name=GRAPH):
    return read_json(run / name)


def state(page):
    return page.evaluate("interp.graph.state()")


@in_browser
def test_a_prompt_is_found_and_its_graph_drawn(run, opened):
    page = opened(run, "graph")
    expect(page.locator("#kept")).to_contain_text("nodes")
    content = graph_of(run)
    expect(page.locator("#kept")).to_contain_text(f"{len(content['nodes'])} of {len(content['nodes'])} nodes")
    page.keyboard.press("/")
    box = page.get_by_role("combobox", name="Prompt")
    expect(box).to_be_focused()
    page.keyboard.type("self_harm benign 02")
    options = page.locator("#prompts [role=option]")
    expect(options).to_have_count(1)
    page.keyboard.press("Enter")
    expect(box).to_have_value("self_harm-weapons-02")
    content = graph_of(run, "graphs/self_harm_benign_act/self_harm-weapons-02.json")
    expect(page.locator("#kept")).to_contain_text(f"of {len(content['nodes'])} nodes")
    assert sum(url.rsplit("/", 1)[-1].startswith("graph-") for url in page.asked) == 2  # those that were chosen
    page.locator("#folder").select_option(label="cybercrime, harmful")
    expect(box).to_have_value("cybercrime-weapons-01")
    page.get_by_role("button", name="next prompt").click()
    expect(box).to_have_value("cybercrime-weapons-02")
    page.get_by_role("button", name="next prompt").click()
    expect(box).to_have_value("cybercrime-weapons-02")


@in_browser
def test_both_answers_have_their_names_beside_them(run, opened):
    page = opened(run, "graph")
    expect(page.locator("#kept")).to_contain_text("nodes")
    kinds = [node["feature_type"] for node in graph_of(run)["nodes"]]
    likeliest = sorted(
        (i for i, kind in enumerate(kinds) if kind == "logit"), key=lambda i: -graph_of(run)["nodes"][i]["token_prob"]
    )[:2]
    assert len(likeliest) == 2
    for chosen in (None, kinds.index("cross layer transcoder")):
        if chosen is not None:
            page.evaluate(f"interp.graph.view.choose({chosen})")
        wanted = {*likeliest, chosen} - {None}
        page.wait_for_function(f"interp.graph.view.names().length === {len(wanted)}")
        names = page.evaluate("interp.graph.view.names()")
        assert {one["i"] for one in names} == wanted
        one, other = (next(name for name in names if name["i"] == i) for i in likeliest)
        assert one["right"] < other["left"] or other["right"] < one["left"] or abs(one["level"] - other["level"]) >= 18


@in_browser
def test_the_slider_prunes_by_influence(run, opened):
    page = opened(run, "graph")
    expect(page.locator("#kept")).to_contain_text("nodes")
    nodes = graph_of(run)["nodes"]
    marks = sorted(
        {
            float(f"{n['influence']:.4g}")
            for n in nodes
            if n["feature_type"] in ("cross layer transcoder", "mlp reconstruction error")
        }
    )
    always = sum(n["feature_type"] in ("embedding", "logit") for n in nodes)
    slider = page.locator("#keep")
    slider.focus()
    page.keyboard.press("Home")
    expect(page.locator("#kept")).to_contain_text(f"{always} of {len(nodes)} nodes")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    left = sum(
        n["feature_type"] not in ("embedding", "logit") and float(f"{n['influence']:.4g}") <= marks[4] for n in nodes
    )
    expect(page.locator("#kept")).to_contain_text(f"{always + left} of {len(nodes)} nodes")
    assert state(page)["shown"] == always + left
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#kept")).to_contain_text(f"{len(nodes)} of {len(nodes)} nodes")


@in_browser
def test_the_graph_moves_and_zooms(run, opened):
    page = opened(run, "graph")
    expect(page.locator("#kept")).to_contain_text("nodes")
    sheet = page.locator("#graph")
    box = sheet.bounding_box()
    where = "interp.graph.view.where(0)"
    before = page.evaluate(where)
    page.mouse.move(box["x"] + 300, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 340, box["y"] + 50)
    page.mouse.up()
    after = page.evaluate(where)
    assert (after["x"] - before["x"], after["y"] - before["y"]) == pytest.approx((40, 20))
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(50)
    zoomed = page.evaluate(where)
    assert zoomed["zoom"] == pytest.approx(math.exp(0.6))
    point = (340, 50)  # what lies under the pointer stays there
    assert (zoomed["x"] - point[0]) / (after["x"] - point[0]) == pytest.approx(math.exp(0.6), rel=1e-3)
    sheet.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate(where)["x"] == pytest.approx(zoomed["x"] - 60)
    page.keyboard.press("-")
    assert page.evaluate(where)["zoom"] == pytest.approx(math.exp(0.6) / 1.3)
    page.keyboard.press("0")
    assert page.evaluate(where) == before


@in_browser
def test_edges_are_followed_by_mouse_and_nodes_pinned(run, opened):
    page = opened(run, "graph")
    expect(page.locator("#kept")).to_contain_text("nodes")
    content = graph_of(run)
    target = next(i for i, node in enumerate(content["nodes"]) if node["feature_type"] == "logit")
    name = content["nodes"][target]["node_id"]
    spot, box = page.evaluate(f"interp.graph.view.where({target})"), page.locator("#graph").bounding_box()
    page.mouse.move(box["x"] + spot["x"], box["y"] + spot["y"])
    expect(page.locator("#tip h3")).to_have_text("I")
    page.mouse.down()
    page.mouse.up()
    assert state(page)["chosen"] == target
    inputs = sorted(
        (link for link in content["links"] if link["target"] == name), key=lambda link: -abs(link["weight"])
    )
    section = page.locator(".ends-of").filter(has_text="Strongest inputs")
    expect(section.locator("li")).to_have_count(min(12, len(inputs)))
    page.get_by_role("button", name="Pin", exact=True).click()
    expect(page.get_by_role("button", name="Pinned", exact=True)).to_have_attribute("aria-pressed", "true")
    section.get_by_role("button").first.click()
    numbers = {node["node_id"]: i for i, node in enumerate(content["nodes"])}
    assert state(page)["chosen"] == numbers[inputs[0]["source"]]
    assert state(page)["pins"] == [target]
    page.get_by_role("button", name="Back").click()
    assert state(page)["chosen"] == target
    assert f"node={name}" in page.url


@in_browser
def test_the_graph_by_keys_alone(run, opened):
    page = opened(run, "graph")
    expect(page.locator("#kept")).to_contain_text("nodes")
    while page.evaluate("document.activeElement.id") != "graph":
        page.keyboard.press("Tab")
    page.keyboard.press("Shift+ArrowUp")
    first = state(page)["chosen"]
    assert first is not None
    page.keyboard.press("Shift+ArrowUp")
    second = state(page)["chosen"]
    nodes, links = graph_of(run)["nodes"], graph_of(run)["links"]
    depth = [-1 if node["layer"] == "E" else int(node["layer"]) for node in nodes]
    assert depth[second] >= depth[first]
    while not any(link["target"] == nodes[state(page)["chosen"]]["node_id"] for link in links):
        page.keyboard.press("Shift+ArrowUp")
    here = state(page)["chosen"]
    page.keyboard.press("p")
    assert state(page)["pins"] == [here]
    page.keyboard.press("i")
    inputs = [link for link in links if link["target"] == nodes[here]["node_id"]]
    strongest = max(inputs, key=lambda link: abs(link["weight"]))["source"]
    assert nodes[state(page)["chosen"]]["node_id"] == strongest
    page.keyboard.press("b")
    assert state(page)["chosen"] == here
    page.keyboard.press("p")
    assert state(page)["pins"] == []
    page.keyboard.press("Escape")
    assert state(page)["chosen"] is None


@in_browser
def test_a_link_leads_to_a_feature_and_to_a_node(run, opened):
    wanted = read_json(run / "category_features.json")["features"][41]["name"]
    page = opened(run, "transcoder_tokens", f"#feature={wanted}")
    expect(page.locator(".unfolded h3")).to_have_text(wanted)
    page.locator(".unfolded").get_by_role("link", name="heat map").click()
    expect(page.locator("#side .card h3")).to_have_text([wanted])
    node = graph_of(run)["nodes"][3]["node_id"]
    page = opened(run, "graph", f"#prompt={CATEGORIES[0]}-weapons-01&category={CATEGORIES[0]}&kind=harmful&node={node}")
    expect(page.locator("#pin")).to_be_visible()
    assert state(page)["chosen"] == 3


@in_browser
def test_thousands_of_features_make_few_rows(large, opened):
    page = opened(large, "transcoder_tokens")
    expect(page.locator("#count")).to_have_text("5,000 features")
    assert 5 < rows(page).count() < 60
    page.locator("#rows").evaluate("(box) => { box.scrollTop = 90000; }")
    expect(page.locator("#rows tr[aria-rowindex='2440']")).to_be_visible()
    assert rows(page).count() < 60
    page.locator("#search").fill("weapon")
    expect(page.locator("#count")).to_contain_text("of 5,000")
    assert rows(page).count() < 60
    page = opened(large, "feature_heatmap")
    expect(page.locator("#count")).to_have_text("5,000 features")
    assert page.locator("#heat *").count() < 120
    assert page.locator("#heat canvas").bounding_box()["height"] < 800
    page = opened(large, "contrast_analysis")
    assert 5 < rows(page).count() < 60


@in_browser
def test_pages_of_an_empty_run_say_so(tmp_path, opened):
    write_json(tmp_path / "config.json", {"model": "m", "categories": []})
    write_json(tmp_path / "category_features.json", {"groups": [], "features": []})
    write_json(tmp_path / "contrasting_features.json", {"categories": {}})
    write_dashboard(tmp_path)
    said = {
        "feature_heatmap": "0 features", "transcoder_tokens": "No feature", "contrast_analysis": "No intervention",
        "motifs": "No motifs were sought", "graph": "This run has no graphs",
    }  # fmt: skip
    for name, text in said.items():
        page = opened(tmp_path, name)
        expect(page.get_by_text(text).first).to_be_visible()
