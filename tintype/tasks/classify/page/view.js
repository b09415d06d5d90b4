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

KINDS.classify = {
  view: classify,
  says: "classifies photos",
  facts(model) {
    const test = model.test || {}, found = [];
    if (test.accuracy_ci95) found.push(`right on ${percent(test.accuracy)} of ${number(test.num_images)} test images (${test.accuracy_ci95.map((each) => (100 * each).toFixed(1)).join(" to ")} %)`);
    return [...found, size(model)];
  },
};
