// The list: filtered, sorted, one page of cards at a time in the document.
const PAGE = 48;
const TITLES = { mislabelled: "as many of each class as are expected to be wrong, the highest suspicion", doubted: "another class proposed", uncertain: "highest uncertainty", confident: "lowest suspicion", copied: "the picture is there with another label too" };
const own = (rows) => (i) => rows[i][classesOf(i).indexOf(S.label[i])];
const SORTS = {
  "suspicion": (i) => S.rank[i],
  "uncertainty": (i) => -S.uncertainty[i],
  "p(label)": own(S.model),
  "agreement": own(S.neighbors),
  "id": (i) => S.id[i],
};
const ANY = "any";
const view = { kind: DATA.kinds.find((_, bit) => S.kinds.some((kinds) => kinds & (1 << bit))) ?? "all", only: null, order: [], page: 0 };
const filterWatchers = [];

function passes(i) {
  const given = byId("given").value, proposed = byId("proposed").value;
  const wanted = byId("find").value.trim().toLowerCase();
  const bit = DATA.kinds.indexOf(view.kind);
  if (view.kind === "marked" ? !marks.has(i) : bit >= 0 && !(S.kinds[i] & (1 << bit))) return false;
  if (view.only && !view.only.test(i)) return false;
  if (given !== ANY && S.label[i] !== +given) return false;
  if (proposed !== ANY && S.proposed[i] !== +proposed) return false;
  return !wanted || String(S.id[i]) === wanted || S.key[i].toLowerCase().includes(wanted);
}

function refilter() {
  const by = SORTS[byId("sort").value];
  view.order = Array.from({ length: COUNT }, (_, i) => i).filter(passes).sort((a, b) => by(a) - by(b) || a - b);
  view.page = 0;
  byId("only").hidden = !view.only;
  byId("only").textContent = view.only ? `${view.only.text} ✕` : "";
  drawPage();
  filterWatchers.forEach((watch) => watch());
}

// Sets every filter, and goes to the list: of ``only``, a text and a test, where it is given.
function filterBy({ given = ANY, proposed = ANY, only = null }) {
  byId("given").value = given;
  byId("proposed").value = proposed;
  byId("find").value = "";
  view.only = only;
  view.kind = "all";
  document.querySelector('[name="kind"][value="all"]').checked = true;
  refilter();
  byId("samples").scrollIntoView();
}

const pages = () => Math.max(1, Math.ceil(view.order.length / PAGE));

const turners = (by) => document.querySelectorAll(`[data-turn="${by}"]`);

function turn(by) {
  const page = Math.min(pages() - 1, Math.max(0, view.page + by));
  if (page === view.page) return;
  view.page = page;
  drawPage();
  if (byId("cards").getBoundingClientRect().top < 0) byId("samples").scrollIntoView({ behavior: "instant" });
}

function drawPage() {
  const shown = view.order.slice(view.page * PAGE, (view.page + 1) * PAGE);
  byId("cards").replaceChildren(...shown.map(card));
  byId("nothing").hidden = shown.length > 0;
  const first = view.page * PAGE + 1;
  byId("page").textContent = shown.length ? `${first}–${first + shown.length - 1} of ${view.order.length.toLocaleString("en")}` : "0";
  turners(-1).forEach((button) => { button.disabled = view.page === 0; });
  turners(1).forEach((button) => { button.disabled = view.page >= pages() - 1; });
}

function stripe(rows, i) {
  const parts = rows[i].map((share, at) => el("i", { style: { width: `${share * 100}%`, background: colorOf(classesOf(i)[at]) } }));
  return el("span", { class: "stripe" }, ...parts);
}

function card(i) {
  const doubted = S.proposed[i] !== S.label[i];
  const labels = el("span", { class: "labels" }, named(S.label[i], doubted ? "given doubted" : "given"),
    ...(doubted ? [named(S.proposed[i], "")] : []));
  const text = `uncertainty ${S.uncertainty[i].toFixed(2)}${doubted ? "" : ", agreed"}`;
  const open = el("button", { class: "open", type: "button", on: { click: () => choose(i) } },
    picture(S.picture[i], "", ""),
    el("span", {}, labels, el("span", { class: "doubt", text }), stripe(S.model, i), stripe(S.neighbors, i), stripe(S.target, i)));
  const about = `sample ${S.id[i]}, given ${CLASSES[S.label[i]]}${doubted ? `, proposed ${CLASSES[S.proposed[i]]}` : ""}, ${text}`;
  open.setAttribute("aria-label", about);
  const mark = el("button", { class: "mark", type: "button", title: "mark", "aria-label": `mark sample ${S.id[i]}`, text: "✓",
    on: { click: () => toggleMark(i) } });
  const node = el("li", { class: "card", "data-place": i }, open, mark);
  open.querySelector(".labels").after(el("span", { class: "decision" }));
  dress(node, i);
  return node;
}

function dress(node, i) {
  node.classList.toggle("marked", marks.has(i));
  node.querySelector(".mark").setAttribute("aria-pressed", String(marks.has(i)));
  node.setAttribute("aria-current", String(chosen.index === i));
  const decision = marks.get(i);
  node.querySelector(".decision").replaceChildren(...(marks.has(i) ? [decision === S.label[i] ? "as given" : named(decision, "")] : []));
}

const cardOf = (i) => byId("cards").querySelector(`[data-place="${i}"]`);

function redress(i) {
  document.querySelectorAll(`[data-place="${i}"]`).forEach((node) => dress(node, i));
}

function fillControls() {
  const counts = DATA.kinds.map((_, bit) => S.kinds.filter((kinds) => kinds & (1 << bit)).length);
  const there = DATA.kinds.filter((kind) => kind !== "copied" || DATA.copies);
  const kinds = [...there.map((kind, bit) => [kind, `${kind} ${counts[bit].toLocaleString("en")}`]), ["marked", "marked"], ["all", "all"]];
  for (const [kind, text] of kinds) {
    const input = el("input", { type: "radio", name: "kind", value: kind, on: { change: () => { view.kind = kind; refilter(); } } });
    input.checked = kind === view.kind;
    byId("kinds").append(el("label", { title: TITLES[kind] }, input, el("span", { text })));
  }
  for (const name of ["given", "proposed"]) {
    byId(name).append(el("option", { value: ANY, text: "any class" }), ...CLASSES.map((text, value) => el("option", { value, text })));
  }
  byId("sort").append(...Object.keys(SORTS).map((value) => el("option", { value, text: value })));
  for (const name of ["given", "proposed", "sort"]) byId(name).addEventListener("change", refilter);
  byId("find").addEventListener("input", refilter);
  byId("only").addEventListener("click", () => { view.only = null; refilter(); });
  document.querySelectorAll("[data-column]").forEach((button) => button.addEventListener("click", () => {
    const { column, value } = button.dataset;
    filterBy({ only: { text: `${column}: ${value}`, test: (i) => S.extra[column]?.[i] === value } });
  }));
  for (const by of [-1, 1]) turners(by).forEach((button) => button.addEventListener("click", () => turn(by)));
}

markWatchers.push(redress);
chosen.watchers.push((index) => {
  byId("cards").querySelectorAll('[aria-current="true"]').forEach((node) => node.setAttribute("aria-current", "false"));
  redress(index);
});
