// Two drawings in SVG: the line of a unit along a text, and the curves of training.

const SVG = "http://www.w3.org/2000/svg";

const element = (name, attributes, text) => {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, value);
  if (text !== undefined) found.textContent = text;
  return found;
};

const path = (points) => {
  let drawing = false;
  return points
    .map(([x, y]) => {
      if (x === null || y === null) { drawing = false; return ""; }
      const command = `${drawing ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
      drawing = true;
      return command;
    })
    .join("");
};

export const drawSpark = (svg, values, limit, cursor, fromZero) => {
  const x = (i) => (1000 * (i + 0.5)) / values.length;
  const y = (value) => (fromZero ? 96 - (92 * value) / limit : 50 - (46 * value) / limit);
  const parts = [element("path", { class: "zero", d: `M0 ${y(0)}H1000` })];
  if (cursor !== null) parts.push(element("path", { class: "cursor", d: `M${x(cursor)} 0V100` }));
  parts.push(element("path", { class: "line", d: path(values.map((value, i) => [x(i), y(value)])) }));
  svg.replaceChildren(...parts);
};

const roundStep = (span, count) => {
  const raw = span / count, size = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((step) => step * size).find((step) => step >= raw - 1e-12);
};

const SCALES = {
  bytes: (end) => (end >= 2e9 ? [1e9, "GB"] : end >= 2e6 ? [1e6, "MB"] : end >= 2e3 ? [1e3, "kB"] : [1, "bytes"]),
  steps: (end) => (end >= 1e5 ? [1e3, "thousand steps"] : [1, "steps"]),
  seconds: (end) => (end >= 7200 ? [3600, "hours"] : end >= 120 ? [60, "minutes"] : [1, "seconds"]),
};

const present = (values) => values.filter((value) => value !== null && Number.isFinite(value));

export const drawCurves = (figure, curves, axis) => {
  const width = Math.max(260, figure.clientWidth), height = width < 500 ? 220 : 300;
  const left = 44, right = 8, top = 10, bottom = 40;
  const { training, held_out: heldOut, baselines } = curves;
  const xs = present([...training[axis], ...heldOut[axis]]);
  const ys = present([...training.smoothed, ...heldOut.bits_per_byte]);
  if (!xs.length || !ys.length) { figure.replaceChildren(); return "Nothing has been logged yet."; }
  const end = Math.max(...xs) || 1, [unit, unitName] = SCALES[axis](end);
  // The first steep drop would flatten all the rest: the frame ends a little above the curve after a twentieth of it.
  const later = present(training.smoothed.filter((_, i) => training[axis][i] > end / 20));
  const low = Math.min(...ys), high = Math.max(...present(heldOut.bits_per_byte), ...(later.length ? later : ys));
  const room = 0.06 * (high - low || 1), bottomValue = low - room, topValue = high + room;
  const x = (value) => (value === null ? null : left + ((width - left - right) * value) / end);
  const y = (value) => (value === null ? null : top + ((height - top - bottom) * (topValue - value)) / (topValue - bottomValue));
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `Bits per byte against ${unitName}: training and held out` });
  const clip = element("clipPath", { id: "frame" });
  clip.append(element("rect", { x: left, y: top - 4, width: width - left - right + 4, height: height - top - bottom + 4 }));
  svg.append(clip);
  const step = roundStep(topValue - bottomValue, 5), digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  for (let tick = Math.ceil(bottomValue / step); tick * step <= topValue; tick += 1) {
    svg.append(element("path", { class: "grid", d: `M${left} ${y(tick * step)}H${width - right}` }));
    svg.append(element("text", { x: left - 8, y: y(tick * step) + 4, "text-anchor": "end" }, (tick * step).toFixed(digits)));
  }
  const xStep = roundStep(end / unit, width < 500 ? 4 : 7), xDigits = Math.max(0, -Math.floor(Math.log10(xStep) + 1e-9));
  for (let tick = 0; tick * xStep <= end / unit; tick += 1) {
    svg.append(element("text", { x: x(tick * xStep * unit), y: height - bottom + 18, "text-anchor": "middle" }, (tick * xStep).toFixed(xDigits)));
  }
  svg.append(element("text", { x: width - right, y: height - 4, "text-anchor": "end" }, unitName));
  const inside = element("g", { "clip-path": "url(#frame)" });
  for (const baseline of baselines) {
    if (baseline.bits_per_byte === null || baseline.bits_per_byte > topValue || baseline.bits_per_byte < bottomValue) continue;
    inside.append(element("path", { class: "baseline", d: `M${left} ${y(baseline.bits_per_byte)}H${width - right}` }));
    inside.append(element("text", { x: width - right, y: y(baseline.bits_per_byte) - 5, "text-anchor": "end" }, `${baseline.name} ${baseline.bits_per_byte.toFixed(2)}`));
  }
  inside.append(element("path", { class: "raw", d: path(training[axis].map((at, i) => [x(at), y(training.bits_per_byte[i])])) }));
  inside.append(element("path", { class: "training", d: path(training[axis].map((at, i) => [x(at), y(training.smoothed[i])])) }));
  heldOut[axis].forEach((at, i) => {
    if (at !== null && heldOut.bits_per_byte[i] !== null) inside.append(element("circle", { class: "held-out", cx: x(at), cy: y(heldOut.bits_per_byte[i]), r: 3.5 }));
  });
  svg.append(inside);
  figure.replaceChildren(svg);
  const last = present(heldOut.bits_per_byte).at(-1);
  return last === undefined ? "Not evaluated yet." : `Bits per byte; the last evaluation gave ${last.toFixed(3)}. Lower is better.`;
};
