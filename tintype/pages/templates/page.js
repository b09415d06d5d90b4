"use strict";
(() => {
  const root = document.documentElement;
  const colour = (name) => getComputedStyle(root).getPropertyValue("--" + name).trim();
  const charts = [...document.querySelectorAll(".chart")];

  // Light and dark: the system decides until the reader does.
  const darkSystem = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : darkSystem.matches);
  const themeButton = document.querySelector(".theme");
  const showTheme = () => {
    themeButton.querySelector("span").textContent = isDark() ? "Light" : "Dark";
    charts.forEach(paint);
  };
  themeButton.hidden = false;
  themeButton.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("tintype-theme", root.dataset.theme); } catch (error) { /* storage may be off */ }
    showTheme();
  });
  darkSystem.addEventListener("change", showTheme);

  // Contents: a column at the left where there is room, else closed until it is asked for.
  const contents = document.querySelector(".contents details");
  const links = [...contents.querySelectorAll("a")];
  const wide = matchMedia("(min-width: 66rem)");
  const arrange = () => { contents.open = wide.matches; };
  arrange();
  wide.addEventListener("change", arrange);
  contents.addEventListener("click", ({ target }) => { if (target.closest("a")) arrange(); });

  // The section being read is marked: the last one whose heading has passed the upper third of the window.
  const mark = () => {
    const passed = links.filter((link) => {
      const section = document.getElementById(link.hash.slice(1));
      return section && section.getBoundingClientRect().top < innerHeight / 3;
    });
    links.forEach((link) => link.removeAttribute("aria-current"));
    (passed.pop() ?? links[0])?.setAttribute("aria-current", "true");
  };
  addEventListener("scroll", mark, { passive: true });
  mark();

  // Commands to copy.
  for (const button of document.querySelectorAll(".copy")) {
    const code = button.parentElement.querySelector("code");
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch (error) {
        getSelection().selectAllChildren(code);
        document.execCommand("copy");
      }
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // Tables that sort by a click on a column's head: numbers from high to low first, names from A to Z.
  for (const table of document.querySelectorAll("table.sortable")) {
    const body = table.tBodies[0];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.addEventListener("click", () => {
      const numeric = head.classList.contains("number");
      const current = head.getAttribute("aria-sort");
      const direction = current ? (current === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const value = (row) => {
        const cell = row.cells[column];
        return numeric ? parseFloat(cell.dataset.value) || 0 : cell.textContent.trim();
      };
      const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
      body.append(...[...body.rows].sort((a, b) => sign * compare(value(a), value(b))));
    }));
  }

  // Several figures of one kind, of which the reader chooses one. Without this script all of them are shown.
  for (const choice of document.querySelectorAll(".choice")) {
    const select = choice.querySelector("select"), figures = [...choice.querySelectorAll(".chart")];
    const show = () => {
      for (const each of figures) each.hidden = each.dataset.chart !== select.value;
      figures.forEach(paint);
    };
    select.closest("label").hidden = figures.length < 2;
    select.addEventListener("change", show);
    show();
  }

  // Figures. Plotly's JavaScript lies compressed in the page.
  async function unpackPlotly(packed) {
    const bytes = Uint8Array.from(atob(packed.textContent), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  // Give a figure the colours of the page: each trace names its role in `meta`.
  function themed(figure) {
    const ink = colour("ink"), grid = colour("fig-grid");
    for (const trace of figure.data) {
      const role = trace.meta && trace.meta.role;
      if (trace.type === "heatmap") {
        const [low, high] = colour("cell-" + role).split(",").map((each) => each.trim());
        trace.colorscale = [[0, low], [1, high]];
        trace.textfont = { ...trace.textfont, color: ink };
      } else if (role) {
        const own = colour("fig-" + role);
        if (trace.line) trace.line.color = own;
        if (trace.marker) trace.marker.color = own;
        if (trace.error_y) trace.error_y.color = own;
      }
      if (trace.textfont && !trace.textfont.color && trace.type === "scatter") trace.textfont.color = ink;
    }
    const layout = figure.layout;
    layout.font.color = ink;
    layout.plot_bgcolor = layout.paper_bgcolor = colour("paper"); // Plotly edges its hover line in this colour
    layout.modebar = { ...layout.modebar, color: colour("muted"), activecolor: ink };
    layout.hoverlabel = { ...layout.hoverlabel, bgcolor: colour("surface"), bordercolor: colour("line"), font: { color: ink } };
    for (const key of Object.keys(layout)) {
      if (/^[xy]axis\d*$/.test(key)) Object.assign(layout[key], { gridcolor: grid, linecolor: grid, zerolinecolor: grid });
    }
    return figure;
  }

  // On a narrow screen many class names would leave no room for the cells, and a square figure need not be tall.
  function fitted(figure, width) {
    const { layout } = figure;
    if (layout.yaxis && layout.yaxis.scaleanchor) layout.height = Math.min(layout.height, width + 130); // and its legend
    if (figure.data[0].type !== "heatmap") return figure;
    const many = figure.data[0].x.length > 20;
    for (const axis of [layout.xaxis, layout.yaxis]) axis.showticklabels = !(many && width < 700);
    layout.height = Math.min(layout.height, Math.round(width * (many ? 1 : 1.05)) + 40);
    return figure;
  }

  function paint(chart) {
    if (!window.Plotly || chart.hidden) return;
    const target = chart.querySelector(".interactive");
    const figure = JSON.parse(chart.querySelector("script").textContent);
    const touch = matchMedia("(pointer: coarse)").matches;
    if (touch) figure.layout.dragmode = false; // a finger scrolls the page
    const config = { responsive: true, displaylogo: false, displayModeBar: !touch, modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] };
    fitted(themed(figure), target.clientWidth);
    window.Plotly.react(target, figure.data, figure.layout, config).then(() => {
      if (!chart.classList.contains("drawn")) inspect(chart, target);
      chart.classList.add("drawn");
    });
  }

  // The map: the picture of the dot under the pointer, cut out of the sheet of thumbnails.
  function inspect(chart, target) {
    const panel = chart.parentElement.querySelector(".inspector");
    if (!panel) return;
    const names = JSON.parse(panel.querySelector("script").textContent);
    const thumb = panel.querySelector(".thumb"), caption = panel.querySelector(".caption");
    panel.hidden = false;
    const show = ({ points }) => {
      if (!points[0].customdata) return;
      const [target, prediction, confidence, number] = points[0].customdata;
      if (thumb) {
        const columns = Number(thumb.dataset.columns), rows = Number(thumb.dataset.rows);
        const place = (index, count) => (count > 1 ? (100 * index) / (count - 1) : 0) + "%";
        thumb.classList.toggle("shown", number >= 0);
        thumb.style.backgroundSize = 100 * columns + "% " + 100 * rows + "%";
        thumb.style.backgroundPosition = place(number % columns, columns) + " " + place(Math.floor(number / columns), rows);
      }
      const bold = (text) => Object.assign(document.createElement("b"), { textContent: text });
      const said = document.createElement("span");
      said.className = target === prediction ? "right" : "wrong";
      said.textContent = (target === prediction ? "recognised, " : "taken for " + names[prediction] + ", ") + Math.round(100 * confidence) + "\u202f%";
      caption.replaceChildren(bold(names[target]), document.createElement("br"), said);
    };
    const dots = (trace) => trace.customdata ?? [];
    const first = target.data.flatMap(dots).find(([target, prediction, , number]) => target !== prediction && number >= 0);
    if (first) show({ points: [{ customdata: first }] });
    target.on("plotly_hover", show);
    target.on("plotly_click", show);
  }

  const packed = document.getElementById("plotly-gzip-base64");
  if (packed) {
    unpackPlotly(packed).then(showTheme).catch(() => charts.forEach((chart) => chart.classList.add("failed")));
  }
  showTheme();
})();
