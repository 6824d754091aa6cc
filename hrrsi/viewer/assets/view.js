"use strict";
// The page of `hrrsi view`: what it shows comes from the server of the same address, tile by tile.

const TILE = 256; // pixels of the map in a tile, as the server cuts them
const HIGHEST_ZOOM = 6; // 64 screen pixels in one of the map's
const SWIPE_STEP = 2; // percent
const POLL_MILLISECONDS = 400;
// rows grow downwards, and a unit is a pixel of the map
const PIXELS = L.extend({}, L.CRS.Simple, { transformation: new L.Transformation(1, 0, 1, 0) });
const DENSITY = window.devicePixelRatio >= 1.5 ? 2 : 1;

const find = (id) => document.getElementById(id);
const element = (name, properties = {}, ...children) => {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
};
const figures = new Intl.NumberFormat("en");
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.001 ? 3 : 1)} %`;

/** Names without the words that all of them begin with. */
function shortNames(names) {
  let end = 0;
  while (names.every((name) => end < name.length && name[end] === names[0][end])) end += 1;
  const start = names[0].slice(0, end).search(/[^_\-. /]*$/);
  return start > 4 ? names.map((name) => `…${name.slice(start)}`) : names;
}

async function fetchJson(path) {
  const answer = await fetch(path);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

function shape(name, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  return node;
}

function swatch([red, green, blue]) {
  const picture = shape("svg", { viewBox: "0 0 18 18", class: "swatch", "aria-hidden": "true" });
  const fill = `rgb(${red},${green},${blue})`;
  picture.append(shape("rect", { x: 0.5, y: 0.5, width: 17, height: 17, rx: 4, fill }));
  return picture;
}

/** Tiles of one layer of a place. */
const Tiles = L.TileLayer.extend({
  initialize(place, number, hidden, options) {
    this.address = { place, number, hidden };
    L.TileLayer.prototype.initialize.call(this, "", options);
  },
  getTileUrl({ x, y, z }) {
    const { place, number, hidden } = this.address;
    const hide = hidden.size ? `?hide=${[...hidden].join(",")}` : "";
    const level = 1 - DENSITY - z; // denser screens take tiles of twice the pixels
    return `tile/${place}/${number}/${level}/${y}/${x}.png${hide}`;
  },
  // Leaflet's own asks for tiles of a zoom that is no whole number
  redraw() {
    if (!this._map) return this;
    this._removeAllTiles();
    this._resetView();
    return this;
  },
  // as Leaflet's own, but not rounded: with `SeamlessMap`'s zooms, tiles then lie on whole pixels
  _setZoomTransform(level, center, zoom) {
    const scale = this._map.getZoomScale(zoom, level.zoom);
    const corner = level.origin.multiplyBy(scale).subtract(this._map._getNewPixelOrigin(center, zoom));
    L.DomUtil.setTransform(level.el, corner, scale);
  },
});

/** A map whose tiles begin and end between pixels of the screen at any zoom, so that none shows seams. */
const SeamlessMap = L.Map.extend({
  _limitZoom(zoom) {
    const size = TILE / DENSITY;
    const whole = Math.round(zoom);
    const snapped = whole + Math.log2(Math.round(size * 2 ** (zoom - whole)) / size);
    return Math.max(this.getMinZoom(), Math.min(this.getMaxZoom(), snapped));
  },
});

class Page {
  constructor(view) {
    this.places = view.places;
    this.hidden = new Map(); // by layer, classes that are not shown
    this.share = 50;
    this.opacity = 75;
    this.map = new SeamlessMap("map", {
      crs: PIXELS,
      attributionControl: false,
      zoomControl: false,
      keyboardPanDelta: 120,
      maxBoundsViscosity: 0.6,
      zoomSnap: 0,
      zoomDelta: 1,
      wheelPxPerZoomLevel: 120,
      fadeAnimation: false,
    });
    for (const [name, order] of [["scene", 200], ["left", 300], ["right", 300]]) {
      this.map.createPane(name).style.zIndex = order;
    }
    find("place-field").hidden = this.places.length < 2;
    this.places.forEach((place, number) => find("place").add(new Option(place.name, number)));
    find("content").querySelector("footer").textContent = `hrrsi ${view.version}, served by this machine alone`;
    this.listen();
    this.open(0);
  }

  get layers() {
    return this.place.layers;
  }

  // Places and layers ------------------------------------------------------------------------------

  open(number) {
    this.number = number;
    this.place = this.places[number];
    find("place").value = number;
    const { name, width, height, layers, maps } = this.place;
    document.title = `${name} - hrrsi view`;
    document.querySelector("h1").textContent = name;
    this.counts = { layers: {}, done: 0, failure: null };
    this.drawn = 0; // share of what grows that tiles show
    for (const side of ["left", "right"]) {
      this[side]?.tiles?.remove();
      this[side] = null;
    }
    this.base?.tiles?.remove();
    this.bounds = L.latLngBounds([0, 0], [height, width]);
    const scene = layers.findIndex((layer) => layer.kind === "scene");
    this.lowest = -Math.max(0, Math.ceil(Math.log2(Math.max(width, height) / TILE)));
    // the setters would move the map from where it was, slowly, and undo what `fit` does
    if (this.map._loaded) this.map.stop();
    this.map.setMaxBounds(null);
    Object.assign(this.map.options, { minZoom: this.lowest - 2, maxZoom: HIGHEST_ZOOM });
    this.fit();
    this.map.setMaxBounds(this.bounds.pad(0.5));
    this.base = scene < 0 ? { number: null } : { number: scene, tiles: this.tiles(scene, "scene").addTo(this.map) };
    this.fillSelects(scene);
    const [first, second] = maps;
    const start = this.place.labels ?? (scene < 0 ? first : "");
    this.show("left", second === undefined ? start : first);
    this.show("right", second === undefined ? first : second);
    find("notes").replaceChildren(...this.place.notes.map((note) => element("li", { textContent: note })));
    find("problem").hidden = true;
    this.hidePixel();
    this.poll(number);
  }

  fillSelects(scene) {
    for (const side of ["left", "right"]) {
      const select = find(side);
      select.replaceChildren(new Option(scene < 0 ? "Nothing" : "Scene", ""));
      this.layers.forEach((layer, number) => {
        if (layer.kind !== "scene") select.add(new Option(layer.label, number));
      });
    }
  }

  tiles(number, pane) {
    const isClasses = this.layers[number].kind !== "scene";
    const hidden = this.hiddenOf(number);
    return new Tiles(this.number, number, hidden, {
      pane,
      tileSize: TILE / DENSITY,
      minNativeZoom: this.lowest - DENSITY + 1,
      maxNativeZoom: 1 - DENSITY,
      minZoom: -30,
      maxZoom: HIGHEST_ZOOM,
      noWrap: true,
      bounds: this.bounds,
      className: isClasses ? "crisp" : "",
      opacity: isClasses ? this.opacity / 100 : 1,
      updateWhenZooming: false,
      keepBuffer: 1,
    });
  }

  hiddenOf(number) {
    const key = `${this.number}/${number}`;
    if (!this.hidden.has(key)) this.hidden.set(key, new Set());
    return this.hidden.get(key);
  }

  /** Show a layer on one side; an empty number shows the scene alone. */
  show(side, number) {
    const chosen = number === "" ? null : Number(number);
    this[side]?.tiles?.remove();
    const tiles = chosen === null ? null : this.tiles(chosen, side).addTo(this.map);
    this[side] = { number: chosen, tiles };
    find(side).value = chosen ?? "";
    const tag = find(`${side}-tag`);
    tag.textContent = find(side).selectedOptions[0].textContent;
    tag.hidden = false;
    this.divide(this.share);
    this.drawLegends();
  }

  swap() {
    const [left, right] = [this.left.number, this.right.number];
    this.show("left", right ?? "");
    this.show("right", left ?? "");
  }

  setOpacity(value) {
    this.opacity = Math.max(0, Math.min(100, value));
    find("opacity").value = this.opacity;
    find("opacity-field").querySelector("output").textContent = `${this.opacity} %`;
    for (const side of ["left", "right"]) this[side]?.tiles?.setOpacity(this.opacity / 100);
  }

  toggle(number, index) {
    const hidden = this.hiddenOf(number);
    if (!hidden.delete(index)) hidden.add(index);
    for (const side of ["left", "right"]) {
      if (this[side].number === number) this[side].tiles.redraw();
    }
    this.drawLegends();
  }

  // Swipe and scale --------------------------------------------------------------------------------

  divide(share) {
    this.share = Math.max(0, Math.min(100, share));
    const stage = find("stage");
    stage.style.setProperty("--share", `${this.share}%`);
    const shown = Math.round(this.share);
    const [left, right] = ["left", "right"].map((side) => find(`${side}-tag`).textContent);
    const divider = find("divider");
    divider.setAttribute("aria-valuenow", shown);
    divider.setAttribute("aria-valuetext", `${shown} % ${left}, ${100 - shown} % ${right}`);
    this.clip();
  }

  clip() {
    const { x, y } = this.map.getSize();
    const at = (x * this.share) / 100;
    const rectangle = (from, to) => {
      const corners = [[from, 0], [to, 0], [to, y], [from, y]];
      const points = corners.map((corner) => this.map.containerPointToLayerPoint(corner));
      return `polygon(${points.map((point) => `${point.x}px ${point.y}px`).join(", ")})`;
    };
    this.map.getPane("left").style.clipPath = rectangle(0, at);
    this.map.getPane("right").style.clipPath = rectangle(at, x);
  }

  drawScale() {
    const pixels = 2 ** this.map.getZoom(); // of the screen, in one of the map's
    const unit = this.place.metres ?? 1;
    const longest = Math.min(160, this.map.getSize().x / 3) / pixels * unit;
    const power = 10 ** Math.floor(Math.log10(longest));
    const length = [5, 2, 1].map((factor) => factor * power).find((one) => one <= longest);
    let words = `${figures.format(length)} px`;
    if (this.place.metres !== null) {
      if (length >= 1000) words = `${figures.format(length / 1000)} km`;
      else words = length >= 1 ? `${length} m` : `${Number((length * 100).toPrecision(1))} cm`;
    }
    find("scale").style.width = `${(length / unit) * pixels}px`;
    find("scale").firstElementChild.textContent = words;
  }

  fit() {
    if (this.map._animatingZoom) { // whose end would undo it
      this.map.once("zoomend", () => this.fit());
      return;
    }
    this.map.invalidateSize();
    this.isFitting = true;
    this.map.fitBounds(this.bounds, { padding: [10, 10], animate: false });
    this.isFitting = false;
    this.isFitted = true; // and stays so when the window changes
  }

  // Legend -----------------------------------------------------------------------------------------

  drawLegends() {
    if (!this.left || !this.right) return;
    const numbers = [...new Set([this.right.number, this.left.number])].filter((one) => one !== null);
    const focused = document.activeElement?.dataset?.key;
    find("legends").replaceChildren(...numbers.map((number) => this.legend(number)));
    if (focused) document.querySelector(`[data-key="${focused}"]`)?.focus();
  }

  legend(number) {
    const layer = this.layers[number];
    const section = element("section", { className: "legend" }, element("h2", { textContent: layer.label }));
    if (layer.kind === "scores") section.append(...this.ramp(layer));
    else section.append(...this.table(number, layer));
    return section;
  }

  ramp({ colours }) {
    const picture = shape("svg", { viewBox: `0 0 ${colours.length} 1`, preserveAspectRatio: "none", class: "ramp", "aria-hidden": "true" });
    colours.forEach(([r, g, b], x) => picture.append(shape("rect", { x, y: 0, width: 1.2, height: 1, fill: `rgb(${r},${g},${b})` })));
    return [picture, element("p", { className: "ends" }, element("span", { textContent: "0, unsure" }), element("span", { textContent: "1, sure" }))];
  }

  table(number, layer) {
    const counted = this.counts.layers[number];
    const hidden = this.hiddenOf(number);
    const rows = layer.names.map((name, index) => {
      const toggle = element("button", { type: "button", className: "toggle" }, swatch(layer.colours[index]), element("span", { textContent: name }));
      toggle.dataset.key = `${number}/${index}`;
      toggle.setAttribute("aria-pressed", !hidden.has(index));
      toggle.title = hidden.has(index) ? "Show" : "Hide";
      toggle.addEventListener("click", () => this.toggle(number, index));
      const row = element("tr", {}, element("th", { scope: "row" }, toggle));
      if (counted) {
        row.append(element("td", { textContent: percent(counted.shares[index]) }));
        row.append(element("td", { textContent: counted.areas?.[index] ?? `${figures.format(counted.pixels[index])} px` }));
      }
      return row;
    });
    const table = element("table", {}, element("tbody", {}, ...rows));
    const parts = [table];
    if (counted) {
      const all = counted.pixels.reduce((sum, pixels) => sum + pixels, 0);
      const foot = element("tfoot", {});
      foot.append(this.footRow(layer.kind === "errors" ? "compared" : "all", "", counted.total ?? `${figures.format(all)} px`));
      const rest = counted.nodata / (all + counted.nodata);
      if (counted.nodata) foot.append(this.footRow(layer.kind === "errors" ? "not compared" : "no class", percent(rest), `${figures.format(counted.nodata)} px`));
      table.append(foot);
      if (layer.kind === "errors" && all) {
        parts.push(element("p", { className: "summary", textContent: `${(100 * counted.shares[0]).toFixed(2)} % of ${figures.format(all)} compared pixels are right.` }));
      }
      if (number === this.place.labels && this.counts.unknown) {
        parts.push(element("p", { className: "summary wrong", textContent: `${figures.format(this.counts.unknown)} labelled pixels hold what the scheme does not know: ignored.` }));
      }
    } else if (!this.counts.failure) {
      const bar = element("progress", { max: 1, value: this.counts.done });
      bar.setAttribute("aria-label", "Counting");
      parts.push(element("p", { className: "busy" }, element("span", { textContent: this.counting }), bar));
    }
    return parts;
  }

  get counting() {
    return `Counting every pixel: ${Math.floor(100 * this.counts.done)} %`;
  }

  /** Show how far counting is, and leave the legends alone: a button that is pressed has to stay. */
  drawCounting() {
    for (const busy of find("legends").querySelectorAll(".busy")) {
      busy.firstChild.textContent = this.counting;
      busy.lastChild.value = this.counts.done;
    }
  }

  footRow(name, share, size) {
    return element("tr", {}, element("th", { scope: "row", textContent: name }), element("td", { textContent: share }), element("td", { textContent: size }));
  }

  async poll(number) {
    if (number !== this.number) return;
    let counts;
    try {
      counts = await fetchJson(`counts/${number}.json`);
    } catch {
      this.complain("hrrsi view has ended. Start it again, and reload this page.");
      return;
    }
    if (number !== this.number) return;
    const state = ({ layers, failure }) => [...Object.keys(layers), failure].join();
    const isNews = state(counts) !== state(this.counts);
    this.counts = counts;
    if (counts.failure) this.complain(counts.failure);
    if (isNews) this.drawLegends();
    else this.drawCounting();
    this.drawGrowing();
    if (counts.done < 1 && !counts.failure) setTimeout(() => this.poll(number), POLL_MILLISECONDS);
  }

  /** Draw again what the server shows more of by now: layers of large files without overviews. */
  drawGrowing() {
    const { done, failure } = this.counts;
    const busy = find("busy");
    busy.hidden = done === 1 || failure !== null;
    busy.textContent = `Reading the files: ${Math.floor(100 * done)} %`;
    if (done !== 1 && done - this.drawn < 0.1) return;
    if (done === this.drawn) return;
    this.drawn = done;
    for (const { number, tiles } of [this.base, this.left, this.right]) {
      if (number !== null && this.layers[number].grows) tiles.redraw();
    }
  }

  complain(words) {
    find("problem").textContent = words;
    find("problem").hidden = false;
  }

  // What lies at a pixel ---------------------------------------------------------------------------

  async showPixel(place) {
    const [row, column] = [Math.floor(place.lat), Math.floor(place.lng)];
    const { width, height } = this.place;
    if (row < 0 || column < 0 || row >= height || column >= width) return;
    const number = this.number;
    const asked = (this.asked = {}); // the last one counts, whichever answer comes last
    let point;
    try {
      point = await fetchJson(`point/${number}/${row}/${column}.json`);
    } catch (error) {
      this.complain(error instanceof TypeError ? "hrrsi view has ended. Start it again, and reload this page." : error.message);
      return;
    }
    if (number !== this.number || asked !== this.asked) return;
    this.hidePixel();
    const ring = (color, weight) => L.circleMarker([row + 0.5, column + 0.5], { radius: 9, color, weight, fill: false, interactive: false });
    const square = L.rectangle([[row, column], [row + 1, column + 1]], { color: "#fff", weight: 1, fill: false, interactive: false });
    this.mark = L.layerGroup([ring("#000", 4), ring("#fff", 2), square]).addTo(this.map);
    find("facts").replaceChildren(this.list(this.facts(point)));
    find("pixel").classList.add("shown");
  }

  hidePixel() {
    this.mark?.remove();
    find("pixel").classList.remove("shown");
    find("facts").replaceChildren();
  }

  /** What is said of a pixel: what it is, in words, and whether the map is right there. */
  facts(point) {
    const { maps, scores, labels, errors } = this.place;
    const name = (number) => this.layers[number].names[point.layers[number]] ?? "no class";
    const confidence = (number) => point.layers[scores[number]] ?? null;
    const percents = (number) => `${(100 * confidence(number)).toFixed(1)} %`;
    const outcome = (number) => ["right", "wrong"][point.layers[errors[number]]] ?? "not compared";
    const facts = [];
    if (maps.length === 1) {
      facts.push(["Class", name(maps[0])]);
      if (confidence(maps[0]) !== null) facts.push(["Confidence", percents(maps[0])]);
    } else {
      const names = shortNames(maps.map((number) => this.layers[number].label));
      for (const [index, number] of maps.entries()) {
        const sure = confidence(number) === null ? "" : ` (${percents(number)})`;
        const words = labels === null ? "" : `, ${outcome(number)}`;
        facts.push([names[index], `${name(number)}${sure}${words}`, words && outcome(number)]);
      }
    }
    if (labels !== null) {
      facts.push(["Label", name(labels)]);
      if (maps.length === 1) facts.push(["The map is", outcome(maps[0]), outcome(maps[0])]);
    }
    if (point.crs) facts.push([this.place.crs ?? "Map", point.crs]);
    if (point.wgs84) facts.push(["WGS 84", point.wgs84]);
    facts.push(["Pixel", `column ${point.column}, row ${point.row}`]);
    return facts;
  }

  list(facts) {
    const list = element("dl");
    for (const [what, words, outcome = ""] of facts) {
      list.append(element("dt", { textContent: what, title: what }), element("dd", { textContent: words, className: outcome }));
    }
    return list;
  }

  // Mouse, touch and keyboard ----------------------------------------------------------------------

  listen() {
    const { map } = this;
    map.on("move zoom viewreset resize zoomend", () => this.clip());
    map.on("zoomend resize", () => this.drawScale());
    map.on("movestart zoomstart", () => (this.isFitted &&= this.isFitting));
    map.on("click", (event) => this.showPixel(event.latlng));
    find("zoom-in").addEventListener("click", () => map.zoomIn());
    find("zoom-out").addEventListener("click", () => map.zoomOut());
    find("fit").addEventListener("click", () => this.fit());
    find("help-button").addEventListener("click", () => find("help").showModal());
    find("swap").addEventListener("click", () => this.swap());
    find("close-pixel").addEventListener("click", () => this.hidePixel());
    find("fold").addEventListener("click", () => this.fold());
    find("place").addEventListener("change", (event) => this.open(Number(event.target.value)));
    find("opacity").addEventListener("input", (event) => this.setOpacity(Number(event.target.value)));
    for (const side of ["left", "right"]) {
      find(side).addEventListener("change", (event) => this.show(side, event.target.value));
    }
    const divider = find("divider");
    let pressed = null; // until it moves
    divider.addEventListener("pointerdown", (event) => {
      divider.setPointerCapture(event.pointerId);
      divider.focus({ preventScroll: true });
      pressed = [event.clientX, event.clientY];
      event.preventDefault();
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      if (pressed && Math.hypot(event.clientX - pressed[0], event.clientY - pressed[1]) < 4) return;
      pressed = null;
      const box = find("stage").getBoundingClientRect();
      this.divide((100 * (event.clientX - box.left)) / box.width);
    });
    divider.addEventListener("pointerup", (event) => {
      if (pressed) this.showPixel(map.mouseEventToLatLng(event)); // a click on what lies below the line
      pressed = null;
    });
    divider.addEventListener("keydown", (event) => this.onDividerKey(event));
    document.addEventListener("keydown", (event) => this.onKey(event));
    new ResizeObserver(() => (this.isFitted ? this.fit() : map.invalidateSize({ pan: false }))).observe(find("stage"));
    this.setOpacity(this.opacity);
    if (window.matchMedia("(max-width: 760px)").matches) this.fold();
  }

  fold() {
    const isFolded = document.body.classList.toggle("folded");
    find("fold").setAttribute("aria-expanded", !isFolded);
  }

  onDividerKey(event) {
    const steps = { ArrowLeft: -SWIPE_STEP, ArrowDown: -SWIPE_STEP, ArrowRight: SWIPE_STEP, ArrowUp: SWIPE_STEP, PageDown: -10, PageUp: 10, Home: -100, End: 100 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    this.divide(this.share + steps[event.key]);
  }

  onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || find("help").open) return;
    if (event.target.closest("select, input")) return;
    const onMap = event.target.id === "map"; // Leaflet pans and zooms there
    const { map } = this;
    const keys = {
      "?": () => find("help").showModal(),
      0: () => this.fit(),
      ",": () => this.divide(this.share - SWIPE_STEP),
      ".": () => this.divide(this.share + SWIPE_STEP),
      x: () => this.swap(),
      "[": () => this.setOpacity(this.opacity - 5),
      "]": () => this.setOpacity(this.opacity + 5),
      m: () => this.blink(),
      i: () => this.showPixel(map.getCenter()),
      l: () => this.fold(),
      n: () => this.step(1),
      p: () => this.step(-1),
      Escape: () => this.hidePixel(),
    };
    if (!onMap) {
      const pan = (x, y) => () => map.panBy([x, y]);
      Object.assign(keys, {
        "+": () => map.zoomIn(), "=": () => map.zoomIn(), "-": () => map.zoomOut(),
        ArrowLeft: pan(-120, 0), ArrowRight: pan(120, 0), ArrowUp: pan(0, -120), ArrowDown: pan(0, 120),
      });
    }
    if (/^[1-9]$/.test(event.key)) {
      const number = [this.right.number, this.left.number].find((one) => one !== null && this.layers[one].names);
      const index = Number(event.key) - 1;
      if (number !== undefined && index < this.layers[number].names.length) this.toggle(number, index);
      return;
    }
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  }

  blink() {
    if (this.opacity) {
      this.before = this.opacity;
      this.setOpacity(0);
    } else this.setOpacity(this.before ?? 75);
  }

  step(by) {
    const count = this.places.length;
    if (count > 1) this.open((this.number + by + count) % count);
  }
}

fetchJson("view.json").then(
  (view) => (window.page = new Page(view)),
  (error) => {
    find("problem").textContent = String(error.message);
    find("problem").hidden = false;
  },
);
