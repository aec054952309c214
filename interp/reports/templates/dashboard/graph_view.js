// The drawing of a graph: one canvas, moved and zoomed; names of layers and tokens stay at its edges.
"use strict";

interp.graphView = ({ sheet, onchoose, onhover }) => {
  const { canvas, FONT, MONO, cut } = interp, FAINT = 900, STRONG = 40;
  const LEFT = 50, BOTTOM = 74, TOP = 20, RIGHT = 18;
  let graph = null, width = 0, height = 0, zoom = 1, moved = { x: 0, y: 0 }, base = { x: 1, y: 1 };
  let shown = null, chosen = null, over = null, pins = new Set(), style = {}, names = [];

  const sx = () => base.x * zoom, sy = () => base.y * zoom;
  const px = (i) => LEFT + moved.x + graph.x[i] * sx();
  const py = (i) => height - BOTTOM + moved.y - (graph.y[i] + 0.5) * sy() - graph.tier[i] * Math.min(1.3, sy() / 46);
  const radius = () => Math.max(2.4, Math.min(8, 4.6 * Math.sqrt(zoom) * Math.min(1.25, Math.max(0.7, base.x))));

  function size() {
    const box = sheet.parentElement.getBoundingClientRect();
    width = Math.floor(box.width); height = Math.floor(box.height);
  }
  function fit() {
    size();
    zoom = 1; moved = { x: 0, y: 0 };
    if (graph) {
      base = { x: Math.min(3, (width - LEFT - RIGHT) / graph.width), y: Math.min(120, (height - BOTTOM - TOP) / graph.rows.length) };
      moved.x = Math.max(0, (width - LEFT - RIGHT - graph.width * base.x) / 2);
    }
    draw();
  }

  function colours() {
    const all = getComputedStyle(document.documentElement), get = (name) => all.getPropertyValue(name).trim();
    style = { ink: get("--ink"), soft: get("--soft"), line: get("--line"), paper: get("--paper"), wash: get("--wash"), accent: get("--accent"), blue: get("--blue"), orange: get("--orange"), green: get("--green"), faint: get("--faint") };
  }

  function shape(pen, kind, x, y, r) {
    pen.beginPath();
    if (kind === 1) { pen.moveTo(x, y - r * 1.3); pen.lineTo(x + r * 1.3, y); pen.lineTo(x, y + r * 1.3); pen.lineTo(x - r * 1.3, y); pen.closePath(); }
    else if (kind === 2) pen.rect(x - r, y - r, 2 * r, 2 * r);
    else if (kind === 3) { pen.moveTo(x, y - r * 1.35); pen.lineTo(x + r * 1.3, y + r); pen.lineTo(x - r * 1.3, y + r); pen.closePath(); }
    else pen.arc(x, y, r, 0, 7);
  }
  function edge(pen, a, b) {
    const x1 = px(a), y1 = py(a), x2 = px(b), y2 = py(b), bend = (y1 - y2) * 0.45;
    pen.beginPath(); pen.moveTo(x1, y1); pen.bezierCurveTo(x1, y1 - bend, x2, y2 + bend, x2, y2); pen.stroke();
  }
  const signed = (pen, weight) => { pen.strokeStyle = weight > 0 ? style.blue : style.orange; pen.setLineDash(weight > 0 ? [] : [6, 4]); };

  function strongest(i) { // the edges of a node that are drawn, inputs and outputs each
    const { source, target } = graph.links;
    return [graph.inputs[i].filter((k) => shown[source[k]]).slice(0, STRONG), graph.outputs[i].filter((k) => shown[target[k]]).slice(0, STRONG)];
  }

  function draw() {
    colours();
    const pen = canvas(sheet, width, height);
    if (!graph) return;
    const floor = height - BOTTOM;
    frame(pen, floor);
    pen.save();
    pen.beginPath(); pen.rect(LEFT, 0, width - LEFT, floor); pen.clip();
    const { source, target, weight } = graph.links;
    const near = new Map();
    if (chosen === null) {
      let drawn = 0;
      const most = Math.abs(weight[0] ?? 1);
      pen.strokeStyle = style.faint; pen.lineWidth = 1;
      for (let k = 0; k < weight.length && drawn < FAINT; k++) {
        if (!shown[source[k]] || !shown[target[k]]) continue;
        drawn += 1;
        pen.globalAlpha = 0.12 + 0.5 * Math.sqrt(Math.abs(weight[k]) / most);
        edge(pen, source[k], target[k]);
      }
    } else {
      for (const list of strongest(chosen)) {
        const most = Math.abs(weight[list[0]] ?? 1);
        for (const k of [...list].reverse()) {
          const share = Math.abs(weight[k]) / most;
          signed(pen, weight[k]);
          pen.globalAlpha = 0.25 + 0.75 * share; pen.lineWidth = 0.8 + 2.6 * share;
          edge(pen, source[k], target[k]);
          near.set(source[k] === chosen ? target[k] : source[k], weight[k]);
        }
      }
    }
    pen.setLineDash([]); pen.globalAlpha = 1;
    const r = radius();
    for (let i = 0; i < graph.size; i++) if (shown[i]) node(pen, i, r, near);
    for (const i of [...pins, chosen, over]) if (i !== null && shown[i]) ring(pen, i, r);
    pen.restore();
    names = [];
    for (const i of new Set([...answers(), ...pins, chosen])) if (i !== null && shown[i]) name(pen, i, r, floor);
  }

  function node(pen, i, r, near) {
    const kind = graph.nodes.kind[i], x = px(i), y = py(i);
    if (x < LEFT - 20 || x > width + 20 || y < -20) return;
    const weight = near.get(i), away = chosen !== null && i !== chosen && weight === undefined;
    const share = graph.nodes.influence[i];
    pen.globalAlpha = away ? 0.22 : 1;
    shape(pen, kind, x, y, r);
    pen.fillStyle = style.paper; pen.fill();
    pen.fillStyle = weight !== undefined ? (weight > 0 ? style.blue : style.orange) : kind === 3 ? style.ink : kind === 2 ? style.green : kind === 1 ? style.soft : style.accent;
    pen.globalAlpha = away ? 0.12 : weight !== undefined || kind >= 2 ? 1 : kind === 1 ? 0.18 : 0.2 + 0.75 * (1 - Math.min(1, share ?? 1));
    pen.fill();
    pen.globalAlpha = away ? 0.25 : 1;
    pen.strokeStyle = kind === 0 ? style.accent : kind === 1 ? style.soft : style.paper; pen.lineWidth = 1; pen.stroke();
    pen.globalAlpha = 1;
  }
  function ring(pen, i, r) {
    pen.strokeStyle = i === chosen ? style.ink : i === over ? style.ink : style.orange;
    pen.lineWidth = i === chosen ? 2.4 : 1.6;
    pen.beginPath(); pen.arc(px(i), py(i), r + 4.5, 0, 7); pen.stroke();
    if (pins.has(i)) { pen.fillStyle = style.orange; pen.beginPath(); pen.arc(px(i) + r + 3, py(i) - r - 3, 3.2, 0, 7); pen.fill(); }
  }
  // The two likeliest, which stand side by side: one name fits on their left and one on their right.
  const answers = () => graph.nodes.kind.flatMap((kind, i) => (kind === 3 ? [i] : [])).sort((a, b) => (graph.nodes.chance[b] ?? 0) - (graph.nodes.chance[a] ?? 0)).slice(0, 2).sort((a, b) => graph.x[a] - graph.x[b]);
  function name(pen, i, r, floor) {
    const text = title(i), x = px(i), y = py(i);
    if (x < LEFT || x > width || y > floor || y < 0) return;
    pen.font = `600 12px ${FONT}`; pen.textBaseline = "middle";
    const shownText = cut(pen, text, 190), w = pen.measureText(shownText).width, first = i === answers()[0];
    const fits = x + r + 9 + w < width, left = !first && fits ? x + r + 9 : x - r - 9 - w;
    const crowded = !fits || graph.nodes.kind.filter((kind) => kind === 3).length > 2;
    const level = !first && crowded && graph.nodes.kind[i] === 3 ? y - 20 : y; // above what it would lie on
    pen.globalAlpha = 0.88; pen.fillStyle = style.paper; pen.fillRect(left - 3, level - 9, w + 6, 18);
    pen.globalAlpha = 1; pen.fillStyle = style.ink; pen.textAlign = "left"; pen.fillText(shownText, left, level);
    names.push({ i, text: shownText, left, right: left + w, level });
  }
  function frame(pen, floor) {
    pen.font = `11.5px ${FONT}`; pen.textBaseline = "middle";
    let last = Infinity;
    graph.rows.forEach((layer, row) => {
      const y = floor + moved.y - (row + 0.5) * sy();
      if (y > floor + 2 || y < 0) return;
      if (row % 2) { pen.fillStyle = style.wash; pen.fillRect(LEFT, Math.max(0, y - sy() / 2), width - LEFT, Math.min(sy(), floor - y + sy() / 2)); }
      if (last - y < 13) return;
      last = y;
      pen.fillStyle = style.soft; pen.textAlign = "right";
      const top = row === graph.rows.length - 1 && graph.nodes.kind.some((kind, i) => kind === 3 && graph.nodes.layer[i] === layer);
      pen.fillText(layer === -1 ? "tokens" : top ? "logits" : `L${layer}`, LEFT - 8, y);
    });
    pen.font = `600 12px ${MONO}`;
    const stand = graph.columns.some((column, c) => pen.measureText(interp.bare(graph.tokens[c])).width > column.width * sx() - 4);
    graph.tokens.forEach((token, c) => {
      const { x, width: wide } = graph.columns[c], from = LEFT + moved.x + x * sx(), middle = from + (wide * sx()) / 2;
      if (from + wide * sx() < LEFT || from > width) return;
      pen.strokeStyle = style.line; pen.globalAlpha = 0.6; pen.lineWidth = 1;
      if (from > LEFT) { pen.beginPath(); pen.moveTo(from, 0); pen.lineTo(from, floor + 5); pen.stroke(); }
      pen.globalAlpha = 1;
      if (middle < LEFT || middle > width) return;
      const mine = (i) => i !== null && graph.nodes.at[i] === c;
      pen.fillStyle = mine(chosen) || mine(over) ? style.ink : style.soft;
      pen.font = `${mine(chosen) || mine(over) ? "600 " : ""}12px ${MONO}`;
      if (!stand) { pen.textAlign = "center"; pen.fillText(interp.bare(token), middle, floor + 16); return; }
      if (wide * sx() < 9 && c % Math.ceil(9 / (wide * sx())) && !mine(chosen) && !mine(over)) return;
      pen.save(); pen.translate(middle, floor + 9); pen.rotate(-Math.PI / 2); pen.textAlign = "right";
      pen.fillText(cut(pen, interp.bare(token), BOTTOM - 14), 0, 0); pen.restore();
    });
    pen.strokeStyle = style.soft; pen.lineWidth = 1;
    pen.beginPath(); pen.moveTo(LEFT, floor + 0.5); pen.lineTo(width, floor + 0.5); pen.stroke();
  }

  function title(i) { // how a node is called
    const { kind, layer, feature, at, label, id } = graph.nodes;
    if (kind[i] === 0) return feature[i] === null ? id[i] : `L${layer[i]}_F${feature[i]}`;
    if (kind[i] === 1) return `error of L${layer[i]}`;
    if (kind[i] === 2) return interp.bare(graph.tokens[at[i]]);
    const answer = /^Output "([^]*)" \(p=[\d.]+\)$/.exec(label[i]);
    return answer ? interp.bare(answer[1]) : label[i] || id[i];
  }

  // ------------------------------------------------------------------ moving, zooming, choosing
  const redraw = interp.soon(draw);
  function scale(factor, x = LEFT + (width - LEFT) / 2, y = (height - BOTTOM) / 2) { // what lies at a point stays there
    const next = Math.max(0.5, Math.min(24, zoom * factor)), real = next / zoom, floor = height - BOTTOM;
    moved = { x: (x - LEFT) * (1 - real) + moved.x * real, y: (y - floor) * (1 - real) + moved.y * real };
    zoom = next;
    redraw();
  }
  function shift(x, y) { moved.x += x; moved.y += y; redraw(); }
  function nearest(event) {
    if (!graph) return null;
    const there = sheet.getBoundingClientRect(), x = event.clientX - there.left, y = event.clientY - there.top;
    let best = null, least = (radius() + 7) ** 2;
    if (x < LEFT || y > height - BOTTOM) return null;
    for (let i = 0; i < graph.size; i++) {
      if (!shown[i]) continue;
      const far = (px(i) - x) ** 2 + (py(i) - y) ** 2;
      if (far < least) { least = far; best = i; }
    }
    return best;
  }
  let drag = null;
  sheet.addEventListener("pointerdown", (event) => { sheet.setPointerCapture(event.pointerId); drag = { x: event.clientX, y: event.clientY, far: false }; });
  sheet.addEventListener("pointermove", (event) => {
    if (drag && event.buttons) {
      if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 3) drag.far = true;
      if (drag.far) { shift(event.clientX - drag.x, event.clientY - drag.y); Object.assign(drag, { x: event.clientX, y: event.clientY }); sheet.style.cursor = "grabbing"; onhover(null); }
      return;
    }
    const spot = nearest(event);
    sheet.style.cursor = spot === null ? "grab" : "pointer";
    if (spot === over) return;
    over = spot;
    redraw();
    onhover(spot, event.clientX, event.clientY);
  });
  sheet.addEventListener("pointerup", (event) => { if (drag && !drag.far) onchoose(nearest(event)); drag = null; sheet.style.cursor = "grab"; });
  sheet.addEventListener("pointerleave", () => { over = null; redraw(); onhover(null); });
  sheet.addEventListener("wheel", (event) => {
    const there = sheet.getBoundingClientRect();
    event.preventDefault();
    onhover(null);
    scale(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), event.clientX - there.left, event.clientY - there.top);
  }, { passive: false });

  function toward(dx, dy) { // the next node in a direction
    const from = chosen === null ? { x: LEFT + (width - LEFT) / 2, y: (height - BOTTOM) / 2 } : { x: px(chosen), y: py(chosen) };
    let best = null, least = Infinity;
    for (let i = 0; i < graph.size; i++) {
      if (!shown[i] || i === chosen) continue;
      const x = px(i) - from.x, y = py(i) - from.y, along = x * dx + y * dy, aside = Math.abs(x * dy - y * dx);
      if (chosen !== null && (along < 1 || aside > along * 2.5)) continue;
      const far = chosen === null ? Math.hypot(x, y) : along + 2 * aside;
      if (far < least) { least = far; best = i; }
    }
    return best;
  }
  function reveal(i) { // bring a node into view
    const x = px(i), y = py(i), m = 40;
    if (x < LEFT + m) shift(LEFT + m - x, 0); else if (x > width - m) shift(width - m - x, 0);
    if (y < m) shift(0, m - y); else if (y > height - BOTTOM - m) shift(0, height - BOTTOM - m - y);
  }
  let sized = false;
  new ResizeObserver(() => { if (!sized || (zoom === 1 && graph)) { sized = true; fit(); } else { size(); redraw(); } }).observe(sheet.parentElement);
  interp.dark.addEventListener("change", redraw);

  return {
    set: (made, visibleNodes) => { graph = made; shown = visibleNodes; chosen = null; over = null; pins = new Set(); fit(); },
    show: (visibleNodes) => { shown = visibleNodes; redraw(); },
    choose: (i) => { chosen = i; redraw(); if (i !== null) reveal(i); },
    pins: (set) => { pins = set; redraw(); },
    point: (i) => { over = i; redraw(); },
    where: (i) => ({ x: px(i), y: py(i), zoom, moved: { ...moved } }),
    names: () => names,
    scale, shift, fit, title, toward, LEFT, BOTTOM,
  };
};
