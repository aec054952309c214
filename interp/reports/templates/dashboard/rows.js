// A table of any length: rows exist while they are in view, and keep what is unfolded below them.
"use strict";

// columns: { key, name, cell(id), value(id) or nothing, up: sorts upwards first, class, width, about }
// detail(id): what a row unfolds to, or nothing; onsort(column, up), onrow(id or null) are told of changes.
interp.rows = ({ box, label, columns, height, detail = null, onsort, onrow = () => {}, empty = "Nothing fits." }) => {
  const { h } = interp, MORE = 6;
  let ids = [], places = new Map(), active = 0, drawn = new Map(), current = null;
  const open = new Map(), unfolded = new Map(), heads = new Map(); // id -> height, id -> row; key -> header

  const above = h("tr", { class: "space", "aria-hidden": "true" }, h("td", { colspan: columns.length }));
  const below = above.cloneNode(true);
  const body = h("tbody", {}, above, below), nothing = h("p", { class: "empty soft", hidden: true }, empty);
  const table = h("table", { "aria-label": label },
    h("colgroup", {}, ...columns.map((column) => h("col", { class: `c-${column.key}`, style: { width: column.width || "auto" } }))),
    h("thead", {}, h("tr", { "aria-rowindex": 1 }, ...columns.map((column) => {
      const name = column.value ? h("button", { type: "button", onclick: () => sort(column) }, column.name) : column.name;
      const head = h("th", { scope: "col", class: `${column.class || ""} c-${column.key}`, title: column.about || null, "aria-sort": column.value ? "none" : null }, name);
      heads.set(column.key, head);
      return head;
    }))), body);
  box.replaceChildren(table, nothing);

  function sort(column) {
    onsort(column, current && current.key === column.key ? !current.up : Boolean(column.up));
  }
  function sorted(key, up) { // what the headers say
    for (const column of columns) if (column.value) heads.get(column.key).setAttribute("aria-sort", column.key === key ? (up ? "ascending" : "descending") : "none");
    current = { key, up };
  }

  const unfoldedAt = () => [...open].filter(([id]) => places.has(id)).map(([id, tall]) => [places.get(id), tall]);
  function tops() { // where each row begins, as a function
    const after = unfoldedAt();
    return (i) => i * height + after.reduce((sum, [at, tall]) => sum + (at < i ? tall : 0), 0);
  }
  function first(top, y) {
    let low = 0, high = ids.length;
    while (low < high) { const middle = (low + high) >> 1; if (top(middle + 1) <= y) low = middle + 1; else high = middle; }
    return low;
  }

  function make(id) {
    const row = h("tr", { style: { height: `${height}px` }, tabindex: -1, "aria-expanded": detail ? String(open.has(id)) : null,
      onclick: (event) => { if (!event.target.closest("a, button")) { go(places.get(id), true); toggle(id); } },
      onmouseenter: () => onrow(id), onmouseleave: () => onrow(null), onfocus: () => { active = places.get(id); onrow(id); } });
    row.dataset.id = id;
    for (const column of columns) row.append(h("td", { class: `${column.class || ""} c-${column.key}` }, column.cell(id)));
    return row;
  }
  function beneath(id) {
    if (!unfolded.has(id)) {
      unfolded.set(id, h("tr", { class: "unfolded" }, h("td", { colspan: columns.length }, detail(id))));
      watch.observe(unfolded.get(id).firstChild); // it grows when its contexts come
    }
    return unfolded.get(id);
  }

  function draw(again = true) {
    const top = tops(), head = table.tHead.offsetHeight, from = Math.max(0, first(top, box.scrollTop) - MORE);
    const until = Math.min(ids.length, first(top, box.scrollTop + box.clientHeight - head) + MORE + 1);
    const held = body.contains(document.activeElement) ? document.activeElement : null;
    const next = new Map(), wanted = [];
    for (let i = from; i < until; i++) {
      const id = ids[i], row = drawn.get(id) || make(id);
      row.setAttribute("aria-rowindex", i + 2);
      row.tabIndex = i === active ? 0 : -1;
      row.classList.toggle("active", i === active);
      next.set(id, row);
      wanted.push(row);
      if (open.has(id)) wanted.push(beneath(id));
    }
    const keep = new Set(wanted);
    for (const row of [...body.children]) if (row !== above && row !== below && !keep.has(row)) row.remove();
    let last = above;
    for (const row of wanted) { if (last.nextSibling !== row) last.after(row); last = row; }
    if (last.nextSibling !== below) last.after(below);
    drawn = next;
    above.firstChild.style.height = `${top(from)}px`;
    below.firstChild.style.height = `${Math.max(0, top(ids.length) - top(until))}px`;
    above.hidden = from === 0; below.hidden = until === ids.length;
    if (held && !body.contains(held)) box.focus({ preventScroll: true });
    let changed = false;
    for (const [id] of open) {
      const row = unfolded.get(id);
      if (row && row.isConnected && Math.abs(row.offsetHeight - open.get(id)) > 1) { open.set(id, row.offsetHeight); changed = true; }
    }
    if (changed && again) draw(false);
  }
  const redraw = interp.soon(() => draw());

  function go(i, focus) {
    if (!ids.length) return;
    active = Math.max(0, Math.min(ids.length - 1, i));
    const top = tops(), head = table.tHead.offsetHeight, y = top(active), view = box.clientHeight - head;
    if (y < box.scrollTop) box.scrollTop = y;
    else if (y + height > box.scrollTop + view) box.scrollTop = y + height - view;
    draw();
    if (focus) drawn.get(ids[active])?.focus({ preventScroll: true });
  }
  const watch = detail ? new ResizeObserver(redraw) : null;
  function toggle(id, wanted = !open.has(id)) {
    if (!detail) return;
    if (wanted) open.set(id, open.get(id) || 200);
    else { open.delete(id); if (unfolded.has(id)) watch.unobserve(unfolded.get(id).firstChild); unfolded.delete(id); }
    drawn.get(id)?.setAttribute("aria-expanded", String(wanted));
    draw();
  }
  function set(rows, { fresh = false } = {}) { // fresh: cells say something else now
    ids = rows;
    places = new Map(rows.map((id, i) => [id, i]));
    active = 0;
    if (fresh) { drawn = new Map(); unfolded.clear(); watch?.disconnect(); }
    table.setAttribute("aria-rowcount", rows.length + 1);
    nothing.hidden = rows.length > 0;
    box.scrollTop = 0;
    draw();
  }
  function show(id, { unfold = false, focus = true } = {}) {
    if (!places.has(id)) return false;
    if (unfold) toggle(id, true);
    go(places.get(id), focus);
    box.scrollTop = Math.max(0, tops()(places.get(id)) - (unfold ? 0 : box.clientHeight / 3));
    return true;
  }

  box.tabIndex = -1;
  box.addEventListener("scroll", redraw, { passive: true });
  box.addEventListener("keydown", (event) => {
    if (event.target.closest("thead, a, button, input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const page = Math.max(1, Math.floor(box.clientHeight / height) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -ids.length, End: ids.length }[event.key];
    if (step !== undefined) go(active + step, true);
    else if ((event.key === "Enter" || event.key === " ") && ids.length) toggle(ids[active]);
    else return;
    event.preventDefault();
  });
  new ResizeObserver(redraw).observe(box);
  window.addEventListener("beforeprint", () => { // paper shows the first ones, not what is in view
    box.scrollTop = 0;
    draw();
  });
  return { set, sorted, show, go, draw, mark: (id) => { for (const [one, row] of drawn) row.classList.toggle("pointed", one === id); } };
};
