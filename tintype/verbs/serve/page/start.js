// ---- the page -------------------------------------------------------------------------------------------------------

/** A model whose task has no view of its own can still be asked through the API. */
function plainView(model, main) {
  const line = Object.assign(document.createElement("p"), { className: "quiet", textContent: "This page has no form for such a model. " });
  line.append(Object.assign(document.createElement("a"), { href: "/docs", textContent: "The API" }), " takes its photos.");
  main.append(line);
  return () => {};
}

const kindOf = (model) => KINDS[model.task] || { view: plainView, says: `does ${model.task}`, facts: (each) => [size(each)] };

function facts(model) {
  const found = kindOf(model).facts(model);
  if (model.parameters) found.push(`${number(model.parameters)} parameters`);
  return found;
}

function open(model, models) {
  close();
  const main = $("#main"), about = copy("about"), line = $(".standfirst", about);
  $("h1", about).textContent = model.name;
  for (const fact of facts(model)) line.append(Object.assign(document.createElement("span"), { textContent: fact }));
  if (model.report) line.append(Object.assign(document.createElement("a"), { href: model.report, textContent: "Its report", className: "report" }));
  main.replaceChildren(about);
  document.title = `${model.name} · tintype`;
  for (const button of document.querySelectorAll(".models button")) {
    if (button.dataset.name === model.name) button.setAttribute("aria-current", "page");
    else button.removeAttribute("aria-current");
  }
  if (models.length > 1) history.replaceState(null, "", `#${encodeURIComponent(model.name)}`);
  close = kindOf(model).view(model, main);
}

function themes() {
  const root = document.documentElement, button = $(".theme"), system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => { $("span", button).textContent = isDark() ? "Light" : "Dark"; };
  try { const kept = localStorage.getItem("tintype-theme"); if (kept) root.dataset.theme = kept; } catch { /* storage may be off */ }
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    try { localStorage.setItem("tintype-theme", root.dataset.theme); } catch { /* storage may be off */ }
    show();
  });
  system.addEventListener("change", show);
  show();
}

async function start() {
  themes();
  try {
    const answer = await (await ask("/v1/models")).json();
    const { models } = answer;
    limits = answer.limits;
    const list = $(".models ul");
    for (const model of models) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: model.name });
      button.dataset.name = model.name;
      button.append(Object.assign(document.createElement("small"), { textContent: kindOf(model).says }));
      button.addEventListener("click", () => open(model, models));
      const item = document.createElement("li");
      item.append(button);
      list.append(item);
    }
    $(".models").hidden = models.length < 2;
    const wanted = decodeURIComponent(location.hash.slice(1));
    open(models.find((model) => model.name === wanted) || models[0], models);
  } catch (problem) {
    $("#main").replaceChildren(Object.assign(document.createElement("p"), { className: "error", textContent: problem.message }));
  }
}

start();
