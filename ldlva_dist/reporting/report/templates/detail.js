// Everything about the chosen sample.
const COLUMNS = [["model", "model"], ["neighbors", "neighbours"], ["target", "target"]];

function showDetail(i) {
  const panel = byId("detail");
  panel.replaceChildren(
    el("button", { class: "close", type: "button", "aria-label": "close", text: "✕", on: { click: () => panel.classList.remove("raised") } }),
    head(i), decide(i),
    el("h3", { text: "Who says what" }), distributions(i),
    ...history(i),
    el("h3", { text: `Its ${S.near[i].length} neighbours, by contribution` }), neighbors(i));
  panel.scrollTop = 0;
}

function head(i) {
  const doubted = S.proposed[i] !== S.label[i];
  const title = el("div", { class: "title" }, named(S.label[i], ""), ...(doubted ? [el("small", { text: "proposed" }), named(S.proposed[i], "")] : []));
  const facts = [
    ["suspicion", `rank ${S.rank[i].toLocaleString("en")}`], ["uncertainty", S.uncertainty[i].toFixed(3)],
    ["p(label)", own(S.model)(i).toFixed(3)], ["agreement", own(S.neighbors)(i).toFixed(3)],
    ...(S.entropy ? [[`entropy (${DATA.truthName})`, S.entropy[i].toFixed(2)]] : []),
    ["id", S.id[i]], ["key", S.key[i]],
    ...Object.entries(S.extra).filter(([, values]) => values[i] !== null).map(([name, values]) => [name, values[i]]),
  ];
  const list = el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value, title: value })]));
  return el("div", { class: "head" }, picture(S.picture[i], "face", `sample ${S.id[i]}`), el("div", {}, title, list));
}

function decide(i) {
  const select = el("select", { "aria-label": "label to propose" }, ...CLASSES.map((text, value) => el("option", { value, text })));
  select.value = marks.get(i) ?? S.proposed[i];
  select.addEventListener("change", () => setMark(i, +select.value));
  const button = el("button", { class: marks.has(i) ? "" : "main", type: "button", text: marks.has(i) ? "Take mark away" : "Mark",
    on: { click: () => setMark(i, marks.has(i) ? null : +select.value) } });
  const zoom = el("button", { type: "button", text: DATA.plane.points ? "In the plane" : "Its neighbours", on: { click: () => zoomNear(true) } });
  return el("div", { class: "decide" }, select, button, zoom);
}

function distributions(i) {
  const columns = S.truth ? [...COLUMNS, ["truth", DATA.truthName]] : COLUMNS;
  const cell = (share, color) => el("td", {}, el("div", {},
    el("i", { style: { width: `${share * 100}%`, "--dot": color } }), el("span", { text: share >= 0.005 ? percent(share) : "" })));
  const rows = classesOf(i).map((c, at) => el("tr", { class: c === S.label[i] ? "given" : "" }, el("th", { scope: "row", text: CLASSES[c], title: CLASSES[c] }),
    ...columns.map(([key]) => cell(S[key][i][at], colorOf(c)))));
  if (S.classes) {
    const sum = (key) => S[key][i].reduce((a, b) => a + b, 0), text = `${CLASSES.length - S.classes[i].length} others`;
    rows.push(el("tr", {}, el("th", { scope: "row", text }), ...columns.map(([key]) => cell(sum(key) && Math.max(0, 1 - sum(key)), "var(--soft)"))));
  }
  const heads = columns.map(([, text]) => el("th", { scope: "col", text }));
  return el("table", { class: "distributions" }, el("thead", {}, el("tr", {}, el("th"), ...heads)), el("tbody", {}, ...rows));
}

function history(i) {
  if (!S.history) return [];
  const values = S.history[i], last = Math.max(1e-9, DATA.epochs[DATA.epochs.length - 1]);
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 -2 100 104");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const [name, d] of [["floor", "M0 100H100"], ["", "M" + values.map((u, e) => `${(DATA.epochs[e] / last * 100).toFixed(1)} ${(100 - u * 100).toFixed(1)}`).join("L")]]) {
    const path = document.createElementNS(svg.namespaceURI, "path");
    path.setAttribute("class", name);
    path.setAttribute("d", d);
    svg.append(path);
  }
  const from = values[0].toFixed(2), to = values[values.length - 1].toFixed(2);
  return [el("h3", {}, "Uncertainty over the epochs ", el("small", { text: `${from} → ${to}` })), el("div", { class: "spark" }, svg)];
}

function neighbors(i) {
  const order = S.near[i].map((other, k) => [other, S.shares[i][k]]).sort((a, b) => b[1] - a[1]);
  return el("ul", { class: "near" }, ...order.map(([other, share]) => {
    const label = DATA.others.label[other];
    return el("li", { class: label === S.label[i] ? "same" : "", style: { "--dot": colorOf(label) }, title: `sample ${DATA.others.id[other]}` },
      picture(DATA.others.picture[other], "", `neighbour ${DATA.others.id[other]}`), el("b", { text: CLASSES[label] }),
      el("small", { text: share > 0 && share < 0.01 ? "<1%" : percent(share) }));
  }));
}

chosen.watchers.push(showDetail);
markWatchers.push((i) => {
  if (i >= 0 && i === chosen.index) byId("detail").querySelector(".decide").replaceWith(decide(i));
});
byId("cards").addEventListener("click", (event) => {
  if (event.target.closest(".open")) byId("detail").classList.add("raised");
});
