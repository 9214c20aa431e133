// Two images, one over the other, with a divider, zoom and pan, for mouse, touch and keyboard. Both
// the page of `anchorsr compare` and that of `anchorsr serve` use it; comparison.css is its style.

const MOST_ZOOM = 8;
const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const ratio = () => window.devicePixelRatio || 1;
const snap = (value) => Math.round(value * ratio()) / ratio();

function place(corner, room, size) {
  return size <= room ? (room - size) / 2 : clamp(corner, room - size, 0);
}

export class Comparison {
  /**
   * stage: an element with #left and #right, each with images and a .tag, and with #slider.
   * zoomButtons: buttons with data-zoom, which is "fit" or a number.
   */
  constructor(stage, zoomButtons) {
    this.stage = stage;
    this.slider = stage.querySelector("#slider");
    this.left = stage.querySelector("#left");
    this.right = stage.querySelector("#right");
    this.images = [...stage.querySelectorAll(".side img")];
    this.buttons = zoomButtons;
    [this.width, this.height] = [1, 1]; // that every image is shown in
    // zoom is screen pixels per image pixel; x and y are the corner of the image in the stage, and
    // split is the position of the divider in it, from 0 to 1.
    Object.assign(this, { zoom: 1, fitted: true, x: 0, y: 0, split: 0.5 });
    this.#listen();
    new ResizeObserver(() => this.draw()).observe(stage);
    window.addEventListener("resize", () => this.draw());
  }

  /** Say what is on each side. */
  label(left, right) {
    this.left.querySelector(".tag").textContent = left;
    this.right.querySelector(".tag").textContent = right;
    this.draw();
  }

  /** Show the whole of images of this size. */
  fit(width, height) {
    [this.width, this.height] = [width, height];
    for (const image of this.images) Object.assign(image, { width, height });
    this.fitted = true;
    this.draw();
  }

  /** The whole image, at most at one image pixel per CSS pixel. */
  #fitZoom() {
    const { stage } = this;
    return Math.min(
      ratio(), stage.clientWidth * ratio() / this.width, stage.clientHeight * ratio() / this.height,
    );
  }

  draw() {
    const { stage, left, right, slider } = this;
    if (this.fitted) this.zoom = this.#fitZoom();
    const scale = this.zoom / ratio();
    const [wide, high] = [stage.clientWidth, stage.clientHeight];
    this.x = place(this.x, wide, this.width * scale);
    this.y = place(this.y, high, this.height * scale);
    const line = snap(this.split * wide);
    for (const image of this.images) {
      image.style.transform = `translate(${snap(this.x)}px, ${snap(this.y)}px) scale(${scale})`;
      // A smaller original is not shown in blocks, or it would look worse than it is.
      const whole = image.naturalWidth === this.width;
      image.classList.toggle("blocks", whole && this.zoom > 1 && !this.fitted);
    }
    left.style.clipPath = `inset(0 ${wide - line}px 0 0)`;
    right.style.clipPath = `inset(0 0 0 ${line}px)`;
    slider.style.left = `${line}px`;
    const tag = left.querySelector(".tag");
    tag.style.right = `${wide - line}px`;
    right.querySelector(".tag").style.left = `${line}px`;
    stage.classList.toggle("pans", this.width * scale > wide + 1 || this.height * scale > high + 1);
    const percent = Math.round(this.split * 100);
    slider.setAttribute("aria-valuenow", percent);
    slider.setAttribute("aria-valuetext", `${percent} % ${tag.textContent}`);
    for (const button of this.buttons) {
      const wanted = button.dataset.zoom;
      const on = wanted === "fit" ? this.fitted : !this.fitted && Number(wanted) === this.zoom;
      button.setAttribute("aria-pressed", on);
    }
  }

  moveTo(clientX) {
    const box = this.stage.getBoundingClientRect();
    this.split = clamp((clientX - box.left) / box.width, 0, 1);
    this.draw();
  }

  /** Zoom around (clientX, clientY), by default around the centre of the stage. */
  zoomTo(wanted, clientX, clientY) {
    const box = this.stage.getBoundingClientRect();
    const atX = clientX === undefined ? box.width / 2 : clientX - box.left;
    const atY = clientY === undefined ? box.height / 2 : clientY - box.top;
    const least = Math.min(1, this.#fitZoom());
    const next = clamp(wanted, least, MOST_ZOOM);
    this.x = atX - (atX - this.x) * next / this.zoom;
    this.y = atY - (atY - this.y) * next / this.zoom;
    this.zoom = next;
    this.fitted = next === least && least < 1;
    this.draw();
  }

  pan(byX, byY) {
    this.x += byX;
    this.y += byY;
    this.draw();
  }

  #listen() {
    const { stage, slider } = this;
    const touching = new Map();
    let dragsDivider = false;
    let splitBefore = this.split;

    stage.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      stage.setPointerCapture(event.pointerId);
      touching.set(event.pointerId, [event.clientX, event.clientY]);
      const onHandle = event.target === slider;
      dragsDivider = touching.size === 1 && (onHandle || !stage.classList.contains("pans"));
      stage.classList.add("busy");
      if (touching.size === 1) splitBefore = this.split;
      else this.split = splitBefore; // the first of two fingers was not for the divider
      if (dragsDivider) {
        event.preventDefault();
        slider.focus({ preventScroll: true, focusVisible: false });
        if (!onHandle) this.moveTo(event.clientX);
      }
    });

    stage.addEventListener("pointermove", (event) => {
      const before = touching.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY];
      touching.set(event.pointerId, now);
      if (touching.size === 2) {
        const [a, b] = [...touching.values()];
        const other = a === now ? b : a;
        const reach = Math.hypot(before[0] - other[0], before[1] - other[1]);
        const factor = Math.hypot(now[0] - other[0], now[1] - other[1]) / Math.max(reach, 1);
        this.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
        this.zoomTo(this.zoom * factor, (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
      } else if (dragsDivider) {
        this.moveTo(event.clientX);
      } else {
        this.pan(now[0] - before[0], now[1] - before[1]);
      }
    });

    for (const kind of ["pointerup", "pointercancel"]) {
      stage.addEventListener(kind, (event) => {
        touching.delete(event.pointerId);
        dragsDivider = false;
        if (!touching.size) stage.classList.remove("busy");
      });
    }

    stage.addEventListener("wheel", (event) => {
      event.preventDefault();
      const pixels = event.deltaY * (event.deltaMode ? 33 : 1);
      this.zoomTo(this.zoom * 2 ** (-clamp(pixels, -200, 200) / 200), event.clientX, event.clientY);
    }, { passive: false });

    slider.addEventListener("keydown", (event) => {
      const steps = {
        ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10,
        Home: -100, End: 100,
      };
      if (!(event.key in steps) || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      this.split = clamp((Math.round(this.split * 100) + steps[event.key]) / 100, 0, 1);
      this.draw();
    });

    stage.addEventListener("keydown", (event) => {
      const moves = {
        ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60],
      };
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key in moves) this.pan(...moves[event.key]);
      else if (event.key === "+" || event.key === "=") this.zoomTo(this.zoom * 2);
      else if (event.key === "-") this.zoomTo(this.zoom / 2);
      else return;
      event.preventDefault();
    });

    for (const button of this.buttons) {
      button.addEventListener("click", () => {
        this.fitted = button.dataset.zoom === "fit";
        if (this.fitted) this.draw();
        else this.zoomTo(Number(button.dataset.zoom));
      });
    }
  }
}
