// What is to be done with files that are added: size, model, format and quality.

import { TEXTS } from "./texts.mjs";

const CUSTOM = "custom";
const KEY = "anchorsr-settings";
const LOSSY = ["jpg", "webp", "avif", "heic"];
const $ = (id) => document.getElementById(id);

/** Fill the form; onChange is called with every change. Returns {read()}: the options. */
export function makeSettings(config, onChange) {
  const stored = recall(KEY);
  const factors = [...new Set(config.models.flatMap((model) => model.factors))].sort();
  for (const factor of [...factors, CUSTOM]) {
    const text = factor === CUSTOM ? TEXTS.custom : `×${factor}`;
    $("factors").append(radio("factor", factor, text));
  }
  const order = Object.keys(TEXTS.models);
  const models = [...config.models].sort((one, other) =>
    order.indexOf(one.name) - order.indexOf(other.name));
  const wordsOf = (name) => TEXTS.models[name] ?? [name, ""];
  $("models").append(...models.map(({ name }) => radio("model", name, wordsOf(name)[0])));
  $("format").append(new Option(TEXTS.formatSame, ""));
  $("format").append(...config.formats.map((name) => new Option(name.toUpperCase(), name)));

  check("factor", stored.factor ?? config.factor);
  check("model", stored.model ?? config.model);
  $("format").value = config.formats.includes(stored.format) ? stored.format : "";
  $("quality").value = stored.quality ?? 92;
  $("width").value = stored.width ?? 3840;
  $("height").value = stored.height ?? 2160;

  function changed() {
    const factor = chosen("factor");
    $("target").hidden = factor !== CUSTOM;
    for (const { name, factors: known } of models) {
      const input = document.querySelector(`input[name=model][value="${name}"]`);
      input.disabled = factor !== CUSTOM && !known.includes(Number(factor));
    }
    if (document.querySelector("input[name=model]:checked")?.disabled) check("model", config.model);
    $("quality-label").hidden = $("format").value !== "" && !LOSSY.includes($("format").value);
    $("quality-value").textContent = $("quality").value;
    $("model-words").textContent = wordsOf(chosen("model"))[1];
    remember(KEY, {
      factor, model: chosen("model"), format: $("format").value, quality: $("quality").value,
      width: $("width").value, height: $("height").value,
    });
    onChange();
  }
  $("settings").addEventListener("input", changed);
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  queueMicrotask(changed);

  return {
    read() {
      const options = { model: chosen("model"), quality: Number($("quality").value) };
      if ($("format").value) options.format = $("format").value;
      if (chosen("factor") !== CUSTOM) return { ...options, factor: Number(chosen("factor")) };
      const [width, height] = ["width", "height"].map((id) => Math.trunc(Number($(id).value)));
      if (width >= 1) options.width = width;
      if (height >= 1) options.height = height;
      return options;
    },
  };
}

function radio(name, value, text) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name, value });
  const span = Object.assign(document.createElement("span"), { textContent: text });
  label.append(input, span);
  return label;
}

function chosen(name) {
  return document.querySelector(`input[name=${name}]:checked`).value;
}

function check(name, value) {
  const inputs = [...document.querySelectorAll(`input[name=${name}]`)];
  (inputs.find((input) => input.value === String(value)) ?? inputs[0]).checked = true;
}

/** What an earlier visit has remembered under a key; an empty object if there is nothing. */
export function recall(key) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? {};
  } catch {
    return {};
  }
}

export function remember(key, values) {
  try {
    localStorage.setItem(key, JSON.stringify(values));
  } catch {
    // a browser may forbid it
  }
}
