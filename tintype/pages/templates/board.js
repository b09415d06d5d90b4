(() => {
  "use strict";
  const EVERY = 2500; // milliseconds between two looks
  const SHOWN = 5; // curves at first
  const COLOURS = ["#3b7dd8", "#d97a2b", "#3c9a68", "#c24b78", "#8668c4", "#9a8425", "#2f9cae", "#b4503c", "#74869a", "#7a9a34"];
  const ticked = new Map(); // run name -> whether the reader wants its curve
  let runs = [], pages = [], order = { key: "changed", down: true };
  const byId = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, text = "") => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text; // never as HTML: names come from folders
    return node;
  };
  const svg = (tag, attributes = {}, text = "") => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text) node.textContent = text;
    return node;
  };

  const bare = (name) => name.replace(/^(val|test|train)_/, "");
  // How a figure is written: its label, scale, unit and digits come with the runs that it ranks.
  const criteria = () => new Map(runs.filter((run) => run.criterion).map((run) => [bare(run.score), run.criterion]));
  const criterionOf = (name) => criteria().get(bare(name || "")) || { label: bare(name || "").replaceAll("_", " "), scale: 1, unit: "", digits: null, lower: true };
  const named = (name) => criterionOf(name).label + (criterionOf(name).lower && criteria().has(bare(name)) ? ", lower is better" : "");
  const format = (value, name) => {
    if (value === undefined || value === null) return "–";
    const how = criterionOf(name), number = Number(value) * how.scale;
    return (how.digits === null ? number.toPrecision(4) : number.toFixed(how.digits)) + (how.unit ? " " + how.unit : "");
  };
  const figure = (run, split) => {
    const key = (run.score || "val_").replace(/^val/, split);
    if (key in run.figures) return [run.figures[key], key];
    const curve = run.curves[run.score];
    return split === "val" && curve && curve.length ? [curve[curve.length - 1][1], key] : [null, key];
  };
  const known = (value) => value !== null && value !== undefined;
  // Runs of a study or a tuning stand in its folder.
  const groupOf = (run) => run.name.includes("/") ? run.name.slice(0, run.name.lastIndexOf("/")) : "";
  const shortName = (run) => run.name.slice(run.name.lastIndexOf("/") + 1);
  const stateOf = (run) => run.state === "running" && !run.step ? "preparing" : run.state;

  // The best on validation among the finished runs with the same data and the same figure, where there are several.
  function bestRuns() {
    const rivals = new Map();
    for (const run of runs) {
      const [value, key] = figure(run, "val");
      if (run.state !== "finished" || !known(value)) continue;
      const kind = run.data + " " + key;
      if (!rivals.has(kind)) rivals.set(kind, []);
      rivals.get(kind).push([criterionOf(key).lower ? -value : value, run.name]);
    }
    return new Set([...rivals.values()].filter((each) => each.length > 1).map((each) => each.reduce((a, b) => (b[0] > a[0] ? b : a))[1]));
  }

  const ago = (seconds) => {
    const gone = Math.max(0, Date.now() / 1000 - seconds);
    return gone < 90 ? Math.round(gone) + " s ago" : gone < 5400 ? Math.round(gone / 60) + " min ago" : gone < 129600 ? Math.round(gone / 3600) + " h ago" : Math.round(gone / 86400) + " days ago";
  };

  // At first the newest runs, of each study and tuning its newest one.
  const first = () => {
    const groups = new Set(), found = runs.filter((run) => !groupOf(run) || (!groups.has(groupOf(run)) && groups.add(groupOf(run))));
    return new Set(found.slice(0, SHOWN).map((run) => run.name));
  };
  const chosen = () => { const shown = first(); return runs.filter((run) => ticked.has(run.name) ? ticked.get(run.name) : shown.has(run.name)); };
  const colours = () => new Map(chosen().map((run, i) => [run.name, COLOURS[i % COLOURS.length]]));

  function ticks(low, high, count) {
    const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 2.5, 5, 10].map((k) => k * power).find((s) => s >= rough);
    const found = [];
    for (let t = Math.ceil(low / step) * step; t <= high + 1e-9 * step; t += step) found.push(Number(t.toPrecision(12)));
    return found;
  }

  function chart(title, lines, share) {
    const W = Math.min(520, byId("charts").clientWidth || 520), H = 270, // so that texts keep their size on a phone
       left = 58, bottom = 30, top = 10, right = 16;
    const all = lines.flatMap((line) => line.points);
    const box = make("figure");
    box.append(make("figcaption", {}, title));
    const xs = all.map((p) => p[0]), ys = all.map((p) => p[1]);
    let [x0, x1, y0, y1] = [Math.min(0, ...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    if (y1 === y0) { y0 -= Math.abs(y0) * 0.05 || 1; y1 += Math.abs(y1) * 0.05 || 1; }
    if (x1 === x0) x1 = x0 + 1;
    const X = (x) => left + (x - x0) / (x1 - x0) * (W - left - right), Y = (y) => H - bottom - (y - y0) / (y1 - y0) * (H - bottom - top);
    const picture = svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title + " of " + lines.map((l) => l.name).join(", ") });
    for (const t of ticks(y0, y1, 5)) {
      picture.append(svg("line", { class: "grid", x1: left, x2: W - right, y1: Y(t), y2: Y(t) }));
      picture.append(svg("text", { x: left - 7, y: Y(t) + 4, "text-anchor": "end" }, share ? Number((100 * t).toPrecision(4)) + " %" : String(t)));
    }
    for (const t of ticks(x0, x1, 6)) picture.append(svg("text", { x: X(t), y: H - 6, "text-anchor": "middle" }, t.toLocaleString("en")));
    for (const line of lines) {
      if (line.points.length === 1) {
        picture.append(svg("circle", { cx: X(line.points[0][0]), cy: Y(line.points[0][1]), r: 4, fill: line.colour, class: "only" }));
        continue;
      }
      const path = line.points.map((p, i) => (i ? "L" : "M") + X(p[0]).toFixed(1) + " " + Y(p[1]).toFixed(1)).join("");
      const curve = svg("path", { d: path, class: "curve", stroke: line.colour });
      curve.append(svg("title", {}, line.name));
      picture.append(curve);
    }
    box.append(picture);
    return box;
  }

  function draw() {
    const shown = chosen(), colour = colours(), columns = new Map();
    for (const run of shown) for (const [name, points] of Object.entries(run.curves)) {
      if (!points.length) continue;
      if (!columns.has(name)) columns.set(name, []);
      columns.get(name).push({ name: run.name, points, colour: colour.get(run.name) });
    }
    const names = [...columns.keys()].sort((a, b) => b.startsWith("val") - a.startsWith("val") || a.localeCompare(b));
    const words = (name) => (name.startsWith("val_") ? "Validation " : "Training ") + named(name) + (criterionOf(name).unit && criterionOf(name).unit !== "%" ? ` in ${criterionOf(name).unit}` : "") + ", by step";
    byId("charts").replaceChildren(...names.map((name) => chart(words(name), columns.get(name), criterionOf(name).unit === "%")));
    byId("legend").replaceChildren(...shown.map((run) => {
      const item = make("span");
      item.append(make("i", { class: "dot", style: `background:${colour.get(run.name)}` }), run.name);
      return item;
    }));
  }

  function table() {
    const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (run) => [run.name, run.model, run.data, stateOf(run), run.task].join(" ").toLowerCase();
    const ofFigure = (split) => (run) => figure(run, split)[0];
    const key = { val: ofFigure("val"), test: ofFigure("test"), state: stateOf }[order.key] || ((run) => run[order.key]);
    const kind = (run) => order.key === "val" || order.key === "test" ? figure(run, order.key)[1] : "";
    const rows = runs.filter((run) => wanted.every((word) => text(run).includes(word)));
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!known(x) || !known(y)) return !known(x) - !known(y);
      if (kind(a) !== kind(b)) return kind(a) < kind(b) ? -1 : 1; // an accuracy is not compared with decibels
      return (x < y ? -1 : x > y ? 1 : 0) * (order.down ? -1 : 1);
    });
    const groups = new Map();
    for (const run of rows) {
      const group = groupOf(run) || run.name;
      if (!groups.has(group)) groups.set(group, []);
      groups.get(group).push(run);
    }
    const drawn = new Set(chosen().map((run) => run.name)), best = bestRuns(), shown = [];
    for (const [group, members] of groups) {
      const inside = Boolean(groupOf(members[0]));
      if (inside) shown.push(headOf(group, members));
      shown.push(...members.map((run) => rowOf(run, inside, drawn.has(run.name), best.has(run.name))));
    }
    byId("rows").replaceChildren(...shown);
    byId("empty").hidden = runs.length > 0;
    for (const button of document.querySelectorAll("[data-sort]")) {
      const head = button.closest("th");
      if (button.dataset.sort === order.key) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      else head.removeAttribute("aria-sort");
    }
  }

  function headOf(group, members) {
    const row = make("tr", { class: "group" }), head = make("th", { colspan: "8", scope: "rowgroup" }), page = pages.find((each) => each.name === group);
    head.append(page ? make("a", { href: page.page }, group) : group, make("span", { class: "quiet" }, members.length === 1 ? " · 1 run" : ` · ${members.length} runs`));
    row.append(head);
    return row;
  }

  function rowOf(run, inside, drawn, best) {
    const row = make("tr", inside ? { class: "inside" } : {}), box = make("input", { type: "checkbox", "aria-label": "Show the curves of " + run.name });
    box.checked = drawn;
    box.addEventListener("change", () => { for (const each of chosen()) ticked.set(each.name, true); for (const each of runs) if (!ticked.has(each.name)) ticked.set(each.name, false); ticked.set(run.name, box.checked); draw(); });
    const tick = make("td");
    tick.append(box);
    const name = make("th", { scope: "row" });
    name.append(run.report ? make("a", { href: run.report }, shortName(run)) : shortName(run));
    row.append(tick, name);
    for (const split of ["test", "val"]) {
      const cell = make("td", { class: "number" }), [value, key] = figure(run, split);
      cell.append(format(value, key));
      if (known(value)) cell.append(make("span", { class: "figure-name" }, named(key)));
      if (split === "val" && best) cell.append(make("span", { class: "best" }, "best on " + run.data));
      row.append(cell);
    }
    const state = make("td"), word = make("span", { class: "state " + run.state }, stateOf(run));
    state.append(word);
    if (run.total_steps && run.step && run.state !== "finished") {
      word.textContent += " " + Math.round(100 * run.step / run.total_steps) + " %";
      state.append(make("i", { class: "progress", style: `--share:${Math.min(1, run.step / run.total_steps)}` }));
    }
    row.append(state, make("td", { class: "wide" }, run.model), make("td", { class: "wide" }, run.data), make("td", { class: "number wide" }, ago(run.changed)));
    return row;
  }

  async function look() {
    try {
      const state = await (await fetch("/api/runs", { cache: "no-store" })).json();
      runs = state.runs.sort((a, b) => b.changed - a.changed);
      const going = runs.filter((run) => run.state === "running").length;
      pages = state.pages;
      byId("live").className = going ? "" : "idle";
      byId("live").textContent = going ? going + " running" : "nothing is running";
      byId("counts").textContent = runs.length + (runs.length === 1 ? " run" : " runs") + (state.left_out ? `, ${state.left_out} older ones left out` : "");
      byId("page-list").replaceChildren(...state.pages.map((page) => { const item = make("li"); item.append(make("a", { href: page.page }, page.name)); return item; }));
      byId("pages").hidden = !state.pages.length;
      draw();
      if (!byId("rows").contains(document.activeElement)) table();
    } catch (error) {
      byId("live").className = "lost";
      byId("live").textContent = "the board does not answer; is it still running?";
    }
    setTimeout(look, EVERY);
  }

  byId("filter").addEventListener("input", table);
  for (const button of document.querySelectorAll("[data-sort]")) button.addEventListener("click", () => {
    const key = button.dataset.sort;
    order = { key, down: order.key === key ? !order.down : !["name", "state", "model", "data"].includes(key) };
    table();
  });
  look();
})();
