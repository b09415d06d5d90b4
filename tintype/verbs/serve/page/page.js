const $ = (selector, root = document) => root.querySelector(selector);
const number = (value) => value.toLocaleString("en");
const size = (model) => `${model.image.width} × ${model.image.height} pixels`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const TINY = 64; // pixels of a side, up to which pictures are shown with hard edges
const FORMATS = "JPEG, PNG, WebP, GIF, TIFF or BMP";

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

// What each task shows of a model: `view(model, main)` fills the page and returns what frees it, `says` names what the
// model does, `facts(model)` stand below its name. The views of the tasks follow this file.
const KINDS = {};
