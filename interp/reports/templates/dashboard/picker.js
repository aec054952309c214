// A box to search and choose a prompt in, by mouse or keys alone.
"use strict";

interp.picker = ({ box, list, rows, onchoose }) => { // rows: { n, title, text, words }
  const { h } = interp, MOST = 80;
  let fit = rows, at = -1, chosen = null, within = () => true;

  function open(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    fit = rows.filter((row) => within(row) && words.every((word) => row.words.includes(word)));
    at = Math.min(fit.length, MOST) ? Math.max(0, fit.slice(0, MOST).findIndex((row) => row.n === chosen)) : -1;
    list.replaceChildren(...fit.slice(0, MOST).map((row, i) => h("li", { role: "option", id: `prompt-${row.n}`, "aria-selected": String(row.n === chosen),
      onmousedown: (event) => { event.preventDefault(); choose(row.n); }, onmousemove: () => { if (at !== i) { at = i; point(); } } },
      h("b", {}, row.title), h("span", {}, row.text))));
    if (!fit.length) list.append(h("li", { class: "soft", role: "presentation" }, "No prompt has all of these words."));
    else if (fit.length > MOST) list.append(h("li", { class: "soft", role: "presentation" }, `and ${fit.length - MOST} more: type to find them`));
    list.hidden = false;
    box.setAttribute("aria-expanded", "true");
    point();
  }
  function point() {
    [...list.children].forEach((item, i) => item.classList.toggle("at", i === at));
    if (at >= 0 && fit[at]) { box.setAttribute("aria-activedescendant", `prompt-${fit[at].n}`); list.children[at].scrollIntoView({ block: "nearest" }); }
    else box.removeAttribute("aria-activedescendant");
  }
  function close() {
    list.hidden = true;
    box.setAttribute("aria-expanded", "false");
    box.removeAttribute("aria-activedescendant");
    const row = rows.find((one) => one.n === chosen);
    box.value = row ? row.title : "";
  }
  function choose(n) { chosen = n; close(); onchoose(n); }

  box.addEventListener("input", () => open(box.value));
  box.addEventListener("click", () => { if (list.hidden) { box.select(); open(""); } });
  box.addEventListener("blur", close);
  box.addEventListener("keydown", (event) => {
    const count = Math.min(fit.length, MOST);
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (list.hidden) open(""); else if (count) { at = (at + (event.key === "ArrowDown" ? 1 : -1) + count) % count; point(); }
    } else if (event.key === "Enter") { if (!list.hidden && at >= 0 && fit[at]) choose(fit[at].n); else if (list.hidden) open(""); }
    else if (event.key === "Escape") { if (list.hidden) box.blur(); else close(); }
    else return;
    event.preventDefault();
  });
  function step(by) {
    const some = rows.filter(within), now = some.findIndex((row) => row.n === chosen);
    const next = some[Math.max(0, Math.min(some.length - 1, now < 0 ? 0 : now + by))];
    if (next && next.n !== chosen) choose(next.n);
  }
  return { choose, step, set: (n) => { chosen = n; close(); }, only: (filter) => { within = filter; }, chosen: () => chosen };
};
