// The graph of a prompt: which one, what of it is shown, the node that is looked at, and the walk along its edges.
"use strict";

(() => {
  const { h, by, number, count, signed } = interp, f = interp.features, prompts = interp.get("prompts");
  const KINDS = ["feature", "error", "token", "logit"], LIST = 12, keep = by("keep"), side = by("side"), message = by("message"), folder = by("folder");
  const kindName = (row) => [interp.spaced(row.category), row.kind && f.kinds[row.kind]].filter(Boolean).join(", ");
  let graph = null, chosen = null, shown = [], pins = new Set(), walk = [], marks = [];

  const view = interp.graphView({ sheet: by("graph"), onchoose: (i) => choose(i), onhover: (i, x, y) => (i === null ? interp.untip() : interp.tip(x, y, brief(i))) });
  const rows = prompts.map((row, n) => ({ n, title: row.id, text: `${kindName(row)} · ${row.text.slice(0, 160)}`, words: `${row.id} ${kindName(row)} ${row.text}`.toLowerCase(), folder: kindName(row) }));
  const picker = interp.picker({ box: by("prompt"), list: by("prompts"), rows, onchoose: (n) => open(n) });
  interp.choices(folder, [["", `all ${count(prompts.length)}`], ...[...new Set(rows.map((row) => row.folder))].map((name) => [name, name])]);
  folder.addEventListener("change", () => { picker.only((row) => folder.value === "" || row.folder === folder.value); picker.step(picker.chosen() !== null && rows[picker.chosen()].folder === folder.value ? 0 : 1); });
  by("before").addEventListener("click", () => picker.step(-1));
  by("after").addEventListener("click", () => picker.step(1));

  async function open(n) {
    const row = prompts[n];
    picker.set(n);
    message.textContent = "Loading …";
    let made;
    try { made = await interp.load(`graph-${n}`); } catch (error) { message.textContent = error.message; return; }
    if (picker.chosen() !== n) return; // another was chosen meanwhile
    graph = interp.laidOut(made);
    chosen = null; walk = []; pins = new Set();
    marks = [...new Set(graph.nodes.influence.filter((v, i) => v !== null && graph.nodes.kind[i] < 2))].sort((a, b) => a - b);
    keep.max = String(Math.max(1, marks.length));
    keep.value = keep.max;
    message.textContent = "";
    prune(false);
    view.set(graph, shown);
    view.pins(pins);
    interp.remember({ category: row.category, kind: row.kind, prompt: row.id, node: null });
    by("graph").setAttribute("aria-label", `Graph of ${row.id}: layers upwards, tokens across`);
    aside();
  }

  // Features and errors by the share of influence that they and all larger ones have; tokens, logits and pins stay.
  function prune(redraw = true) {
    if (!graph) return;
    const at = Number(keep.value), most = at > 0 ? marks[Math.min(at, marks.length) - 1] ?? 1 : -1;
    const { kind, influence } = graph.nodes;
    shown = kind.map((k, i) => k >= 2 || pins.has(i) || influence[i] === null || influence[i] <= most);
    const { source, target } = graph.links;
    let edges = 0;
    for (let k = 0; k < source.length; k++) if (shown[source[k]] && shown[target[k]]) edges += 1;
    const share = at > 0 ? `${(100 * most).toFixed(most < 0.995 ? 0 : 1)} % of influence` : "no feature", text = `${share}: ${count(shown.filter(Boolean).length)} of ${count(graph.size)} nodes, ${count(edges)} of ${count(source.length)} edges`;
    by("kept").textContent = text;
    keep.setAttribute("aria-valuetext", text);
    if (!redraw) return;
    if (chosen !== null && !shown[chosen]) choose(null); else { view.show(shown); aside(); }
  }
  keep.addEventListener("input", () => prune());

  // ------------------------------------------------------------------ the node that is looked at

  const featureOf = (i) => (graph.nodes.kind[i] === 0 ? f.place.get(`${graph.nodes.layer[i]}_${graph.nodes.feature[i]}`) : undefined);
  const where = (i) => `${interp.bare(graph.tokens[graph.nodes.at[i]])} (${graph.nodes.at[i]})`;
  function hint(i) {
    const place = featureOf(i);
    const tokens = place === undefined ? [] : f.all.fires[place].length ? f.all.fires[place] : f.all.top[place].map((t) => t[0]);
    return tokens.slice(0, 3).map(interp.bare).join("  ");
  }
  function facts(i) {
    const { kind, influence, activation, chance } = graph.nodes, reached = influence[i];
    return h("dl", { class: "facts" }, h("dt", {}, "at"), h("dd", {}, where(i)),
      kind[i] === 0 ? [h("dt", {}, "activation"), h("dd", {}, number(activation[i]))] : null,
      kind[i] === 3 ? [h("dt", {}, "probability"), h("dd", {}, number(chance[i]))] : null,
      reached === null ? null : [h("dt", {}, "influence"), h("dd", {}, `within the first ${(100 * reached).toFixed(1)} %`)],
      h("dt", {}, "edges"), h("dd", {}, `${count(graph.inputs[i].length)} in, ${count(graph.outputs[i].length)} out`));
  }
  function brief(i) {
    const place = featureOf(i);
    return h("div", { class: "brief" }, h("h3", {}, view.title(i)), place === undefined ? null : f.both(place, 5, false), facts(i));
  }

  function choose(i, back = false) {
    if (i !== null && graph && !shown[i]) { pins.add(i); prune(false); view.show(shown); view.pins(pins); }
    if (!back && chosen !== null && i !== null && i !== chosen) walk.push(chosen);
    if (i === null) walk = [];
    chosen = i;
    view.choose(i);
    if (i !== null) interp.say(`${view.title(i)} at ${where(i)}`);
    interp.remember({ node: i === null ? null : graph.nodes.id[i] });
    aside();
  }
  function goBack() { if (walk.length) choose(walk.pop(), true); }
  function pin(i) {
    if (i === null) return;
    if (pins.has(i)) pins.delete(i); else pins.add(i);
    interp.say(`${view.title(i)} ${pins.has(i) ? "pinned" : "let go"}`);
    view.pins(pins);
    prune();
  }

  function step(i, weight, most) { // a button that walks to a node
    return h("li", {}, h("button", { type: "button", class: weight === null ? "step" : `step ${weight > 0 ? "plus" : "minus"}`, onclick: () => { choose(i); by("graph").focus({ preventScroll: true }); },
      onmouseenter: () => view.point(i), onmouseleave: () => view.point(null), onfocus: () => view.point(i), onblur: () => view.point(null) },
      weight === null ? null : h("span", { class: "weight", style: { width: `${Math.max(3, (100 * Math.abs(weight)) / most)}%` }, "aria-hidden": "true" }),
      h("span", { class: "what" }, h("b", {}, view.title(i)), h("span", {}, graph.nodes.kind[i] === 2 ? `token ${graph.nodes.at[i]}` : graph.nodes.kind[i] === 3 ? `probability ${number(graph.nodes.chance[i])}` : `${hint(i) ? `${hint(i)} · ` : ""}${where(i)}`)), weight === null ? null : h("span", { class: "n" }, signed(weight))));
  }
  function ends(title, links, end) {
    const some = links.filter((k) => shown[graph.links[end][k]]), most = Math.abs(graph.links.weight[some[0]] ?? 1);
    return h("section", { class: "ends-of" }, h("h3", {}, `${title} `, h("small", {}, some.length > LIST ? `strongest ${LIST} of ${count(some.length)}` : count(some.length))),
      some.length ? h("ol", { class: "steps" }, ...some.slice(0, LIST).map((k) => step(graph.links[end][k], graph.links.weight[k], most))) : h("p", { class: "soft" }, links.length ? "None is shown." : "None."));
  }
  function pinned() {
    return pins.size ? h("section", {}, h("h3", {}, `Pinned (${pins.size})`), h("ol", { class: "steps" }, ...[...pins].map((i) => step(i, null, 1)))) : null;
  }
  function aside() {
    if (!graph) { side.replaceChildren(h("div", { class: "hint" }, h("h2", {}, "No graph is chosen"), h("p", {}, prompts.length ? "Choose a prompt above." : "This run has no graphs."))); return; }
    if (chosen === null) {
      const first = graph.nodes.kind.map((_, i) => i).filter((i) => shown[i] && graph.nodes.kind[i] === 0).sort((a, b) => (graph.nodes.influence[a] ?? 2) - (graph.nodes.influence[b] ?? 2)).slice(0, LIST);
      const logits = graph.nodes.kind.map((_, i) => i).filter((i) => graph.nodes.kind[i] === 3);
      side.replaceChildren(h("div", { class: "prompt" }, h("h2", {}, "The prompt"), h("p", {}, graph.text || graph.tokens.join("")), h("p", { class: "soft" }, `${kindName(graph)}, ${graph.tokens.length} tokens`)),
        pinned() || "", h("section", {}, h("h3", {}, "Answers"), h("ol", { class: "steps" }, ...logits.map((i) => step(i, null, 1)))),
        h("section", {}, h("h3", {}, "Most influential features"), h("ol", { class: "steps" }, ...first.map((i) => step(i, null, 1)))));
      return;
    }
    const place = featureOf(chosen);
    side.replaceChildren(
      h("header", { class: "node-head" }, h("div", {}, h("small", {}, KINDS[graph.nodes.kind[chosen]]), h("h2", {}, view.title(chosen))),
        h("button", { type: "button", onclick: goBack, disabled: !walk.length, title: "Walk back (b)" }, `◂ Back${walk.length ? ` (${walk.length})` : ""}`),
        h("button", { type: "button", id: "pin", "aria-pressed": String(pins.has(chosen)), onclick: () => { pin(chosen); by("pin")?.focus(); }, title: "Pin (p)" }, pins.has(chosen) ? "Pinned" : "Pin"),
        h("button", { type: "button", class: "close", "aria-label": "let it go", onclick: () => choose(null) }, "×")),
      facts(chosen), ends("Strongest inputs", graph.inputs[chosen], "source"), ends("Strongest outputs", graph.outputs[chosen], "target"), pinned() || "",
      place === undefined ? "" : h("section", {}, h("h3", {}, "The feature"), f.card(place, { head: false, most: 4 }), h("p", { class: "links" }, h("a", { href: interp.link("transcoder_tokens", { feature: f.names[place] }) }, "table"), h("a", { href: interp.link("feature_heatmap", { feature: f.names[place] }) }, "heat map"))));
    side.scrollTop = 0;
  }

  // ------------------------------------------------------------------ keys

  const strongest = (links, end) => { const k = links.find((one) => shown[graph.links[end][one]]); if (k !== undefined) choose(graph.links[end][k]); };
  const PAN = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  by("graph").addEventListener("keydown", (event) => {
    const pan = PAN[event.key];
    if (!pan || !graph || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    interp.untip();
    if (!event.shiftKey) { view.shift(60 * pan[0], 60 * pan[1]); return; }
    const next = view.toward(-pan[0], -pan[1]);
    if (next !== null) choose(next);
  });
  const drawing = (work) => () => { if (!graph) return false; work(); return true; };
  interp.keys({
    "+": drawing(() => view.scale(1.3)), "=": drawing(() => view.scale(1.3)), "-": drawing(() => view.scale(1 / 1.3)), 0: drawing(reset),
    i: drawing(() => chosen !== null && strongest(graph.inputs[chosen], "source")), o: drawing(() => chosen !== null && strongest(graph.outputs[chosen], "target")),
    b: drawing(goBack), p: drawing(() => pin(chosen)), "[": () => picker.step(-1), "]": () => picker.step(1),
    Escape: () => { if (chosen === null) return false; choose(null); return true; },
  });
  function reset() { // all of it, as it was at first
    keep.value = keep.max;
    pins.clear();
    choose(null);
    prune();
    view.pins(pins);
    view.fit();
  }
  by("closer").addEventListener("click", () => view.scale(1.3));
  by("farther").addEventListener("click", () => view.scale(1 / 1.3));
  by("reset").addEventListener("click", () => { if (graph) reset(); });

  const edge = (sign) => interp.s("svg", { width: 30, height: 10, class: "motif", "aria-hidden": "true" }, interp.s("g", { class: `edge ${sign}` }, interp.s("path", { d: "M1,5H29" })));
  const dot = (kind, d) => interp.s("svg", { width: 14, height: 14, viewBox: "0 0 14 14", class: `motif`, "aria-hidden": "true" }, interp.s("path", { class: `node ${kind}`, d }));
  by("legend").replaceChildren(h("span", {}, dot("feature", "M7,2a5,5 0 1 0 .01,0Z"), "feature (fuller: more influence)"), h("span", {}, dot("error", "M7,1L13,7L7,13L1,7Z"), "error"), h("span", {}, dot("token", "M2,2H12V12H2Z"), "token"), h("span", {}, dot("logit", "M7,1L13,12H1Z"), "logit"),
    h("span", {}, edge("plus"), "adds"), h("span", {}, edge("minus"), "takes away"), h("span", { class: "apart" }, "Drag to move, wheel to zoom, click a node to follow its edges."));

  function follow() { // what the address asks for
    const asked = interp.params(), node = asked.get("node");
    const wanted = prompts.findIndex((row) => row.id === asked.get("prompt") && (!asked.has("category") || (row.category === asked.get("category") && row.kind === (asked.get("kind") || ""))));
    open(Math.max(0, wanted)).then(() => { const i = graph && node ? graph.nodes.id.indexOf(node) : -1; if (i >= 0) choose(i); });
  }
  aside();
  if (prompts.length) {
    follow();
    window.addEventListener("hashchange", follow);
  } else message.textContent = "This run has no graphs.";
  interp.graph = { view, state: () => ({ chosen, pins: [...pins], shown: shown.filter(Boolean).length, id: graph && graph.id }) };
})();
