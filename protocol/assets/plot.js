// Line plots in SVG without any library: the gateway's page and the load generator's report share
// this file. Colours come from the page's CSS: --series-1 to --series-5, --ink, --faint, --grid.
//
//   const p = new Plot(element, { title: "Connections", unit: "count" });
//   p.draw([{ name: "open", points: [[x, y], ...] }, ...]);
//
// Options: title; note (a line under the title); unit of y: "count", "per_s", "bytes", "seconds";
// x: "clock" (milliseconds since 1970), "seconds" or "number"; xTitle; log (y in powers of ten);
// xTicks: [[x, text], ...] to label x by hand. A y that is null leaves a gap.
"use strict";

const Plot = (() => {
  const SVG = "http:" + "//www.w3.org/2000/svg";
  const WIDTH = 480, HEIGHT = 210;
  const BOX = { left: 58, right: WIDTH - 10, top: 8, bottom: HEIGHT - 26 };

  function svg(name, attributes, parent, text) {
    const node = document.createElementNS(SVG, name);
    for (const key in attributes) node.setAttribute(key, attributes[key]);
    if (text !== undefined) node.textContent = text;
    if (parent) parent.append(node);
    return node;
  }

  function html(name, className, parent, text) {
    const node = document.createElement(name);
    node.className = className;
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }

  function digits(value) {
    const size = Math.abs(value);
    if (size === 0) return "0";
    const places = size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3;
    return String(Number(value.toFixed(places)));
  }

  function scaled(value, steps) {
    for (const [least, divisor, suffix] of steps) {
      if (Math.abs(value) >= least) return digits(value / divisor) + suffix;
    }
    return digits(value);
  }

  const COUNTS = [[1e9, 1e9, "G"], [1e6, 1e6, "M"], [1e4, 1e3, "k"]];
  const BYTES = [[2 ** 30, 2 ** 30, " GiB"], [2 ** 20, 2 ** 20, " MiB"], [10240, 1024, " KiB"], [0, 1, " B"]];
  const SECONDS = [[1, 1, " s"], [1e-3, 1e-3, " ms"], [1e-9, 1e-6, " µs"]];

  // A number for people, in the unit of an axis.
  function format(value, unit) {
    if (value === null || value === undefined || Number.isNaN(value)) return "–";
    switch (unit) {
      case "bytes": return scaled(value, BYTES);
      case "seconds": return value === 0 ? "0" : scaled(value, SECONDS);
      case "per_s": return scaled(value, COUNTS) + "/s";
      default: return scaled(value, COUNTS);
    }
  }

  // About four round steps from low to high.
  function linearTicks(low, high, base) {
    const rough = (high - low) / 4;
    if (!(rough > 0)) return [low];
    const power = base ** Math.floor(Math.log(rough) / Math.log(base) + 1e-9);
    const factors = base === 10 ? [1, 2, 5, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
    const step = power * factors.find((factor) => power * factor >= rough * 0.999);
    const ticks = [];
    for (let tick = Math.ceil(low / step - 1e-9); tick * step <= high * (1 + 1e-9); tick++) {
      ticks.push(tick * step);
    }
    return ticks;
  }

  function logTicks(low, high) {
    const ticks = [];
    for (let power = Math.ceil(Math.log10(low) - 1e-9); 10 ** power <= high * 1.000001; power++) {
      ticks.push(10 ** power);
    }
    return ticks;
  }

  function clock(milliseconds) {
    return new Date(milliseconds).toTimeString().slice(0, 8);
  }

  class Plot {
    constructor(element, options) {
      this.options = options;
      this.series = [];
      element.classList.add("plot");
      html("h3", "plot-title", element, options.title);
      if (options.note) html("p", "plot-note", element, options.note);
      this.svg = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" }, element);
      this.legend = html("div", "plot-legend", element);
      this.svg.addEventListener("pointermove", (event) => this.point(event));
      this.svg.addEventListener("pointerdown", (event) => this.point(event));
      this.svg.addEventListener("pointerleave", () => this.point(null));
    }

    draw(series) {
      this.series = series;
      this.scale();
      this.svg.replaceChildren();
      this.axes();
      series.forEach((line, index) => {
        svg("path", {
          d: this.path(line.points),
          fill: "none", stroke: `var(--series-${index + 1})`, "stroke-width": 1.8,
          "stroke-linejoin": "round", "stroke-linecap": "round",
        }, this.svg);
      });
      this.cursor = svg("line", { y1: BOX.top, y2: BOX.bottom, stroke: "var(--faint)", visibility: "hidden" }, this.svg);
      this.showValues(null);
    }

    scale() {
      const { log, unit } = this.options;
      const points = this.series.flatMap((line) => line.points).filter(([, y]) => y !== null && (!log || y > 0));
      const xs = points.map(([x]) => x), ys = points.map(([, y]) => y);
      const least = (list) => list.reduce((a, b) => Math.min(a, b), Infinity);
      const most = (list) => list.reduce((a, b) => Math.max(a, b), -Infinity);
      let [x0, x1] = xs.length ? [least(xs), most(xs)] : [0, 1];
      if (x0 === x1) x0 -= 1;
      let [y0, y1] = ys.length ? [log ? least(ys) : 0, most(ys)] : [log ? 1 : 0, log ? 10 : 1];
      if (log) {
        y0 = 10 ** Math.floor(Math.log10(y0) + 1e-9);
        y1 = Math.max(10 ** Math.ceil(Math.log10(y1) - 1e-9), y0 * 10);
        this.yTicks = logTicks(y0, y1);
      } else {
        if (y1 <= 0) y1 = unit === "bytes" ? 1024 : 1;
        y1 *= 1.05;
        this.yTicks = linearTicks(y0, y1, unit === "bytes" ? 1024 : 10);
      }
      const toLog = (value) => (log ? Math.log10(value) : value);
      const slope = (BOX.bottom - BOX.top) / (toLog(y1) - toLog(y0));
      this.range = { x0, x1 };
      this.x = (value) => BOX.left + ((value - x0) / (x1 - x0)) * (BOX.right - BOX.left);
      this.y = (value) => BOX.bottom - (toLog(value) - toLog(y0)) * slope;
    }

    axes() {
      const { unit, x, xTitle, xTicks, title } = this.options;
      const label = { fill: "var(--faint)", "font-size": 11 };
      this.svg.setAttribute("aria-label", `${title}: ${this.series.map((line) => line.name).join(", ")}`);
      for (const tick of this.yTicks) {
        const y = this.y(tick);
        svg("line", { x1: BOX.left, x2: BOX.right, y1: y, y2: y, stroke: "var(--grid)" }, this.svg);
        svg("text", { ...label, x: BOX.left - 6, y: y + 4, "text-anchor": "end" }, this.svg, format(tick, unit));
      }
      const { x0, x1 } = this.range;
      const ticks = xTicks
        ? xTicks.filter(([at]) => at >= x0 && at <= x1)
        : x === "clock"
          ? [[x0, clock(x0)], [x1, clock(x1)]]
          : linearTicks(x0, x1, 10).map((at) => [at, x === "seconds" ? `${digits(at)} s` : format(at)]);
      ticks.forEach(([at, text], index) => {
        const anchor = index === ticks.length - 1 && this.x(at) > BOX.right - 30 ? "end" : index === 0 ? "start" : "middle";
        svg("text", { ...label, x: this.x(at), y: BOX.bottom + 16, "text-anchor": anchor }, this.svg, text);
      });
      if (xTitle) {
        svg("text", { ...label, x: (BOX.left + BOX.right) / 2, y: HEIGHT - 1, "text-anchor": "middle" }, this.svg, xTitle);
      }
    }

    path(points) {
      let path = "", pen = "M";
      for (const [x, y] of points) {
        if (y === null || (this.options.log && !(y > 0))) {
          pen = "M";
          continue;
        }
        path += `${pen}${this.x(x).toFixed(1)} ${this.y(y).toFixed(1)}`;
        pen = "L";
      }
      return path;
    }

    point(event) {
      if (!this.cursor) return;
      if (!event || !this.series.some((line) => line.points.length)) {
        this.cursor.setAttribute("visibility", "hidden");
        this.showValues(null);
        return;
      }
      const area = this.svg.getBoundingClientRect();
      const inside = ((event.clientX - area.left) / area.width) * WIDTH;
      const { x0, x1 } = this.range;
      const wanted = x0 + ((inside - BOX.left) / (BOX.right - BOX.left)) * (x1 - x0);
      const at = this.nearest(wanted);
      this.cursor.setAttribute("x1", this.x(at));
      this.cursor.setAttribute("x2", this.x(at));
      this.cursor.setAttribute("visibility", "visible");
      this.showValues(at);
    }

    nearest(wanted) {
      let best = null;
      for (const { points } of this.series) {
        for (const [x] of points) {
          if (best === null || Math.abs(x - wanted) < Math.abs(best - wanted)) best = x;
        }
      }
      return best;
    }

    // The legend has the values under the cursor, else the newest.
    showValues(at) {
      const { unit, x, xTicks } = this.options;
      this.legend.replaceChildren();
      this.series.forEach((line, index) => {
        const entry = html("span", "plot-entry", this.legend);
        html("i", "", entry).style.background = `var(--series-${index + 1})`;
        const found = at === null ? line.points.at(-1) : line.points.find(([x]) => x === at);
        html("span", "", entry, `${line.name} `);
        html("b", "", entry, format(found ? found[1] : null, unit));
      });
      if (at !== null) {
        const tick = xTicks && xTicks.find(([position]) => position === at);
        const text = tick ? tick[1] : x === "clock" ? clock(at) : x === "seconds" ? `${digits(at)} s` : digits(at);
        html("span", "plot-entry", this.legend, `at ${text}`);
      }
    }
  }

  Plot.format = format;
  return Plot;
})();
