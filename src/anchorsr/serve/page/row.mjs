// A row of the list: a thumbnail, the state of a file, and what can be done with it.

import { TEXTS } from "./texts.mjs";

const THUMBNAIL = 112;

const make = (kind, properties = {}) => Object.assign(document.createElement(kind), properties);

/** actions: {cancel, remove, retry, show}, each called with the item. */
export function makeRow(item, actions) {
  const { name } = item.file;
  const element = make("li");
  const thumb = make("button", { type: "button", className: "thumb", disabled: true });
  thumb.setAttribute("aria-label", TEXTS.compareNamed(name));
  thumb.addEventListener("click", () => actions.show(item));
  const title = make("span", { className: "name", textContent: item.path, title: item.path });
  const state = make("span", { className: "state" });
  const progress = make("progress", { max: 1, hidden: true });
  progress.setAttribute("aria-label", TEXTS.progress(name));
  const rest = make("div");
  const buttons = make("div", { className: "row" });
  rest.append(progress, buttons);
  element.append(thumb, title, state, rest);
  drawThumbnail(item, thumb);

  const known = {
    save: [TEXTS.save, TEXTS.saveNamed(name), () => saveBlob(item.blob, item.name)],
    show: [TEXTS.compare, TEXTS.compareNamed(name), () => actions.show(item)],
    play: [TEXTS.play, TEXTS.playNamed(name), () => actions.show(item)],
    cancel: [TEXTS.cancel, TEXTS.cancelNamed(name), () => actions.cancel(item)],
    retry: [TEXTS.retry, TEXTS.retryNamed(name), () => actions.retry(item)],
    remove: [TEXTS.remove, TEXTS.removeNamed(name), () => actions.remove(item)],
  };
  const wanted = {
    waiting: ["cancel"], working: ["cancel"], done: ["save", "show", "remove"],
    failed: ["retry", "remove"], cancelled: ["retry", "remove"],
  };
  let before = "";

  function setButtons() {
    if (before === item.state) return;
    before = item.state;
    const hadFocus = buttons.contains(document.activeElement);
    const keys = wanted[item.state].map((key) => key === "show" && !item.size ? "play" : key);
    buttons.replaceChildren(...keys.map((key) => {
      const [text, label, act] = known[key];
      const button = make("button", { type: "button", className: "small", textContent: text });
      button.setAttribute("aria-label", label);
      button.addEventListener("click", act);
      return button;
    }));
    if (hadFocus) buttons.firstChild.focus();
  }

  return {
    element,
    remove() {
      element.remove();
    },
    update({ share, left, shown }) {
      element.className = item.state + (shown ? " shown" : "");
      thumb.disabled = item.state !== "done";
      progress.hidden = item.state !== "working";
      if (share === undefined) progress.removeAttribute("value");
      else progress.value = share;
      setButtons();
      const sides = (size) => size.join("×");
      const texts = {
        waiting: () => TEXTS.waiting,
        working: () => left === undefined ? TEXTS.working : TEXTS.left(TEXTS.seconds(left)),
        cancelled: () => TEXTS.cancelled,
        failed: () => item.error,
      };
      if (item.state !== "done") state.textContent = texts[item.state]();
      else state.innerHTML = item.size ? TEXTS.done(sides(item.size), sides(item.target)) : TEXTS.doneVideo;
    },
  };
}

export function saveBlob(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

/** A small copy of an image, whose number of pixels is noted on the way, or of a video's beginning. */
async function drawThumbnail(item, thumb) {
  try {
    if (item.file.type.startsWith("video/")) {
      const video = await beginning(item.file);
      thumb.append(reduced(video, video.videoWidth, video.videoHeight));
      URL.revokeObjectURL(video.src);
      return;
    }
    const bitmap = await createImageBitmap(item.file);
    item.pixels = bitmap.width * bitmap.height;
    thumb.append(reduced(bitmap, bitmap.width, bitmap.height));
    bitmap.close();
  } catch {
    // a format that this browser does not know
  }
}

function reduced(source, width, height) {
  const scale = Math.min(1, THUMBNAIL / Math.max(width, height));
  const canvas = make("canvas", {
    width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)),
  });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, canvas.width, canvas.height);
  return canvas;
}

/** A video that has loaded its first frame. */
function beginning(file) {
  const video = make("video", { muted: true, preload: "auto", src: URL.createObjectURL(file) });
  return new Promise((loaded, failed) => {
    video.addEventListener("loadeddata", () => loaded(video));
    video.addEventListener("error", () => {
      URL.revokeObjectURL(video.src);
      failed(video.error);
    });
  });
}
