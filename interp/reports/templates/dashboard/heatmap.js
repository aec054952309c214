// Features over groups of prompts: what is shown, in which order, and what is pinned beside it.
"use strict";

(() => {
  const { h, by, number, percent } = interp, f = interp.features;
  const measure = by("measure"), rank = by("rank"), layer = by("layer"), search = by("search"), side = by("side");
  const measures = {
    frequency: ["share of prompts active", (g) => f.values[g].frequency.value], importance: ["importance", (g) => f.values[g].importance],
    mean: ["mean activation", (g) => f.values[g].mean.value], influence: ["influence on refusal (log-odds)", (g) => f.values[g].influence.value],
  };
  interp.choices(measure, Object.entries(measures).map(([key, [name]]) => [key, name]), "frequency");
  interp.choices(rank, [["", "importance anywhere"], ...f.order.map((g) => [String(g), f.groupName(g)])]);
  interp.choices(layer, [["", "all"], ...f.layers.map((one) => [String(one), String(one)])]);
  const pins = [];
  const short = (x) => (measure.value === "frequency" ? String(Math.round(100 * x)) : Math.abs(x) >= 100 ? String(Math.round(x)) : String(Number(x.toPrecision(2))).replace("-", "\u2212"));

  const view = interp.heat({
    box: by("heat"), strip: by("strip"), text: short,
    label: (i) => (f.all.fires[i].length ? f.all.fires[i] : f.all.top[i].map((t) => t[0])).slice(0, 4).map(interp.bare).join("  "),
    onhover: (spot) => (spot ? interp.tip(spot.x, spot.y, f.brief(spot.i, spot.g)) : interp.untip()),
    onpin: pin, onrank: (g) => { rank.value = String(g); show(); },
  });

  function show(top = true) {
    const g = rank.value === "" ? null : Number(rank.value);
    const fit = f.found(search.value, layer.value);
    const order = f.sorted(fit, (i) => (g === null ? f.best[i] : f.importance(g, i)));
    const column = f.groups.map((_, k) => measures[measure.value][1](k));
    const every = column.flat().filter((v) => v !== null).sort((a, b) => a - b);
    const at = (share) => every[Math.min(every.length - 1, Math.floor(share * every.length))] ?? 0;
    const low = every.length && every[0] < 0 ? at(0.005) || every[0] : 0, high = measure.value === "frequency" ? 1 : at(0.995) || 1;
    if (top) view.top();
    view.set({ order, column, low, high, rank: g, pins: new Set(pins) });
    by("count").textContent = fit.length === f.size ? `${interp.count(f.size)} features` : `${interp.count(fit.length)} of ${interp.count(f.size)}`;
    legend(low, high);
  }
  function legend(low, high) {
    const key = h("canvas", { "aria-hidden": "true" }), pen = interp.canvas(key, 160, 10), { up, down } = view.ramps();
    for (let x = 0; x < 160; x++) {
      const v = low + (x / 159) * (high - low);
      pen.fillStyle = (v < 0 ? down[Math.round(127 * Math.min(1, v / low))] : up[Math.round(127 * Math.min(1, v / high))]).color;
      pen.fillRect(x, 0, 1, 10);
    }
    const as = measure.value === "frequency" ? percent : number;
    by("legend").replaceChildren(h("span", {}, measures[measure.value][0]), h("span", {}, as(low)), key, h("span", {}, measure.value === "frequency" ? as(high) : `${as(high)} and more`),
      h("span", { class: "apart" }, measure.value === "frequency" ? "Cells in per cent. " : "", "A dash is undefined. Harmful ●, safe contrast ■, benign act ▲; click a column to rank by it, a row to pin it."));
  }
  function pin(i) {
    const at = pins.indexOf(i);
    if (at >= 0) pins.splice(at, 1); else pins.unshift(i);
    interp.say(at >= 0 ? `${f.names[i]} let go` : `${f.names[i]} pinned`);
    aside();
    show(false);
  }
  function aside() {
    if (!pins.length) {
      side.replaceChildren(h("div", { class: "hint" }, h("h2", {}, "Pinned features"),
        h("p", {}, "Point at a cell for its tokens, its frequency and interval. Click a row, or press Enter, to keep the feature here with its contexts.")));
      return;
    }
    side.replaceChildren(h("h2", {}, `Pinned (${pins.length})`), ...pins.map((i) => f.card(i, { here: "feature_heatmap", close: () => pin(i), most: 4 })));
  }
  search.addEventListener("input", () => show());
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") { by("heat").focus(); event.preventDefault(); }
    if (event.key === "Escape") { search.value = ""; show(); search.blur(); }
  });
  for (const one of [measure, rank, layer]) one.addEventListener("change", () => show());
  interp.dark.addEventListener("change", () => show(false));
  function follow() {
    const wanted = f.named.get(interp.params().get("feature"));
    if (wanted === undefined) return;
    if (!pins.includes(wanted)) pin(wanted);
    view.show(wanted);
  }
  aside();
  show();
  follow();
  window.addEventListener("hashchange", follow);
})();
