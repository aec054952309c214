// Features, and what is shown of one of them wherever it is looked at.
"use strict";

interp.features = (() => {
  const { h, number, percent, estimate, visible, bare, spaced, bar } = interp;
  const all = interp.get("features");
  const { names, groups, values } = all, size = names.length;
  const place = new Map(names.map((_, i) => [`${all.layers[i]}_${all.numbers[i]}`, i]));
  const named = new Map(names.map((name, i) => [name, i]));
  const texts = names.map((name, i) => [name, ...all.fires[i], ...all.top[i].map((t) => t[0]), ...all.bottom[i].map((t) => t[0])].join("\n").toLowerCase());

  const of = (column, i) => (column.value[i] === null ? null : { value: column.value[i], low: column.low[i], high: column.high[i], n: column.n[i] });
  const frequency = (g, i) => of(values[g].frequency, i), mean = (g, i) => of(values[g].mean, i);
  const importance = (g, i) => values[g].importance[i], influence = (g, i) => of(values[g].influence, i);
  const kinds = { harmful: "harmful", safe_contrast: "safe contrast", benign_act: "benign act" };
  const groupName = (g) => `${spaced(groups[g].category)}, ${kinds[groups[g].kind]}`;
  const layers = [...new Set(all.layers)].sort((a, b) => a - b);

  // Groups in the order they are shown: category by category, harmful prompts first.
  const categories = [...new Set(groups.map((group) => group.category))];
  const order = groups.map((_, g) => g).sort((a, b) => categories.indexOf(groups[a].category) - categories.indexOf(groups[b].category)
    || Object.keys(kinds).indexOf(groups[a].kind) - Object.keys(kinds).indexOf(groups[b].kind));

  const best = names.map((_, i) => values.reduce((most, v) => Math.max(most, v.importance[i] ?? -Infinity), -Infinity));

  function found(query, layer) { // numbers of the features that fit; every word must occur
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    const fit = [];
    for (let i = 0; i < size; i++) {
      if (layer !== "" && all.layers[i] !== Number(layer)) continue;
      if (words.every((word) => texts[i].includes(word))) fit.push(i);
    }
    return fit;
  }

  function sorted(rows, key, up = false) { // undefined comes last, ties keep their order
    const keyed = rows.map((i) => [key(i), i]);
    keyed.sort(([a, i], [b, j]) => {
      const none = (x) => x === null || x === undefined || x === -Infinity;
      if (none(a) || none(b)) return none(a) - none(b) || i - j;
      return (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b) * (up ? 1 : -1) || i - j;
    });
    return keyed.map(([, i]) => i);
  }

  async function more(i) { // its sentence and contexts, from a file that many share
    return (await interp.load(`contexts-${Math.floor(i / all.chunk)}`))[i % all.chunk];
  }

  // ------------------------------------------------------------------ drawing

  function chips(tokens, { most = 8, query = "", weights = true } = {}) {
    const made = h("span", { class: "chips" });
    for (const entry of tokens.slice(0, most)) {
      const [token, weight] = Array.isArray(entry) ? entry : [entry, null];
      const hit = query && query.toLowerCase().split(/\s+/).some((word) => word && token.toLowerCase().includes(word));
      made.append(h("span", { class: `chip${hit ? " hit" : ""}${bare(token) === visible(token) ? "" : " led"}`, title: weight === null ? token : `${JSON.stringify(token)} ${number(weight)}` },
        bare(token), weights && weight !== null ? h("small", {}, number(weight)) : null), "\u200b");
    }
    return made;
  }

  const rough = (x) => number(x === null || Math.abs(x) >= 100 ? x : Number(x.toPrecision(2)));
  function numbers(i) {
    const rows = order.map((g) => h("tr", { class: groups[g].kind },
      h("th", { scope: "row" }, groups[g].kind === "harmful" ? h("b", {}, spaced(groups[g].category)) : h("span", { class: "under" }, kinds[groups[g].kind])),
      h("td", {}, bar(frequency(g, i), { role: groups[g].kind, width: 50, label: `active in ${estimate(frequency(g, i), percent)}` })),
      h("td", { class: "n" }, percent(values[g].frequency.value[i]), h("span", { class: "ends" }, interp.ends(frequency(g, i), percent))),
      h("td", { class: "n" }, rough(values[g].mean.value[i])),
      h("td", { class: "n" }, rough(importance(g, i)))));
    return h("table", { class: "numbers" }, h("thead", {}, h("tr", {}, h("th", {}, ""), h("th", { colspan: 2 }, "active in"), h("th", { class: "n" }, "mean"), h("th", { class: "n", title: "importance" }, "imp."))), h("tbody", {}, rows));
  }

  function contexts(i, { most = 6, said = true } = {}) {
    const box = h("div", { class: "contexts", "aria-busy": "true" });
    more(i).then((found) => {
      box.removeAttribute("aria-busy");
      if (said && found.sentence) box.append(h("p", { class: "sentence" }, found.sentence));
      if (!found.contexts.length) box.append(h("p", { class: "soft" }, "No prompt was kept on which it is active."));
      for (const one of found.contexts.slice(0, most)) {
        box.append(h("figure", { class: "case" }, h("figcaption", {}, h("b", {}, number(one.activation))), interp.context(one)));
      }
    }, (error) => box.append(h("p", { class: "warn" }, error.message)));
    return box;
  }

  const elsewhere = (i, here) => h("span", { class: "links" }, ...[["feature_heatmap", "heat map"], ["transcoder_tokens", "table"]]
    .filter(([page]) => page !== here).map(([page, text]) => h("a", { href: interp.link(page, { feature: names[i] }) }, text)));

  const both = (i, most, weights = true) => h("dl", { class: "reads" },
    all.fires[i].length ? [h("dt", {}, "active on"), h("dd", {}, chips(all.fires[i], { most, weights }))] : null,
    h("dt", {}, "raises"), h("dd", {}, all.top[i].length ? chips(all.top[i], { most, weights }) : "–"),
    h("dt", {}, "lowers"), h("dd", {}, all.bottom[i].length ? chips(all.bottom[i], { most, weights }) : "–"));

  function card(i, { here = "", close = null, most = 6, tokens = 8, head = true, said = true } = {}) {
    return h("article", { class: "card", "aria-label": names[i] },
      head ? h("header", {}, h("h3", {}, names[i]), elsewhere(i, here), close ? h("button", { type: "button", class: "close", "aria-label": `let ${names[i]} go`, onclick: close }, "×") : null) : null,
      both(i, tokens), numbers(i), contexts(i, { most, said }));
  }

  function brief(i, g) { // for a tip: the feature, and one group of prompts
    return h("div", { class: "brief" }, h("h3", {}, names[i]), both(i, 5, false), g === null ? null : h("dl", { class: "facts" },
      h("dt", {}, "in"), h("dd", {}, groupName(g)),
      h("dt", {}, "active in"), h("dd", {}, frequency(g, i) ? `${estimate(frequency(g, i), percent)} of ${frequency(g, i).n ?? groups[g].prompts ?? "?"} prompts` : "–"),
      h("dt", {}, "mean"), h("dd", {}, estimate(mean(g, i))),
      h("dt", {}, "importance"), h("dd", {}, number(importance(g, i))),
      influence(g, i) ? [h("dt", {}, "influence"), h("dd", {}, estimate(influence(g, i)))] : null));
  }

  return { all, size, names, groups, values, layers, order, categories, kinds, place, named, best, frequency, mean, importance, influence,
    groupName, found, sorted, more, chips, card, brief, both, numbers };
})();
