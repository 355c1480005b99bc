// The page: what is served, the text that is read as it is typed, and the curves.

import { drawCurves, drawSpark } from "/chart.js";
import { beginning, characters, diverging, niceLimit, paint, rising, signed, spanOf } from "/text.js";
import { startWriting } from "/writing.js";

const byId = (id) => document.getElementById(id);
const WAIT_MS = 120, SURPRISE_BITS = 8, RETRIES = 5;

let unit = null, limit = 1, answer = null, spans = [], cursor = null, asking = null, timer = 0, classifier = null;
let layer = -1, layers = 1, mostChars = Infinity, retries = 0;

const refusal = async (response) => {
  try {
    const { error } = await response.json();
    return { code: error.code, sentence: `${error.problem} ${error.remedy}`.trim() };
  } catch {
    return { code: "", sentence: `The server answered ${response.status}.` };
  }
};
const refused = async (response) => (await refusal(response)).sentence;

const post = (address, body, signal) =>
  fetch(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal });

const problem = (sentence) => {
  byId("read-problem").hidden = !sentence;
  byId("read-problem").textContent = sentence;
};

const read = async () => {
  asking?.abort();
  const mine = (asking = new AbortController());
  const [text, cut] = beginning(byId("text").value, mostChars);
  byId("text-cut").textContent = cut;
  byId("coloured").setAttribute("aria-busy", "true");
  try {
    const ask = (units) => post("/api/trace", { text, units, top: 12, layer, classifier }, mine.signal);
    let response = await ask(unit === null ? [] : [unit]);
    if (response.ok && unit === null) {
      const first = await response.json();
      setUnit(first.top.length ? first.top[0].unit : 0);
      response = await ask([unit]);
    }
    if (!response.ok) {
      const { code, sentence } = await refusal(response);
      if (asking !== mine) return;
      problem(sentence);
      if (code === "busy" && retries < RETRIES) schedule(1000 * 2 ** retries++);
      return;
    }
    const found = await response.json();
    if (asking !== mine) return;
    answer = found;
    retries = 0;
    problem("");
    show();
  } catch (error) {
    if (!mine.signal.aborted) problem("The server cannot be reached.");
  } finally {
    if (asking === mine) byId("coloured").setAttribute("aria-busy", "false");
  }
};

const schedule = (wait) => {
  clearTimeout(timer);
  timer = setTimeout(read, wait);
};

const setUnit = (chosen) => {
  unit = chosen;
  limit = 1;
  byId("unit").value = chosen;
  byId("clamp-unit").textContent = chosen;
};

// Units are those of one layer: the classifier's, else the highest.
const setLayer = (chosen) => {
  if (chosen !== layer) { unit = null; limit = 1; }
  layer = chosen;
  byId("unit-label").textContent = layers > 1 ? `Unit of layer ${(layer < 0 ? layer + layers : layer) + 1} of ${layers}` : "Unit";
};

const byBits = () => byId("by-bits").checked;

const show = () => {
  byId("bits").textContent = answer.bits_per_byte.toFixed(2);
  byId("size").textContent = `${answer.bits.toFixed(0)} bits for ${answer.bytes} bytes`;
  showClasses();
  showText();
  showTop();
  const label = answer.classes ? `, ${Math.round(100 * best().probability)} percent ${answer.classes.label}` : "";
  byId("said").textContent = `${answer.bits_per_byte.toFixed(2)} bits per byte${label}.`;
};

const best = () => answer.classes.probabilities.find((one) => one.label === answer.classes.label);

const showClasses = () => {
  byId("classes").hidden = !answer.classes;
  if (!answer.classes) return;
  byId("class-bars").replaceChildren(
    ...answer.classes.probabilities.slice(0, 8).map(({ label, probability }) => {
      const row = document.createElement("div"), name = document.createElement("span"), value = document.createElement("span"), bar = document.createElement("meter");
      row.className = "class";
      name.textContent = label;
      Object.assign(bar, { min: 0, max: 1, value: probability, ariaLabel: `Probability of ${label}` });
      value.textContent = `${(100 * probability).toFixed(1)} %`;
      row.append(name, bar, value);
      return row;
    }),
  );
};

const values = () => (byBits() ? answer.bits_of_bytes : answer.units[0].values);

const showText = () => {
  const shown = values();
  if (!byBits()) limit = Math.max(limit, niceLimit(Math.max(...shown.map(Math.abs))));
  const colour = byBits() ? (i) => rising(shown[i] / SURPRISE_BITS) : (i) => diverging(shown[i] / limit);
  const found = characters(answer.text);
  spans = [];
  const last = answer.text.length - 1;
  const drawn = found.map((one) => {
    const span = spanOf(one);
    if (one.bytes[0] < 2 || one.bytes[0] === last) span.classList.add("frame");
    paint(span, one.bytes.map(colour));
    for (const index of one.bytes) spans[index] = span;
    return span;
  });
  byId("coloured").replaceChildren(...drawn);
  byId("scale").className = byBits() ? "scale rising" : "scale";
  byId("legend-low").textContent = byBits() ? "0 bits" : signed(-limit, limit < 1 ? 1 : 0);
  byId("legend-high").textContent = byBits() ? `${SURPRISE_BITS} bits or more` : signed(limit, limit < 1 ? 1 : 0);
  byId("spark").setAttribute("aria-label", byBits() ? "Bits of each byte along the text" : `Value of unit ${unit} along the text`);
  point(cursor === null ? null : Math.min(cursor, last));
};

const point = (index) => {
  for (const span of byId("coloured").querySelectorAll(".here")) span.classList.remove("here");
  cursor = index;
  const shown = values();
  drawSpark(byId("spark"), shown, byBits() ? Math.max(SURPRISE_BITS, ...shown) : limit, cursor, byBits());
  if (index === null) { byId("readout").textContent = "Point at a byte, or move with the arrow keys, to read its numbers."; return; }
  spans[index].classList.add("here");
  spans[index].scrollIntoView({ block: "nearest" });
  const byte = answer.text[index], printed = byte > 32 && byte < 127 ? `\u201c${String.fromCharCode(byte)}\u201d ` : byte === 32 ? "space " : "";
  const bits = index ? `${answer.bits_of_bytes[index].toFixed(2)} bits` : "not counted";
  byId("readout").textContent = `Byte ${index} of ${answer.text.length - 1}: ${printed}0x${byte.toString(16).padStart(2, "0")}, ${bits}, unit ${unit} at ${signed(answer.units[0].values[index], 3)}`;
};

const showTop = () => {
  const apart = !answer.top.some((one) => one.unit === unit);
  byId("shown-unit").hidden = !apart;
  byId("shown-unit").textContent = apart ? `Shown is unit ${unit}, ${signed(answer.units[0].values.at(-1))} at the end; it is not among them.` : "";
  const focused = document.activeElement?.dataset?.unit;
  byId("top").replaceChildren(
    ...answer.top.map((one) => {
      const item = document.createElement("li"), button = document.createElement("button"), value = document.createElement("span");
      button.type = "button";
      button.dataset.unit = one.unit;
      button.setAttribute("aria-pressed", String(one.unit === unit));
      button.textContent = `${one.unit} `;
      value.textContent = signed(one.last);
      button.ariaLabel = `Unit ${one.unit}, ${signed(one.last)} at the end`;
      button.append(value);
      button.addEventListener("click", () => { setUnit(one.unit); read(); });
      item.append(button);
      return item;
    }),
  );
  if (focused !== undefined) byId("top").querySelector(`[data-unit="${focused}"]`)?.focus();
};

byId("text").addEventListener("input", () => { retries = 0; schedule(WAIT_MS); });
for (const id of ["by-unit", "by-bits"]) byId(id).addEventListener("change", () => { if (answer) showText(); });
byId("unit").addEventListener("change", () => {
  const chosen = Number(byId("unit").value);
  if (byId("unit").value !== "" && byId("unit").checkValidity()) { setUnit(chosen); read(); }
  else byId("unit").reportValidity();
});

byId("coloured").addEventListener("keydown", (event) => {
  if (!answer) return;
  const last = answer.text.length - 1, at = cursor ?? -1;
  const to = { ArrowRight: at + 1, ArrowLeft: at < 0 ? 0 : at - 1, ArrowDown: at + 20, ArrowUp: at - 20, Home: 0, End: last }[event.key];
  if (to === undefined || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  point(Math.max(0, Math.min(last, to)));
});
const follow = (event) => {
  const index = spans.indexOf(event.target);
  if (index >= 0 && index !== cursor) point(index);
};
byId("coloured").addEventListener("click", follow);
let pointer = null;
document.addEventListener("pointermove", (event) => {
  // Browsers report a move when the page moves under a resting pointer; that must not take over from the arrow keys.
  const here = `${event.screenX} ${event.screenY}`, moved = pointer !== null && here !== pointer;
  pointer = here;
  if (moved) follow(event);
});

const count = (value) => (value >= 1e6 ? `${(value / 1e6).toFixed(1)} million` : value.toLocaleString("en"));

const start = async () => {
  const model = await (await fetch("/api/model")).json();
  document.title = `${model.name} · overnight`;
  byId("name").textContent = model.name;
  byId("about").textContent = [`${model.units.toLocaleString("en")} units`, model.layers > 1 ? `${model.layers} layers` : "", `${count(model.parameters)} parameters`, `step ${model.step.toLocaleString("en")}`, model.device].filter(Boolean).join(" · ");
  byId("problems").hidden = !model.problems.length;
  byId("problems").textContent = model.problems.join(" ");
  mostChars = model.limits.trace_chars;
  byId("unit").max = model.units - 1;
  layers = model.layers;
  setLayer(layer);
  if (model.classifiers.length) {
    const choose = (name) => {
      classifier = name;
      const chosen = model.classifiers.find((one) => one.name === name);
      setLayer(chosen.layer);
      byId("class-note").textContent = `by the classifier ${name}`;
      if (chosen.best_unit !== null) setUnit(chosen.best_unit);
    };
    byId("classifier").replaceChildren(...model.classifiers.map((one) => new Option(one.name, one.name)));
    byId("classifier-field").hidden = model.classifiers.length < 2;
    byId("classifier").addEventListener("change", () => { choose(byId("classifier").value); read(); });
    choose(model.classifiers[0].name);
  }
  startWriting({ units: model.units, limits: model.limits, shownUnit: () => unit ?? 0, shownLayer: () => layer, refused });
  await read();
};

const showCurves = async () => {
  const response = await fetch("/api/curves");
  if (!response.ok) { byId("curves-note").textContent = await refused(response); return; }
  const curves = await response.json();
  const draw = () => {
    const axis = document.querySelector("input[name=axis]:checked").value;
    byId("curves-note").textContent = drawCurves(byId("chart"), curves, axis);
  };
  for (const input of document.querySelectorAll("input[name=axis]")) input.addEventListener("change", draw);
  let width = 0;
  new ResizeObserver(([entry]) => {
    if (Math.abs(entry.contentRect.width - width) > 1) { width = entry.contentRect.width; draw(); }
  }).observe(byId("chart"));
};

const failed = () => problem("The server cannot be reached. Reload the page once it is back.");
start().catch(failed);
showCurves().catch(failed);
