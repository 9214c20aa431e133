// The page: a list of files, what is to be done with them, and the comparison of one.

import { Comparison } from "./comparison.mjs";
import config from "./config.mjs";
import { chooseImages, filesOf } from "./files.mjs";
import { makeRow, saveBlob } from "./row.mjs";
import { makeSettings, recall, remember } from "./settings.mjs";
import { TEXTS } from "./texts.mjs";
import { writeZip } from "./zip.mjs";

const $ = (id) => document.getElementById(id);
const zoomButtons = [...document.querySelectorAll("#zoom button")];
const comparison = new Comparison($("stage"), zoomButtons);
const items = [];
let shown = null;
const RATES = "anchorsr-rates";
const rates = recall(RATES); // seconds for a megapixel of an original, as measured so far, by model

const engine = config.engine === "server"
  ? new (await import("./engine-server.mjs")).ServerEngine(config)
  : new (await import("./engine-browser.mjs")).BrowserEngine(config);
const settings = makeSettings(config, update);

function setTexts() {
  document.title = TEXTS.title;
  for (const element of document.querySelectorAll("[data-text]")) {
    element.textContent = TEXTS[element.dataset.text];
  }
  const loopback = ["localhost", "127.0.0.1", "[::1]"].includes(location.hostname);
  $("where").textContent = config.engine === "browser" ? TEXTS.whereBrowser
    : loopback ? TEXTS.whereServer : TEXTS.whereRemote(location.host);
  $("drop-text").textContent = config.videos.length ? TEXTS.dropVideos : TEXTS.drop;
  $("choose").textContent = TEXTS.choose;
  $("choose-folder").textContent = TEXTS.chooseFolder;
  $("empty-text").textContent = TEXTS.empty;
  $("cancel-all").textContent = TEXTS.cancelAll;
  $("clear").textContent = TEXTS.clear;
  $("all").setAttribute("aria-label", TEXTS.allProgress);
  $("zoom").setAttribute("aria-label", TEXTS.zoom);
  zoomButtons[0].textContent = TEXTS.fit;
  $("stage").setAttribute("aria-label", TEXTS.stage);
  $("slider").setAttribute("aria-label", TEXTS.slider);
  comparison.label(TEXTS.original, TEXTS.result);
}

function tell(text) {
  $("told").textContent = text;
}

// Files

async function add(files) {
  const { found, leftOut, problems } = await chooseImages(files, [...config.images, ...config.videos]);
  const options = settings.read();
  for (const { file, path } of found) addItem(file, path, options);
  for (const [name, why] of problems) {
    const item = addItem(new File([], name), name, options);
    Object.assign(item, { state: "failed", error: why });
  }
  if (leftOut || !found.length) tell(found.length ? TEXTS.leftOut(leftOut) : TEXTS.nothing);
  $("summary").dataset.note = leftOut ? TEXTS.leftOut(leftOut) : "";
  if (!found.length && !problems.length) {
    $("bar").hidden = false;
    $("summary").textContent = TEXTS.nothing;
    return;
  }
  update();
}

function addItem(file, path, options) {
  const item = { file, path, options, state: "waiting", notes: [] };
  item.row = makeRow(item, { cancel, remove, retry, show: showChosen });
  items.push(item);
  $("list").append(item.row.element);
  return item;
}

// Work

function next() {
  while (items.filter(({ state }) => state === "working").length < engine.atOnce) {
    const item = items.find(({ state }) => state === "waiting");
    if (!item) return;
    work(item);
  }
}

async function work(item) {
  item.state = "working";
  item.progress = undefined;
  item.started = performance.now();
  item.abort = new AbortController();
  const { signal } = item.abort;
  try {
    const { factor, width, height } = item.options;
    if (!factor && !width && !height) throw new Error(TEXTS.problems.size);
    const onProgress = (share) => { item.progress = share; };
    const made = await engine.upscale(item.file, item.options, { signal, onProgress });
    if (signal.aborted) return;
    Object.assign(item, { state: "done", ...made });
    measure(item);
    tell(TEXTS.toldDone(item.file.name));
    if (!shown || shown.state !== "done") show(item);
  } catch (error) {
    if (signal.aborted) return;
    Object.assign(item, { state: "failed", error: error.message });
    tell(TEXTS.toldFailed(item.file.name, error.message));
  } finally {
    update();
  }
}

const kindOf = ({ model, factor }) => `${model} ${factor ?? ""}`;

function measure({ started, size, options }) {
  if (!size) return;
  const seconds = (performance.now() - started) / 1000 / Math.max(size[0] * size[1] / 1e6, 0.01);
  const before = rates[kindOf(options)];
  rates[kindOf(options)] = before ? 0.7 * before + 0.3 * seconds : seconds;
  remember(RATES, rates);
}

/** Seconds for a megapixel, as measured or from an item in work; undefined where nothing is known. */
function rateOf(options) {
  const kind = kindOf(options);
  const begun = items.find((item) =>
    item.state === "working" && item.progress > 0.02 && item.pixels && kindOf(item.options) === kind);
  return rates[kind] ?? (begun && (performance.now() - begun.started) * 1000 / begun.progress / begun.pixels);
}

/** Seconds that an item takes; undefined where nothing is known. */
function secondsOf({ options, pixels }) {
  const rate = rateOf(options);
  return rate && pixels ? rate * pixels / 1e6 : undefined;
}

/** How far an item is, from 0 to 1; undefined where nothing is known. */
function shareOf(item) {
  if (item.progress !== undefined) return item.progress;
  const expected = secondsOf(item);
  if (!expected) return undefined;
  const elapsed = (performance.now() - item.started) / 1000;
  return Math.min(elapsed / expected, 0.97);
}

/** Seconds that an item still takes; undefined where nothing is known. */
function secondsLeft(item) {
  if (item.state === "working") {
    const share = shareOf(item);
    const elapsed = (performance.now() - item.started) / 1000;
    return share > 0.02 && elapsed > 0.5 ? elapsed * (1 - share) / share : undefined;
  }
  return secondsOf(item);
}

function cancel(item) {
  item.abort?.abort();
  item.state = "cancelled";
  update();
}

function remove(item) {
  item.abort?.abort();
  items.splice(items.indexOf(item), 1);
  item.row.remove();
  if (shown === item) {
    shown = null;
    const other = items.find(({ state }) => state === "done");
    if (other) show(other);
    else showNothing();
  }
  update();
}

function retry(item) {
  item.options = settings.read();
  item.state = "waiting";
  update();
}

// Showing

const addresses = [];

function showNothing() {
  for (const address of addresses.splice(0)) URL.revokeObjectURL(address);
  for (const id of ["stage", "zoom", "film", "caption"]) $(id).hidden = true;
  $("film").replaceChildren();
  $("empty").hidden = false;
  $("empty").classList.add("hint");
  $("empty-text").textContent = TEXTS.empty;
}

/** Show an item and, where the page scrolls, bring it into view. */
function showChosen(item) {
  show(item);
  $(item.size ? "zoom" : "film").scrollIntoView({ block: "nearest" });
}

async function show(item) {
  showNothing();
  shown = item;
  const [before, after] = [item.file, item.blob].map((blob) => URL.createObjectURL(blob));
  addresses.push(before, after);
  $("empty").hidden = true;
  $("caption").hidden = false;
  $("caption").textContent = [item.name, ...item.notes].join(" · ");
  if (item.size) {
    $("stage").hidden = $("zoom").hidden = false;
    comparison.split = 0.5;
    if (!await showImages(before, after, !/\.jpe?g$/i.test(item.name)) && shown === item) {
      $("stage").hidden = $("zoom").hidden = true;
      $("empty").hidden = false;
      $("empty").classList.remove("hint");
      $("empty-text").textContent = TEXTS.cannotShow;
    }
  } else {
    const video = document.createElement("video");
    Object.assign(video, { src: after, controls: true });
    $("film").replaceChildren(video);
    $("film").hidden = false;
  }
  update();
}

/** Show two images by address; false if this browser cannot. transparent: draw a pattern below. */
async function showImages(before, after, transparent) {
  const [left, right] = comparison.images;
  [left.src, right.src] = [before, after];
  try {
    await Promise.all([left.decode(), right.decode()]);
  } catch {
    return false;
  }
  if (right.src !== after) return true; // another one was chosen meanwhile
  for (const image of [left, right]) image.classList.toggle("clear", transparent);
  comparison.fit(right.naturalWidth, right.naturalHeight);
  return true;
}

function update() {
  next();
  const count = (...states) => items.filter(({ state }) => states.includes(state)).length;
  const [done, failed, cancelled, open] =
    [count("done"), count("failed"), count("cancelled"), count("waiting", "working")];
  const seconds = items.filter(({ state }) => state === "waiting" || state === "working")
    .map(secondsLeft);
  const known = seconds.every((one) => one !== undefined);
  const all = seconds.reduce((sum, one) => sum + one, 0) / (engine.atOnce > 1 && open > 1 ? 2 : 1);
  for (const item of items) {
    item.row.update({ share: item.state === "working" ? shareOf(item) : undefined,
      left: item.state === "working" ? secondsLeft(item) : undefined, shown: item === shown });
  }
  $("bar").hidden = !items.length;
  $("summary").textContent = TEXTS.summary(done, items.length, failed, cancelled) +
    (open && known ? TEXTS.summaryLeft(TEXTS.seconds(all)) : "") +
    ($("summary").dataset.note ? `. ${$("summary").dataset.note}` : "");
  $("all").hidden = !open;
  const shares = items.map((item) =>
    item.state === "waiting" ? 0 : item.state === "working" ? shareOf(item) ?? 0 : 1);
  $("all").value = items.length ? shares.reduce((sum, one) => sum + one, 0) / items.length : 0;
  $("save-all").hidden = done < 2;
  $("save-all").textContent = TEXTS.saveAll(done);
  $("cancel-all").hidden = open < 2;
  $("clear").hidden = Boolean(open) || !items.length;
  const differ = items.some((item) => item.state === "done" && differs(item));
  $("again").hidden = Boolean(open) || !(differ || cancelled);
  $("again").textContent = differ ? TEXTS.again : TEXTS.resume(cancelled);
}

/** Whether an item was done, or begun, with other settings than the present ones. */
function differs({ options }) {
  return JSON.stringify(options) !== JSON.stringify(settings.read());
}

/** Names of results in a zip: their folders kept, and none twice. */
function zipNames(done) {
  const used = new Set();
  return done.map(({ path, name, blob }) => {
    const folder = path.split("/").slice(0, -1).map((part) => `${part}/`).join("");
    const [, stem, suffix] = /^(.*?)(\.[^.]*)?$/.exec(name);
    let whole = folder + name;
    for (let i = 2; used.has(whole); i++) whole = `${folder}${stem} (${i})${suffix ?? ""}`;
    used.add(whole);
    return { name: whole, blob };
  });
}

// Events

$("choose").addEventListener("click", () => $("files").click());
$("choose-folder").addEventListener("click", () => $("folder").click());
for (const id of ["files", "folder"]) {
  $(id).addEventListener("change", async () => {
    const files = await filesOf({ files: $(id).files });
    $(id).value = ""; // the same file can be chosen again
    add(files);
  });
}
$("cancel-all").addEventListener("click", () => {
  for (const item of items) {
    if (item.state !== "waiting" && item.state !== "working") continue;
    item.abort?.abort();
    item.state = "cancelled";
  }
  update();
});
$("clear").addEventListener("click", () => {
  for (const item of items.splice(0)) item.row.remove();
  shown = null;
  showNothing();
  update();
});
$("again").addEventListener("click", () => {
  const options = settings.read();
  for (const item of items) {
    if (item.state === "cancelled" || (item.state === "done" && differs(item))) {
      Object.assign(item, { options, state: "waiting" });
    }
  }
  update();
});
$("save-all").addEventListener("click", async () => {
  const done = items.filter(({ state }) => state === "done");
  saveBlob(await writeZip(zipNames(done)), TEXTS.zipName);
});

let over = 0;
document.addEventListener("dragenter", (event) => {
  event.preventDefault();
  over++;
  document.body.classList.add("over");
});
document.addEventListener("dragleave", () => {
  if (--over <= 0) document.body.classList.remove("over");
});
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", async (event) => {
  event.preventDefault();
  over = 0;
  document.body.classList.remove("over");
  add(await filesOf(event.dataTransfer));
});
document.addEventListener("paste", async (event) => {
  if (!event.clipboardData.files.length) return;
  event.preventDefault();
  add(await filesOf(event.clipboardData));
});
window.addEventListener("beforeunload", (event) => {
  if (items.some(({ state }) => state === "working" || state === "waiting")) event.preventDefault();
});

setTexts();
showNothing();
update();
setInterval(() => {
  if (items.some(({ state }) => state === "working")) update();
}, 250);
if (config.engine === "browser" && "serviceWorker" in navigator) {
  navigator.serviceWorker.register("sw.js").catch(() => {}); // the page works without it
}
document.body.dataset.ready = "yes";
