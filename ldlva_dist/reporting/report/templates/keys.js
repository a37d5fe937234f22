// Keys for the whole page; then the first drawing.
function columns() {
  const cards = [...byId("cards").children];
  return Math.max(1, cards.findIndex((node) => node.offsetTop > cards[0].offsetTop));
}

function step(by) {
  const at = view.order.indexOf(chosen.index);
  const to = at < 0 ? view.page * PAGE : Math.min(view.order.length - 1, Math.max(0, at + by));
  if (!view.order.length) return;
  view.page = Math.floor(to / PAGE);
  if (!cardOf(view.order[to])) drawPage();
  choose(view.order[to]);
  const node = cardOf(view.order[to]);
  node.querySelector(".open").focus({ preventScroll: true });
  node.scrollIntoView({ block: "nearest" });
}

const KEYS = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => step(columns()), ArrowUp: () => step(-columns()),
  n: () => turn(1), p: () => turn(-1), e: exportMarks, z: () => zoomNear(true),
  m: () => chosen.index >= 0 && toggleMark(chosen.index),
  "/": () => byId("find").focus(), "?": () => byId("help").showModal(),
  Escape: () => byId("detail").classList.remove("raised"),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  if (event.target.matches("input:not([type=radio]), select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (event.target.matches("[type=radio]") && event.key.startsWith("Arrow")) return;
  const digit = "123456789".indexOf(event.key);
  const act = digit >= 0 && digit < CLASSES.length && chosen.index >= 0 ? () => setMark(chosen.index, digit) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

const { points, of } = DATA.plane;
byId("plane-note").textContent = points < of ? `${points.toLocaleString("en")} of ${of.toLocaleString("en")} samples, evenly by id` : `${of.toLocaleString("en")} samples`;
if (!points) { // no valence-arousal: the section shows the neighbours alone
  for (const part of document.querySelectorAll("#plane .controls, #plane .canvas-frame, #legend")) part.style.display = "none";
  document.querySelector("#plane h2").textContent = "Neighbours, in the network's own features";
  document.querySelector('nav a[href="#plane"]').textContent = "Neighbours";
}
fillControls();
fillLegend();
refilter();
tellMarks(-1);
if (view.order.length) choose(view.order[0]);
document.documentElement.dataset.ready = "true";
