function regress(model, main) {
  const view = copy("regress");
  const plate = $(".plate", view), figure = $(".own", view), image = $("img", figure), caption = $("figcaption", figure);
  const error = $(".error", view), result = $(".result", view);
  const addresses = pictureAddresses();
  let asked = 0;

  image.addEventListener("load", () => image.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) <= TINY));
  image.addEventListener("error", () => { image.alt = "This browser does not show such files."; });

  async function use(file) {
    const turn = ++asked;
    addresses.free();
    image.src = addresses.of(file);
    image.alt = "Your photo";
    figure.hidden = false;
    caption.textContent = file.name || "pasted";
    tell(error, null);
    result.hidden = true;
    plate.classList.add("busy", "answered");
    try {
      const headers = { "content-type": "application/octet-stream" };
      const answer = await (await ask(`/v1/numbers?${new URLSearchParams({ model: model.name })}`, { method: "POST", headers, body: file })).json();
      if (turn === asked) present(answer.predictions[0]);
    } catch (problem) {
      if (turn === asked) { tell(error, about(file, problem)); figure.hidden = true; }
    }
    if (turn === asked) plate.classList.remove("busy");
  }

  const line = (className, textContent) => Object.assign(document.createElement("p"), { className, textContent });
  const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 });

  function present(prediction) {
    const lines = Object.entries(prediction.numbers).flatMap(([name, { value, low, high }]) => [
      line("eyebrow", name),
      line("top", digits(value)),
      line("sure", low === null ? "" : `${digits(low)} to ${digits(high)} holds the truth for ${percent(model.level)} of such photos.`),
    ]);
    if (prediction.unlike) lines.push(line("sure unlike", `This image is unlike the training images: ${prediction.unlike}. Its interval does not apply.`));
    result.replaceChildren(...lines);
    result.hidden = false;
  }

  const stop = takePhotos(model, $(".stage", view), use, error);
  main.append(view);
  return () => { stop.abort(); addresses.free(); };
}

KINDS.regress = {
  view: regress,
  says: "says numbers of photos",
  facts(model) {
    const test = model.test || {}, found = [`answers with ${model.columns.join(" and ")}`];
    if (test.mae_ci95) found.push(`off by ${test.mae.toPrecision(3)} on average on ${number(test.num_images)} test images`);
    return [...found, size(model)];
  },
};
