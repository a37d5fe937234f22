// What every part of the page uses. Text from the data set is only ever set as text.
const byId = (id) => document.getElementById(id);
if (!byId("data")) return; // a run without neighbours: the overview needs no script

const DATA = JSON.parse(byId("data").textContent);
const PICTURES = byId("pictures").textContent.trim().split("\n");
const CLASSES = DATA.classes;
const S = DATA.samples;
const COUNT = S.id.length;
const EVERY = CLASSES.map((_, c) => c);
const classesOf = (i) => (S.classes ? S.classes[i] : EVERY); // whose shares stand at i, where there are many classes

const colorOf = (index) => `var(--class-${index})`;
const percent = (share) => `${Math.round(share * 100)}%`;

// el("td", {class: "a", text: "b", on: {click: f}, style: {"--dot": c}}, child, ...)
function el(tag, options = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (value === undefined) continue;
    if (name === "text") node.textContent = value;
    else if (name === "on") Object.entries(value).forEach(([event, act]) => node.addEventListener(event, act));
    else if (name === "style") Object.entries(value).forEach(([key, to]) => node.style.setProperty(key, to));
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function picture(index, classes, alt) {
  if (index < 0 || index === undefined) return el("span", { class: `blank ${classes}`, role: "img", "aria-label": alt });
  return el("img", { class: classes, alt, decoding: "async", src: `data:image/webp;base64,${PICTURES[index]}` });
}

const dot = (label) => el("i", { class: "dot", style: { "--dot": colorOf(label) } });
const named = (label, classes) => el("span", { class: classes }, dot(label), CLASSES[label]);

// The chosen sample, and who wants to know.
const chosen = { index: -1, watchers: [] };
function choose(index) {
  chosen.index = index;
  chosen.watchers.forEach((watch) => watch(index));
}
