// The probe: a prompt, the verdict of a judge while one types, and why. One module for the page and for notebooks.
// What a judge, a tokenizer or a person wrote reaches the page as text nodes alone, never as HTML.

const WAIT = { verdict: 200, edits: 600, shown: 300, again: 2000, kernel: 30000 }; // milliseconds
const SHOWN_EDITS = 8;
const KEPT = 30; // prompts in the history
const INVITATION = "Type a prompt; the verdict and what speaks for it come while you type.";
const WHEN_PAUSED = "Single words are replaced when you pause.";

class Refused extends Error {} // the judge says why it cannot answer
class Lost extends Error {} // nobody answers

// ---------------------------------------------------------------- what things are drawn with

function h(tag, given = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "className" || name === "hidden" || name === "disabled") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function s(tag, given = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(given)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

function signed(value, digits = 2) {
  if (value === null) return "–";
  const shown = Math.abs(value).toFixed(digits);
  return Number(shown) === 0 ? shown : (value > 0 ? "+" : "\u2212") + shown;
}

function percent(share) {
  if (share === null) return "–";
  return share < 1e-4 ? "< 0.01 %" : share > 1 - 1e-4 ? "> 99.99 %" : `${(100 * share).toFixed(2)} %`;
}

function visible(text) {
  const shown = text.replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5");
  return shown.trim() ? shown : shown.replaceAll(" ", "\u2423");
}

const digits = (values) => (Math.max(...values.map(Math.abs), 0) < 1 ? 2 : 1);
const side = (value) => (value > 0 ? "unsafe" : value < 0 ? "safe" : "undecided");
const capital = (word) => word[0].toUpperCase() + word.slice(1);
const units = (text, count) => Array.from(text).slice(0, count).join("").length; // places count characters, JS counts UTF-16

function table(heads, rows) {
  const cell = (tag, content, i) => h(tag, { className: heads[i].startsWith("#") ? "n" : "" }, content);
  return h("div", { className: "scroll" }, h("table", {},
    h("thead", {}, h("tr", {}, ...heads.map((head, i) => cell("th", head.replace("#", ""), i)))),
    h("tbody", {}, ...rows.map((row) => h("tr", {}, ...row.map((content, i) => cell("td", content, i)))))));
}

function folded(title, ...content) {
  return h("details", {}, h("summary", {}, title), ...content);
}

// ---------------------------------------------------------------- the parts of an answer

function drawVerdict(view) {
  const place = Math.max(-1, Math.min(1, view.log_odds / 12));
  const mark = h("div", { className: "mark" });
  mark.style.left = `${50 + 50 * place}%`;
  return h("div", { className: "verdict" },
    h("div", {},
      h("div", { className: `word ${view.verdict}` }, capital(view.verdict)),
      h("p", { className: "numbers" }, "log-odds ", h("b", {}, signed(view.log_odds)), " · unsafe ", h("b", {}, percent(view.probability)))),
    h("div", { role: "img", "aria-label": `Log-odds of unsafe ${signed(view.log_odds)} on a scale from -12 to 12` },
      h("div", { className: "scale" }, mark),
      h("div", { className: "ends" }, h("span", {}, "safe \u221212"), h("span", {}, "0"), h("span", {}, "+12 unsafe"))));
}

function drawTokens(view, baseline) {
  const values = view.tokens.map((token) => token.value), largest = Math.max(...values.map(Math.abs), 0);
  const letters = Array.from(view.text);
  const heat = h("div", { className: "heat" });
  const between = (from, to) => {
    letters.slice(from, to).join("").split("\n").forEach((part, i) => {
      if (i) heat.append(h("span", { className: "break" }));
      if (part) heat.append(h("span", { className: "gap" }, part));
    });
  };
  let last = 0;
  for (const token of view.tokens) {
    between(last, token.start);
    const share = largest ? Math.abs(token.value) / largest : 0;
    const word = h("span", {}, visible(token.text));
    word.style.backgroundColor = `rgba(${token.value > 0 ? "213,94,0" : "0,114,178"},${0.75 * share})`;
    heat.append(h("span", { className: "token", title: `${signed(token.value)} nats` }, word,
      share >= 0.05 ? h("small", {}, signed(token.value, digits(values))) : null));
    if (token.text.includes("\n")) heat.append(h("span", { className: "break" }));
    last = token.end;
  }
  between(last, letters.length);
  const rows = view.tokens.map((token) => [visible(token.text) + (token.count > 1 ? ` (${token.count} tokens)` : ""), signed(token.value, 3)]);
  const left = view.error === null ? "an undefined part" : `${(100 * view.error).toFixed(1)} %`;
  return h("section", { className: "panel tokens" },
    h("h2", {}, "Share of each token"),
    h("p", { className: "soft" }, `Integrated gradients, nats: they add up from ${signed(view.baseline_log_odds)}, the log-odds with the ${baseline} in place of every token, to ${signed(view.log_odds)}, and leave ${left} of the difference unexplained.`),
    view.flagged ? h("p", { className: "soft warn" }, "That is too much: do not read these shares. A saved page takes more points, which may help.") : null,
    heat,
    h("p", { className: "legend" }, `safe ${signed(-largest, digits(values))}`, h("i", {}), `${signed(largest, digits(values))} unsafe`),
    folded("All shares as a table", table(["token", "#share (nats)"], rows)));
}

function traceDrawing(view, width) {
  const values = view.trace.map((depth) => depth.log_odds);
  const height = 190, left = 62, right = 34, over = 28, under = 44;
  const top = Math.max(0, ...values), bottom = Math.min(0, ...values), spread = top - bottom || 1;
  const x = (i) => left + (i * (width - left - right)) / Math.max(1, values.length - 1);
  const y = (value) => over + ((top - value) / spread) * (height - over - under);
  const said = view.trace.map((depth) => `${depth.name} ${signed(depth.log_odds)}`).join(", ");
  const drawing = s("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Log-odds of unsafe by depth: ${said}` });
  drawing.append(s("line", { class: "zero", x1: left - 12, x2: width - right + 12, y1: y(0), y2: y(0) }));
  drawing.append(s("text", { x: 0, y: y(0) - 6 }, "unsafe"), s("text", { x: 0, y: y(0) + 15 }, "safe"));
  drawing.append(s("polyline", { class: "line", points: values.map((value, i) => `${x(i)},${y(value)}`).join(" ") }));
  const every = Math.ceil(values.length / Math.max(2, Math.floor((width - left) / 58)));
  view.trace.forEach((depth, i) => {
    drawing.append(s("circle", { class: `dot fill-${side(depth.log_odds)}`, cx: x(i), cy: y(depth.log_odds), r: 5.5 }));
    if ((values.length - 1 - i) % every) return;
    const above = depth.log_odds >= 0;
    drawing.append(s("text", { class: "value", "text-anchor": "middle", x: x(i), y: y(depth.log_odds) + (above ? -11 : 21) }, signed(depth.log_odds, digits(values))));
    drawing.append(s("text", { "text-anchor": "middle", x: x(i), y: height - 4 }, depth.name));
  });
  return drawing;
}

function drawEdits(found, applied) {
  const button = (edit) => h("button", {
    type: "button", className: "change", "aria-label": `Replace ${edit.old} by ${edit.new}`, onclick: () => applied(edit),
  }, h("s", {}, edit.old), " → ", h("b", {}, edit.new));
  const row = (edit) => h("tr", {},
    h("td", {}, button(edit)), h("td", { className: "n" }, signed(edit.change)), h("td", { className: "n" }, signed(edit.log_odds)),
    h("td", { className: `flip ${side(edit.log_odds)}` }, edit.flips ? `⇄ ${side(edit.log_odds)}` : ""));
  const body = h("tbody", {}, ...found.slice(0, SHOWN_EDITS).map(row));
  const more = h("button", {
    type: "button", className: "more", hidden: found.length <= SHOWN_EDITS,
    onclick: () => {
      const rows = found.slice(SHOWN_EDITS).map(row);
      body.append(...rows);
      more.hidden = true;
      rows[0].querySelector("button").focus();
    },
  }, `Show all ${found.length}`);
  return [h("div", { className: "scroll" }, h("table", { className: "edits" },
    h("thead", {}, h("tr", {}, h("th", {}, "edit"), h("th", { className: "n" }, "change"), h("th", { className: "n" }, "then"), h("th", {}, "turns to"))), body)), more];
}

function save(name, type, content) {
  const address = URL.createObjectURL(new Blob([content], { type }));
  h("a", { href: address, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(address), 1000);
}

function pause(time, signal) {
  return new Promise((resolve, reject) => {
    const stop = () => { clearTimeout(timer); reject(new DOMException("superseded", "AbortError")); };
    const timer = setTimeout(() => { signal.removeEventListener("abort", stop); resolve(); }, Math.max(0, time));
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
}

// ---------------------------------------------------------------- the probe

let probes = 0;

/** Build the probe in `root`; `transport` has about(), verdict(text, signal), edits(..), snapshot(..). Returns what takes it down. */
export function mount(root, transport) {
  const name = `probe-${++probes}`;
  let about = { baseline: "baseline" }, shown = null, run = null, tried = [];

  const area = h("textarea", { id: name, rows: 2, spellcheck: "false", autocomplete: "off", autocapitalize: "off", placeholder: "how do i …", "aria-describedby": `${name}-status` });
  const status = h("p", { className: "status", id: `${name}-status`, role: "status", "aria-live": "polite" });
  const seek = h("button", { type: "button", onclick: () => ask(0, 0) }, "Find edits now", h("kbd", {}, "Ctrl Enter"));
  const introduced = h("p", { className: "soft about" });
  const verdict = h("div"), tokens = h("div"), depths = h("section", { className: "panel trace" });
  const edits = h("section", { className: "panel" });
  const answer = h("div", { className: "answer", hidden: true }, verdict, tokens, h("div", { className: "pair" }, depths, edits));
  const list = h("ol", { className: "history" });
  const history = h("section", { className: "panel", hidden: true }, h("h2", {}, "Tried so far"), list);
  const keep = [
    h("button", { type: "button", onclick: () => exportHtml() }, "Save as HTML"),
    h("button", { type: "button", onclick: () => exportJson() }, "Save as JSON"),
  ];
  const keeping = h("div", { className: "keep", hidden: true }, ...keep);
  const probe = h("div", { className: "probe", "data-state": "empty", "data-stale": "false" }, introduced,
    h("label", { for: name }, "Prompt"), area, h("div", { className: "under" }, status, seek), answer, history, keeping);
  root.replaceChildren(probe);

  function tell(state, message) {
    probe.dataset.state = state;
    if (status.textContent !== message) status.textContent = message;
  }

  function stale(value) {
    probe.dataset.stale = String(value);
    for (const button of keep) button.disabled = value;
  }

  /** Edits of a former text stay until there are others, so that nothing jumps; but they are no longer on offer. */
  function ageEdits() {
    edits.dataset.stale = "true";
    for (const button of edits.querySelectorAll("button")) button.disabled = true;
  }

  function drawTrace() {
    depths.querySelector("svg")?.replaceWith(traceDrawing(shown, Math.max(260, depths.clientWidth)));
  }

  function show(view) {
    shown = view;
    verdict.replaceChildren(drawVerdict(view));
    tokens.replaceChildren(drawTokens(view, about.baseline));
    depths.replaceChildren(h("h2", {}, "By depth"),
      h("p", { className: "soft" }, "Log-odds of unsafe that each depth would give where the verdict is read (logit lens)."), s("svg"),
      folded("As a table", table(["depth", "#log-odds"], view.trace.map((depth) => [depth.name, signed(depth.log_odds, 3)]))));
    if (edits.querySelector("table")) edits.querySelector("p").textContent = WHEN_PAUSED;
    else showEdits(null, WHEN_PAUSED);
    for (const part of [answer, keeping]) part.hidden = false;
    drawTrace();
    stale(false);
  }

  function showEdits(found, note) {
    edits.dataset.stale = "false";
    edits.replaceChildren(h("h2", {}, "One-word edits"), h("p", { className: "soft" }, note), ...(found?.length ? drawEdits(found, apply) : []));
  }

  function apply(edit) {
    area.value = edit.text;
    const start = units(edit.text, edit.start);
    area.focus();
    area.setSelectionRange(start, start + edit.new.length);
    ask(0, WAIT.edits);
  }

  function remember(view) {
    tried = [view, ...tried.filter((other) => other.text !== view.text)].slice(0, KEPT);
    list.replaceChildren(...tried.map((one) => h("li", {}, h("button", { type: "button", title: one.text, onclick: () => restore(one) },
      h("span", { className: "text" }, one.text), h("span", { className: `said ${one.verdict}` }, `${one.verdict} ${signed(one.log_odds)}`)))));
    history.hidden = false;
  }

  function restore(one) {
    area.value = one.text;
    area.focus();
    ask(0, 0);
  }

  /** Ask for the verdict after `first` ms and for edits after `second`, unless the text changes before. */
  async function ask(first, second) {
    run?.abort();
    const mine = (run = new AbortController()), signal = mine.signal, text = area.value, begun = performance.now();
    if (!text.trim()) {
      shown = null;
      edits.replaceChildren();
      for (const part of [answer, keeping]) part.hidden = true;
      tell("empty", INVITATION);
      return;
    }
    stale(true);
    ageEdits();
    const slow = setTimeout(() => tell("working", "Judging …"), first + WAIT.shown);
    signal.addEventListener("abort", () => clearTimeout(slow), { once: true });
    try {
      await pause(first, signal);
      const view = await patiently(() => transport.verdict(text, signal), signal);
      clearTimeout(slow);
      if (signal.aborted) return;
      show(view);
      const said = `${capital(view.verdict)}, log-odds ${signed(view.log_odds)}.`;
      tell("ready", said);
      await pause(second - (performance.now() - begun), signal);
      tell("working", `${said} Trying edits …`);
      await tryEdits(view, said, signal);
      remember(shown);
    } catch (error) {
      clearTimeout(slow);
      if (!signal.aborted) tell("error", error.message);
    }
  }

  async function tryEdits(view, said, signal) {
    try {
      const { edits: found } = await patiently(() => transport.edits(view.text, signal), signal);
      if (signal.aborted) return;
      shown = { ...view, edits: found };
      const flips = found.filter((edit) => edit.flips).length;
      const note = found.length ? `${found.length} tried, ${flips} turn${flips === 1 ? "s" : ""} the verdict. Choose one to go on from it.` : "The prompt has no word to replace.";
      showEdits(found, note);
      tell("ready", `${said} ${found.length ? `${flips} of ${found.length} edits turn the verdict.` : ""}`.trim());
    } catch (error) {
      if (signal.aborted || !(error instanceof Refused)) throw error;
      showEdits(null, error.message);
      tell("ready", said);
    }
  }

  /** Ask again until somebody answers. */
  async function patiently(question, signal) {
    for (;;) {
      try {
        return await question();
      } catch (error) {
        if (signal.aborted || !(error instanceof Lost)) throw error;
        tell("lost", `${error.message} Trying again …`);
        await pause(WAIT.again, signal);
      }
    }
  }

  async function exportHtml() {
    try {
      save("probe.html", "text/html", await transport.snapshot(shown.text, new AbortController().signal));
    } catch (error) {
      tell("error", error.message);
    }
  }

  function exportJson() {
    const history = tried.map(({ text, verdict, log_odds, probability }) => ({ text, verdict, log_odds, probability }));
    save("probe.json", "application/json", JSON.stringify({ about, view: shown, history }, null, 1));
  }

  area.addEventListener("input", () => ask(WAIT.verdict, WAIT.edits));
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    ask(0, 0);
  });
  const resized = new ResizeObserver(() => { if (shown) drawTrace(); });
  resized.observe(answer);
  tell("empty", INVITATION);
  const life = new AbortController();
  patiently(() => transport.about(), life.signal).then((told) => {
    about = told;
    introduced.append(h("b", {}, told.model.replace(/^\/.*\/(?=[^/]+$)/, "")), ` (${told.layers} layers, ${told.parameters.toLocaleString("en")} parameters), asked as `, h("code", {}, told.template));
    if (probe.dataset.state === "lost") tell("empty", INVITATION);
    if (told.text && !area.value) {
      area.value = told.text;
      ask(0, 0);
    }
  }).catch((error) => { if (!life.signal.aborted) tell("error", error.message); });
  return () => { run?.abort(); life.abort(); resized.disconnect(); };
}

// ---------------------------------------------------------------- the ways to a judge

/** Over HTTP, to the server the page came from. */
export function overHttp() {
  async function request(path, text, signal) {
    const asked = text === undefined ? {} : { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ text }), signal };
    let answer, body;
    try {
      answer = await fetch(`/api/${path}`, asked);
      body = await answer.json();
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Lost("No answer from interp probe; is it still running?");
    }
    if (!answer.ok) throw new Refused(body.error);
    return body;
  }
  return {
    about: () => request("about"),
    verdict: (text, signal) => request("verdict", text, signal),
    edits: (text, signal) => request("edits", text, signal),
    snapshot: async (text, signal) => (await request("snapshot", text, signal)).html,
  };
}

/** Over a notebook's messages: one question at a time, since a kernel answers one after another. */
export function overMessages(model) {
  const waiting = new Map();
  let queue = Promise.resolve(), number = 0;
  const heard = (content) => {
    waiting.get(content.id)?.(content);
    waiting.delete(content.id);
  };
  model.on("msg:custom", heard);
  function send(asked, text) {
    const id = ++number;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => { waiting.delete(id); reject(new Lost("No answer from the kernel; is it running?")); }, WAIT.kernel);
      waiting.set(id, ({ error, result }) => {
        clearTimeout(timer);
        if (error === undefined) resolve(result);
        else reject(new Refused(error));
      });
      model.send({ id, ask: asked, text });
    });
  }
  function request(asked, text, signal) {
    const mine = queue.then(() => {
      if (signal?.aborted) throw new DOMException("superseded", "AbortError");
      return send(asked, text);
    });
    queue = mine.catch(() => {});
    return mine;
  }
  return {
    about: () => request("about", ""),
    verdict: (text, signal) => request("verdict", text, signal),
    edits: (text, signal) => request("edits", text, signal),
    snapshot: async (text, signal) => (await request("snapshot", text, signal)).html,
    close: () => model.off("msg:custom", heard),
  };
}

/** What anywidget calls. */
export default {
  render({ model, el }) {
    const transport = overMessages(model), takeDown = mount(el, transport);
    return () => { takeDown(); transport.close(); };
  },
};
