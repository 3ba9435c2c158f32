"use strict";
(() => {
  const tip = document.getElementById("tip");
  const said = document.getElementById("said");
  let current = null;
  let place = null; // Returns where the tip belongs, for when the page scrolls below it.

  // ---------------------------------------------------------------- tooltip

  function fill(text) {
    tip.replaceChildren(
      ...text.split("\n").map((line, index) => {
        const row = document.createElement("div");
        const [name, value] = line.split("\t");
        row.className = index === 0 ? "tip-title" : "tip-row";
        const left = document.createElement("span");
        left.textContent = name;
        row.append(left);
        if (value !== undefined) {
          const right = document.createElement("span");
          right.textContent = value;
          row.append(right);
        }
        return row;
      }),
    );
  }

  function move(x, y) {
    const gap = 14;
    const { width, height } = tip.getBoundingClientRect();
    const { clientWidth, clientHeight } = document.documentElement;
    let left = x + gap;
    if (left + width > clientWidth - 6) left = x - gap - width;
    let top = y + gap;
    if (top + height > clientHeight - 6) top = y - gap - height;
    tip.style.left = `${Math.max(6, Math.min(left, clientWidth - width - 6))}px`;
    tip.style.top = `${Math.max(6, Math.min(top, clientHeight - height - 6))}px`;
  }

  function show(mark, text, where) {
    if (current && current !== mark) leave();
    current = mark;
    place = where;
    mark.classList.add("active");
    fill(text);
    tip.hidden = false;
    move(...place());
  }

  function leave() {
    if (!current) return;
    current.classList.remove("active");
    current = null;
    tip.hidden = true;
  }

  // ---------------------------------------------------------------- samples of a strip

  const strips = new WeakMap();

  function samplesOf(strip) {
    if (!strips.has(strip)) {
      const values = strip.dataset.samples.split(" ");
      const order = strip.dataset.order ? strip.dataset.order.split(" ") : values.keys();
      const places = strip.querySelector(".dots").getAttribute("d").match(/M[^h]+/g);
      strips.set(strip, [...order].map((number, at) => {
        const [x, y] = places[at].slice(1).split(" ").map(Number);
        return { number: Number(number) + 1, value: values[at], x, y };
      }));
    }
    return strips.get(strip);
  }

  function nearest(strip, x, y) {
    const place = strip.ownerSVGElement.getScreenCTM().inverse();
    const point = new DOMPoint(x, y).matrixTransform(place);
    let best = 0;
    let least = Infinity;
    samplesOf(strip).forEach((sample, at) => {
      const distance = Math.hypot(sample.x - point.x, sample.y - point.y);
      if (distance < least) [best, least] = [at, distance];
    });
    return best;
  }

  function select(strip, at) {
    const sample = samplesOf(strip)[at];
    const cursor = strip.querySelector(".cursor");
    cursor.setAttribute("cx", sample.x);
    cursor.setAttribute("cy", sample.y);
    strip.dataset.at = at;
    const line = `sample ${sample.number}\t${sample.value} ms`;
    const [title, ...rest] = strip.dataset.tip.split("\n");
    return { sample, text: [title, line, ...rest].join("\n") };
  }

  // ---------------------------------------------------------------- pointer, touch, keyboard

  function onPointer(mark, event) {
    const strip = mark.classList.contains("strip");
    const text = strip
      ? select(mark, nearest(mark, event.clientX, event.clientY)).text
      : mark.dataset.tip;
    show(mark, text, () => [event.clientX, event.clientY]);
  }

  function onFocus(mark) {
    show(mark, mark.dataset.tip, () => {
      const box = mark.querySelector(".disc, .track").getBoundingClientRect();
      return [box.left + box.width / 2, box.bottom];
    });
  }

  function onKey(mark, event) {
    if (event.key === "Escape") leave();
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !mark.classList.contains("strip")) return;
    event.preventDefault();
    const last = samplesOf(mark).length - 1;
    const from = mark.dataset.at === undefined ? (step > 0 ? -1 : last + 1) : Number(mark.dataset.at);
    const { sample, text } = select(mark, Math.max(0, Math.min(last, from + step)));
    show(mark, text, () => {
      const onScreen = mark.ownerSVGElement.getScreenCTM();
      const point = new DOMPoint(sample.x, sample.y).matrixTransform(onScreen);
      return [point.x, point.y];
    });
    said.textContent = `sample ${sample.number}: ${sample.value} ms`;
  }

  for (const mark of document.querySelectorAll(".mark")) {
    mark.querySelector("title")?.remove(); // The tooltip says it; two would overlap.
    mark.addEventListener("pointerenter", (event) => onPointer(mark, event));
    mark.addEventListener("pointermove", (event) => onPointer(mark, event));
    mark.addEventListener("pointerdown", (event) => onPointer(mark, event));
    mark.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") leave();
    });
    mark.addEventListener("focus", () => {
      if (current !== mark) onFocus(mark); // A click has shown it already.
    });
    mark.addEventListener("blur", leave);
    mark.addEventListener("keydown", (event) => onKey(mark, event));
  }
  document.addEventListener("pointerdown", (event) => {
    if (!event.target.closest(".mark")) leave();
  });
  const onScroll = () => {
    if (current && current === document.activeElement) move(...place());
    else leave();
  };
  document.addEventListener("scroll", onScroll, { passive: true, capture: true });

  // ---------------------------------------------------------------- series of a chart

  for (const key of document.querySelectorAll("button.key")) {
    key.addEventListener("click", () => {
      const shown = key.getAttribute("aria-pressed") !== "true";
      key.setAttribute("aria-pressed", String(shown));
      const own = `.series[data-series="${key.dataset.key}"]`;
      for (const series of key.closest(".charted").querySelectorAll(own)) {
        series.classList.toggle("off", !shown);
      }
    });
  }

  // ---------------------------------------------------------------- copy buttons

  async function copy(text) {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // No clipboard without a permission: the old way still asks for none.
      const area = document.createElement("textarea");
      area.value = text;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await copy(document.getElementById(button.dataset.copy).textContent);
      button.textContent = said.textContent = "Copied";
      setTimeout(() => {
        button.textContent = "Copy";
      }, 1600);
    });
  }
})();
