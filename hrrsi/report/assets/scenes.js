const articles = [...document.querySelectorAll("article.scene")];
const viewers = new Map();

function showScene(number) {
  articles.forEach((article, index) => (article.hidden = index !== number));
  if (!viewers.has(number)) viewers.set(number, new Viewer(articles[number], data.scenes[number]));
  viewers.get(number).recolour();
}

if (articles.length) {
  if (articles.length > 1) {
    const picker = document.createElement("p");
    picker.className = "picker";
    const label = document.createElement("label");
    label.htmlFor = "picked";
    label.append("Scene");
    const select = document.createElement("select");
    select.id = "picked";
    data.scenes.forEach((scene, number) => select.add(new Option(scene.name, number)));
    select.addEventListener("change", () => showScene(Number(select.value)));
    picker.append(label, " ", select);
    articles[0].before(picker);
    articles.forEach((article) => article.querySelector("h3").classList.add("unseen"));
  }
  showScene(0);
}

document.getElementById("palette")?.addEventListener("click", (event) => {
  const isSafe = root.dataset.palette !== "safe";
  root.dataset.palette = isSafe ? "safe" : "official";
  event.currentTarget.setAttribute("aria-checked", isSafe);
  viewers.forEach((viewer) => viewer.recolour());
});
