// The data that the page carries in, readings under the pointer and timelines that zoom out. No requests.
"use strict";
(() => {
  window.addEventListener("error", (event) => { document.documentElement.dataset.error = event.message; });
  window.addEventListener("unhandledrejection", (event) => { document.documentElement.dataset.error = String(event.reason); });
  const MINUS = "\u2212";
  const short = (v) => {
    if (v === null || !isFinite(v)) return "\u2013";
    const size = Math.abs(v);
    let text;
    if (size >= 1e6) text = (v / 1e6).toPrecision(3) + "M";
    else if (size >= 1e4) text = (v / 1e3).toPrecision(3) + "k";
    else if (size && size < 1e-3) text = v.toExponential(1);
    else text = String(+v.toPrecision(4));
    return text.replace("-", MINUS);
  };
  const element = (name, attributes = {}, parent = null) => {
    const svg = name === "line" || name === "circle";
    const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (parent) parent.append(made);
    return made;
  };
  const tipBeside = (tip, parent, x, y) => {
    const width = parent.clientWidth, own = tip.offsetWidth;
    tip.style.left = Math.max(0, x + 14 + own > width ? x - own - 14 : x + 14) + "px";
    tip.style.top = Math.max(0, y - 10) + "px";
  };
  const row = (parent, colour, text) => {
    const line = element("div", {}, parent);
    if (colour) element("i", { style: `background:${colour}` }, line);
    line.append(text);
  };

  // -- charts: what the lines are at the pointer ---------------------------------------------------------------------
  for (const figure of document.querySelectorAll("figure.chart")) {
    const data = JSON.parse(figure.querySelector("script").textContent);
    const plot = figure.querySelector(".plot"), svg = plot.querySelector("svg");
    const [left, top, right, bottom] = data.box, view = svg.viewBox.baseVal;
    const scaled = data.log ? Math.log : (v) => v;
    const [low, high] = data.x.map(scaled);
    const toX = (v) => left + (scaled(v) - low) / (high - low) * (right - left);
    const toY = (v) => bottom - (v - data.y[0]) / (data.y[1] - data.y[0]) * (bottom - top);
    let tip = null, marks = [];
    const clear = () => { marks.forEach((mark) => mark.remove()); marks = []; if (tip) tip.remove(); tip = null; };
    plot.addEventListener("pointerleave", clear);
    plot.addEventListener("pointermove", (event) => {
      clear();
      const frame = svg.getBoundingClientRect(), scale = frame.width / view.width;
      const at = (event.clientX - frame.left) / scale;
      if (at < left - 6 || at > right + 6) return;
      let nearest = null;
      const found = [];
      for (const { label, colour, x, y, texts } of data.lines) {
        if (!x.length || !label) continue;
        if (at < toX(x[0]) - 12 || at > toX(x[x.length - 1]) + 12) continue;  // it is not there yet, or no more
        let best = 0;
        x.forEach((place, k) => { if (Math.abs(toX(place) - at) < Math.abs(toX(x[best]) - at)) best = k; });
        found.push([label, colour, x[best], y[best]]);
        if (nearest === null || Math.abs(toX(x[best]) - at) < Math.abs(toX(nearest[0]) - at)) nearest = [x[best], texts[best]];
      }
      if (!found.length) return;
      const [place, text] = nearest;
      marks.push(element("line", { class: "rulerline", x1: toX(place), x2: toX(place), y1: top, y2: bottom }, svg));
      tip = element("div", { class: "tip" }, plot);
      row(tip, null, `${data.label}: ${text || short(place)}`);
      for (const [label, colour, x, y] of found) {
        const mark = { cx: toX(x), cy: toY(y), r: 3.5, fill: `var(--c${colour})`, "pointer-events": "none" };
        marks.push(element("circle", mark, svg));
        row(tip, `var(--c${colour})`, `${label}: ${data.share ? short(100 * y) + " %" : short(y)}`);
      }
      for (const [label, colour, y] of data.levels) row(tip, `var(--c${colour})`, `${label}: ${short(y)}`);
      tipBeside(tip, plot, toX(place) * scale, event.clientY - frame.top);
    });
  }

  // -- timelines -----------------------------------------------------------------------------------------------------
  const STATES = ["step", "wait", "reset", "recovery"];
  const inflate = async (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  };
  const clock = (seconds, span) => {
    if (span > 3 * 3600) return short(seconds / 3600) + " h";
    if (span > 300) return short(seconds / 60) + " min";
    return span < 1 ? short(seconds * 1000) + " ms" : short(+seconds.toFixed(3)) + " s";
  };
  const niceStep = (span, count) => {
    const units = span > 3 * 3600 ? 3600 : span > 300 ? 60 : 1, raw = span / units / count;
    const power = 10 ** Math.floor(Math.log10(raw));
    return units * power * [1, 2, 5, 10].find((factor) => factor * power >= raw);
  };

  class Timeline {
    constructor(box, data, shares) {
      Object.assign(this, { box, data, shares, from: 0, to: data.span, count: data.names.length });
      this.lanes = box.querySelector(".lanes");
      this.overview = box.querySelector(".overview");
      this.height = this.count <= 8 ? 24 : this.count <= 24 ? 16 : this.count <= 64 ? 9 : 5;
      this.labels = 46;  // pixels left of the lanes
      this.shortest = Math.min(data.span, 12 * data.bin);
      const dark = matchMedia("(prefers-color-scheme: dark)");
      dark.addEventListener("change", () => this.recolour());
      new ResizeObserver(() => this.draw()).observe(box);
      for (const button of box.querySelectorAll("button")) {
        button.addEventListener("click", () => this.act(button.dataset.act));
      }
      this.lanes.addEventListener("keydown", (event) => {
        const act = { "+": "in", "=": "in", "-": "out", "0": "all", ArrowLeft: "left", ArrowRight: "right" }[event.key];
        if (act) { event.preventDefault(); this.act(act); }
      });
      this.lanes.addEventListener("wheel", (event) => {
        if (!event.ctrlKey && !event.metaKey) return;  // the plain wheel scrolls the page
        event.preventDefault();
        this.zoom(Math.exp(event.deltaY / 300), this.timeAt(event));
      }, { passive: false });
      this.lanes.addEventListener("dblclick", () => this.act("all"));
      this.drag();
      this.recolour();
    }

    recolour() {
      const style = getComputedStyle(document.documentElement);
      const parse = (name) => {
        const value = parseInt(style.getPropertyValue(`--${name}`).trim().slice(1), 16);
        return (255 << 24 | (value & 255) << 16 | (value >> 8 & 255) << 8 | value >> 16) >>> 0;
      };
      this.colours = STATES.map(parse);
      this.gone = parse("gone");
      this.text = style.getPropertyValue("--muted");
      this.ink = style.getPropertyValue("--ink");
      this.paper = style.getPropertyValue("--paper");
      this.font = `11px ${style.getPropertyValue("--sans")}`;
      this.draw();
    }

    act(name) {
      const span = this.to - this.from, middle = (this.from + this.to) / 2;
      if (name === "in") this.zoom(0.5, middle);
      if (name === "out") this.zoom(2, middle);
      if (name === "all") this.show(0, this.data.span);
      if (name === "left") this.show(this.from - span / 4, this.to - span / 4);
      if (name === "right") this.show(this.from + span / 4, this.to + span / 4);
    }

    zoom(factor, around) {
      this.show(around + (this.from - around) * factor, around + (this.to - around) * factor);
    }

    show(from, to) {
      const span = Math.min(Math.max(to - from, this.shortest), this.data.span);
      const middle = Math.min(Math.max((from + to) / 2, span / 2), this.data.span - span / 2);
      this.from = middle - span / 2;
      this.to = middle + span / 2;
      this.draw();
    }

    timeAt(event) {
      const frame = this.lanes.getBoundingClientRect();
      const share = (event.clientX - frame.left - this.labels) / (frame.width - this.labels);
      return this.from + Math.min(Math.max(share, 0), 1) * (this.to - this.from);
    }

    // What environment `env` (of all of them: -1) did from bin `first` up to `last`, as shares of 1.
    what(env, first, last) {
      const { bins } = this.data, sums = [0, 0, 0, 0];
      const begin = Math.max(Math.floor(first), 0), end = Math.min(Math.max(Math.ceil(last), begin + 1), bins);
      for (let row = env < 0 ? 0 : env; row < (env < 0 ? this.count : env + 1); row++) {
        for (let k = (row * bins + begin) * 4; k < (row * bins + end) * 4; k += 4) {
          sums[0] += this.shares[k]; sums[1] += this.shares[k + 1]; sums[2] += this.shares[k + 2]; sums[3] += this.shares[k + 3];
        }
      }
      const all = 255 * (end - begin) * (env < 0 ? this.count : 1);
      return sums.map((sum) => sum / all);
    }

    paint(canvas, height, rows, from, to, indent) {
      const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth || this.box.clientWidth;
      canvas.style.height = `${height}px`;
      canvas.width = Math.max(Math.round(width * ratio), 1);
      canvas.height = Math.round(height * ratio);
      const context = canvas.getContext("2d"), offset = Math.round(indent * ratio), columns = canvas.width - offset;
      if (columns < 2) return [context, ratio, width];
      const perColumn = (to - from) / columns / this.data.bin, start = from / this.data.bin;
      for (const [env, y0, y1] of rows) {
        const first = Math.round(y0 * ratio), tall = Math.max(Math.round(y1 * ratio) - first, 1);
        const image = context.createImageData(columns, tall), pixels = new Uint32Array(image.data.buffer);
        for (let column = 0; column < columns; column++) {
          const at = start + column * perColumn;
          const shares = perColumn < 1 ? this.what(env, Math.floor(at), Math.floor(at) + 1) : this.what(env, at, at + perColumn);
          let level = 0, sum = 0;
          for (let state = 0; state < 4; state++) {
            sum += shares[state];
            const until = Math.min(Math.round(sum * tall), tall);
            for (; level < until; level++) pixels[(tall - 1 - level) * columns + column] = this.colours[state];
          }
          for (; level < tall; level++) pixels[(tall - 1 - level) * columns + column] = this.gone;
        }
        context.putImageData(image, offset, first);
      }
      context.scale(ratio, ratio);
      return [context, ratio, width];
    }

    draw() {
      if (this.pending) return;
      this.pending = requestAnimationFrame(() => { this.pending = 0; this.drawNow(); });
    }

    drawNow() {
      const { data, height } = this, span = this.to - this.from, total = this.count * height + 24;
      const rows = data.names.map((name, k) => [k, k * height, (k + 1) * height - (height > 6 ? 2 : 1)]);
      const [context, , width] = this.paint(this.lanes, total, rows, this.from, this.to, this.labels);
      const x = (at) => this.labels + (at - this.from) / span * (width - this.labels);
      context.font = this.font;
      context.fillStyle = this.text;
      context.textBaseline = "middle";
      const every = Math.ceil(13 / height);
      data.names.forEach((name, k) => { if (k % every === 0) context.fillText(name, 0, k * height + height / 2 - 1); });
      context.textAlign = "center";
      const step = niceStep(span, Math.max(width / 110, 2));
      for (let at = Math.ceil(this.from / step) * step; at <= this.to; at += step) {
        context.fillRect(x(at), this.count * height, 1, 4);
        const label = clock(at, step < 1 && span < 1 ? span : Math.max(span, 1)), half = context.measureText(label).width / 2;
        context.fillText(label, Math.min(Math.max(x(at), this.labels + half), width - half), this.count * height + 14);
      }
      for (const [at] of data.pauses) {
        context.fillStyle = this.ink;
        context.fillRect(x(at) - 0.5, 0, 1, this.count * height);
      }
      context.fillStyle = this.ink;
      context.strokeStyle = this.paper;
      context.lineWidth = 1;
      for (const [env, at] of data.faults) {
        if (at < this.from || at > this.to) continue;
        const y = env * height + height - (height > 6 ? 2 : 1), size = Math.min(height / 2, 5);
        context.beginPath();
        context.moveTo(x(at), y - size); context.lineTo(x(at) - size * 0.8, y); context.lineTo(x(at) + size * 0.8, y);
        context.closePath();
        context.fill();
        context.stroke();
      }
      const [above, , full] = this.paint(this.overview, 34, [[-1, 0, 30]], 0, data.span, this.labels);
      const place = (at) => this.labels + at / data.span * (full - this.labels);
      above.fillStyle = this.ink;
      above.fillRect(place(this.from), 31, Math.max(place(this.to) - place(this.from), 2), 3);
      above.font = this.font; above.fillStyle = this.text; above.textBaseline = "middle";
      above.fillText("all", 0, 15);
      this.box.querySelector("output").textContent = `${clock(this.from, Math.max(span, 1))} to ${clock(this.to, Math.max(span, 1))}`;
    }

    drag() {
      let begun = null, tip = null, brush = null;
      const clear = () => { if (tip) tip.remove(); if (brush) brush.remove(); tip = brush = null; };
      this.lanes.addEventListener("pointerdown", (event) => { begun = event.pointerType === "touch" ? null : [event.clientX, this.timeAt(event)]; });
      window.addEventListener("pointerup", (event) => {
        if (begun && Math.abs(event.clientX - begun[0]) > 5) {
          const at = this.timeAt(event);
          this.show(Math.min(at, begun[1]), Math.max(at, begun[1]));
        }
        begun = null;
        if (brush) clear();
      });
      this.lanes.addEventListener("pointerleave", () => { if (!begun) clear(); });
      this.lanes.addEventListener("pointermove", (event) => {
        clear();
        const frame = this.lanes.getBoundingClientRect(), own = this.lanes.parentElement.getBoundingClientRect();
        const env = Math.floor((event.clientY - frame.top) / this.height), at = this.timeAt(event);
        if (begun && Math.abs(event.clientX - begun[0]) > 5) {
          const edge = Math.min(Math.max(event.clientX, frame.left + this.labels), frame.right);
          const style = `position:absolute;background:var(--c0);opacity:.25;pointer-events:none;top:${frame.top - own.top}px;` +
            `height:${this.count * this.height}px;left:${Math.min(edge, begun[0]) - own.left}px;width:${Math.abs(edge - begun[0])}px`;
          brush = element("div", { style }, this.lanes.parentElement);
          return;
        }
        if (env < 0 || env >= this.count) return;
        const pixel = (this.to - this.from) / Math.max(frame.width - this.labels, 1), wide = Math.max(pixel, this.data.bin);
        const shares = this.what(env, Math.floor(at / this.data.bin), at / this.data.bin + Math.max(pixel / this.data.bin, 1) - 1);
        tip = element("div", { class: "tip" }, this.lanes.parentElement);
        row(tip, null, `environment ${this.data.names[env]}, ${clock(at, Math.max(this.to - this.from, 1))}`);
        shares.forEach((share, k) => { if (share > 0.005) row(tip, `var(--${STATES[k]})`, `${this.data.states[k]} ${short(+(100 * share).toFixed(0))} %`); });
        const near = this.data.faults.filter(([which, when]) => which === env && Math.abs(when - at) < Math.max(5 * pixel, wide));
        near.slice(0, 2).forEach(([, , kind]) => row(tip, "var(--bad)", `fault: ${kind}`));
        tipBeside(tip, this.lanes.parentElement, event.clientX - own.left, event.clientY - own.top);
      });
      const follow = (event) => {
        if (event.type === "pointermove" && event.buttons !== 1) return;
        const frame = this.overview.getBoundingClientRect(), span = this.to - this.from;
        const at = (event.clientX - frame.left - this.labels) / (frame.width - this.labels) * this.data.span;
        this.show(at - span / 2, at + span / 2);
      };
      this.overview.addEventListener("pointerdown", follow);
      this.overview.addEventListener("pointermove", follow);
    }
  }
  const begun = [...document.querySelectorAll(".timeline")].map(async (box) => {
    const data = JSON.parse(box.querySelector("script").textContent);
    if (typeof DecompressionStream === "undefined") {
      box.querySelector("output").textContent = "This browser cannot unpack the timeline; the table below says the same in numbers.";
      return;
    }
    new Timeline(box, data, await inflate(data.shares)).drawNow();
  });
  Promise.all(begun).then(() => { document.documentElement.dataset.ready = "yes"; });
})();
