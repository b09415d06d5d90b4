(() => {
  "use strict";
  const EVERY = 2500; // milliseconds between two looks
  const SHOWN = 5; // curves at first
  const COLOURS = ["#3b7dd8", "#d97a2b", "#3c9a68", "#c24b78", "#8668c4", "#9a8425", "#2f9cae", "#b4503c", "#74869a", "#7a9a34"];
  const ticked = new Map(); // run name -> whether the reader wants its curve
  let runs = [], order = { key: "changed", down: true };
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

  const isShare = (name) => /accuracy|precision|recall/.test(name || "");
  const format = (value, name) => value === undefined || value === null ? "–" : isShare(name) ? (100 * value).toFixed(2) + " %" : Number(value).toPrecision(4);
  const figure = (run, split) => {
    const key = (run.score || "val_accuracy").replace(/^val/, split);
    if (key in run.figures) return [run.figures[key], key];
    const curve = run.curves[run.score];
    return split === "val" && curve && curve.length ? [curve[curve.length - 1][1], key] : [null, key];
  };
  const ago = (seconds) => {
    const gone = Math.max(0, Date.now() / 1000 - seconds);
    return gone < 90 ? Math.round(gone) + " s ago" : gone < 5400 ? Math.round(gone / 60) + " min ago" : gone < 129600 ? Math.round(gone / 3600) + " h ago" : Math.round(gone / 86400) + " days ago";
  };

  const chosen = () => runs.filter((run, i) => ticked.has(run.name) ? ticked.get(run.name) : i < SHOWN);
  const colours = () => new Map(chosen().map((run, i) => [run.name, COLOURS[i % COLOURS.length]]));

  function ticks(low, high, count) {
    const rough = (high - low) / count || 1, power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough);
    const found = [];
    for (let t = Math.ceil(low / step) * step; t <= high + 1e-9 * step; t += step) found.push(Number(t.toPrecision(12)));
    return found;
  }

  function chart(title, lines, share) {
    const W = 520, H = 260, left = 48, bottom = 26, top = 8, right = 10;
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
    for (const t of ticks(x0, x1, 5)) picture.append(svg("text", { x: X(t), y: H - 6, "text-anchor": "middle" }, t.toLocaleString("en")));
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
    const words = (name) => (name.startsWith("val_") ? "Validation " : "Training ") + name.replace(/^(val|train)_/, "").replaceAll("_", " ") + ", by step";
    byId("charts").replaceChildren(...names.map((name) => chart(words(name), columns.get(name), isShare(name))));
    byId("legend").replaceChildren(...shown.map((run) => {
      const item = make("span");
      item.append(make("i", { class: "dot", style: `background:${colour.get(run.name)}` }), run.name);
      return item;
    }));
  }

  function table() {
    const wanted = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = (run) => [run.name, run.model, run.data, run.state, run.task].join(" ").toLowerCase();
    const key = { val: (run) => figure(run, "val")[0], test: (run) => figure(run, "test")[0] }[order.key] || ((run) => run[order.key]);
    const rows = runs.filter((run) => wanted.every((word) => text(run).includes(word)));
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || x === undefined || y === null || y === undefined) return (x === null || x === undefined) - (y === null || y === undefined);
      return (x < y ? -1 : x > y ? 1 : 0) * (order.down ? -1 : 1);
    });
    const drawn = new Set(chosen().map((run) => run.name));
    byId("rows").replaceChildren(...rows.map((run) => {
      const row = make("tr"), box = make("input", { type: "checkbox", "aria-label": "Show the curves of " + run.name });
      box.checked = drawn.has(run.name);
      box.addEventListener("change", () => { for (const each of chosen()) ticked.set(each.name, true); for (const each of runs) if (!ticked.has(each.name)) ticked.set(each.name, false); ticked.set(run.name, box.checked); draw(); });
      const tick = make("td"); tick.append(box);
      const name = make("th", { scope: "row" });
      name.append(run.report ? make("a", { href: run.report }, run.name) : run.name);
      const state = make("td"), word = make("span", { class: "state " + run.state }, run.state);
      state.append(word);
      if (run.total_steps && run.state !== "finished") {
        word.textContent += " " + Math.round(100 * (run.step || 0) / run.total_steps) + " %";
        state.append(make("i", { class: "progress", style: `--share:${Math.min(1, (run.step || 0) / run.total_steps)}` }));
      }
      row.append(tick, name, state, make("td", {}, run.model), make("td", {}, run.data));
      for (const split of ["val", "test"]) row.append(make("td", { class: "number" }, format(...figure(run, split))));
      row.append(make("td", { class: "number" }, ago(run.changed)));
      return row;
    }));
    byId("empty").hidden = runs.length > 0;
  }

  async function look() {
    try {
      const state = await (await fetch("/api/runs", { cache: "no-store" })).json();
      runs = state.runs.sort((a, b) => b.changed - a.changed);
      const going = runs.filter((run) => run.state === "running").length;
      byId("live").className = "";
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
