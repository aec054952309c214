// Where the nodes of a graph stand: layers upwards, tokens across, the nodes of one place side by side.
"use strict";

// Adds to a graph: x, y (in units of its own), rows (layers from below), columns ({ x, width } of each token), and the
// edges of each node, the strongest first. `reached` is the share of influence that a node and all larger ones have.
interp.laidOut = (graph) => {
  const { kind, layer, at, influence } = graph.nodes, size = kind.length, STEP = 11, PAD = 12, LEAST = 26, TIER = 15;
  const rows = [...new Set(layer)].sort((a, b) => a - b), rowOf = new Map(rows.map((one, i) => [one, i]));
  const cells = new Map();
  for (let i = 0; i < size; i++) {
    const key = `${layer[i]} ${at[i]}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(i);
  }
  const slots = new Array(graph.tokens.length).fill(1);
  for (const members of cells.values()) {
    members.sort((a, b) => (influence[a] ?? 0) - (influence[b] ?? 0));
    const column = at[members[0]];
    slots[column] = Math.max(slots[column], Math.ceil(members.length / Math.min(3, Math.ceil(members.length / 5))));
  }
  let x = 0;
  const columns = slots.map((n) => { const width = Math.max(LEAST, n * STEP + PAD), made = { x, width }; x += width; return made; });
  const xs = new Float64Array(size), ys = new Float64Array(size), tiers = new Float64Array(size);
  for (const members of cells.values()) {
    const first = members[0], column = columns[at[first]], per = slots[at[first]], lines = Math.ceil(members.length / per);
    members.forEach((i, k) => {
      const line = Math.floor(k / per), here = Math.min(per, members.length - line * per);
      xs[i] = column.x + column.width / 2 + ((k % per) - (here - 1) / 2) * STEP;
      ys[i] = rowOf.get(layer[i]);
      tiers[i] = (line - (lines - 1) / 2) * TIER;
    });
  }
  const inputs = Array.from({ length: size }, () => []), outputs = Array.from({ length: size }, () => []);
  graph.links.source.forEach((source, k) => { outputs[source].push(k); inputs[graph.links.target[k]].push(k); });
  return { ...graph, size, x: xs, y: ys, tier: tiers, rows, columns, width: x, inputs, outputs };
};
