// The plane on a canvas: every packed point as pixels, the chosen sample and its neighbours drawn over them.
const canvas = byId("canvas");
const paper = canvas.getContext("2d");
const P = unpackPoints();
const plane = { by: "label", zoom: 1, center: [0.5, 0.5] }; // center in the unit square of the bounds
let frame = 0;

function unpackPoints() {
  const bytes = Uint8Array.from(atob(byId("points").textContent.trim()), (c) => c.charCodeAt(0));
  const words = new DataView(bytes.buffer), count = bytes.length / 7;
  const points = { x: new Float32Array(count), y: new Float32Array(count), label: new Uint16Array(count), uncertainty: new Uint8Array(count) };
  for (let i = 0; i < count; i++) {
    points.x[i] = words.getUint16(7 * i, true) / 65535;
    points.y[i] = words.getUint16(7 * i + 2, true) / 65535;
    points.label[i] = words.getUint16(7 * i + 4, true);
    points.uncertainty[i] = bytes[7 * i + 6];
  }
  return points;
}

const unit = ([valence, arousal]) => [(valence - DATA.plane.low[0]) / DATA.plane.span, (arousal - DATA.plane.low[1]) / DATA.plane.span];

// Pixels of the canvas: the bounds fill it but for a margin, the canvas is square, and so are the bounds.
function mapping() {
  const ratio = window.devicePixelRatio || 1;
  const margin = 30 * ratio, w = canvas.width - 2 * margin, h = canvas.height - 2 * margin;
  return { ratio, w, h, margin,
    x: (u) => margin + ((u - plane.center[0]) * plane.zoom + 0.5) * w,
    y: (v) => margin + (0.5 - (v - plane.center[1]) * plane.zoom) * h,
    u: (x) => ((x - margin) / w - 0.5) / plane.zoom + plane.center[0],
    v: (y) => (0.5 - (y - margin) / h) / plane.zoom + plane.center[1] };
}

// A CSS colour as the canvas's pixels have it.
const swatch = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
function pixel(color) {
  swatch.fillStyle = color;
  swatch.fillRect(0, 0, 1, 1);
  return swatch.getImageData(0, 0, 1, 1).data;
}

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const pack = ([r, g, b], alpha = 255) => ((alpha << 24) | (b << 16) | (g << 8) | r) >>> 0;

function colorTable() {
  if (plane.by === "label") return CLASSES.map((_, c) => pack(pixel(css(`--class-${c}`))));
  const stops = ["--low", "--middle", "--high"].map((name) => pixel(css(name)));
  return Array.from({ length: 256 }, (_, level) => {
    const place = level / 127.5, from = stops[Math.min(1, Math.floor(place))], to = stops[Math.min(2, Math.floor(place) + 1)];
    return pack([0, 1, 2].map((c) => Math.round(from[c] + (to[c] - from[c]) * (place % 1))));
  });
}

function drawPoints(at) {
  const image = paper.createImageData(canvas.width, canvas.height), cells = new Uint32Array(image.data.buffer);
  const colors = colorTable(), values = plane.by === "label" ? P.label : P.uncertainty;
  const crowd = P.x.length > 20000 ? 1.4 : 2.6;
  const side = Math.max(1, Math.round(at.ratio * Math.min(6, crowd * Math.sqrt(plane.zoom))));
  for (let i = 0; i < P.x.length; i++) {
    const x = Math.round(at.x(P.x[i]) - side / 2), y = Math.round(at.y(P.y[i]) - side / 2);
    if (x < 0 || y < 0 || x + side > canvas.width || y + side > canvas.height) continue;
    const color = colors[values[i]];
    for (let row = 0; row < side; row++) cells.fill(color, (y + row) * canvas.width + x, (y + row) * canvas.width + x + side);
  }
  paper.putImageData(image, 0, 0);
}

function drawAxes(at) {
  paper.font = `${11 * at.ratio}px Inter, system-ui, sans-serif`;
  paper.fillStyle = css("--soft");
  paper.strokeStyle = css("--line");
  paper.lineWidth = at.ratio;
  const [zeroU, zeroV] = unit([0, 0]), x = Math.round(at.x(zeroU)) + 0.5, y = Math.round(at.y(zeroV)) + 0.5;
  paper.beginPath();
  if (x > 0 && x < canvas.width) { paper.moveTo(x, 0); paper.lineTo(x, canvas.height); }
  if (y > 0 && y < canvas.height) { paper.moveTo(0, y); paper.lineTo(canvas.width, y); }
  paper.stroke();
  const say = (text, px, py, align) => { paper.textAlign = align; paper.fillText(text, px, py); };
  const value = (axis, share) => (DATA.plane.low[axis] + share * DATA.plane.span).toFixed(2);
  say(`valence ${value(0, at.u(at.margin))}`, 10 * at.ratio, canvas.height - 10 * at.ratio, "left");
  say(value(0, at.u(canvas.width - at.margin)), canvas.width - 10 * at.ratio, canvas.height - 10 * at.ratio, "right");
  say(`arousal ${value(1, at.v(at.margin))}`, 10 * at.ratio, 18 * at.ratio, "left");
}

function drawChosen(at) {
  const i = chosen.index;
  if (i < 0) return;
  const place = (va) => { const [u, v] = unit(va); return [at.x(u), at.y(v)]; };
  const [x, y] = place(S.va[i]);
  const disc = (px, py, radius, fill) => {
    paper.beginPath();
    paper.arc(px, py, radius * at.ratio, 0, 7);
    paper.fillStyle = fill;
    paper.fill();
    paper.strokeStyle = css("--panel");
    paper.lineWidth = 1.5 * at.ratio;
    paper.stroke();
  };
  S.near[i].forEach((other, k) => {
    const [px, py] = place(DATA.others.va[other]);
    paper.beginPath();
    paper.moveTo(x, y);
    paper.lineTo(px, py);
    paper.strokeStyle = css("--ink");
    paper.globalAlpha = 0.15 + 0.6 * S.shares[i][k];
    paper.lineWidth = at.ratio;
    paper.stroke();
    paper.globalAlpha = 1;
    disc(px, py, 4 + 7 * Math.sqrt(S.shares[i][k]), css(`--class-${DATA.others.label[other]}`));
  });
  disc(x, y, 6, css(`--class-${S.label[i]}`));
  paper.beginPath();
  paper.arc(x, y, 11 * at.ratio, 0, 7);
  paper.strokeStyle = css("--ink");
  paper.lineWidth = 2 * at.ratio;
  paper.stroke();
}

function drawPlane() {
  frame = 0;
  const ratio = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  const [w, h] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
  if (!w || !h) return;
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const at = mapping();
  drawPoints(at);
  drawAxes(at);
  drawChosen(at);
}

function redraw() {
  if (!frame && P.x.length) frame = requestAnimationFrame(drawPlane);
}

function zoomBy(factor, u = plane.center[0], v = plane.center[1]) {
  const zoom = Math.min(400, Math.max(1, plane.zoom * factor)), kept = plane.zoom / zoom;
  plane.center = [u + (plane.center[0] - u) * kept, v + (plane.center[1] - v) * kept];
  plane.zoom = zoom;
  if (zoom === 1) plane.center = [0.5, 0.5];
  redraw();
}

// The smallest square around the chosen sample that holds its neighbours.
function zoomNear(scroll) {
  const i = chosen.index;
  if (i < 0) return;
  const [u, v] = unit(S.va[i]);
  const reach = Math.max(0.002, ...S.near[i].flatMap((other) => unit(DATA.others.va[other]).map((to, axis) => Math.abs(to - [u, v][axis]))));
  plane.center = [u, v];
  plane.zoom = Math.min(400, Math.max(1, 0.42 / reach));
  redraw();
  if (scroll) byId("plane").scrollIntoView();
}

function fillLegend() {
  byId("legend").replaceChildren(...(plane.by === "label" ? CLASSES.map((_, c) => named(c, ""))
    : [el("span", {}, "trusted", el("span", { class: "ramp" }), "uncertain")]));
}

// Beside the plane: the chosen sample and its neighbours.
function showNear(index) {
  byId("zoom-near").disabled = index < 0;
  byId("near-by").replaceChildren(card(index), neighbors(index));
  redraw();
}

chosen.watchers.push(showNear);
