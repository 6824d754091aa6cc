const PAN_STEP = 0.15; // of the window
const ZOOM_STEP = 1.5;
const HIGHEST_ZOOM = 24; // screen pixels in one of the scene's

class Viewer {
  constructor(article, scene) {
    this.scene = scene;
    this.article = article;
    this.element = document.getElementById("viewer").content.cloneNode(true).firstElementChild;
    article.querySelector(".scene-body").prepend(this.element);
    const find = (selector) => this.element.querySelector(selector);
    this.stage = find(".stage");
    this.divider = find(".divider");
    this.mark = find(".mark");
    this.hint = find(".hint");
    this.readout = find(".readout");
    this.status = find("[role=status]");
    this.sides = ["left", "right"].map((side) => ({
      pane: find(`.pane.${side}`),
      world: find(`.pane.${side} .world`),
      tag: find(`.tag.${side}`),
      select: find(`.${side}-layer`),
      layer: null,
    }));
    this.sources = new Map();
    for (const figure of article.querySelectorAll("figure[data-layer]")) {
      this.sources.set(figure.dataset.layer, figure.querySelector("img").src);
    }
    this.indices = new Map(); // class indices of layers, once they are decoded
    this.pointers = new Map();
    this.region = null;
    this.view = { x: 0, y: 0, scale: 1 };
    this.fitted = true;
    this.stage.setAttribute("aria-label", `Scene ${scene.name}. Arrow keys pan, plus and minus zoom, 0 fits.`);
    this.stage.style.setProperty("--aspect", scene.width / scene.height);
    this.fillSelects();
    this.listen(find);
    new ResizeObserver(() => (this.fitted ? this.fit() : this.draw())).observe(this.stage);
  }

  fillSelects() {
    const keys = this.scene.layers.map((layer) => layer.key);
    const start = keys.includes("prediction-1")
      ? ["prediction-0", "prediction-1"]
      : [keys[0], "prediction-0"];
    this.sides.forEach((side, number) => {
      for (const layer of this.scene.layers) side.select.add(new Option(layer.label, layer.key));
      side.select.addEventListener("change", () => this.show(side, side.select.value));
      this.show(side, start[number]);
    });
  }

  /** Show a layer on one side; errors lie over the scene in grey. */
  show(side, key) {
    const layer = this.scene.layers.find((one) => one.key === key);
    side.layer = layer;
    side.select.value = key;
    side.tag.textContent = layer.label;
    const pictures = [];
    if (layer.kind === "errors" && this.sources.has("picture")) {
      pictures.push(this.picture("picture", "backdrop", false));
    }
    pictures.push(this.picture(key, layer.kind, layer.kind !== "picture"));
    side.world.replaceChildren(...pictures);
    this.divide(this.share ?? 50);
  }

  picture(key, kind, isSampled) {
    const image = new Image();
    const { width, height, step } = this.scene;
    const source = this.sources.get(key);
    image.src = kind === "classes" ? shownSource(source) : source;
    image.alt = "";
    image.className = kind;
    image.draggable = false;
    // pixels of sampled layers stand for `step` of the scene's, beyond its end too
    image.style.width = `${isSampled ? Math.ceil(width / step) * step : width}px`;
    image.style.height = `${isSampled ? Math.ceil(height / step) * step : height}px`;
    return image;
  }

  recolour() {
    this.sides.forEach((side) => this.show(side, side.layer.key));
  }

  divide(share) {
    this.share = Math.max(0, Math.min(100, share));
    this.stage.style.setProperty("--share", `${this.share}%`);
    const [left, right] = this.sides.map((side) => side.layer?.label);
    const shown = Math.round(this.share);
    this.divider.setAttribute("aria-valuenow", shown);
    this.divider.setAttribute("aria-valuetext", `${shown} % ${left}, ${100 - shown} % ${right}`);
  }

  get size() {
    return [this.stage.clientWidth, this.stage.clientHeight];
  }

  get fitScale() {
    const [width, height] = this.size;
    return Math.min(width / this.scene.width, height / this.scene.height);
  }

  fit() {
    this.showRectangle(0, 0, this.scene.width, this.scene.height, 1);
    this.fitted = true;
  }

  /** Show a rectangle of the scene, filling a share of the window. */
  showRectangle(x, y, width, height, filled) {
    const [across, down] = this.size;
    const scale = Math.min((across / width) * filled, (down / height) * filled, HIGHEST_ZOOM);
    this.view = {
      scale,
      x: across / 2 - (x + width / 2) * scale,
      y: down / 2 - (y + height / 2) * scale,
    };
    this.fitted = false;
    this.draw();
  }

  zoom(factor, x = this.size[0] / 2, y = this.size[1] / 2) {
    const lowest = this.fitScale * 0.7;
    const scale = Math.max(lowest, Math.min(HIGHEST_ZOOM, this.view.scale * factor));
    const by = scale / this.view.scale;
    this.view = { scale, x: x - (x - this.view.x) * by, y: y - (y - this.view.y) * by };
    this.fitted = false;
    this.draw();
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
    this.fitted = false;
    this.draw();
  }

  draw() {
    const [width, height] = this.size;
    const { scale } = this.view;
    // the middle of the window stays within the scene
    const inside = (start, length, extent) => Math.max(length / 2 - extent, Math.min(length / 2, start));
    this.view.x = inside(this.view.x, width, this.scene.width * scale);
    this.view.y = inside(this.view.y, height, this.scene.height * scale);
    const { x, y } = this.view;
    for (const { world } of this.sides) {
      world.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    }
    this.stage.classList.toggle("magnified", scale * this.scene.step > 2);
    if (this.region) {
      const [column, row, across, down] = this.region;
      this.mark.style.transform = `translate(${x + column * scale}px, ${y + row * scale}px)`;
      this.mark.style.width = `${across * scale}px`;
      this.mark.style.height = `${down * scale}px`;
    }
  }

  /** Jump to a region and show its errors. */
  jump(region, map, words) {
    this.region = region;
    this.mark.hidden = false;
    const errors = `errors-${map}`;
    if (!this.sides.some((side) => side.layer.key === errors)) this.show(this.sides[1], errors);
    this.stage.classList.add("moving");
    this.showRectangle(...region, 0.7);
    setTimeout(() => this.stage.classList.remove("moving"), 450);
    this.status.textContent = `Showing the region: ${words}`;
    this.read(...this.size.map((length) => length / 2));
    this.element.scrollIntoView({ block: "nearest" });
  }

  listen(find) {
    find(".zoom-in").addEventListener("click", () => this.zoom(ZOOM_STEP));
    find(".zoom-out").addEventListener("click", () => this.zoom(1 / ZOOM_STEP));
    find(".fit").addEventListener("click", () => this.fit());
    const fullScreen = find(".full-screen");
    fullScreen.hidden = !document.fullscreenEnabled;
    fullScreen.addEventListener("click", () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else this.element.requestFullscreen();
    });
    this.stage.addEventListener("keydown", (event) => this.onKey(event));
    this.divider.addEventListener("keydown", (event) => this.onDividerKey(event));
    this.stage.addEventListener("wheel", (event) => this.onWheel(event), { passive: false });
    this.stage.addEventListener("pointerdown", (event) => this.onDown(event));
    this.stage.addEventListener("pointermove", (event) => this.onMove(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.stage.addEventListener(name, (event) => this.onUp(event));
    }
    this.article.querySelectorAll("a[data-region]").forEach((link) =>
      link.addEventListener("click", (event) => {
        event.preventDefault();
        const region = link.dataset.region.split(",").map(Number);
        this.jump(region, link.dataset.map, link.innerText.replaceAll("\n", ", "));
      }),
    );
  }

  onKey(event) {
    if (event.target !== this.stage || event.ctrlKey || event.metaKey || event.altKey) return;
    const [width, height] = this.size.map((length) => length * PAN_STEP);
    const actions = {
      ArrowLeft: () => this.pan(width, 0),
      ArrowRight: () => this.pan(-width, 0),
      ArrowUp: () => this.pan(0, height),
      ArrowDown: () => this.pan(0, -height),
      "+": () => this.zoom(ZOOM_STEP),
      "=": () => this.zoom(ZOOM_STEP),
      "-": () => this.zoom(1 / ZOOM_STEP),
      0: () => this.fit(),
    };
    if (!(event.key in actions)) return;
    event.preventDefault();
    actions[event.key]();
    this.read(...this.size.map((length) => length / 2));
  }

  onDividerKey(event) {
    const steps = { ArrowLeft: -2, ArrowDown: -2, ArrowRight: 2, ArrowUp: 2, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.divide(this.share + steps[event.key]);
  }

  onWheel(event) {
    const isMeant = event.ctrlKey || this.stage.contains(document.activeElement);
    this.hint.classList.toggle("shown", !isMeant);
    if (!isMeant) {
      clearTimeout(this.hintTimer);
      this.hintTimer = setTimeout(() => this.hint.classList.remove("shown"), 1500);
      return; // the page scrolls
    }
    event.preventDefault();
    const [x, y] = this.place(event);
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : 1;
    this.zoom(Math.exp(-event.deltaY * lines * 0.002), x, y);
  }

  onDown(event) {
    if (event.button !== 0) return;
    this.stage.setPointerCapture(event.pointerId);
    this.dragsDivider = event.target === this.divider;
    (this.dragsDivider ? this.divider : this.stage).focus({ preventScroll: true });
    this.pointers.set(event.pointerId, this.place(event));
    event.preventDefault();
  }

  onMove(event) {
    const place = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      this.read(...place);
      return;
    }
    if (this.dragsDivider) {
      this.divide((100 * place[0]) / this.size[0]);
    } else if (this.pointers.size === 1) {
      this.pan(place[0] - before[0], place[1] - before[1]);
    } else {
      const [id] = [...this.pointers.keys()].filter((one) => one !== event.pointerId);
      const other = this.pointers.get(id);
      const distance = ([x, y]) => Math.max(1, Math.hypot(x - other[0], y - other[1]));
      this.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
      this.zoom(distance(place) / distance(before), (place[0] + other[0]) / 2, (place[1] + other[1]) / 2);
    }
    this.pointers.set(event.pointerId, place);
  }

  onUp(event) {
    this.pointers.delete(event.pointerId);
    if (!this.pointers.size) this.dragsDivider = false;
  }

  place(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left - this.stage.clientLeft, event.clientY - box.top - this.stage.clientTop];
  }

  /** Say what lies at a place of the window. */
  async read(x, y) {
    const column = Math.floor((x - this.view.x) / this.view.scale);
    const row = Math.floor((y - this.view.y) / this.view.scale);
    const { width, height, step, layers } = this.scene;
    if (column < 0 || row < 0 || column >= width || row >= height) {
      this.readout.textContent = "\u00a0";
      return;
    }
    const words = [`column ${column}, row ${row}`];
    for (const layer of layers.filter((one) => one.kind === "classes")) {
      const { indices, across } = await this.decoded(layer.key);
      const index = indices[Math.floor(row / step) * across + Math.floor(column / step)];
      words.push(`${layer.label[0].toLowerCase()}${layer.label.slice(1)}: ${data.classes[index] ?? "no class"}`);
    }
    this.readout.textContent = words.join(" · ");
  }

  decoded(key) {
    if (!this.indices.has(key)) this.indices.set(key, decodedIndices(this.sources.get(key)));
    return this.indices.get(key);
  }
}

async function decodedIndices(source) {
  const image = new Image();
  image.src = source;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data: pixels } = context.getImageData(0, 0, canvas.width, canvas.height);
  const known = indicesByColour();
  const indices = new Uint8Array(pixels.length / 4);
  for (let i = 0; i < indices.length; i++) {
    indices[i] = known.get((pixels[4 * i] << 16) | (pixels[4 * i + 1] << 8) | pixels[4 * i + 2]);
  }
  return { indices, across: canvas.width };
}
