// The heat map's drawing: rows in view alone, on one canvas that stays while the page behind it scrolls.
"use strict";

interp.heat = ({ box, strip, label, text, onhover, onpin, onrank }) => {
  const { h, s, by, canvas, FONT, MONO } = interp, f = interp.features;
  const ROW = 22, GAP = 10, TEXT = `11px ${FONT}`;
  const head = box.querySelector(".heat-head"), space = box.querySelector(".heat-space"), sheet = space.querySelector("canvas");
  let order = [], column = [], low = 0, high = 1, rank = null, pins = new Set();
  let xs = [], cell = 60, left = 220, wide = 0, tall = 0, ramps = interp.ramps(), row = 0, at = 0, focused = false, over = null;

  function lay() {
    const width = box.clientWidth, gaps = f.categories.length * GAP;
    left = width < 640 ? 150 : 232;
    cell = Math.max(38, Math.min(96, (width - left - gaps - 4) / Math.max(1, f.groups.length)));
    xs = [];
    let x = left, last = null;
    for (const g of f.order) {
      if (f.groups[g].category !== last) { x += GAP; last = f.groups[g].category; }
      xs.push(x);
      x += cell;
    }
    wide = Math.max(width, x + 2);
    headings();
    tall = Math.max(60, box.clientHeight - head.offsetHeight);
    space.style.height = `${Math.max(order.length * ROW, 1)}px`;
    space.style.width = `${wide}px`;
    draw();
  }

  function headings() {
    head.style.width = `${wide}px`;
    head.replaceChildren(h("span", { class: "corner", role: "columnheader", style: { width: `${left}px` } }, "feature", h("small", {}, "active on")));
    let last = null;
    f.order.forEach((g, k) => {
      const { category, kind, prompts } = f.groups[g];
      if (category !== last) {
        const count = f.order.filter((one) => f.groups[one].category === category).length;
        head.append(h("span", { class: "category", title: interp.spaced(category), style: { left: `${xs[k]}px`, width: `${count * cell - 4}px` } }, interp.spaced(category)));
        last = category;
      }
      const short = { harmful: "harmful", safe_contrast: "safe", benign_act: "benign" }[kind];
      const mark = s("svg", { class: `bar ${kind}`, width: 12, height: 12, viewBox: "0 0 12 12", "aria-hidden": "true" }, interp.mark(kind, 6, 6, 3.6));
      head.append(h("span", { role: "columnheader", class: "group", "aria-sort": g === rank ? "descending" : "none", style: { left: `${xs[k]}px`, width: `${cell}px` } },
        h("button", { type: "button", tabindex: -1, title: `${f.groupName(g)}${prompts === null ? "" : `, ${prompts} prompts`}: rank by it`, onclick: () => onrank(g) },
          mark, cell > 100 ? f.kinds[kind] : cell > 58 ? short : "", g === rank ? h("span", { "aria-hidden": "true" }, " ▾") : null)));
    });
  }

  function shade(x) {
    if (low < 0) return x < 0 ? ramps.down[Math.round(127 * Math.min(1, x / low))] : ramps.up[Math.round(127 * Math.min(1, x / (high || 1)))];
    return ramps.up[Math.round(127 * Math.min(1, Math.max(0, x / (high || 1))))];
  }

  function draw() {
    const width = box.clientWidth, from = Math.max(0, Math.floor(box.scrollTop / ROW)), shift = from * ROW - box.scrollTop;
    const pen = canvas(sheet, width, tall), ink = interp.css("--ink"), soft = interp.css("--soft"), paper = interp.css("--paper"), accent = interp.css("--accent"), wash = interp.css("--wash"), line = interp.css("--line");
    pen.textBaseline = "middle";
    const until = Math.min(order.length, from + Math.ceil((tall - shift) / ROW) + 1);
    for (let r = from; r < until; r++) {
      const i = order[r], y = shift + (r - from) * ROW;
      const pointed = over ? over.row === r : focused && row === r;
      if (pointed) { pen.fillStyle = wash; pen.fillRect(0, y, width, ROW); }
      pen.font = TEXT; pen.textAlign = "center";
      f.order.forEach((g, k) => {
        const x = xs[k] - box.scrollLeft, v = column[g][i];
        if (x + cell < left || x > width) return;
        if (v === null) { pen.fillStyle = line; pen.fillRect(x + cell / 2 - 3, y + ROW / 2, 6, 1); return; }
        const { color, ink: dark } = shade(v);
        pen.fillStyle = color;
        pen.fillRect(x, y + 1, cell - 2, ROW - 2);
        pen.fillStyle = dark;
        pen.fillText(text(v), x + cell / 2 - 1, y + ROW / 2 + 0.5);
      });
      pen.fillStyle = pointed ? wash : paper;
      pen.fillRect(0, y, left, ROW);
      pen.textAlign = "left";
      if (pins.has(i)) { pen.fillStyle = accent; pen.fillRect(0, y + 1, 3, ROW - 2); }
      pen.font = `12px ${MONO}`; pen.fillStyle = ink;
      const name = interp.cut(pen, f.names[i], left - 20);
      pen.fillText(name, 9, y + ROW / 2);
      const used = 9 + pen.measureText(name).width + 10;
      pen.font = TEXT; pen.fillStyle = soft;
      if (left - used > 24) pen.fillText(interp.cut(pen, label(i), left - used - 6), used, y + ROW / 2 + 0.5);
    }
    const spot = over || (focused ? { row, at } : null);
    if (spot && order.length && xs.length) {
      pen.strokeStyle = ink; pen.lineWidth = 2;
      const x = xs[spot.at] - box.scrollLeft;
      if (x >= left - 1) pen.strokeRect(x, shift + (spot.row - from) * ROW + 1, cell - 2, ROW - 2);
    }
    drawStrip();
  }

  let drawnStrip = "";
  function drawStrip() { // all rows at once: each line of pixels shows the largest value of the rows it stands for
    const width = 36, height = box.clientHeight, lines = Math.max(1, Math.min(height, order.length));
    const key = `${height} ${order.length} ${stamp}`;
    const pen = strip.getContext("2d", { willReadFrequently: true });
    if (key !== drawnStrip) {
      drawnStrip = key;
      const ink = canvas(strip, width, height), w = width / Math.max(1, f.order.length);
      for (let y = 0; y < lines; y++) {
        const a = Math.floor((y * order.length) / lines), b = Math.max(a + 1, Math.floor(((y + 1) * order.length) / lines));
        f.order.forEach((g, k) => {
          let most = null;
          for (let r = a; r < b && r < order.length; r++) { const v = column[g][order[r]]; if (v !== null && (most === null || Math.abs(v) > Math.abs(most))) most = v; }
          if (most === null) return;
          ink.fillStyle = shade(most).color;
          ink.fillRect(k * w, (y * height) / lines, Math.ceil(w), Math.ceil(height / lines));
        });
      }
      picture = pen.getImageData(0, 0, strip.width, strip.height);
    }
    pen.putImageData(picture, 0, 0);
    const total = order.length * ROW || 1;
    pen.strokeStyle = interp.css("--no"); pen.lineWidth = 2;
    if (total > tall) pen.strokeRect(1, 1 + (box.scrollTop / total) * height, width - 2, Math.max(5, (tall / total) * height) - 2);
  }
  let picture = null, stamp = 0;

  function cellAt(event) {
    const there = sheet.getBoundingClientRect(), r = Math.floor((event.clientY - there.top + box.scrollTop) / ROW), x = event.clientX - there.left;
    if (r < 0 || r >= order.length || event.clientY < there.top) return null;
    const k = x < left ? -1 : xs.findIndex((one) => x + box.scrollLeft >= one && x + box.scrollLeft < one + cell);
    return { row: r, at: k < 0 ? (over ? over.at : Math.max(0, f.order.indexOf(rank))) : k, label: k < 0 };
  }
  const redraw = interp.soon(draw);
  sheet.addEventListener("mousemove", (event) => {
    over = cellAt(event);
    redraw();
    onhover(over ? { i: order[over.row], g: f.order[over.at] ?? null, x: event.clientX, y: event.clientY } : null);
  });
  sheet.addEventListener("mouseleave", () => { over = null; redraw(); onhover(null); });
  sheet.addEventListener("click", (event) => {
    const spot = cellAt(event);
    if (spot) { row = spot.row; at = spot.at; onpin(order[row]); }
  });
  box.addEventListener("scroll", () => { over = null; redraw(); interp.untip(); }, { passive: true });

  function tell() { // to whoever does not see the canvas, and in the tip
    if (!order.length || !f.order.length) return;
    const i = order[row], g = f.order[at], line = by("heat-row");
    line.setAttribute("aria-rowindex", row + 1);
    line.firstElementChild.textContent = `${f.names[i]} ${label(i)}`;
    by("heat-cell").textContent = `${f.groupName(g)}: ${column[g][i] === null ? "undefined" : text(column[g][i])}`;
    box.setAttribute("aria-activedescendant", "heat-cell");
    interp.say(`${f.names[i]}, ${f.groupName(g)}: ${column[g][i] === null ? "undefined" : text(column[g][i])}`);
    const there = sheet.getBoundingClientRect();
    onhover({ i, g, x: there.left + xs[at] - box.scrollLeft + cell / 2, y: there.top + (row + 1) * ROW - box.scrollTop });
  }
  function go(r, k) {
    if (!order.length) return;
    row = Math.max(0, Math.min(order.length - 1, r)); at = Math.max(0, Math.min(xs.length - 1, k));
    over = null; focused = true;
    const y = row * ROW;
    if (y < box.scrollTop) box.scrollTop = y;
    else if (y + ROW > box.scrollTop + tall) box.scrollTop = y + ROW - tall;
    const x = xs[at] ?? 0;
    if (x - box.scrollLeft < left) box.scrollLeft = x - left - GAP;
    else if (x + cell - box.scrollLeft > box.clientWidth) box.scrollLeft = x + cell - box.clientWidth;
    draw();
    requestAnimationFrame(() => requestAnimationFrame(tell)); // after the scroll has hidden the last tip
  }
  box.addEventListener("focus", () => { if (box.matches(":focus-visible")) { focused = true; draw(); tell(); } });
  box.addEventListener("blur", () => { focused = false; draw(); onhover(null); });
  box.addEventListener("keydown", (event) => {
    if (event.target !== box || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(tall / ROW) - 1);
    const moves = { ArrowDown: [1, 0], ArrowUp: [-1, 0], ArrowRight: [0, 1], ArrowLeft: [0, -1], PageDown: [page, 0], PageUp: [-page, 0], Home: [-order.length, 0], End: [order.length, 0] };
    if (moves[event.key]) go(row + moves[event.key][0], at + moves[event.key][1]);
    else if ((event.key === "Enter" || event.key === " ") && order.length) onpin(order[row]);
    else if (event.key === "r" && f.order.length) onrank(f.order[at]);
    else return;
    event.preventDefault();
  });
  const jump = (event) => {
    const there = strip.getBoundingClientRect();
    box.scrollTop = ((event.clientY - there.top) / there.height) * order.length * ROW - tall / 2;
  };
  strip.addEventListener("pointerdown", (event) => { strip.setPointerCapture(event.pointerId); jump(event); });
  strip.addEventListener("pointermove", (event) => { if (event.buttons) jump(event); });
  new ResizeObserver(lay).observe(box);
  interp.dark.addEventListener("change", () => { ramps = interp.ramps(); stamp += 1; draw(); });

  function set(given) {
    ({ order, column, low, high, rank, pins } = given);
    stamp += 1;
    box.setAttribute("aria-rowcount", order.length);
    box.setAttribute("aria-colcount", f.groups.length + 1);
    lay();
  }
  function show(i) { const r = order.indexOf(i); if (r >= 0) { row = r; box.scrollTop = r * ROW - tall / 3; draw(); } return r >= 0; }
  return { set, show, draw, top: () => { row = 0; box.scrollTop = 0; }, ramps: () => ramps };
};
