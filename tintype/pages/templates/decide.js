"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const make = (tag, attributes = {}, ...inside) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...inside); // texts stay texts: names come from folders
    return node;
  };
  const percent = (share) => (share >= 0.995 ? "100 %" : share < 0.01 ? "< 1 %" : Math.round(100 * share) + " %");
  const many = (count, word) => count.toLocaleString("en") + " " + word + (count === 1 ? "" : "s");
  const root = location.pathname.replace(/\/?$/, "/");
  let classes = [], list = "", item = null, state = null, busy = false;

  // ---- what the command answers ---------------------------------------------------------------

  async function ask(path, body) {
    const how = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
    let response;
    try {
      response = await fetch(root + path, how);
    } catch (error) {
      throw new Error("The command has ended. All decisions so far are kept: start it again, and open the address that it prints.");
    }
    const answer = (response.headers.get("Content-Type") || "").startsWith("application/json") ? await response.json() : {};
    if (response.status === 409) return { ...answer, conflict: true };
    if (!response.ok) throw new Error(answer.problem || "The command does not know this page any more: open the address that it prints.");
    return answer;
  }

  async function change(path, body) {
    if (busy) return;
    busy = true;
    try {
      const answer = await ask(path, body);
      if (answer.conflict) {
        notice("This was decided in another window meanwhile. Here is how it stands; nothing was changed.");
        item = answer.item || item;
      } else {
        notice("");
        item = answer.item;
      }
      state = answer.state;
      show();
    } catch (error) {
      notice(error.message);
    } finally {
      busy = false;
    }
  }

  const decide = (decision, label = "") => item && change("decide", { index: item.index, decision, label, revision: item.revision });
  const relabel = (label) => (label === classes[item.given] ? decide("keep") : decide("relabel", label));
  const look = (index) => index >= 0 && index < state.total && change("item/" + index);

  const actions = {
    keep: () => decide("keep"),
    // Where the label is the most probable class, nothing else is suggested.
    suggested: () => item && relabel(classes[item.suggested]),
    drop: () => decide("drop"),
    undo: () => state.can_undo && change("undo", { revision: state.revision }),
    previous: () => look(item ? item.index - 1 : state.flagged - 1),
    next: () => item && look(item.index + 1),
    further: () => look(state.flagged),
  };

  // ---- what is shown --------------------------------------------------------------------------

  function notice(text) {
    byId("notice").textContent = text;
    byId("notice").hidden = !text;
  }

  function show() {
    const { counts, flagged, flagged_decided: decided } = state;
    const all = counts.keep + counts.relabel + counts.drop;
    byId("progress").textContent = `${decided.toLocaleString("en")} of ${many(flagged, "doubtful label")} decided: ${counts.keep} kept, ${counts.relabel} relabelled, ${counts.drop} dropped`;
    byId("bar").style.width = (flagged ? 100 * decided / flagged : 100) + "%";
    if (state.problem) notice(state.problem + " The decisions themselves are kept.");
    for (const button of document.querySelectorAll("[data-action=undo]")) button.disabled = !state.can_undo;
    byId("desk").hidden = !item;
    byId("done").hidden = Boolean(item);
    if (item) showItem();
    else showDone(all);
  }

  function showItem() {
    const given = classes[item.given], suggested = classes[item.suggested], made = item.decision;
    const photo = byId("photo");
    photo.hidden = false;
    byId("no-photo").hidden = true;
    photo.className = item.tiny ? "tiny" : "";
    photo.src = root + "photo/large/" + item.row;
    photo.alt = item.name;
    byId("name").textContent = item.name;
    byId("place").textContent = (item.index + 1).toLocaleString("en") + " of " + (item.flagged ? state.flagged : state.total).toLocaleString("en");
    byId("given").textContent = given;
    const share = new Map(item.candidates);
    byId("looks").replaceChildren(...(item.given === item.suggested
      ? ["and looks like it (" + percent(share.get(item.given)) + ")"]
      : ["looks like ", make("b", {}, suggested), ` (${percent(share.get(item.suggested) || 0)}; ${given}: ${percent(share.get(item.given))})`]));
    for (const node of document.querySelectorAll("[data-given]")) node.textContent = given;
    for (const node of document.querySelectorAll("[data-suggested]")) node.textContent = suggested;

    const chosen = made && made.action === "relabel" ? made.label : "";
    for (const button of document.querySelectorAll(".choice [data-action]")) {
      const pressed = made && (button.dataset.action === made.action || (button.dataset.action === "suggested" && chosen === suggested));
      button.setAttribute("aria-pressed", String(Boolean(pressed)));
    }
    document.querySelector(".choice [data-action=suggested]").hidden = item.given === item.suggested;
    byId("decided").hidden = !made;
    byId("decided").textContent = made ? "Decided: " + { keep: "kept", drop: "dropped", relabel: "relabelled as " + made.label }[made.action] : "";

    byId("candidates").replaceChildren(...item.candidates.map(([label, value], i) => {
      const bar = make("i");
      bar.style.width = 100 * value + "%";
      const text = make("span", {}, classes[label]);
      if (label === item.given) text.append(" ", make("span", { class: "given" }, "(its label)"));
      const button = make("button", { type: "button", "aria-pressed": String(chosen === classes[label]) }, make("kbd", {}, String(i + 1)), text,
        make("span", { class: "share" }, bar), make("span", { class: "value" }, percent(value)));
      button.addEventListener("click", () => relabel(classes[label]));
      return make("li", {}, button);
    }));
    byId("class").value = "";
    byId("class").setCustomValidity("");

    byId("neighbours").replaceChildren(...item.neighbours.filter((each) => each.rows.length).map(({ label, rows }) => make("div", {},
      make("h2", {}, "Most similar, labelled ", make("b", {}, classes[label])),
      make("div", { class: "near" }, ...rows.map((row) => make("img", { src: root + "photo/small/" + row, alt: classes[label], class: item.tiny ? "tiny" : "" }))))));
    for (const row of item.upcoming) new Image().src = root + "photo/large/" + row;
  }

  function showDone(all) {
    byId("done-title").textContent = state.flagged ? `All ${many(state.flagged, "doubtful label")} are decided.` : "No label looks wrong.";
    byId("done-text").textContent = `${many(all, "decision")}: ${state.counts.keep} kept, ${state.counts.relabel} relabelled, ${state.counts.drop} dropped. The list is written; the photos stay as they are. Train with it:`;
    byId("command").textContent = "tintype train " + list;
    byId("further").hidden = state.flagged >= state.total;
  }

  // ---- what a person does ---------------------------------------------------------------------

  document.addEventListener("click", ({ target }) => {
    const button = target.closest("[data-action]");
    if (button) actions[button.dataset.action]();
  });
  byId("photo").addEventListener("error", () => {
    byId("photo").hidden = true;
    byId("no-photo").hidden = false;
  });
  byId("other").addEventListener("submit", (event) => {
    event.preventDefault();
    const field = byId("class"), typed = field.value.trim();
    const fitting = classes.filter((name) => name.toLowerCase().startsWith(typed.toLowerCase()));
    const label = classes.includes(typed) ? typed : classes.find((name) => name.toLowerCase() === typed.toLowerCase()) || (fitting.length === 1 ? fitting[0] : "");
    if (!typed || !label) {
      field.setCustomValidity(fitting.length > 1 && typed ? "Several classes begin so: " + fitting.slice(0, 5).join(", ") : "There is no such class.");
      field.reportValidity();
      return;
    }
    field.blur();
    relabel(label);
  });
  byId("class").addEventListener("input", () => byId("class").setCustomValidity(""));
  document.addEventListener("keydown", (event) => {
    const typing = event.target === byId("class");
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
    if (event.ctrlKey || event.metaKey) {
      if (event.key.toLowerCase() !== "z") return;
      event.preventDefault();
      actions.undo();
      return;
    }
    if (event.key === "/" && item) {
      event.preventDefault();
      byId("class").focus();
      return;
    }
    if (item && /^[1-9]$/.test(event.key) && item.candidates[event.key - 1]) {
      relabel(classes[item.candidates[event.key - 1][0]]);
      return;
    }
    const keys = { k: "keep", d: "drop", Delete: "drop", u: "undo", Backspace: "undo", ArrowLeft: "previous", ArrowRight: "next", Enter: "suggested" };
    const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    // Enter on a button that has the focus is that button's.
    if (!action || (event.key === "Enter" && event.target.closest("button"))) return;
    event.preventDefault();
    actions[action]();
  });

  const dark = () => document.documentElement.dataset.theme ? document.documentElement.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  byId("theme").addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("tintype-theme", document.documentElement.dataset.theme); } catch (error) { /* storage may be off */ }
  });

  ask("start").then((answer) => {
    ({ classes, list, state, item } = answer);
    byId("classes").replaceChildren(...classes.map((name) => make("option", { value: name })));
    if (answer.outdated) notice(`${many(answer.outdated, "earlier decision")} no longer fit: the photo is gone, or has another label now.`);
    show();
  }).catch((error) => notice(error.message));
})();
