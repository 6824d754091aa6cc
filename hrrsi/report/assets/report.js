"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
root.dataset.script = "on";

// Tables ------------------------------------------------------------------------------------------

function makeSortable(table) {
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sortBy(table, headings, column));
  });
}

function sortBy(table, headings, column) {
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const values = rows.map((row) => row.cells[column].dataset.order);
  // NaN is text of a number, too
  const isNumber = values.every((value) => value === "nan" || isFinite(value));
  const before = headings[column].getAttribute("aria-sort");
  const first = isNumber ? "descending" : "ascending";
  const other = isNumber ? "ascending" : "descending";
  const order = before === first ? other : first;
  const sign = order === "ascending" ? 1 : -1;
  const compare = (a, b) => {
    const x = a.cells[column].dataset.order;
    const y = b.cells[column].dataset.order;
    if (!isNumber) return sign * x.localeCompare(y);
    if (x === "nan" || y === "nan") return (x === "nan") - (y === "nan");
    return sign * (x - y);
  };
  headings.forEach((heading) => heading.removeAttribute("aria-sort"));
  headings[column].setAttribute("aria-sort", order);
  body.append(...rows.sort(compare));
}

document.querySelectorAll("table.sortable").forEach(makeSortable);

// Printing ----------------------------------------------------------------------------------------

const unfolded = []; // for paper

addEventListener("beforeprint", () => {
  unfolded.push(...document.querySelectorAll("details:not([open])"));
  unfolded.forEach((details) => (details.open = true));
});
addEventListener("afterprint", () => {
  unfolded.splice(0).forEach((details) => (details.open = false));
});

// Colours of classes ------------------------------------------------------------------------------

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const chunks = {
  official: bytesOf(data.palette.official),
  safe: bytesOf(data.palette.safe),
};
const safeSources = new Map(); // of the pictures' own sources

/** The source of a picture of classes, in the colours that are shown now. */
function shownSource(source) {
  if (root.dataset.palette !== "safe") return source;
  if (!safeSources.has(source)) {
    const bytes = bytesOf(source.slice(source.indexOf(",") + 1));
    bytes.set(chunks.safe, data.palette.offset); // its palette is a chunk of the same length
    safeSources.set(source, URL.createObjectURL(new Blob([bytes], { type: "image/png" })));
  }
  return safeSources.get(source);
}

/** Class indices by colour, as a picture's pixels hold it. */
function indicesByColour() {
  const found = new Map();
  const colours = chunks.official.subarray(8);
  for (let index = 0; index <= data.classes.length; index++) {
    const [red, green, blue] = colours.subarray(3 * index, 3 * index + 3);
    found.set((red << 16) | (green << 8) | blue, index);
  }
  return found;
}
