// Which class is proposed in the place of which: a button for each pair, which filters the list.
const isPair = ([given, proposed]) => byId("given").value === String(given) && byId("proposed").value === String(proposed);

function pairButton(pair, most) {
  const [given, proposed, count, listed] = pair;
  const shown = S.id.filter((_, i) => S.label[i] === given && S.proposed[i] === proposed).length;
  const title = `${CLASSES[given]} to ${CLASSES[proposed]}: ${count.toLocaleString("en")} labels, ${listed.toLocaleString("en")} of them probably wrong, ${shown.toLocaleString("en")} on this page`;
  return el("button", { type: "button", title, "aria-pressed": "false", on: { click: () => filterBy(isPair(pair) ? {} : { given, proposed }) } },
    named(given, "from"), el("span", { text: "→" }), named(proposed, "to"), el("b", { text: count.toLocaleString("en") }),
    el("i", { class: "length", style: { "--share": count / most, "--dot": colorOf(proposed) } }));
}

function fillPairs() {
  const { pairs, doubted, pairKinds } = DATA;
  byId("pairs").hidden = !pairs.length;
  const buttons = pairs.map((pair) => pairButton(pair, pairs[0][2]));
  byId("pair-list").append(...buttons.map((button) => el("li", {}, button)));
  const part = pairs.length < pairKinds ? `; here are the ${pairs.length} commonest` : "";
  byId("pairs-note").textContent = `another class is proposed for ${doubted.toLocaleString("en")} training labels, in ${pairKinds.toLocaleString("en")} pairs of classes${part}; click a pair to see its samples`;
  filterWatchers.push(() => pairs.forEach((pair, place) => buttons[place].setAttribute("aria-pressed", String(isPair(pair)))));
}

fillPairs();
