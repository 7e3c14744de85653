"use strict";
// The page: pictures in, /v1/explain, a card for each. No library, no request to another host.

const form = document.getElementById("form");
const input = document.getElementById("files");
const drop = document.getElementById("drop");
const keyBox = document.getElementById("key-box");
const key = document.getElementById("key");
const results = document.getElementById("results");
const status = document.getElementById("status");
const progress = document.getElementById("progress");
const allAgain = document.getElementById("all-again");
const refusal = document.getElementById("refusal");
const template = document.getElementById("card");

const WORDS = {real: "Looks real", uncertain: "Uncertain", generated: "Looks generated"};
const TALLIED = {generated: "generated", uncertain: "uncertain", real: "real", error: "without a score"};
const BRANCHES = {
  semantic: "what it shows",
  discrepancy: "how its view drifts",
  lowlevel: "pixel-level traces",
};
const STEPS = {
  jpeg: (number) => `JPEG of quality ${number}`,
  webp: (number) => `WebP of quality ${number}`,
  blur: (number) => `blurred by ${number} px`,
  noise: (number) => `noise of ${number} levels`,
  resize: (number) => `scaled to ${Math.round(number * 100)} %`,
  thumbnail: (number) => `a thumbnail of ${number} pixels`,
};
const TRIES = 4;
let waiting = Promise.resolve(); // one picture at a time: the service is there for others, too
let cards = 0;
let modelShown = null;
let conditions = []; // degradations after which the detector's thresholds hold

const signed = (value) => {
  const short = Math.abs(value).toFixed(2);
  return `${value < 0 && Number(short) ? "−" : "+"}${short}`;
};
const pause = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

function headers(more) {
  const given = key.value.trim();
  if (/[^\x21-\x7e]/.test(given)) throw new Error("The key has characters that no key has: copy it again.");
  return given ? {...more, Authorization: `Bearer ${given}`} : more;
}

async function ask(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    throw Object.assign(new Error("The service cannot be reached."), {passing: true});
  }
}

// What may pass: full, or (from what stands before the service) not there while it starts again.
const MAY_PASS = [404, 429, 502, 503, 504];

// Of a picture that is at fault itself there is no better answer the next time.
const AT_FAULT = [400, 413, 415, 422];

function failure(answer, told) {
  const error = told && told.error;
  const failed = new Error(error ? `${error.message} (${error.code})` : `The service is not there now: it answered ${answer.status}.`);
  return Object.assign(failed, {final: Boolean(error) && AT_FAULT.includes(answer.status)});
}

async function showModel() {
  const line = document.getElementById("model");
  line.textContent = "Asking which detector runs here ...";
  try {
    const answer = await ask("v1/model", {headers: headers({})});
    if (answer.status === 401) {
      keyBox.open = true;
      line.textContent = "This service wants an API key.";
      return;
    }
    const model = await answer.json().catch(() => null);
    if (!answer.ok || !model) throw failure(answer, model);
    line.textContent = `${model.name}, model ${model.model_id}. ${model.description}`;
    modelShown = model.model_id;
    conditions = [...new Set(model.thresholds.flatMap(({degraded}) => degraded.map(({condition}) => condition)))];
  } catch (error) {
    line.textContent = error.message;
  }
}

// To a service that may be full, or starting again: told by `say`, and asked again.
async function send(path, file, say) {
  await file.slice(0, 1).arrayBuffer().catch(() => {
    throw new Error("This file cannot be read: is it a folder, or has it changed?");
  });
  for (let attempt = 1; ; attempt += 1) {
    const answer = await ask(path, {
      method: "POST",
      headers: headers({"Content-Type": "application/octet-stream", Accept: "application/json"}),
      body: file,
    }).catch((error) => {
      if (!error.passing || attempt === TRIES) throw error;
      return null;
    });
    if (!answer) {
      say("The service cannot be reached. Asking again ...");
      await pause(2 ** (attempt - 1));
      continue;
    }
    const told = await answer.json().catch(() => null);
    if (answer.ok && told) return told;
    if (answer.status === 401) keyBox.open = true;
    if (MAY_PASS.includes(answer.status) && attempt < TRIES) {
      say("The service is busy, or starts again. Asking again ...");
      await pause(Math.min(Number(answer.headers.get("Retry-After")) || 1, 10));
      continue;
    }
    throw failure(answer, told);
  }
}

function add(list, name, value) {
  const term = document.createElement("dt");
  const text = document.createElement("dd");
  term.textContent = name;
  text.textContent = value;
  list.append(term, text);
}

function showBand(card, p, band) {
  const box = card.querySelector(".band-box");
  if (p === null || !band) {
    box.hidden = true;
    return;
  }
  box.hidden = false;
  const widths = [band.real_below, band.generated_above - band.real_below, 1 - band.generated_above];
  card.querySelectorAll(".zone").forEach((zone, index) => { zone.style.flexGrow = Math.max(widths[index], 0.001); });
  card.querySelectorAll(".band-words span").forEach((word, index) => {
    word.style.flexGrow = Math.max(widths[index], 0.001);
    word.hidden = widths[index] < 0.08;
  });
  card.querySelector(".needle").style.left = `${p * 100}%`;
  card.querySelector(".band").setAttribute(
    "aria-label",
    `Probability of generation ${p.toFixed(2)} on a scale from 0 to 1: real below ${band.real_below.toFixed(2)}, `
      + `generated above ${band.generated_above.toFixed(2)}.`,
  );
}

function showBranches(card, contributions, bias) {
  const names = Object.keys(contributions);
  const several = names.length > 1;
  for (const part of [".branches-title", ".branches-help", ".branches"]) card.querySelector(part).hidden = !several;
  if (!several) return;
  const list = card.querySelector(".branches");
  list.replaceChildren();
  const most = Math.max(...Object.values(contributions).map(Math.abs), 0.01);
  for (const name of names) {
    const value = contributions[name];
    const term = document.createElement("dt");
    const number = document.createElement("dd");
    const bar = document.createElement("span");
    term.textContent = BRANCHES[name] || name;
    number.textContent = `${signed(value)} `;
    bar.className = value >= 0 ? "bar bar-generated" : "bar bar-real";
    bar.style.width = `${(Math.abs(value) / most) * 5}rem`;
    number.append(bar);
    list.append(term, number);
  }
  add(list, "constant", signed(bias));
}

function showPicture(card, told, name) {
  const crop = card.querySelector(".crop");
  const heat = card.querySelector(".heat");
  const range = card.querySelector(".heat-range");
  crop.src = told.images.crop;
  crop.alt = `What the detector looked at: the centre of ${name}`;
  card.querySelector(".slider").hidden = heat.hidden = !told.images.heat;
  if (!told.images.heat) return;
  heat.src = told.images.heat;
  range.id = `heat-${cards}`;
  card.querySelector(".heat-label").htmlFor = range.id;
  const turn = () => {
    heat.style.opacity = range.value / 100;
    range.setAttribute("aria-valuetext", `${range.value} % heat map`);
  };
  range.addEventListener("input", turn);
  turn();
}

// In whole percent, as the sentences say it (radet/explain.py): all and none are said only of all and none.
function share(part) {
  if (part >= 0.995 && part < 1) return "more than 99%";
  return part > 0 && part < 0.005 ? "less than 1%" : `${(part * 100).toFixed(0)}%`;
}

function showFound(card, told, name) {
  const {score, band, percentile} = told;
  card.dataset.state = score.verdict || "uncalibrated";
  card.querySelector(".verdict").textContent = WORDS[score.verdict] || "Not calibrated";
  card.querySelector(".summary").textContent = score.p_generated === null
    ? `This detector gives no probability; its logit is ${score.logit.toFixed(2)}.`
    : `Probability of generation ${score.p_generated.toFixed(2)}, at even odds of real and generated.`;
  showBand(card, score.p_generated, band);
  showPicture(card, told, name);
  const sentences = card.querySelector(".sentences");
  sentences.replaceChildren(...told.sentences.map((sentence) => {
    const item = document.createElement("li");
    item.textContent = sentence;
    return item;
  }));
  card.querySelector(".drift-title").hidden = card.querySelector(".drift").hidden = percentile === null;
  if (percentile !== null) {
    card.querySelector(".drift").textContent = `Of the reference pictures ${share(percentile)} drift less. `
      + "The higher, the more the detector's view moved.";
  }
  showBranches(card, told.contributions, told.bias);
  const facts = card.querySelector(".facts-list");
  facts.replaceChildren();
  add(facts, "Picture", `${score.width} × ${score.height} ${score.format}, ${score.bytes.toLocaleString("en")} bytes`);
  if (score.digital_source_type) {
    add(facts, "Says of itself", `${score.digital_source_type} (not verified, no part of the score)`);
  }
  add(facts, "SHA-256", score.sha256);
  add(facts, "Model", score.model_id);
  if (band) {
    add(facts, "Thresholds", `real below ${band.real_below.toFixed(3)}, generated above ${band.generated_above.toFixed(3)}`);
  }
  add(facts, "Request", told.request_id);
  card.querySelector(".found").hidden = false;
}

const inWords = (condition) => condition.split("+").map((step) => {
  const [kind, number] = step.split(":");
  return STEPS[kind] ? STEPS[kind](number) : step;
}).join(", then ");

// Scores of degraded copies, for who asks: each costs as much as the picture's own.
function offerCopies(card, file, score, name) {
  const button = card.querySelector(".degrade");
  card.querySelector(".holds").hidden = score.p_generated === null || !conditions.length;
  button.addEventListener("click", () => {
    card.focus(); // the button goes
    button.disabled = true;
    waiting = waiting.then(() => scoreCopies(card, file, score, name));
  });
}

async function scoreCopies(card, file, score, name) {
  const said = card.querySelector(".held");
  const list = card.querySelector(".copies");
  const others = [];
  list.replaceChildren();
  said.textContent = "Scoring degraded copies ...";
  try {
    for (const condition of conditions) {
      const path = `v1/score?condition=${encodeURIComponent(condition)}`;
      const told = await send(path, file, (text) => { said.textContent = text; });
      add(list, inWords(condition), `${told.p_generated.toFixed(2)}, ${told.verdict}`);
      if (told.verdict !== score.verdict) others.push(inWords(condition));
    }
    said.textContent = others.length ? `The verdict does not hold for a copy that is: ${others.join("; ")}.` : "The verdict stays the same.";
    card.querySelector(".degrade").hidden = true;
  } catch (error) {
    said.textContent = error.message;
    card.querySelector(".degrade").disabled = false;
  }
  status.textContent = `${name}: ${said.textContent}`;
}

function showError(card, error) {
  card.dataset.state = "error";
  card.querySelector(".verdict").textContent = "No score";
  card.querySelector(".summary").textContent = error.message;
  card.querySelector(".again").hidden = error.final === true;
}

// How many, and where there are several, of which verdicts; and a button for all that may be tried again.
function showProgress() {
  const states = [...results.children].map((card) => card.dataset.state);
  const found = Object.entries(TALLIED).flatMap(([state, word]) => {
    const count = states.filter((one) => one === state).length;
    return count ? [`${count} ${word}`] : [];
  });
  const done = states.filter((state) => !["waiting", "busy"].includes(state)).length;
  const tally = found.length ? `: ${found.join(", ")}` : "";
  progress.textContent = states.length > 1 ? `${done} of ${states.length} pictures looked at${tally}.` : "";
  allAgain.hidden = results.querySelectorAll(".again:not([hidden])").length < 2;
}

async function work(card, file, name) {
  card.dataset.state = "busy";
  card.setAttribute("aria-busy", "true");
  card.querySelector(".verdict").textContent = "Looking ...";
  card.querySelector(".summary").textContent = "";
  status.textContent = `Looking at ${name}.`;
  try {
    const say = (text) => { card.querySelector(".summary").textContent = text; };
    const told = await send("v1/explain?images=true&side=448", file, say);
    showFound(card, told, name);
    offerCopies(card, file, told.score, name);
    if (told.score.model_id !== modelShown) showModel(); // the service has another since, or was away
  } catch (error) {
    showError(card, error);
  }
  card.removeAttribute("aria-busy");
  showProgress();
  status.textContent = `${name}: ${card.querySelector(".verdict").textContent}. `
    + card.querySelector(".summary").textContent;
}

function take(files) {
  const added = [];
  for (const file of files) {
    cards += 1;
    const card = template.content.firstElementChild.cloneNode(true);
    const name = file.name || `pasted picture ${cards}`;
    const title = card.querySelector(".name");
    title.textContent = name;
    title.id = `card-${cards}`;
    card.setAttribute("aria-labelledby", title.id);
    card.dataset.state = "waiting";
    card.querySelector(".verdict").textContent = "Waiting ...";
    const queue = () => { waiting = waiting.then(() => work(card, file, name)); };
    card.querySelector(".again").addEventListener("click", () => {
      card.focus(); // the button goes, and would take the keyboard's place with it
      card.querySelector(".again").hidden = true;
      card.dataset.state = "waiting";
      card.querySelector(".verdict").textContent = "Waiting ...";
      card.querySelector(".summary").textContent = "";
      showProgress();
      queue();
    });
    added.push(card);
    queue();
  }
  results.prepend(...added); // the newest lot first, in the order in which it was chosen and is looked at
  showProgress();
}

input.addEventListener("change", () => {
  take([...input.files]);
  input.value = ""; // the same file may be chosen again
});
allAgain.addEventListener("click", () => {
  for (const button of results.querySelectorAll(".again:not([hidden])")) button.click();
  results.querySelector("[data-state=waiting]").focus();
});
form.addEventListener("submit", (event) => event.preventDefault());
key.addEventListener("change", showModel);
document.addEventListener("paste", (event) => {
  const files = [...event.clipboardData.files];
  if (files.length) {
    event.preventDefault();
    take(files);
  }
});
for (const name of ["dragenter", "dragover"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  const files = [...event.dataTransfer.files];
  refusal.textContent = files.length ? "" : "That was no file. Save the picture first, then drop its file here.";
  take(files);
});
showModel();
