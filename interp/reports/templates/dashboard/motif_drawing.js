// A motif as a drawing: nodes by layer, upwards; an edge's sign is in its colour, its dash and its end.
"use strict";

interp.motif = (() => {
  const { s, bare } = interp;
  const SHAPES = {
    feature: (x, y) => s("circle", { cx: x, cy: y, r: 6 }),
    token: (x, y) => s("rect", { x: x - 5.5, y: y - 5.5, width: 11, height: 11 }),
    error: (x, y) => s("path", { d: `M${x},${y - 7}L${x + 7},${y}L${x},${y + 7}L${x - 7},${y}Z` }),
    logit: (x, y) => s("path", { d: `M${x},${y - 7}L${x + 7},${y + 6}H${x - 7}Z` }),
  };
  function height(node) {
    const layer = /^L(\d+)/.exec(node.name);
    if (node.type === "token") return -1;
    return node.type === "logit" ? 1e9 : layer ? Number(layer[1]) : 0;
  }
  function arrow(x1, y1, x2, y2, sign) { // its end: an arrowhead where it adds, a bar where it takes away
    const long = Math.hypot(x2 - x1, y2 - y1) || 1, ux = (x2 - x1) / long, uy = (y2 - y1) / long;
    const a = [x1 + ux * 9, y1 + uy * 9], b = [x2 - ux * 11, y2 - uy * 11];
    const end = sign > 0 ? `M${b[0] - ux * 7 - uy * 4},${b[1] - uy * 7 + ux * 4}L${b[0]},${b[1]}L${b[0] - ux * 7 + uy * 4},${b[1] - uy * 7 - ux * 4}`
      : `M${b[0] - uy * 5},${b[1] + ux * 5}L${b[0] + uy * 5},${b[1] - ux * 5}`;
    return s("g", { class: sign > 0 ? "edge plus" : "edge minus" }, s("path", { d: `M${a[0]},${a[1]}L${b[0]},${b[1]}` }), s("path", { class: "end", d: end }));
  }

  function draw(edges, { width = 380, name = "motif" } = {}) {
    const nodes = new Map(), key = (node) => `${node.type}\n${node.name}`;
    for (const edge of edges) for (const node of [edge.source, edge.target]) if (!nodes.has(key(node))) nodes.set(key(node), node);
    const levels = [...new Set([...nodes.values()].map(height))].sort((a, b) => a - b), tall = 34 + 62 * (levels.length - 1) + 34;
    const made = s("svg", { class: "motif", viewBox: `0 0 ${width} ${tall}`, width, height: tall, role: "img",
      "aria-label": `${name}: ${edges.map((e) => `${e.source.name} ${e.sign > 0 ? "raises" : "lowers"} ${e.target.name}`).join(", ")}` });
    const spots = new Map();
    levels.forEach((level, k) => {
      const y = tall - 34 - 62 * k, row = [...nodes.values()].filter((node) => height(node) === level);
      made.append(s("text", { class: "level", x: 2, y: y + 4 }, level === -1 ? "token" : level === 1e9 ? "logit" : `L${level}`));
      made.append(s("line", { class: "rule", x1: 44, x2: width - 4, y1: y, y2: y }));
      const room = (width - 60) / row.length;
      row.forEach((node, i) => spots.set(key(node), { x: 56 + room * (i + 0.5) - (levels.length > 1 && row.length === 1 ? (k % 2 ? 22 : 44) : 30), y, room, node }));
    });
    for (const edge of edges) {
      const a = spots.get(key(edge.source)), b = spots.get(key(edge.target));
      made.append(arrow(a.x, a.y, b.x, b.y, edge.sign));
    }
    for (const { x, y, room, node } of spots.values()) {
      const shown = bare(node.name), most = Math.max(4, Math.floor(Math.min(room - 16, width - x - 14) / 7.4));
      const shape = SHAPES[node.type](x, y);
      shape.setAttribute("class", `node ${node.type}`);
      made.append(shape, s("text", { class: "label", x: x + 12, y: y - 7 }, shown.length > most ? `${shown.slice(0, most - 1)}…` : shown, s("title", {}, node.name)));
    }
    return made;
  }

  // Three nodes without names: which are linked, and how. Edges of a triangle: first to second, second to third, first to third.
  const ENDS = { chain: [[0, 1], [1, 2]], fan_out: [[0, 1], [0, 2]], fan_in: [[0, 2], [1, 2]], triangle: [[0, 1], [1, 2], [0, 2]] };
  const AT = { chain: [[16, 76], [40, 43], [16, 10]], fan_out: [[28, 66], [10, 18], [46, 18]], fan_in: [[10, 66], [46, 66], [28, 18]], triangle: [[12, 76], [46, 43], [12, 10]] };
  function triad({ shape, types, signs }) {
    const made = s("svg", { class: "motif triad", viewBox: "0 0 56 86", width: 56, height: 86, "aria-hidden": "true" });
    ENDS[shape].forEach(([a, b], k) => made.append(arrow(...AT[shape][a], ...AT[shape][b], signs[k] ?? 1)));
    AT[shape].forEach(([x, y], k) => { const node = (SHAPES[types[k]] || SHAPES.feature)(x, y); node.setAttribute("class", `node ${SHAPES[types[k]] ? types[k] : "feature"}`); made.append(node); });
    return made;
  }
  function key() {
    const shape = (type) => { const node = SHAPES[type](9, 9); node.setAttribute("class", `node ${type}`); return s("svg", { class: "motif", width: 18, height: 18, "aria-hidden": "true" }, node); };
    const edge = (sign) => s("svg", { class: "motif", width: 44, height: 18, "aria-hidden": "true" }, arrow(0, 9, 50, 9, sign));
    const { h } = interp;
    return [...Object.keys(SHAPES).map((type) => h("span", {}, shape(type), type)), h("span", {}, edge(1), "raises (+)"), h("span", {}, edge(-1), "lowers (−)")];
  }
  return { draw, triad, key };
})();
