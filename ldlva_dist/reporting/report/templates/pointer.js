// Mouse, touch and keys on the plane.
const fingers = new Map();
let travelled = 0;

function spot(event) {
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  return [(event.clientX - box.left) * ratio, (event.clientY - box.top) * ratio];
}

// The shown sample next to a place on the canvas, or -1.
function nearestShown([x, y]) {
  const at = mapping();
  let found = -1, best = (12 * at.ratio) ** 2;
  for (let i = 0; i < COUNT; i++) {
    const [u, v] = unit(S.va[i]), far = (at.x(u) - x) ** 2 + (at.y(v) - y) ** 2;
    if (far < best) [found, best] = [i, far];
  }
  return found;
}

function tip(event) {
  const i = nearestShown(spot(event)), node = byId("tip"), box = canvas.getBoundingClientRect();
  node.hidden = i < 0;
  if (i < 0) return;
  node.replaceChildren(picture(S.picture[i], "", ""), el("div", {}, named(S.label[i], ""), el("br"), el("small", { text: `uncertainty ${S.uncertainty[i].toFixed(2)}` })));
  const [left, top] = [event.clientX - box.left, event.clientY - box.top];
  node.style.left = `${Math.min(left + 14, box.width - 170)}px`;
  node.style.top = `${Math.max(4, top - 60)}px`;
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, spot(event));
  travelled = 0;
});

canvas.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return tip(event);
  const now = spot(event), at = mapping(), others = [...fingers].filter(([id]) => id !== event.pointerId);
  travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
  if (others.length) {
    const [ox, oy] = others[0][1], span = (p) => Math.hypot(p[0] - ox, p[1] - oy);
    zoomBy(span(now) / Math.max(1, span(before)), at.u(ox), at.v(oy));
  } else {
    plane.center = [plane.center[0] - (now[0] - before[0]) / at.w / plane.zoom, plane.center[1] + (now[1] - before[1]) / at.h / plane.zoom];
    redraw();
  }
  fingers.set(event.pointerId, now);
});

for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    fingers.delete(event.pointerId);
    const i = end === "pointerup" && travelled < 6 ? nearestShown(spot(event)) : -1;
    if (i >= 0) choose(i);
  });
}
canvas.addEventListener("pointerleave", () => { byId("tip").hidden = true; });

// A wheel scrolls the page unless the plane has the focus or Ctrl is held.
canvas.addEventListener("wheel", (event) => {
  if (document.activeElement !== canvas && !event.ctrlKey) return;
  event.preventDefault();
  const at = mapping(), [x, y] = spot(event);
  zoomBy(Math.exp(-event.deltaY * 0.0015), at.u(x), at.v(y));
}, { passive: false });

canvas.addEventListener("keydown", (event) => {
  const step = 0.1 / plane.zoom, [u, v] = plane.center;
  const moves = { ArrowLeft: [u - step, v], ArrowRight: [u + step, v], ArrowUp: [u, v + step], ArrowDown: [u, v - step] };
  if (moves[event.key]) { plane.center = moves[event.key]; redraw(); }
  else if (event.key === "+" || event.key === "=") zoomBy(1.5);
  else if (event.key === "-") zoomBy(1 / 1.5);
  else if (event.key === "0") zoomBy(0);
  else return;
  event.preventDefault();
  event.stopPropagation();
});

byId("zoom-in").addEventListener("click", () => zoomBy(1.7));
byId("zoom-out").addEventListener("click", () => zoomBy(1 / 1.7));
byId("zoom-all").addEventListener("click", () => zoomBy(0));
byId("zoom-near").addEventListener("click", () => zoomNear(false));
document.querySelectorAll('[name="colour"]').forEach((input) => input.addEventListener("change", () => { plane.by = input.value; fillLegend(); redraw(); }));
new ResizeObserver(redraw).observe(canvas);
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
