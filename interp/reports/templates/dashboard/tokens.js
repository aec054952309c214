// The table of features and what they read and write.
"use strict";

(() => {
  const { h, by, number, percent, bar } = interp, f = interp.features;
  const search = by("search"), group = by("group"), layer = by("layer"), told = by("count");
  interp.choices(group, f.order.map((g) => [String(g), f.groupName(g)]), String(f.order[0] ?? ""));
  interp.choices(layer, [["", "all"], ...f.layers.map((one) => [String(one), String(one)])]);
  if (!f.groups.length) group.disabled = true;

  const g = () => Number(group.value);
  const of = (what) => (i) => (f.groups.length ? what(g(), i) : null);
  const value = (what) => (i) => of(what)(i)?.value ?? null;
  const columns = [
    { key: "name", name: "Feature", width: "118px", up: true, value: (i) => f.names[i], cell: (i) => h("span", { class: "name" }, f.names[i]) },
    { key: "fires", name: "Active on", width: "19%", cell: (i) => f.chips(f.all.fires[i], { most: 4, query: search.value }) },
    { key: "top", name: "Raises", width: "27%", about: "Tokens whose logit it raises most", up: true, value: (i) => f.all.top[i][0]?.[0] ?? null, cell: (i) => f.chips(f.all.top[i], { most: 5, query: search.value, weights: false }) },
    { key: "frequency", name: "Active in", class: "n", width: "206px", about: "Share of the group's prompts on which it is active, with its interval",
      value: value(f.frequency), cell: (i) => { const e = of(f.frequency)(i); return e ? h("span", { class: "withbar" }, bar(e, { role: f.groups[g()].kind, width: 72 }), h("span", {}, percent(e.value)), h("span", { class: "ends" }, interp.ends(e, percent))) : "–"; } },
    { key: "mean", name: "Mean", class: "n", width: "74px", about: "Mean activation over the group's prompts", value: value(f.mean), cell: (i) => number(value(f.mean)(i)) },
    { key: "importance", name: "Importance", class: "n", width: "98px", value: of(f.importance), cell: (i) => number(of(f.importance)(i)) },
    { key: "influence", name: "Influence", class: "n", width: "90px", about: "Mean effect on the log-odds of refusal, in the linearised model: above zero towards refusing", value: value(f.influence), cell: (i) => number(value(f.influence)(i)) },
  ];
  let by_ = columns.find((column) => column.key === "importance"), up = false;

  const table = interp.rows({
    box: by("rows"), label: "Features", columns, height: 37, empty: "No feature has all of these words.",
    detail: (i) => f.card(i, { here: "transcoder_tokens", most: 8, tokens: 12 }),
    onsort: (column, upwards) => { by_ = column; up = upwards; show(); },
  });
  function show(fresh = false) {
    const fit = f.found(search.value, layer.value);
    table.sorted(by_.key, up);
    table.set(f.sorted(fit, by_.value, up), { fresh });
    told.textContent = fit.length === f.size ? `${interp.count(f.size)} features` : `${interp.count(fit.length)} of ${interp.count(f.size)}`;
  }
  search.value = interp.params().get("find") || "";
  search.addEventListener("input", () => { interp.remember({ find: search.value }); show(true); });
  search.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "Enter") { table.go(0, true); event.preventDefault(); }
    if (event.key === "Escape") { search.value = ""; search.dispatchEvent(new Event("input")); search.blur(); }
  });
  group.addEventListener("change", () => show(true));
  layer.addEventListener("change", () => show());
  function follow() { // a feature that a link asks for
    const wanted = f.named.get(interp.params().get("feature"));
    if (wanted === undefined) return;
    search.value = ""; layer.value = "";
    show();
    table.show(wanted, { unfold: true });
  }
  show();
  follow();
  window.addEventListener("hashchange", follow);
})();
