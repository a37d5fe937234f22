// Marked samples of this page: place -> proposed class. They outlive a reload where the browser lets a page keep
// something. All pages of one data version share what is kept, by id, and each carries along what it does not show.
const KEPT = `ldlva-marks-${DATA.fingerprint}`;
const marks = new Map();
const markWatchers = [];
const placeOf = new Map(S.id.map((id, index) => [id, index]));

// What the browser's store gives, or null: it is forbidden for this page, full, or not there.
let isKept = true;
function keep(action) {
  try {
    return action(window.localStorage);
  } catch {
    isKept = false;
    byId("not-kept").hidden = false;
    return null;
  }
}

// Only pairs of an id and a label: other pages may have written anything, and each page may be of another version.
function readKept() {
  let found = null;
  try {
    found = JSON.parse(keep((store) => store.getItem(KEPT)) ?? "[]");
  } catch {
    found = []; // no JSON: the next mark writes over it
  }
  const isWhole = (value) => Number.isInteger(value) && value >= 0;
  return new Map((Array.isArray(found) ? found : []).filter((pair) => Array.isArray(pair) && pair.length === 2 && pair.every(isWhole)));
}

function put(map, key, label) {
  if (label === null) map.delete(key);
  else map.set(key, label);
}

function takeKept() {
  const kept = readKept();
  if (!isKept) return; // marks last until the page is closed
  marks.clear();
  for (const [id, label] of kept) {
    if (placeOf.has(id) && label < CLASSES.length) marks.set(placeOf.get(id), label);
  }
}

function writeMark(index, label) {
  const kept = readKept(); // another tab may have written since
  put(kept, S.id[index], label);
  keep((store) => store.setItem(KEPT, JSON.stringify([...kept])));
  put(marks, index, label);
  tellMarks(index);
}

const done = []; // what a mark was and became, the latest last
function setMark(index, label) {
  done.push([index, marks.get(index) ?? null, label]);
  writeMark(index, label);
}

// Takes the last change back; the sample, or -1 where there is none. What another tab changed since stays.
function undoMark() {
  while (done.length) {
    const [index, before, after] = done.pop();
    if ((marks.get(index) ?? null) !== after) continue;
    writeMark(index, before);
    return index;
  }
  return -1;
}

const toggleMark = (index) => setMark(index, marks.has(index) ? null : S.proposed[index]);

function tellMarks(index) {
  byId("mark-count").textContent = `${marks.size} marked`;
  byId("export").disabled = marks.size === 0;
  markWatchers.forEach((watch) => watch(index));
}

// RFC 4180: a field with a comma, quote or line break stands in quotes. An apostrophe goes before what a spreadsheet would
// take for a formula; packing/relabel.py takes it away again.
const field = (value) => [String(value)].map((text) => (/^[' ]*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]/.test(text) ? `'${text}` : text)).map((text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text))[0];

// Who marks: told apart where the lists of several people are merged.
const REVIEWER = "ldlva-reviewer";
byId("reviewer").value = keep((store) => store.getItem(REVIEWER)) ?? "";
byId("reviewer").addEventListener("input", (event) => keep((store) => store.setItem(REVIEWER, event.target.value)));
const reviewer = () => byId("reviewer").value.trim();

function csv() {
  const rows = [...marks].sort((a, b) => a[0] - b[0]).map(([i, label]) =>
    [S.id[i], S.key[i], CLASSES[S.label[i]], CLASSES[label], S.uncertainty[i], reviewer()].map(field).join(","));
  return ["id,key,given_label,proposed_label,uncertainty,reviewer", ...rows, ""].join("\n");
}

function exportMarks() {
  if (!marks.size) return;
  const url = URL.createObjectURL(new Blob([csv()], { type: "text/csv" }));
  const name = [DATA.name, reviewer().replace(/[^\p{L}\p{N}]+/gu, "_")].filter(Boolean).join("-");
  const link = el("a", { href: url, download: `marked-${name}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

takeKept();
byId("export").addEventListener("click", exportMarks);
window.addEventListener("storage", (event) => { // another tab wrote; a key of null: it cleared everything
  if (event.key !== KEPT && event.key !== null) return;
  const before = [...marks.keys()];
  takeKept();
  new Set([...before, ...marks.keys()]).forEach((index) => tellMarks(index));
});
