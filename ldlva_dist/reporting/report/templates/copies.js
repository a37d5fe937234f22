// Groups of images that are there more than once, where somebody looked for them.
const COPIES = DATA.copies;
const COPY_KINDS = {
  "all": () => true,
  "with different labels": (group) => group.several,
  "across splits": (group) => group.leak,
};

function copyMember(group, at) {
  const label = CLASSES.indexOf(group.label[at]), place = placeOf.get(group.id[at]);
  const says = [named(label, ""), el("small", { text: group.split[at] }), el("span", { class: "key", text: group.key[at], title: group.key[at] })];
  if (group.split[at] !== "train" || place === undefined) return el("li", {}, el("span", { class: "member" }, ...says));
  const only = { text: `copies of ${group.key[0]}`, test: (i) => group.id.includes(S.id[i]) };
  return el("li", {}, el("button", { type: "button", class: "plain member", title: "review it", on: { click: () => { filterBy({ only }); choose(place); } } }, ...says));
}

function copyGroup(group) {
  const tags = [group.exact ? "equal files" : "near copies", ...(group.several ? ["different labels"] : []), ...(group.leak ? ["across splits"] : [])];
  const shown = group.exact ? [0] : group.id.map((_, at) => at);
  const more = group.count - group.id.length;
  return el("li", { class: "copy-group" },
    el("div", { class: "faces" }, ...shown.map((at) => picture(group.picture[at], "", group.key[at]))),
    el("p", { class: group.several || group.leak ? "doubtful" : "", text: `${group.count} ${tags.join(", ")}` }),
    el("ul", {}, ...group.id.map((_, at) => copyMember(group, at)), ...(more ? [el("li", { text: `and ${more.toLocaleString("en")} more` })] : [])));
}

function fillCopies() {
  const counts = [COPIES.total, COPIES.ofSeveralLabels, COPIES.leaks].map((count) => count.toLocaleString("en"));
  Object.entries(COPY_KINDS).forEach(([kind, test], at) => {
    const draw = () => byId("copy-groups").replaceChildren(...COPIES.groups.filter(test).map(copyGroup));
    const input = el("input", { type: "radio", name: "copies", value: kind, on: { change: draw } });
    input.checked = at === 0;
    byId("copy-kinds").append(el("label", {}, input, el("span", { text: `${kind} ${counts[at]}` })));
    if (at === 0) draw();
  });
  const held = COPIES.groups.length < COPIES.total ? `; the ${COPIES.groups.length} groups that matter most are here` : "";
  byId("copies-note").textContent = COPIES.total ? `groups of ${COPIES.images.toLocaleString("en")} images${held}` : "None was found.";
}

if (COPIES) fillCopies();
