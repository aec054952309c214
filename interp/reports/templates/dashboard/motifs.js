// Motifs of a category, each with its support beside that of safe prompts, and patterns of three against chance.
"use strict";

(() => {
  const { h, by, number, percent, chance, estimate, bar } = interp, all = interp.get("motifs"), known = new Set(interp.get("features").names);
  const category = by("category"), order = by("order"), confirmed = by("confirmed"), PAGE = 24;
  let shown = PAGE;
  interp.choices(category, all.map((one, i) => [String(i), interp.spaced(one.category)]), "0");
  const wanted = all.findIndex((one) => one.category === interp.params().get("category"));
  if (wanted >= 0) category.value = String(wanted);
  by("key").replaceChildren(...interp.motif.key());

  const value = (e) => e?.value ?? null;
  const keys = {
    difference: (one) => (value(one.support_harmful) ?? 0) - (value(one.support_safe) ?? 0), harmful: (one) => value(one.support_harmful) ?? -1,
    p: (one) => -(one.p ?? 2), size: (one) => one.edges.length,
  };
  function card(one, i, { graphs, level = null }) {
    const names = [...new Set(one.edges.flatMap((e) => [e.source, e.target]).filter((end) => end.type === "feature").map((end) => end.name))];
    const line = (role, name, e, total) => h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, bar(e, { role, width: 130 })),
      h("td", { class: "n" }, percent(value(e)), " ", h("span", { class: "ends" }, interp.ends(e, percent))), h("td", { class: "n soft" }, e?.n ?? total ?? ""));
    return h("article", { class: "card set" }, h("header", {}, h("h3", {}, `Motif ${i + 1} `, h("small", {}, `${one.edges.length} edge${one.edges.length === 1 ? "" : "s"}`)), h("span", { class: `badge ${one.confirmed ? "verdict v-supported" : "none"}` }, one.confirmed ? "confirmed" : "not confirmed")),
      h("div", { class: "drawn" }, interp.motif.draw(one.edges, { name: `Motif ${i + 1}` })),
      h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, h("th", {}, ""), h("th", { colspan: 2 }, "share of graphs"), h("th", { class: "n" }, "n"))),
        h("tbody", {}, line("harmful", "harmful", one.support_harmful, graphs.harmful), line("safe", "safe", one.support_safe, graphs.safe))),
      h("p", { class: "soft tested" }, one.p === null ? `not tested: q ${chance(one.q)} on the pairs that were searched` : `corrected p ${chance(one.p)} on the tested pairs${level === null ? "" : `, at a level of ${number(level)}`}; q ${chance(one.q)} on those that were searched`),
      one.sentence ? h("p", { class: "sentence" }, one.sentence) : null,
      names.length ? h("p", { class: "links" }, ...names.map((name) => (known.has(name) ? h("a", { href: interp.link("transcoder_tokens", { feature: name }) }, name) : h("span", { class: "soft" }, name)))) : null);
  }
  function show() {
    const now = all[Number(category.value)], box = by("sets");
    if (!now) {
      box.replaceChildren(h("p", { class: "empty soft" }, "No motifs were sought in this run."));
      by("triads").replaceChildren(h("p", { class: "soft" }, "None were counted."));
      by("count").textContent = "";
      return;
    }
    const fit = now.sets.filter((one) => one.confirmed || !confirmed.checked).sort((a, b) => keys[order.value](b) - keys[order.value](a));
    by("count").textContent = `${interp.count(fit.length)} of ${interp.count(now.sets.length)} motifs, ${now.graphs.harmful ?? "?"} harmful and ${now.graphs.safe ?? "?"} safe graphs${now.left_out ? `; ${interp.count(now.left_out)} more frequent sets were beyond the cap and not looked at` : ""}`;
    const more = fit.length > shown ? h("button", { type: "button", class: "more", onclick: () => { shown += PAGE; show(); } }, `Show ${Math.min(PAGE, fit.length - shown)} more`) : null;
    box.replaceChildren(fit.length ? h("div", { class: "sets" }, ...fit.slice(0, shown).map((one, i) => card(one, i, now))) : h("p", { class: "empty soft" }, now.sets.length ? "None is confirmed." : "None was found."), more || "");
    triads(now.triads);
  }
  function triads(rows) {
    const box = by("triads");
    if (!rows.length) { box.replaceChildren(h("p", { class: "soft" }, "None were counted.")); return; }
    const ratio = (one) => (one.expected ? one.count / one.expected : null);
    const sorted = [...rows].sort((a, b) => (a.q ?? a.p ?? 2) - (b.q ?? b.p ?? 2) || Math.abs(Math.log(ratio(b) || 1)) - Math.abs(Math.log(ratio(a) || 1)));
    const most = Math.max(Math.log(2), ...rows.map((one) => Math.abs(Math.log(ratio(one) || 1))));
    box.replaceChildren(h("div", { class: "scroll" }, h("table", { class: "triads" },
      h("thead", {}, h("tr", {}, h("th", {}, "pattern"), h("th", {}, ""), h("th", { class: "n" }, "count"), h("th", { class: "n" }, "expected"), h("th", {}, "fewer or more than expected"), h("th", { class: "n" }, "ratio"), h("th", { class: "n" }, "p"), h("th", { class: "n" }, "q"))),
      h("tbody", {}, ...sorted.map((one) => h("tr", {}, h("td", {}, interp.motif.triad(one)), h("td", {}, h("b", {}, interp.spaced(one.shape)), h("span", { class: "under" }, one.name)),
        h("td", { class: "n" }, number(one.count)), h("td", { class: "n" }, number(one.expected)), h("td", {}, beside(one, most)), h("td", { class: "n" }, ratio(one) === null ? "–" : `${number(ratio(one))}×`), h("td", { class: "n" }, chance(one.p)), h("td", { class: "n" }, chance(one.q))))))),
      h("p", { class: "soft" }, "Counted on graphs of harmful prompts. Expected: the mean count where edges were swapped at random. Bars are ratios on a logarithmic scale: left of the upright line fewer than expected, right of it more."));
  }
  function beside(one, most) {
    const { s } = interp, ratio = one.expected && one.count ? Math.log(one.count / one.expected) : null, reach = ratio === null ? 0 : (86 * ratio) / most;
    return s("svg", { class: "beside", width: 182, height: 18, role: "img", "aria-label": `${number(one.count)}, expected ${number(one.expected)}` },
      s("rect", { x: 91 + Math.min(0, reach), y: 4, width: Math.max(ratio === null ? 0 : 1, Math.abs(reach)), height: 10 }), s("line", { x1: 91, x2: 91, y1: 0, y2: 18 }));
  }
  category.addEventListener("change", () => { shown = PAGE; interp.remember({ category: all[Number(category.value)].category }); show(); });
  for (const one of [order, confirmed]) one.addEventListener("change", () => { shown = PAGE; show(); });
  show();
})();
