// Keys for the whole page; then the first drawing.
function columns() {
  const cards = [...byId("cards").children];
  return Math.max(1, cards.findIndex((node) => node.offsetTop > cards[0].offsetTop));
}

function goTo(place) {
  view.page = Math.floor(place / PAGE);
  if (!cardOf(view.order[place])) drawPage();
  choose(view.order[place]);
  const node = cardOf(view.order[place]);
  node.querySelector(".open").focus({ preventScroll: true });
  node.scrollIntoView({ block: "nearest" });
}

function step(by) {
  const at = view.order.indexOf(chosen.index);
  if (view.order.length) goTo(at < 0 ? view.page * PAGE : Math.min(view.order.length - 1, Math.max(0, at + by)));
}

function decideAndGoOn(label) {
  if (chosen.index < 0) return;
  setMark(chosen.index, label);
  step(1);
}

function undo() {
  const at = view.order.indexOf(undoMark());
  if (at >= 0) goTo(at);
}

const DIGITS = "1234567890"; // the first ten classes
const KEYS = {
  ArrowRight: () => step(1), ArrowLeft: () => step(-1), ArrowDown: () => step(columns()), ArrowUp: () => step(-columns()),
  j: () => step(1), k: () => step(-1), u: undo, c: () => byId("detail").querySelector("select")?.focus(),
  y: () => decideAndGoOn(S.proposed[chosen.index]), x: () => decideAndGoOn(S.label[chosen.index]),
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
  const digit = DIGITS.indexOf(event.key);
  const act = digit >= 0 && digit < CLASSES.length ? () => decideAndGoOn(digit) : KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// The line of keys over the cards, and how far the list on view is decided.
byId("review-classes").append(...[...DIGITS].slice(0, CLASSES.length).flatMap((digit, c) => [el("kbd", { text: digit }), ` ${CLASSES[c]} `]));
function tellReview() {
  byId("review-count").textContent = `${view.order.filter((i) => marks.has(i)).length} of ${view.order.length.toLocaleString("en")} decided`;
}
filterWatchers.push(tellReview);
markWatchers.push(tellReview);

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
