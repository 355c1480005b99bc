(() => {
  const SIZE = 10000;
  const parsed = new WeakMap();

  const points = (path) => {
    if (!parsed.has(path)) {
      const runs = path.getAttribute("d").replace(/h0/g, "").split("M").slice(1);
      parsed.set(path, runs.map((run) => {
        const [x, y, ...deltas] = run.match(/-?\d+/g).map(Number);
        const found = [[x, y]];
        for (let i = 0, px = x, py = y; i + 1 < deltas.length; i += 2) found.push([(px += deltas[i]), (py += deltas[i + 1])]);
        return found;
      }));
    }
    return parsed.get(path);
  };

  const heightAt = (path, x) => {
    if (path.matches(".dot, .ring")) {
      const near = points(path).map((p) => p[0]).sort((a, b) => Math.abs(a[0] - x) - Math.abs(b[0] - x))[0];
      return near && Math.abs(near[0] - x) < 0.025 * SIZE ? near[1] : null;
    }
    for (const run of points(path)) {
      const last = run[run.length - 1];
      if (x < run[0][0] - 60 || x > last[0] + 60) continue;
      const i = run.findIndex((p) => p[0] >= x);
      if (i <= 0) return i === 0 ? run[0][1] : last[1];
      const [a, b] = [run[i - 1], run[i]];
      if (path.matches(".stairs")) return a[1];
      return a[1] + ((b[1] - a[1]) * (x - a[0])) / (b[0] - a[0] || 1);
    }
    return null;
  };

  const show = (value) => {
    const size = Math.abs(value);
    return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
  };

  for (const frame of document.querySelectorAll(".frame")) {
    const low = Number(frame.dataset.low), high = Number(frame.dataset.high), log = frame.dataset.log === "1";
    const rule = Object.assign(document.createElement("div"), { className: "rule", hidden: true });
    const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
    frame.append(rule, tip);

    const hide = () => { rule.hidden = tip.hidden = true; };
    const follow = (event) => {
      const box = frame.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      const layer = [...frame.querySelectorAll("svg[data-high]")].find((svg) => svg.getClientRects().length);
      if (!layer || share < 0 || share > 1 || event.clientY > box.bottom) return hide();
      const rows = [];
      for (const path of layer.querySelectorAll("path[data-label]")) {
        const y = getComputedStyle(path).display === "none" ? null : heightAt(path, share * SIZE);
        if (y === null) continue;
        const up = 1 - y / SIZE;
        const row = document.createElement("div");
        const key = document.createElement("span"), name = document.createElement("span"), value = document.createElement("b");
        key.className = "key " + path.getAttribute("class").match(/\bt\d\b/)[0];
        name.textContent = path.dataset.label;
        value.textContent = show(log ? low * (high / low) ** up : low + up * (high - low));
        row.append(key, name, value);
        rows.push(row);
      }
      if (!rows.length) return hide();
      const head = document.createElement("div");
      const from = Number(layer.dataset.low || 0), to = Number(layer.dataset.high);
      const at = layer.dataset.log === "1" ? from * (to / from) ** share : from + share * (to - from);
      head.textContent = show(at) + " " + layer.dataset.unit;
      tip.replaceChildren(head, ...rows);
      rule.hidden = tip.hidden = false;
      rule.style.left = `${100 * share}%`;
      const left = share * box.width + 12;
      tip.style.left = `${Math.max(0, left + tip.offsetWidth > box.width ? left - 24 - tip.offsetWidth : left)}px`;
    };
    frame.addEventListener("pointermove", follow);
    frame.addEventListener("pointerdown", follow);
    frame.addEventListener("pointerleave", hide);
  }

  if (navigator.clipboard) {
    for (const command of document.querySelectorAll(".command")) {
      const text = command.textContent;
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: "copy" });
      button.addEventListener("click", () => navigator.clipboard.writeText(text).then(() => { button.textContent = "copied"; }));
      command.append(button);
    }
  }
})();
