const $ = (selector, root = document) => root.querySelector(selector);
const number = (value) => value.toLocaleString("en");
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const TINY = 64; // pixels of a side, up to which pictures are shown with hard edges
const FIRST = 16, NEXT = 16, MOST = 512; // images of a seed
const FORMATS = "JPEG, PNG, WebP, GIF, TIFF or BMP";
const ALL_OF_IT = 3.2; // truncation from which on the noise is hardly changed

let limits = {};
let close = () => {}; // frees what the model before has left

// ---- asking the service ---------------------------------------------------------------------------------------------

/** Ask; a refusal becomes an Error with the words of the service. Where a token is needed, it is asked for first. */
async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service cannot be reached. Is it still running?");
  }
  if (answer.status === 401) {
    await tokenGiven();
    return ask(address, options);
  }
  if (answer.ok) return answer;
  let problem = {};
  try { problem = await answer.json(); } catch { /* not of this service */ }
  const wait = answer.headers.get("retry-after");
  const more = answer.status === 429 && wait ? ` Try again in ${wait} s.` : "";
  throw new Error(problem.detail ? `${problem.detail[0].toUpperCase()}${problem.detail.slice(1)}${more}` : `The service answered ${answer.status}.`);
}

function tokenGiven() {
  const dialog = $("#token"), form = $("form", dialog), field = $("input", form), error = $(".error", form);
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    const submit = async (event) => {
      event.preventDefault();
      const answer = await fetch("/v1/session", { method: "POST", body: field.value });
      if (!answer.ok) {
        error.textContent = "This is not the token.";
        error.hidden = false;
        return;
      }
      form.removeEventListener("submit", submit);
      field.value = "";
      dialog.close();
      resolve();
    };
    form.addEventListener("submit", submit);
  });
}

// ---- pieces that several models share -------------------------------------------------------------------------------

const copy = (name) => document.importNode($(`#${name}`).content, true);

function tell(box, error) {
  box.textContent = error ? error.message : "";
  box.hidden = !error;
}

/** Let an error name the file that it is about, and where it is no image, what would be one. */
function about(file, problem) {
  const name = file.name || "The pasted picture";
  const more = /^It cannot be read/.test(problem.message) ? ` Send ${FORMATS}.` : "";
  return new Error(problem.message.replace(/^It /, () => `${name} `) + more);
}

/** Let photos be dropped, pasted, chosen or taken, or a test image be tried; `use` gets each. */
function takePhotos(model, stage, use, error) {
  const drop = copy("drop"), trying = $(".try", drop), choosing = $(".choose + span", drop);
  let sample = model.samples ? Math.floor(Math.random() * model.samples) : 0;
  $(".limits", drop).textContent = `${FORMATS}, up to ${number(limits.max_upload_mb)} MB`;
  const take = (file) => {
    if (!file) return;
    if (file.size > limits.max_upload_mb * 1e6) {
      tell(error, new Error(`${file.name || "The pasted picture"} has ${number(Math.round(file.size / 1e6))} MB; at most ${number(limits.max_upload_mb)} MB are taken.`));
      return;
    }
    choosing.textContent = "Another photo";
    use(file);
  };
  trying.hidden = !model.samples;
  trying.addEventListener("click", async () => {
    try {
      const image = await (await ask(`/samples/${encodeURIComponent(model.name)}/${sample}`)).blob();
      take(new File([image], `test image ${sample + 1}.png`, { type: image.type }));
      trying.textContent = "Another test image";
    } catch (problem) {
      tell(error, problem);
    }
    sample = (sample + 1) % model.samples;
  });
  for (const input of drop.querySelectorAll("input")) {
    input.addEventListener("change", () => { take(input.files[0]); input.value = ""; });
  }
  stage.append(drop);
  const stop = new AbortController();
  const on = (kind, act) => document.addEventListener(kind, act, { signal: stop.signal });
  on("paste", (event) => take([...event.clipboardData.files][0]));
  on("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
  on("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("over"); });
  on("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  return stop;
}

/** Addresses of pictures in memory, given back when the next come. */
function pictureAddresses() {
  let held = [];
  return {
    of(blob) { const address = URL.createObjectURL(blob); held.push(address); return address; },
    free() { held.forEach((address) => URL.revokeObjectURL(address)); held = []; },
  };
}

function pngAddress(text) { return `data:image/png;base64,${text}`; }

// ---- classify -------------------------------------------------------------------------------------------------------

function classify(model, main) {
  const view = copy("classify");
  const plate = $(".plate", view), figure = $(".own", view), image = $("img", figure), caption = $("figcaption", figure);
  const heatFigure = $(".heat", view), heatImage = $("img", heatFigure), heatCaption = $("figcaption", heatFigure);
  const error = $(".error", view), result = $(".result", view), look = $(".look", view), toggle = $("input", look);
  const addresses = pictureAddresses();
  let photo = null, heat = null, asked = 0;

  const show = () => {
    image.src = photo;
    image.alt = "Your photo";
    heatFigure.hidden = !(toggle.checked && heat);
    if (heat) heatImage.src = heat;
  };
  image.addEventListener("load", () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= TINY));
  image.addEventListener("error", () => { image.alt = "This browser does not show such files."; });
  toggle.addEventListener("change", show);

  async function use(file) {
    const turn = ++asked;
    addresses.free();
    photo = addresses.of(file);
    heat = null;
    figure.hidden = false;
    caption.textContent = file.name || "pasted";
    tell(error, null);
    result.hidden = true;
    plate.classList.add("busy", "answered");
    show();
    try {
      const query = new URLSearchParams({ model: model.name, top: 5, heatmap: true });
      const headers = { "content-type": "application/octet-stream" };
      const answer = await (await ask(`/v1/predict?${query}`, { method: "POST", headers, body: file })).json();
      if (turn === asked) present(answer.predictions[0]);
    } catch (problem) {
      if (turn === asked) { tell(error, about(file, problem)); figure.hidden = true; }
    }
    if (turn === asked) plate.classList.remove("busy");
  }

  function present(prediction) {
    const [first] = prediction.top;
    $(".top", result).textContent = first.class;
    $(".sure", result).textContent = prediction.unlike ? strangeness(prediction.unlike) : sureness(first.probability);
    $(".sure", result).classList.toggle("unlike", Boolean(prediction.unlike));
    $(".eyebrow", result).textContent = prediction.unlike ? "The nearest of its classes" : "It looks like";
    $(".bars", result).replaceChildren(...prediction.top.map(({ class: name, probability }) => {
      const row = document.createElement("li"), label = document.createElement("b"), value = document.createElement("span"), bar = document.createElement("i");
      label.textContent = name;
      value.textContent = percent(probability);
      bar.style.setProperty("--share", probability);
      row.append(label, value, bar);
      return row;
    }));
    heat = prediction.heatmap ? pngAddress(prediction.heatmap) : null;
    heatCaption.textContent = `where the model looked for “${first.class}”: warm colours counted most`;
    heatImage.alt = `What the model saw, with a heat map for ${first.class} over it`;
    look.hidden = !heat;
    result.hidden = false;
    show();
  }

  function strangeness(reason) {
    return `This image is unlike the training images: ${reason}. Its confidence does not apply.`;
  }

  function sureness(probability) {
    const promised = model.abstain.filter((line) => line.threshold <= probability);
    const best = promised.reduce((a, b) => (a && a.accuracy >= b.accuracy ? a : b), null);
    if (best && best.threshold === 0) return `${percent(probability)} sure. Every answer counts: validation shows that at least ${Math.round(100 * best.accuracy)} % of all answers are right.`;
    if (best) return `${percent(probability)} sure. Of answers as sure as this, at least ${Math.round(100 * best.accuracy)} % were right on validation.`;
    if (model.abstain.length) return `${percent(probability)} sure, which is too little to rely on.`;
    return `${percent(probability)} sure.`;
  }

  const stop = takePhotos(model, $(".stage", view), use, error);
  $("summary", view).textContent = `It knows ${number(model.classes.length)} classes, and chooses one of them whatever the photo shows`;
  $("details p", view).textContent = model.classes.join(" · ");
  main.append(view);
  return () => { stop.abort(); addresses.free(); };
}

// ---- generate -------------------------------------------------------------------------------------------------------

function generate(model, main) {
  const view = copy("generate");
  const form = $("form", view), error = $(".error", view), plate = $(".plate", view), grid = $(".grid", view);
  const status = $(".status", view), more = $(".more", view), range = form.elements.truncation, output = $("output", form);
  let wish = null, stop = new AbortController();

  for (const name of model.classes) form.elements.class.append(new Option(name, name));
  $(".of-class", form).hidden = !model.classes.length;
  const showVariety = () => { output.textContent = range.value >= ALL_OF_IT ? "full" : range.value < 1 ? "typical" : "less"; };
  range.addEventListener("input", showVariety);
  showVariety();
  $(".dice", form).addEventListener("click", () => {
    form.elements.seed.value = crypto.getRandomValues(new Uint32Array(1))[0] % 1000000;
    form.requestSubmit();
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    stop.abort();
    stop = new AbortController();
    wish = { model: model.name, seed: Number(form.elements.seed.value), class: form.elements.class.value || null };
    if (range.value < ALL_OF_IT) wish.truncation = Number(range.value);
    grid.replaceChildren();
    grow(FIRST);
  });
  more.addEventListener("click", () => grow(NEXT));

  async function grow(count) {
    const start = grid.children.length, signal = stop.signal;
    tell(error, null);
    more.disabled = true;
    status.textContent = "Making …";
    plate.hidden = false;
    try {
      const body = JSON.stringify({ ...wish, start, count });
      const answer = await (await ask("/v1/generate", { method: "POST", headers: { "content-type": "application/json" }, body, signal })).json();
      grid.append(...answer.images.map(cell));
      status.textContent = `${number(grid.children.length)} images of seed ${wish.seed}: same seed, same images`;
    } catch (problem) {
      if (problem.name === "AbortError") return;
      tell(error, problem);
      status.textContent = "";
      plate.hidden = !grid.children.length;
    }
    more.disabled = grid.children.length >= MOST;
  }

  function cell(made) {
    const item = document.createElement("li"), image = document.createElement("img");
    image.src = pngAddress(made.png);
    image.alt = made.class === null ? `image ${made.index}` : `image ${made.index}, made as ${made.class}`;
    image.title = image.alt;
    item.append(image);
    return item;
  }

  main.append(view);
  form.requestSubmit();
  return () => stop.abort();
}

// ---- upscale --------------------------------------------------------------------------------------------------------

function upscale(model, main) {
  const view = copy("upscale");
  const plate = $(".plate", view), error = $(".error", view), status = $(".status", view), figure = $(".compare", view);
  const pair = $(".pair", figure), slider = $("input", pair), before = $(".before", pair), after = $(".after", pair);
  const addresses = pictureAddresses();
  let stop = new AbortController();

  const cut = () => {
    pair.style.setProperty("--cut", `${slider.value}%`);
    slider.setAttribute("aria-valuetext", `${Math.round(slider.value)} % as it was`);
  };
  slider.addEventListener("input", cut);
  after.addEventListener("load", () => {
    const [width, height] = [after.naturalWidth, after.naturalHeight];
    $(".sizes", figure).textContent = `${number(width / model.scale)} × ${number(height / model.scale)} became ${number(width)} × ${number(height)} pixels`;
  });

  async function use(file) {
    stop.abort();
    stop = new AbortController();
    const { signal } = stop;
    tell(error, null);
    figure.hidden = true;
    status.textContent = "Enlarging … a large photo takes its time";
    try {
      const headers = { "content-type": "application/octet-stream" };
      const answer = await ask(`/v1/upscale?${new URLSearchParams({ model: model.name })}`, { method: "POST", headers, body: file, signal });
      const large = await answer.blob();
      addresses.free();
      before.src = addresses.of(file);
      after.src = addresses.of(large);
      const link = $(".download", figure);
      link.href = after.src;
      link.download = `${(file.name || "photo").replace(/\.[^.]*$/, "")}-x${model.scale}.png`;
      slider.value = 50;
      cut();
      figure.hidden = false;
      plate.classList.add("answered");
      status.textContent = "";
    } catch (problem) {
      if (problem.name === "AbortError") return;
      tell(error, about(file, problem));
      status.textContent = "";
    }
  }

  const listening = takePhotos(model, $(".stage", view), use, error);
  main.append(view);
  return () => { stop.abort(); listening.abort(); addresses.free(); };
}

// ---- the page -------------------------------------------------------------------------------------------------------

const KINDS = {
  classify: { view: classify, says: "classifies photos" },
  generate: { view: generate, says: "generates images" },
  upscale: { view: upscale, says: "enlarges photos" },
};

function facts(model) {
  const test = model.test || {}, found = [];
  if (test.accuracy_ci95) found.push(`right on ${percent(test.accuracy)} of ${number(test.num_images)} test images (${test.accuracy_ci95.map((each) => (100 * each).toFixed(1)).join(" to ")} %)`);
  if (test.gain !== undefined) found.push(`x${model.scale}, ${test.gain >= 0 ? "+" : ""}${test.gain.toFixed(2)} dB over bicubic on test`);
  if (model.task !== "upscale") found.push(`${model.image.width} × ${model.image.height} pixels`);
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
  close = KINDS[model.task].view(model, main);
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
      button.append(Object.assign(document.createElement("small"), { textContent: KINDS[model.task].says }));
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
