// What all pages share: data, drawing, words for numbers. Texts reach the page as text nodes alone, never as HTML.
"use strict";

const interp = (() => {
  const data = new Map(), asked = new Map();

  // ------------------------------------------------------------------ data, handed over by the scripts in data/

  const put = (name, text) => data.set(name, JSON.parse(text));
  const get = (name) => data.get(name);

  function load(name) {
    if (data.has(name)) return Promise.resolve(data.get(name));
    if (!asked.has(name)) {
      asked.set(name, new Promise((resolve, reject) => {
        const fail = () => { asked.delete(name); reject(new Error(`data/${name}.js cannot be read`)); };
        const script = h("script", { src: `data/${name}.js` });
        script.onload = () => { script.remove(); data.has(name) ? resolve(data.get(name)) : fail(); };
        script.onerror = () => { script.remove(); fail(); };
        document.head.append(script);
      }));
    }
    return asked.get(name);
  }

  // ------------------------------------------------------------------ elements

  function fill(made, given, children) {
    for (const [name, value] of Object.entries(given)) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
      else if (name === "style") Object.assign(made.style, value);
      else made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
    return made;
  }
  const h = (tag, given = {}, ...children) => fill(document.createElement(tag), given, children);
  const s = (tag, given = {}, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), given, children);
  const by = (id) => document.getElementById(id);

  function choices(select, rows, chosen) { // rows: [value, text, group or nothing]
    const boxes = new Map();
    select.replaceChildren();
    for (const [value, text, group] of rows) {
      if (group && !boxes.has(group)) { boxes.set(group, h("optgroup", { label: group })); select.append(boxes.get(group)); }
      (group ? boxes.get(group) : select).append(h("option", { value }, text));
    }
    if (chosen !== undefined) select.value = chosen;
  }

  // ------------------------------------------------------------------ numbers and tokens

  function number(x) {
    if (x === null || x === undefined) return "–";
    const size = Math.abs(x);
    if (size >= 1000) return minus(Math.round(x).toLocaleString("en"));
    if (size >= 0.01 || x === 0) return minus(String(Number(x.toPrecision(3))));
    return minus(size < 1e-4 ? x.toExponential(0) : String(Number(x.toFixed(4))));
  }
  const minus = (text) => text.replace(/^-/, "\u2212");
  const percent = (x) => (x === null || x === undefined ? "–" : x > 0 && x < 0.001 ? "< 0.1 %" : `${minus(String(Number((100 * x).toPrecision(Math.abs(x) >= 0.1 ? 2 : 1))))} %`);
  const count = (x) => x.toLocaleString("en");
  const chance = (p) => (p === null || p === undefined ? "–" : p < 0.001 ? "< 0.001" : String(Number(p.toPrecision(2))));
  const signed = (x) => (x > 0 ? "+" : "") + number(x);

  function ends(e, as = number) {
    return e && e.low !== null && e.high !== null && e.low !== undefined ? `[${as(e.low).replace(/ %|< /g, "")}, ${as(e.high).replace(/ %|< /g, "")}]` : "";
  }
  const estimate = (e, as = number) => (e ? `${as(e.value)} ${ends(e, as)}`.trim() : "–");

  function visible(token) { // blanks and breaks of a token made visible where nothing else is
    const shown = token.replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5");
    return shown.trim() === "" ? shown.replaceAll(" ", "\u2423") || "\u2205" : shown;
  }
  const bare = (token) => (token.trim() === "" ? visible(token) : visible(token).replace(/^[ \u0120\u2581]+/, "")); // without the blank before a word
  const spaced = (name) => name.replaceAll("_", " ");

  // A value with its interval on a scale; one shape (and colour) for each role, so that neither is needed alone.
  function bar(e, { low = 0, high = 1, width = 120, height = 14, role = "harmful", label = "" }) {
    const at = (x) => 4 + (width - 8) * Math.min(1, Math.max(0, (x - low) / (high - low || 1)));
    const middle = height / 2;
    const made = s("svg", { class: `bar ${role}`, width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label || estimate(e) });
    made.append(s("line", { class: "axis", x1: 4, x2: width - 4, y1: height - 0.5, y2: height - 0.5 }));
    if (low < 0 && high > 0) made.append(s("line", { class: "zero", x1: at(0), x2: at(0), y1: 0, y2: height }));
    if (!e || e.value === null) return made;
    if (e.low !== null && e.high !== null && e.low !== undefined) made.append(s("line", { class: "ends", x1: at(e.low), x2: at(e.high), y1: middle, y2: middle }));
    made.append(mark(role, at(e.value), middle, 3.6));
    return made;
  }
  function mark(role, x, y, r) {
    if (role === "safe_contrast" || role === "safe") return s("rect", { class: "dot", x: x - r * 0.85, y: y - r * 0.85, width: r * 1.7, height: r * 1.7 });
    if (role === "benign_act") return s("path", { class: "dot", d: `M${x},${y - r * 1.2}L${x + r * 1.2},${y + r * 0.8}H${x - r * 1.2}Z` });
    if (role === "control") return s("path", { class: "dot", d: `M${x - r},${y - r}L${x + r},${y + r}M${x - r},${y + r}L${x + r},${y - r}` });
    return s("circle", { class: "dot", cx: x, cy: y, r });
  }

  function badge(verdict) {
    if (!verdict) return h("span", { class: "badge none" }, "described");
    return h("span", { class: `verdict badge v-${verdict === "not supported" ? "not" : verdict}` }, verdict);
  }

  function context(one, { most = 48 } = {}) { // a prompt with its token of greatest activation marked, cut around it
    const from = Math.max(0, Math.min(one.at - Math.round(most * 0.6), one.tokens.length - most)), until = from + most;
    const made = h("p", { class: "context" });
    if (from) made.append("… ");
    const words = apart(one.tokens);
    one.tokens.slice(from, until).forEach((token, i) => {
      const shown = token.replaceAll("\n", "\u23ce").replaceAll("\t", "\u21e5");
      if (words && i) made.append(" ");
      made.append(from + i === one.at ? h("mark", {}, shown) : shown);
    });
    if (until < one.tokens.length) made.append(" …");
    return made;
  }
  // Tokens that carry no blanks of their own (words) are set apart.
  const apart = (tokens) => tokens.length > 1 && !tokens.some((token) => /^[\s\u0120\u2581]/.test(token));

  // ------------------------------------------------------------------ colours

  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const STOPS = {
    light: ["#f3f5f7", "#d3e4f2", "#9cc6e4", "#559fd0", "#1d72b4", "#0b4a8a", "#062b5b"],
    dark: ["#1d2329", "#1f3a54", "#235a86", "#3483bb", "#5fa5d8", "#8fc4ec", "#bfdff7"],
  };
  const NEGATIVE = {
    light: ["#f3f5f7", "#fbe0cf", "#f4b48c", "#e28349", "#c35a12", "#8f3c02", "#5c2600"],
    dark: ["#1d2329", "#472b17", "#76421a", "#ab5f22", "#dd8540", "#f4b581", "#ffe4cc"],
  };
  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  function ramp(stops) { // 128 colours, each with the ink that reads on it
    return Array.from({ length: 128 }, (_, i) => {
      const t = (i / 127) * (stops.length - 1), k = Math.min(stops.length - 2, Math.floor(t)), f = t - k;
      const a = rgb(stops[k]), b = rgb(stops[k + 1]), mixed = a.map((v, j) => Math.round(v + f * (b[j] - v)));
      const light = 0.299 * mixed[0] + 0.587 * mixed[1] + 0.114 * mixed[2];
      return { color: `rgb(${mixed.join(",")})`, ink: light > 140 ? "#1c1c1c" : "#f5f7f9" };
    });
  }
  const ramps = () => ({ up: ramp(STOPS[dark.matches ? "dark" : "light"]), down: ramp(NEGATIVE[dark.matches ? "dark" : "light"]) });

  function canvas(element, width, height) { // sized for the screen's own pixels
    const ratio = window.devicePixelRatio || 1, w = Math.max(1, Math.round(width * ratio)), t = Math.max(1, Math.round(height * ratio));
    if (element.width !== w || element.height !== t) {
      element.width = w; element.height = t;
      element.style.width = `${width}px`; element.style.height = `${height}px`;
    }
    const pen = element.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    return pen;
  }
  const FONT = 'Inter,"Helvetica Neue",Arial,sans-serif', MONO = "ui-monospace,Menlo,Consolas,monospace";

  function cut(pen, text, width) { // as much of a text as fits
    if (pen.measureText(text).width <= width) return text;
    let low = 0, high = Math.min(text.length, 120);
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (pen.measureText(`${text.slice(0, middle)}…`).width <= width) low = middle; else high = middle - 1;
    }
    return low ? `${text.slice(0, low)}…` : "";
  }

  const soon = (work) => { // at most once a frame
    let waiting = false;
    return () => { if (!waiting) { waiting = true; requestAnimationFrame(() => { waiting = false; work(); }); } };
  };

  // ------------------------------------------------------------------ tip, keys, the address

  function tip(x, y, content) {
    const box = by("tip");
    box.replaceChildren(content);
    box.hidden = false;
    const { width, height } = box.getBoundingClientRect();
    const left = x + 16 + width > innerWidth - 8 ? x - 16 - width : x + 16;
    box.style.left = `${Math.max(8, left)}px`;
    box.style.top = `${Math.max(8, Math.min(y + 14, innerHeight - height - 8))}px`;
  }
  const untip = () => { const box = by("tip"); if (box) box.hidden = true; };
  const say = (text) => { const box = by("live"); if (box) box.textContent = text; };

  const writing = (target) => target instanceof HTMLElement && (target.matches("input:not([type=range]):not([type=checkbox]), select, textarea") || target.isContentEditable);
  function keys(map) { // keys of the page, not while something is typed
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || writing(event.target) || by("help").open) return;
      const work = map[event.key];
      if (work && work(event) !== false) event.preventDefault();
    });
  }
  const params = () => new URLSearchParams(location.hash.slice(1));
  function remember(given) {
    const now = params();
    for (const [key, value] of Object.entries(given)) value === null || value === "" ? now.delete(key) : now.set(key, value);
    history.replaceState(null, "", `#${now}`);
  }
  const link = (page, given) => `${page}.html#${new URLSearchParams(given)}`;

  document.addEventListener("DOMContentLoaded", () => {
    const help = by("help");
    if (!help) return;
    by("help-open").addEventListener("click", () => help.showModal());
    by("help-close").addEventListener("click", () => help.close());
    help.addEventListener("click", (event) => { if (event.target === help) help.close(); });
    keys({
      "?": () => help.showModal(),
      "/": () => { const box = by("search") || by("prompt"); if (!box) return false; box.focus(); box.select(); return true; },
    });
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") untip(); });

  return {
    put, get, load, h, s, by, choices, number, percent, count, chance, signed, estimate, ends, visible, bare, spaced, bar, mark, badge, context,
    css, dark, ramps, rgb, canvas, FONT, MONO, cut, soon, tip, untip, say, keys, params, remember, link,
  };
})();
