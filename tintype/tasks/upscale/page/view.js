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

KINDS.upscale = {
  view: upscale,
  says: "enlarges photos",
  facts(model) {
    const { gain } = model.test || {};
    return gain === undefined ? [] : [`x${model.scale}, ${gain >= 0 ? "+" : ""}${gain.toFixed(2)} dB over bicubic on test`];
  },
};
