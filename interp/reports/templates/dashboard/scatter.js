// Points of two means, drawn on one canvas: each class has a shape and a colour of its own.
"use strict";

// classes: { key, color (a CSS variable), draw(pen, x, y, r) traces the shape, filled, size }
interp.scatter = ({ sheet, classes, onhover, onpin, onstep }) => {
  const { canvas, FONT, number } = interp;
  let points = [], root = false, highest = 1, size = 0, over = null, spots = [];
  const M = { left: 58, right: 14, top: 12, bottom: 46 };

  const warp = (v) => (root ? Math.sign(v) * Math.sqrt(Math.abs(v)) : v);
  let lowest = 0;
  const unit = (v) => (warp(v) - warp(lowest)) / ((warp(highest) - warp(lowest)) || 1);
  const px = (v) => M.left + unit(v) * (size - M.left - M.right), py = (v) => size - M.bottom - unit(v) * (size - M.top - M.bottom);

  function ticks() {
    const span = highest - lowest, raw = span / 5, power = 10 ** Math.floor(Math.log10(raw || 1));
    const step = [1, 2, 5, 10].map((k) => k * power).find((k) => k >= raw) || 1;
    const all = [];
    for (let v = Math.ceil(lowest / step) * step; v <= highest + step * 1e-6; v += step) all.push(Number(v.toPrecision(10)));
    if (root && highest > 0) for (const part of [0.02, 0.06]) all.push(Number((highest * part).toPrecision(1)));
    return [...new Set(all)];
  }

  function draw() {
    const box = sheet.parentElement, style = getComputedStyle(document.documentElement), css = (name) => style.getPropertyValue(name).trim();
    size = Math.max(240, Math.min(box.clientWidth, Math.max(300, box.clientHeight)));
    const pen = canvas(sheet, size, size);
    pen.font = `12px ${FONT}`; pen.lineWidth = 1;
    for (const v of ticks()) {
      pen.strokeStyle = css("--line"); pen.fillStyle = css("--soft");
      pen.beginPath(); pen.moveTo(px(v), py(highest)); pen.lineTo(px(v), py(lowest)); pen.moveTo(px(lowest), py(v)); pen.lineTo(px(highest), py(v)); pen.stroke();
      pen.textAlign = "center"; pen.textBaseline = "top"; pen.fillText(number(v), px(v), size - M.bottom + 7);
      pen.textAlign = "right"; pen.textBaseline = "middle"; pen.fillText(number(v), M.left - 8, py(v));
    }
    pen.fillStyle = css("--ink"); pen.textAlign = "center"; pen.textBaseline = "bottom";
    pen.fillText("mean activation on safe prompts", (M.left + size - M.right) / 2, size - 4);
    pen.save(); pen.translate(13, (size - M.bottom + M.top) / 2); pen.rotate(-Math.PI / 2); pen.textBaseline = "middle";
    pen.fillText("mean activation on harmful prompts", 0, 0); pen.restore();
    pen.strokeStyle = css("--soft"); pen.setLineDash([5, 4]);
    pen.beginPath(); pen.moveTo(px(lowest), py(lowest)); pen.lineTo(px(highest), py(highest)); pen.stroke(); pen.setLineDash([]);
    pen.save(); pen.translate(px(highest) - 8, py(highest) + 8); pen.rotate(-Math.PI / 4); pen.textAlign = "right"; pen.textBaseline = "bottom"; pen.fillStyle = css("--soft");
    pen.fillText("equal", -10, -3); pen.restore();
    const paper = css("--paper");
    spots = [];
    classes.forEach((kind, k) => { // the weightiest class last, on top
      pen.strokeStyle = css(kind.color); pen.fillStyle = kind.filled ? css(kind.color) : paper;
      for (const point of points) {
        if (point.kind !== k) continue;
        const x = px(point.x), y = py(point.y);
        spots.push({ x, y, id: point.id });
        pen.beginPath(); kind.draw(pen, x, y, kind.size);
        pen.globalAlpha = kind.filled ? 0.9 : 0.55; pen.fill();
        pen.globalAlpha = kind.filled ? 1 : 0.7; pen.lineWidth = kind.ring ? 2 : 1; pen.stroke();
        if (kind.filled) { pen.save(); pen.strokeStyle = kind.ring ? css("--ink") : paper; pen.lineWidth = kind.ring ? 1.5 : 1; pen.stroke(); pen.restore(); }
        pen.globalAlpha = 1;
      }
    });
    const spot = spots.find((one) => one.id === over);
    if (spot) {
      pen.strokeStyle = css("--ink"); pen.lineWidth = 2;
      pen.beginPath(); pen.arc(spot.x, spot.y, 10, 0, 7); pen.stroke();
    }
  }
  const redraw = interp.soon(draw);

  function nearest(event) {
    const there = sheet.getBoundingClientRect(), x = event.clientX - there.left, y = event.clientY - there.top;
    let best = null, least = 14 * 14;
    for (const spot of spots) { const far = (spot.x - x) ** 2 + (spot.y - y) ** 2; if (far <= least) { least = far; best = spot; } }
    return best;
  }
  sheet.addEventListener("mousemove", (event) => {
    const spot = nearest(event);
    sheet.style.cursor = spot ? "pointer" : "default";
    if ((spot?.id ?? null) === over) return;
    over = spot ? spot.id : null;
    redraw();
    onhover(over, event.clientX, event.clientY);
  });
  sheet.addEventListener("mouseleave", () => { over = null; redraw(); onhover(null); });
  sheet.addEventListener("click", (event) => { const spot = nearest(event); if (spot) onpin(spot.id); });
  sheet.addEventListener("blur", () => { over = null; redraw(); onhover(null); });
  sheet.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (step) onstep(over, step); else if (event.key === "Enter" && over !== null) onpin(over); else return;
    event.preventDefault();
  });
  new ResizeObserver(redraw).observe(sheet.parentElement);
  interp.dark.addEventListener("change", redraw);

  function set(given) {
    points = given.points; root = given.root; over = null;
    const every = given.all.flatMap((point) => [point.x, point.y]);
    highest = Math.max(0, ...every) * 1.04 || 1;
    lowest = Math.min(0, ...every) * 1.04;
    draw();
  }
  function point(id, { tell = false } = {}) { // mark a point, and say where it is
    over = id;
    redraw();
    const spot = spots.find((one) => one.id === id);
    if (!spot || !tell) return;
    const there = sheet.getBoundingClientRect();
    onhover(id, there.left + spot.x, there.top + spot.y);
  }
  return { set, point, spots: () => spots };
};
