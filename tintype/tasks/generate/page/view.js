const FIRST = 16, NEXT = 16, MOST = 512; // images of a seed
const ALL_OF_IT = 3.2; // truncation from which on the noise is hardly changed

function generate(model, main) {
  const view = copy("generate");
  const form = $("form", view), error = $(".error", view), plate = $(".plate", view), grid = $(".grid", view);
  const status = $(".status", view), more = $(".more", view), range = form.elements.truncation, output = $("output", form);
  let asked = null, stop = new AbortController();

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
    asked = { model: model.name, seed: Number(form.elements.seed.value), class: form.elements.class.value || null };
    if (range.value < ALL_OF_IT) asked.truncation = Number(range.value);
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
      const body = JSON.stringify({ ...asked, start, count });
      const answer = await (await ask("/v1/generate", { method: "POST", headers: { "content-type": "application/json" }, body, signal })).json();
      grid.append(...answer.images.map(cell));
      status.textContent = `${number(grid.children.length)} images of seed ${asked.seed}: same seed, same images`;
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

KINDS.generate = { view: generate, says: "generates images", facts: (model) => [size(model)] };
