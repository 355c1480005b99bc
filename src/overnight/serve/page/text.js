// Bytes as characters on the page, and numbers as colours. Everything reaches the page as text, never as markup.

const hexadecimal = (byte) => "\\x" + byte.toString(16).padStart(2, "0");

// [{text, bytes: [index...], odd}] : whole characters of UTF-8, and what is none byte by byte.
export const characters = (bytes, start = 0) => {
  const found = [];
  const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at];
    let size = first < 0x80 ? 1 : first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
    let text = null, odd = true;
    if (first === 10) text = "\u21b5";
    else if (first < 0x20 || first === 0x7f) text = hexadecimal(first);
    else {
      try {
        text = strict.decode(Uint8Array.from(bytes.slice(at, at + size)));
        odd = false;
      } catch {
        size = 1;
        text = hexadecimal(first);
      }
    }
    found.push({ text, odd, bytes: Array.from({ length: size }, (_, i) => start + at + i) });
    at += size;
  }
  return found;
};

export const niceLimit = (value) => {
  const size = 10 ** Math.floor(Math.log10(Math.max(value, 0.1)));
  return [1, 2, 5, 10].map((step) => step * size).find((limit) => limit >= value - 1e-9);
};

// A text's first characters as the server counts them, and a sentence if there are more. Lone surrogates are replaced.
export const beginning = (text, most) => {
  const whole = text.toWellFormed ? text.toWellFormed() : text, all = Array.from(whole);
  if (all.length <= most) return [whole, ""];
  const [read, of] = [most, all.length].map((value) => value.toLocaleString("en"));
  return [all.slice(0, most).join(""), `Only the first ${read} of ${of} characters are read.`];
};

// A value in units of the scale's end: orange below 0, blue above it, as in reports and terminals.
export const diverging = (share) => {
  const strength = Math.round(100 * Math.min(1, Math.abs(share)));
  return `color-mix(in oklab, var(${share < 0 ? "--below" : "--above"}) ${strength}%, var(--middle))`;
};

export const rising = (share) => `color-mix(in oklab, var(--much) ${Math.round(100 * Math.min(1, Math.max(0, share)))}%, var(--middle))`;

// Each byte of a character has its own stretch of the background.
export const paint = (span, colours) => {
  if (new Set(colours).size === 1) span.style.background = colours[0];
  else {
    const stops = colours.map((colour, i) => `${colour} ${(100 * i) / colours.length}% ${(100 * (i + 1)) / colours.length}%`);
    span.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  }
};

export const spanOf = (character) => {
  const span = document.createElement("span");
  span.textContent = character.text;
  span.className = character.odd ? "odd" : "";
  return span;
};

export const signed = (value, digits = 2) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);
