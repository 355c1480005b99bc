// Writing: settings, held units, and the stream of what comes.

import { beginning, characters, diverging, niceLimit, paint, signed, spanOf } from "/text.js";

const byId = (id) => document.getElementById(id);

// Server-sent events out of a response's body.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    waiting += value;
    const parts = waiting.split("\n\n");
    waiting = parts.pop();
    for (const part of parts) {
      const name = /^event: (.*)$/m.exec(part), data = /^data: (.*)$/m.exec(part);
      yield { name: name[1], data: JSON.parse(data[1]) };
    }
  }
}

export const startWriting = ({ units, limits, shownUnit, shownLayer, refused }) => {
  const clamps = byId("clamps"), written = byId("written"), status = byId("write-status");
  let stream = null, count = 0;

  byId("length").max = Math.min(2000, limits.generate_bytes);
  byId("length").min = Math.min(50, limits.generate_bytes);
  for (const [id, digits] of [["temperature", 2], ["length", 0]]) {
    const slider = byId(id);
    const show = () => { byId(`${id}-value`).textContent = Number(slider.value).toFixed(digits); };
    slider.addEventListener("input", show);
    show();
  }

  const addClamp = () => {
    const row = document.createElement("div"), number = ++count;
    row.className = "clamp";
    const make = (name, attributes) => Object.assign(document.createElement(name), attributes);
    const unit = make("input", { type: "number", id: `clamp-unit-${number}`, min: 0, max: units - 1, step: 1, value: shownUnit(), inputMode: "numeric" });
    const value = make("input", { type: "range", id: `clamp-${number}`, min: -3, max: 3, step: 0.1, value: 1 });
    const shown = make("output", {}), remove = make("button", { type: "button", textContent: "Let go" });
    const label = make("label", { textContent: "Unit", htmlFor: unit.id });
    const show = () => {
      shown.textContent = signed(Number(value.value), 1);
      value.ariaLabel = `Value of unit ${unit.value}`;
      remove.ariaLabel = `Let go of unit ${unit.value}`;
    };
    value.addEventListener("input", show);
    unit.addEventListener("input", show);
    remove.addEventListener("click", () => { row.remove(); byId("add-clamp").disabled = false; byId("add-clamp").focus(); });
    show();
    row.append(label, unit, value, shown, remove);
    clamps.append(row);
    byId("add-clamp").disabled = clamps.children.length >= 8;
    value.focus();
  };
  byId("add-clamp").addEventListener("click", addClamp);

  const ended = (message) => {
    status.textContent = message;
    byId("stop").disabled = true;
    byId("go").disabled = false;
    written.setAttribute("aria-busy", "false");
    stream = null;
  };

  // Bytes of a character may come in two events: those of an unfinished one wait.
  const shower = () => {
    let limit = 1;
    const bytes = [], pending = [], all = [];
    return (more, moreValues, last) => {
      pending.push(...more);
      bytes.push(...more);
      if (moreValues) all.push(...moreValues);
      const from = bytes.length - pending.length;
      const whole = characters(pending, from);
      const open = last ? 0 : unfinished(pending);
      const kept = open ? whole.filter((one) => one.bytes[0] - from < pending.length - open) : whole;
      for (const one of kept) {
        const span = spanOf(one);
        if (bytes[one.bytes[0]] === 10) span.textContent = "\n";
        if (all.length) {
          limit = Math.max(limit, niceLimit(Math.max(...one.bytes.map((i) => Math.abs(all[i])))));
          paint(span, one.bytes.map((i) => diverging(all[i] / limit)));
        }
        written.append(span);
      }
      pending.splice(0, pending.length - open);
    };
  };

  byId("write").addEventListener("submit", async (event) => {
    event.preventDefault();
    stream?.abort();
    const mine = (stream = new AbortController());
    const fixed = [...clamps.children].map((row) => {
      const [unit, value] = row.querySelectorAll("input");
      return { unit: Number(unit.value), value: Number(value.value) };
    });
    const seed = byId("seed").value === "" ? null : Number(byId("seed").value);
    const [begin, cut] = beginning(byId("prompt").value, limits.prompt_chars);
    byId("prompt-cut").textContent = cut;
    const settings = { prompt: begin, length: Number(byId("length").value), temperature: Number(byId("temperature").value), seed, fix_units: fixed, unit: fixed.some((one) => one.unit === shownUnit()) ? null : shownUnit(), layer: shownLayer() };
    const prompt = document.createElement("b");
    prompt.textContent = settings.prompt;
    written.hidden = false;
    written.replaceChildren(prompt);
    written.setAttribute("aria-busy", "true");
    byId("stop").disabled = false;
    byId("go").disabled = true;
    status.textContent = "Writing\u2026";
    const begun = performance.now();
    try {
      const response = await fetch("/api/generate", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(settings), signal: mine.signal });
      if (!response.ok) return ended(await refused(response));
      const add = shower();
      let said = "", bytes = 0;
      for await (const { name, data } of events(response)) {
        if (name === "start") said = [`seed ${data.seed}`, `temperature ${data.temperature}`, ...data.fix_units.map((one) => `unit ${one.unit} held at ${signed(one.value, 1)}`)].join(", ");
        else if (name === "text") { bytes += data.bytes.length; add(data.bytes, data.values, false); }
        else if (name === "end") { add([], [], true); ended(`${bytes} bytes in ${((performance.now() - begun) / 1000).toFixed(1)} s; ${said}.`); }
        else ended(`${data.error.problem} ${data.error.remedy}`);
      }
      if (stream === mine) ended("The server closed the stream.");
    } catch (error) {
      if (stream === mine || mine.signal.aborted) ended(mine.signal.aborted ? "Stopped." : "The server cannot be reached.");
    }
  });
  byId("stop").addEventListener("click", () => stream?.abort());
};

// How many bytes at the end belong to a character that is not complete.
const unfinished = (bytes) => {
  for (let back = 1; back <= Math.min(3, bytes.length); back += 1) {
    const byte = bytes[bytes.length - back];
    if (byte >= 0xc0) return (byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2) > back ? back : 0;
    if (byte < 0x80) return 0;
  }
  return 0;
};
