// Harmful prompts beside their safe twins: the drawing, the table beside it, and what an intervention did.
"use strict";

(() => {
  const { h, by, number, chance, estimate, bar, badge } = interp, f = interp.features, all = interp.get("contrasts");
  const category = by("category"), scale = by("scale"), search = by("search");
  const diamond = (pen, x, y, r) => { pen.moveTo(x, y - r); pen.lineTo(x + r, y); pen.lineTo(x, y + r); pen.lineTo(x - r, y); pen.closePath(); };
  const classes = [
    { key: "compared", name: "compared", color: "--soft", size: 2.6, draw: (pen, x, y, r) => pen.arc(x, y, r, 0, 7) },
    { key: "discovered", name: "discovered", more: "discovered, but not confirmed on other pairs", color: "--green", size: 4, draw: (pen, x, y, r) => { pen.moveTo(x, y - r); pen.lineTo(x + r, y + r); pen.lineTo(x - r, y + r); pen.closePath(); } },
    { key: "words", name: "survives the safe contrast alone", more: "differs from safe contrasts on other pairs, but not from benign acts on the same objects", color: "--blue", size: 4, filled: true, draw: (pen, x, y, r) => pen.rect(x - r, y - r, 2 * r, 2 * r) },
    { key: "confirmed", name: "confirmed", more: "confirmed on other pairs against both the safe contrast and the benign act", color: "--orange", size: 7, filled: true, ring: true, draw: diamond },
  ];
  const kind = (one) => (one.confirmed ? 3 : one.survives_safe_contrast ? 2 : one.discovered ? 1 : 0);
  const hidden = new Set();
  let now = null, order = [];
  const one = (id) => now.features[id];
  const words = all.categories.map((c) => c.features.map((x) => (x.place === null ? x.name : [x.name, ...f.all.fires[x.place], ...f.all.top[x.place].map((t) => t[0])].join("\n")).toLowerCase()));

  const pooled = all.categories.findIndex((c) => c.name === "all");
  interp.choices(category, all.categories.map((c, i) => [String(i), interp.spaced(c.name)]), String(Math.max(0, pooled)));
  const wanted = all.categories.findIndex((c) => c.name === interp.params().get("category"));
  if (wanted >= 0) category.value = String(wanted);

  function shape(k, size = 14) {
    const sheet = h("canvas", { "aria-hidden": "true" }), pen = interp.canvas(sheet, size, size), c = classes[k];
    pen.strokeStyle = interp.css(c.color); pen.fillStyle = c.filled ? interp.css(c.color) : interp.css("--paper"); pen.lineWidth = 1.2;
    pen.beginPath(); c.draw(pen, size / 2, size / 2, Math.min(c.size, size / 2 - 1.5)); pen.fill();
    if (c.ring) { pen.strokeStyle = interp.css("--ink"); pen.lineWidth = 1.4; }
    pen.stroke();
    return sheet;
  }
  const tick = (yes) => h("span", { class: yes ? "yes" : "no", "aria-label": yes ? "yes" : "no" }, yes ? "✓" : "–");
  function controls(x) {
    const text = { true: "survives", false: "does not survive" };
    return h("span", { class: "controls", title: `${text[x.survives_safe_contrast]} the safe contrast, ${text[x.survives_benign_act]} the benign act` }, tick(x.survives_safe_contrast), " ", tick(x.survives_benign_act));
  }
  let reach = [0, 1];
  const columns = [
    { key: "name", name: "Feature", width: "132px", up: true, value: (id) => one(id).name, cell: (id) => h("span", { class: "name" }, shape(kind(one(id))), " ", one(id).name) },
    { key: "effect", name: "Effect", class: "n", about: "Mean over standard deviation of the differences between harmful prompts and their safe twins (d), on confirmation pairs", value: (id) => one(id).effect?.value ?? null,
      cell: (id) => h("span", { class: "withbar" }, bar(one(id).effect, { low: reach[0], high: reach[1], width: 56 }), h("span", {}, number(one(id).effect?.value)), h("span", { class: "ends" }, interp.ends(one(id).effect))) },
    { key: "auc", name: "AUC", class: "n", width: "54px", value: (id) => one(id).auc, cell: (id) => number(one(id).auc) },
    { key: "p", name: "p", class: "n", width: "78px", up: true, value: (id) => one(id).p, cell: (id) => chance(one(id).p) },
    { key: "controls", name: "Controls", width: "80px", about: "Survives the safe contrast; survives the benign act", value: (id) => one(id).survives_safe_contrast + one(id).survives_benign_act, cell: (id) => controls(one(id)) },
    { key: "kind", name: "Kind", width: "84px", value: (id) => one(id).kind || "", up: true, cell: (id) => one(id).kind || "–" },
  ];
  let key = columns[1], up = false;

  const table = interp.rows({
    box: by("rows"), label: "Features compared", columns, height: 34, empty: "No feature of these classes fits.",
    detail: (id) => h("div", {}, one(id).sentence ? h("p", { class: "sentence" }, one(id).sentence) : null, tokens(id, true)),
    onsort: (column, upwards) => { key = column; up = upwards; show(); },
    onrow: (id) => plot.point(id),
  });
  const tokens = (id, full) => (one(id).place === null ? h("p", { class: "soft" }, "Its tokens are not in this run.") : full ? f.card(one(id).place, { most: 4, said: false }) : f.both(one(id).place, 5, false));
  function brief(id) {
    const x = one(id);
    return h("div", { class: "brief" }, h("h3", {}, shape(kind(x)), " ", x.name), tokens(id, false), h("dl", { class: "facts" },
      h("dt", {}, "harmful"), h("dd", {}, number(x.harmful_mean)), h("dt", {}, "safe"), h("dd", {}, number(x.safe_mean)),
      h("dt", {}, "effect"), h("dd", {}, estimate(x.effect), x.effect && x.effect.n ? `, ${x.effect.n} pairs` : ""), h("dt", {}, "AUC, p"), h("dd", {}, `${number(x.auc)}, ${chance(x.p)}`),
      h("dt", {}, "class"), h("dd", {}, classes[kind(x)].more || classes[kind(x)].name)));
  }
  const plot = interp.scatter({
    sheet: by("scatter"), classes,
    onhover: (id, x, y) => { table.mark(id); if (id === null) interp.untip(); else interp.tip(x, y, brief(id)); },
    onpin: (id) => table.show(id, { unfold: true, focus: false }),
    onstep: (id, step) => {
      if (!order.length) return;
      const at = order.indexOf(id), next = order[Math.max(0, Math.min(order.length - 1, at < 0 ? 0 : at + step))];
      table.show(next, { focus: false });
      plot.point(next, { tell: true });
      interp.say(`${one(next).name}, ${classes[kind(one(next))].name}, effect ${estimate(one(next).effect)}`);
    },
  });

  function show(fresh = false) {
    const asked = search.value.toLowerCase().split(/\s+/).filter(Boolean), text = words[Number(category.value)];
    const fit = now.features.map((_, id) => id).filter((id) => !hidden.has(kind(one(id))) && asked.every((word) => text[id].includes(word)));
    order = f.sorted(fit, key.value, up);
    table.sorted(key.key, up);
    table.set(order, { fresh });
    const point = (id) => ({ id, x: one(id).safe_mean, y: one(id).harmful_mean, kind: kind(one(id)) }), drawn = (p) => p.x !== null && p.y !== null;
    plot.set({ points: fit.map(point).filter(drawn), all: now.features.map((_, id) => point(id)).filter(drawn), root: scale.value === "root" });
    by("count").textContent = `${interp.count(fit.length)} of ${interp.count(now.features.length)}`;
  }
  function choose() {
    now = all.categories[Number(category.value)] || { features: [], pairs: {} };
    const every = now.features.flatMap((x) => (x.effect ? [x.effect.low ?? x.effect.value, x.effect.high ?? x.effect.value] : [])).filter((v) => v !== null);
    reach = [every.reduce((a, b) => Math.min(a, b), 0), every.reduce((a, b) => Math.max(a, b), 0) || 1];
    legend();
    show(true);
  }
  function legend() {
    const pairs = now.pairs || {};
    by("classes").replaceChildren(...classes.map((c, k) => h("button", { type: "button", class: "toggle", title: c.more || null, "aria-pressed": String(!hidden.has(k)),
      onclick: () => { hidden.has(k) ? hidden.delete(k) : hidden.add(k); legend(); by("classes").children[k].focus(); show(); } },
      shape(k, 18), c.name, h("b", {}, interp.count(now.features.filter((x) => kind(x) === k).length)))),
      h("span", { class: "apart" }, ["discovery", "confirmation", "causal"].filter((x) => pairs[x] !== null && pairs[x] !== undefined).map((x) => `${x} ${pairs[x]}`).join(", ").replace(/^/, "pairs: ")));
  }
  function causal() {
    const rows = all.causal, box = by("causal");
    if (!rows.length) { box.replaceChildren(h("p", { class: "soft" }, "No intervention was run.")); return; }
    const every = rows.flatMap((x) => [x.effect, x.control]).filter(Boolean).flatMap((e) => [e.low ?? e.value, e.high ?? e.value, e.value]).filter((v) => v !== null);
    const low = Math.min(0, ...every), high = Math.max(0, ...every) || 1;
    const line = (role, e, name) => h("div", { class: "against" }, h("span", {}, name), bar(e, { low, high, width: 300, height: 16, role, label: `${name} ${estimate(e)}` }), h("span", { class: "n" }, number(e?.value), " ", h("span", { class: "ends" }, interp.ends(e))), h("span", { class: "ends n" }, e && e.n ? `n = ${e.n}` : ""));
    box.replaceChildren(h("div", { class: "causal" }, ...rows.map((x) => h("article", {}, h("header", {}, h("h3", {}, x.name), badge(x.verdict)),
      line("harmful", x.effect, "effect"), line("control", x.control, "control"), x.sentence ? h("p", { class: "sentence" }, x.sentence) : null))),
      h("p", { class: "soft" }, `All on one scale, from ${number(low)} to ${number(high)}; the thin line stands at zero. Lines are 95 % intervals.`));
  }


  category.addEventListener("change", () => { interp.remember({ category: now && all.categories[Number(category.value)].name }); choose(); });
  scale.addEventListener("change", () => show());
  search.addEventListener("input", () => show());
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") { table.go(0, true); event.preventDefault(); }
    if (event.key === "Escape") { search.value = ""; show(); search.blur(); }
  });
  interp.dark.addEventListener("change", () => { legend(); show(true); });
  choose();
  causal();
  interp.contrast = { spots: plot.spots };
})();
