"use strict";
// Names and labels come from outside: they reach the page as text only, by textContent and by
// attributes that hold no code. Nothing here makes elements of text.
const data = JSON.parse(document.getElementById("data").textContent);
const main = document.getElementById("main");
const SVG = "http://www.w3.org/2000/svg";
const PAGE = 60;
const items = data.items;
const RIGHT = "right", WRONG = "wrong", UNKNOWN = "class not known", FAILED = "failed";

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value;
    else if (name === "on") for (const [event, act] of Object.entries(value)) element.addEventListener(event, act);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map((c) => (c instanceof Node ? c : String(c))));
  return element;
}
function draw(tag, attributes = {}, text = null) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  if (text !== null) element.textContent = text;
  return element;
}
const count = (n) => Number(n).toLocaleString("en");
const share = (v, digits = 1) => (v === null || v === undefined ? "–" : (100 * v).toFixed(digits) + "%");
const plural = (n, word) => `${count(n)} ${word}${n === 1 ? "" : "s"}`;

function section(id, title, note = null) {
  const made = make("section", { id, "aria-labelledby": id + "-title" }, make("h2", { id: id + "-title" }, title));
  if (note) made.append(make("p", { class: "note" }, note));
  main.append(made);
  document.getElementById("contents").append(make("a", { href: "#" + id }, title));
  return made;
}

// ---------------------------------------------------------------- items
const outcome = items.name.map((_, i) => {
  if (items.reason[i] !== null) return FAILED;
  if (items.label[i] < 0) return UNKNOWN;
  return items.label[i] === items.predicted[i] ? RIGHT : WRONG;
});
const className = (number) => (number < 0 ? null : data.classes[number]);
const suspect = new Map(data.audit ? data.audit.suspects.map((s, rank) => [s.item, rank]) : []);

function picture(i, heat = false) {
  const uri = (heat && data.heatmaps[i]) || data.thumbnails[i];
  if (!uri) {
    const why = data.unpictured[i] || (items.reason[i] !== null ? "no picture" : "no picture in this file");
    return make("div", { class: "image" }, why);
  }
  return make("div", { class: "image" }, make("img", { src: uri, alt: "", loading: "lazy", decoding: "async" }));
}
function card(i, heat = false) {
  const lines = [];
  if (items.reason[i] !== null) lines.push(make("b", {}, "failed"), make("small", {}, items.reason[i]));
  else {
    if (items.predicted[i] >= 0) lines.push(make("b", {}, `${className(items.predicted[i])} ${share(items.confidence[i])}`));
    if (outcome[i] === WRONG) lines.push(make("small", {}, "labelled " + className(items.label[i])));
    if (outcome[i] === RIGHT) lines.push(make("small", {}, "as labelled"));
    if (items.attributes[i]) lines.push(make("small", {}, items.attributes[i]));
  }
  lines.push(make("small", {}, items.name[i]));
  return make("li", { class: outcome[i] === WRONG ? "wrong" : outcome[i] === RIGHT ? "right" : "" }, picture(i, heat), ...lines);
}

// ---------------------------------------------------------------- charts
function ticks(low, high, wanted = 5) {
  const rough = (high - low) / wanted || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((f) => f * power).find((s) => s >= rough);
  const found = [];
  for (let v = Math.ceil(low / step - 1e-9) * step; v <= high + step * 1e-6; v += step) found.push(+v.toPrecision(12));
  return found;
}
function powers(high) {
  const found = [1];
  while (found[found.length - 1] < high) found.push(found[found.length - 1] * 10);
  return found;
}
const short = (v) => (Math.abs(v) >= 10000 ? count(v) : String(+Number(v).toPrecision(4)));

// A chart of lines over a common axis: {title, x: [...], lines: [{name, y, colour, dashed}], ...}
function lines({ title, x, lines: drawn, from = null, to = null, xLabel, percent = false, mark = null, diagonal = false }) {
  const W = 420, H = 250, L = 46, R = 20, T = 10, B = 36;
  const values = drawn.flatMap((line) => line.y.filter((v) => v !== null));
  let low = from ?? Math.min(...values), high = to ?? Math.max(...values);
  if (high <= low) { high = low + 1; }
  const first = x[0], last = x[x.length - 1] > x[0] ? x[x.length - 1] : x[0] + 1;
  const across = (v) => L + ((v - first) / (last - first)) * (W - L - R);
  const up = (v) => H - B - ((v - low) / (high - low)) * (H - T - B);
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  for (const v of ticks(low, high)) {
    svg.append(draw("line", { class: "grid", x1: L, x2: W - R, y1: up(v), y2: up(v) }));
    svg.append(draw("text", { x: L - 6, y: up(v) + 4, "text-anchor": "end" }, percent ? Math.round(v * 100) + "%" : short(v)));
  }
  for (const v of ticks(first, last, 6).filter((v) => !xLabel.whole || Number.isInteger(v))) {
    svg.append(draw("text", { x: across(v), y: H - B + 16, "text-anchor": "middle" }, xLabel.percent ? Math.round(v * 100) + "%" : short(v)));
  }
  svg.append(draw("text", { class: "pale", x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle" }, xLabel.text));
  if (diagonal) svg.append(draw("line", { class: "axis", "stroke-dasharray": "4 4", x1: across(first), y1: up(first), x2: across(last), y2: up(last) }));
  if (mark) {
    svg.append(draw("line", { class: "axis", "stroke-dasharray": "2 3", x1: across(mark.x), x2: across(mark.x), y1: T, y2: H - B, style: "stroke: var(--pale)" }));
  }
  for (const line of drawn) {
    const points = line.y.map((v, i) => [x[i], v]).filter(([, v]) => v !== null);
    const path = points.map(([a, v], i) => `${i ? "L" : "M"}${across(a).toFixed(1)} ${up(v).toFixed(1)}`).join("");
    svg.append(draw("path", { d: path, fill: "none", "stroke-width": 2, style: `stroke: ${line.colour}`, ...(line.dashed ? { "stroke-dasharray": "5 3" } : {}) }));
    for (const [a, v] of points.length <= 40 ? points : []) {
      const dot = draw("circle", { cx: across(a), cy: up(v), r: 3, style: `fill: ${line.colour}` });
      dot.append(draw("title", {}, `${line.name}: ${percent ? share(v) : short(v)} at ${xLabel.percent ? share(a, 0) : short(a)}`));
      svg.append(dot);
    }
  }
  const legend = make("ul", { class: "legend" }, ...drawn.map((line) =>
    make("li", {}, make("i", { class: line.dashed ? "dashed" : "", style: { "border-color": line.colour } }), line.name)));
  if (mark) legend.append(make("li", {}, make("i", { class: "dashed", style: { "border-color": "var(--pale)" } }), mark.name));
  return make("figure", {}, make("figcaption", {}, title), svg, legend);
}

// Upright bars, each of parts on top of each other: {title, bars: [{name, parts: [n, ...]}], ...}
function bars({ title, bars: shown, parts, log = false, xLabel, narrow = false }) {
  const W = 420, L = 46, R = 20, T = 10, B = narrow ? 36 : 96, H = narrow ? 250 : 310;
  const high = Math.max(1, ...shown.map((b) => b.parts.reduce((a, n) => a + n, 0)));
  const marks = log ? powers(high) : ticks(0, high);
  const top = log ? Math.log10(marks[marks.length - 1]) + 0.15 : Math.max(high, marks[marks.length - 1]);
  const height = (n) => (log ? (n > 0 ? (Math.log10(n) + 0.15) / top : 0) : n / top) * (H - T - B);
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": title });
  for (const v of marks) {
    const y = H - B - height(v);
    svg.append(draw("line", { class: "grid", x1: L, x2: W - R, y1: y, y2: y }));
    svg.append(draw("text", { x: L - 6, y: y + 4, "text-anchor": "end" }, count(v)));
  }
  const wide = (W - L - R) / shown.length;
  const each = Math.max(1, Math.ceil(13 / wide));
  shown.forEach((bar, i) => {
    let below = 0;
    const group = draw("g");
    bar.parts.forEach((n, p) => {
      const tall = height(below + n) - height(below);
      if (n > 0) group.append(draw("rect", { x: L + i * wide + wide * 0.1, width: wide * 0.8, y: H - B - height(below) - tall, height: tall, style: `fill: ${parts[p].colour}` }));
      below += n;
    });
    group.append(draw("title", {}, `${bar.name}: ${bar.parts.map((n, p) => `${parts.length > 1 ? parts[p].name + " " : ""}${count(n)}`).join(", ")}`));
    svg.append(group);
    const x = L + (i + 0.5) * wide;
    if (narrow && i % 5 === 0) svg.append(draw("text", { x: L + i * wide, y: H - B + 16, "text-anchor": "middle" }, bar.tick));
    if (!narrow && i % each === 0) {
      const text = bar.name.length > 16 ? bar.name.slice(0, 15) + "…" : bar.name;
      svg.append(draw("text", { x, y: H - B + 12, "text-anchor": "end", transform: `rotate(-50 ${x} ${H - B + 12})` }, text));
    }
  });
  if (narrow) {
    svg.append(draw("text", { x: W - R, y: H - B + 16, "text-anchor": "middle" }, "100%"));
    svg.append(draw("text", { class: "pale", x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle" }, xLabel));
  }
  const legend = parts.length < 2 ? null : make("ul", { class: "legend" }, ...parts.map((p) =>
    make("li", {}, make("i", { style: { "border-color": p.colour, "border-top-width": ".7em" } }), p.name)));
  return make("figure", {}, make("figcaption", {}, title), svg, legend);
}

// A table that is sorted by its heads: {columns: [{name, number, cell, value}], rows}
function sortable({ caption, columns, rows, by = null, down = true }) {
  const body = make("tbody");
  const heads = columns.map((column, c) =>
    make("th", { scope: "col", class: column.number ? "number" : "", "aria-sort": "none" },
      make("button", { type: "button", on: { click: () => sort(c) } }, column.name)));
  let sorted = by, falling = down, shown = rows;
  function fill() {
    const column = columns[sorted];
    const ordered = sorted === null ? shown : [...shown].sort((a, b) => {
      const [one, other] = [column.value(a), column.value(b)];
      if (one === null || other === null) return (one === null) - (other === null);
      const apart = typeof one === "number" ? one - other : one < other ? -1 : one > other ? 1 : 0;
      return falling ? -apart : apart;
    });
    heads.forEach((head, c) => head.setAttribute("aria-sort", c !== sorted ? "none" : falling ? "descending" : "ascending"));
    body.replaceChildren(...ordered.map((row) => make("tr", {}, ...columns.map((column) => {
      const cell = make("td", { class: (column.number ? "number " : "") + (column.bar ? "bar" : "") });
      const found = column.cell(row);
      if (column.bar) cell.append(make("span", { style: { "--share": `${100 * (column.value(row) ?? 0)}%` } }, found));
      else cell.append(found);
      return cell;
    }))));
  }
  function sort(c) {
    falling = sorted === c ? !falling : Boolean(columns[c].number);
    sorted = c;
    fill();
  }
  fill();
  const table = make("table", {}, make("caption", { class: "skip" }, caption), make("thead", {}, make("tr", {}, ...heads)), body);
  return { table: make("div", { class: "wide" }, table), show: (chosen) => { shown = chosen; fill(); } };
}

function pager(list, shown, each = PAGE) {
  let page = 0, all = [];
  const told = make("span", { "aria-live": "polite" });
  const back = make("button", { class: "button", type: "button", on: { click: () => turn(page - 1) } }, "← Previous");
  const on = make("button", { class: "button", type: "button", on: { click: () => turn(page + 1) } }, "Next →");
  function turn(to) {
    const last = Math.max(0, Math.ceil(all.length / each) - 1);
    page = Math.min(Math.max(0, to), last);
    const first = page * each;
    list.replaceChildren(...all.slice(first, first + each).map(shown));
    told.textContent = all.length ? `${count(first + 1)} to ${count(Math.min(all.length, first + each))} of ${count(all.length)}` : "nothing fits";
    // not the attribute: a button that is disabled loses the focus
    back.setAttribute("aria-disabled", page === 0);
    on.setAttribute("aria-disabled", page === last);
  }
  return {
    bar: make("div", { class: "pages" }, back, told, on),
    show: (found, hint = "") => {
      all = found;
      turn(0);
      if (hint) told.textContent += `; ${hint}`;
    },
  };
}

// ---------------------------------------------------------------- chapters
function overview() {
  document.getElementById("title").textContent = data.title;
  document.getElementById("subtitle").textContent = data.subtitle;
  const made = section("overview", "Overview");
  if (data.figures.length) made.append(make("ul", { class: "tiles" }, ...data.figures.map((f) =>
    make("li", {}, make("small", {}, f.name), make("b", {}, f.text), make("small", {}, f.about)))));
  for (const text of data.notes) made.append(make("p", { class: "note" }, text));
  made.append(make("h3", {}, "What was run on what"));
  made.append(make("dl", { class: "facts" }, ...data.about.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
}

function training() {
  if (!data.history) return;
  const made = section("training", "Training", "How the model learnt, epoch by epoch. Training figures are over the images that it learnt from, validation figures over others.");
  const rows = data.history.rows, x = rows.map((r) => r.epoch);
  const of = (name) => rows.map((r) => r[name] ?? null);
  const pairs = (metric, label, dashed = false) => [["train", "training", "var(--cool)"], ["val", "validation", "var(--warm)"]]
    .filter(([split]) => `${split}_${metric}` in rows[0])
    .map(([split, name, colour]) => ({ name: label ? `${name} ${label}` : name, y: of(`${split}_${metric}`), colour, dashed }));
  const best = data.history.best ? { x: data.history.best, name: `best epoch (${data.history.best})` } : null;
  const xLabel = { text: "epoch", whole: true };
  const charts = make("div", { class: "charts" }, lines({ title: "Loss", x, lines: pairs("loss", ""), from: 0, xLabel, mark: best }));
  if (pairs("top1", "").length) charts.append(lines({ title: "Accuracy", x, lines: [...pairs("top1", "top-1"), ...pairs("top3", "top-3", true)], percent: true, xLabel, mark: best }));
  if (pairs("attr_recall3", "").length) charts.append(lines({ title: "Attributes", x, lines: [...pairs("attr_recall3", "recall@3"), ...pairs("attr_map", "mAP", true)], percent: true, xLabel, mark: best }));
  charts.append(lines({ title: "Learning rate", x, lines: [{ name: "learning rate", y: of("lr"), colour: "var(--ink)" }], from: 0, xLabel }));
  made.append(charts);
}

function histograms() {
  if (!data.classes.length) return;
  const made = section("histograms", "How many of what");
  const counts = data.histograms;
  const order = counts.predicted.map((_, i) => i).sort((a, b) => counts.support[b] - counts.support[a] || counts.predicted[b] - counts.predicted[a]);
  const charts = make("div", { class: "charts" });
  const cut = order.slice(0, 50);
  const named = (numbers, list) => numbers.map((i) => ({ name: data.classes[i], parts: [list[i]] }));
  const more = order.length > cut.length ? `, the ${cut.length} largest of ${order.length}` : "";
  if (counts.labelled) charts.append(bars({ title: `Items of each class (log scale)${more}`, bars: named(cut, counts.support), parts: [{ name: "items", colour: "var(--cool)" }], log: true }));
  charts.append(bars({ title: `Items predicted as each class (log scale)${more}`, bars: named(cut, counts.predicted), parts: [{ name: "items", colour: "var(--warm)" }], log: true }));
  const sides = counts.labelled
    ? [{ name: RIGHT, colour: "var(--good)" }, { name: WRONG, colour: "var(--bad)" }, { name: UNKNOWN, colour: "var(--pale)" }].slice(0, counts.confidence.some((parts) => parts[2]) ? 3 : 2)
    : [{ name: "items", colour: "var(--cool)" }];
  const bins = counts.confidence;
  charts.append(bars({
    title: "Probability of the predicted class", narrow: true, xLabel: "probability", parts: sides,
    bars: bins.map((parts, i) => ({ name: `${(100 * i) / bins.length} to ${(100 * (i + 1)) / bins.length}%`, tick: `${Math.round((100 * i) / bins.length)}%`, parts: counts.labelled ? parts.slice(0, sides.length) : [parts.reduce((a, n) => a + n, 0)] })),
  }));
  made.append(charts);
}

function classes() {
  if (!data.perClass) return;
  const made = section("classes", "Classes", "Recall: how many items of a class were found. Precision: how many items that were taken for it are of it. A class opens its items.");
  if (data.types.length) made.append(sortable({
    caption: "Figures of each category type", rows: data.types,
    columns: [
      { name: "category type", value: (r) => r.type, cell: (r) => r.type },
      { name: "items", number: true, value: (r) => r.items, cell: (r) => count(r.items) },
      ...[["top1", "top-1"], ["top3", "top-3"], ["type_accuracy", "type right"]].map(([key, name]) => ({ name, number: true, bar: true, value: (r) => r[key], cell: (r) => share(r[key]) })),
    ],
  }).table);
  const rate = (key, name) => ({ name, number: true, bar: true, value: (r) => r[key], cell: (r) => share(r[key]) });
  const table = sortable({
    caption: "Figures of each class", rows: data.perClass, by: 1,
    columns: [
      { name: "class", value: (r) => r.name.toLowerCase(), cell: (r) => make("button", { class: "link", type: "button", on: { click: () => gallery.open({ label: r.number, of: r.support }) } }, r.name) },
      { name: "items", number: true, value: (r) => r.support, cell: (r) => count(r.support) },
      { name: "predicted", number: true, value: (r) => r.predicted, cell: (r) => count(r.predicted) },
      rate("recall", "recall"), rate("precision", "precision"), rate("f1", "F1"),
    ],
  });
  const search = make("input", { type: "search", id: "class-search", on: { input: () => table.show(data.perClass.filter((r) => r.name.toLowerCase().includes(search.value.toLowerCase()))) } });
  made.append(make("div", { class: "filters" }, make("label", {}, "Class contains", search)), make("div", { class: data.perClass.length > 60 ? "scroll" : "" }, table.table));
}

function confusion() {
  if (!data.confusion) return;
  const { shown, cells, left } = data.confusion;
  const note = `Rows are labels, columns are predictions; a number opens its items.${left ? ` Shown are the ${shown.length} classes with the most mistakes; ${left} others are left out.` : ""}`;
  const made = section("confusion", "What is taken for what", note);
  const place = new Map(shown.map((number, i) => [number, i]));
  const grid = shown.map(() => shown.map(() => 0));
  for (const [label, predicted, n] of cells) if (place.has(label) && place.has(predicted)) grid[place.get(label)][place.get(predicted)] = n;
  const totals = new Map();
  for (const [label, , n] of cells) totals.set(label, (totals.get(label) ?? 0) + n);
  const side = shown.length > 25 ? "1.45rem" : shown.length > 14 ? "1.9rem" : "2.4rem";
  const buttons = [];
  const rows = grid.map((row, r) => make("tr", {}, make("th", { scope: "row", title: data.classes[shown[r]] }, data.classes[shown[r]]), ...row.map((n, c) => {
    if (!n) return make("td", {}, make("div", { "aria-hidden": "true" }));
    const part = n / totals.get(shown[r]);
    const [label, predicted] = [data.classes[shown[r]], data.classes[shown[c]]];
    const text = `${plural(n, "item")} labelled ${label}, predicted ${predicted} (${share(part)} of the label)`;
    const button = make("button", {
      type: "button", title: text, "aria-label": text, tabindex: buttons.length ? -1 : 0,
      "data-row": r, "data-column": c, class: part > 0.55 ? "strong" : "",
      style: { background: `rgba(var(--${r === c ? "heat" : "miss"}), ${(0.12 + 0.88 * part).toFixed(3)})` },
      on: { click: () => gallery.open({ label: shown[r], predicted: shown[c], of: n }), keydown: (event) => move(event, button) },
    }, n > 9999 ? Math.round(n / 1000) + "k" : String(n));
    buttons.push(button);
    return make("td", {}, button);
  })));
  // one stop of the tab key for the whole matrix, arrow keys within it
  function move(event, from) {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [r, c] = [Number(from.dataset.row), Number(from.dataset.column)];
    const found = buttons
      .map((b) => ({ b, dr: Number(b.dataset.row) - r, dc: Number(b.dataset.column) - c }))
      .filter(({ dr, dc }) => dr * step[0] + dc * step[1] > 0)
      .sort((a, b) => Math.abs(a.dr * step[1]) + Math.abs(a.dc * step[0]) - Math.abs(b.dr * step[1]) - Math.abs(b.dc * step[0]) || Math.abs(a.dr) + Math.abs(a.dc) - Math.abs(b.dr) - Math.abs(b.dc));
    if (!found.length) return;
    from.tabIndex = -1;
    found[0].b.tabIndex = 0;
    found[0].b.focus();
  }
  const head = make("tr", {}, make("td", {}), ...shown.map((number) => make("th", { scope: "col", title: data.classes[number] }, make("span", {}, data.classes[number]))));
  const both = make("div", { class: "beside" });
  made.append(both);
  both.append(make("div", { class: "wide" }, make("table", { class: "matrix", style: { "--cell": side } }, make("caption", { class: "skip" }, "Confusion matrix"), make("thead", {}, head), make("tbody", {}, ...rows))));
  if (data.confused.length) {
    both.append(make("div", {}, make("h3", {}, "The most frequent mistakes"), make("div", { class: "scroll" }, sortable({
      caption: "The most frequent mistakes", rows: data.confused, by: 2,
      columns: [
        { name: "label", value: (r) => data.classes[r.label], cell: (r) => data.classes[r.label] },
        { name: "taken for", value: (r) => data.classes[r.predicted], cell: (r) => make("button", { class: "link", type: "button", on: { click: () => gallery.open({ label: r.label, predicted: r.predicted, of: r.count }) } }, data.classes[r.predicted]) },
        { name: "items", number: true, value: (r) => r.count, cell: (r) => count(r.count) },
        { name: "of the label", number: true, bar: true, value: (r) => r.share, cell: (r) => share(r.share) },
      ],
    }).table)));
  }
}

function trust() {
  if (!data.calibration) return;
  const { bins, ece, temperature, threshold, coverage } = data.calibration;
  const made = section("trust", "How far to trust it", "Left: whether a probability means what it says. A model on the dashed line is right 80% of the time where it says 80%. Right: how often it is right about the share of items that it is most sure of.");
  const there = bins.filter((b) => b.items);
  made.append(make("div", { class: "charts" },
    there.length > 1 ? lines({ title: "Right answers by stated probability", x: [0, ...there.map((b) => b.confidence), 1], lines: [{ name: "right", y: [null, ...there.map((b) => b.accuracy), null], colour: "var(--cool)" }], from: 0, to: 1, percent: true, xLabel: { text: "probability that the model states", percent: true }, diagonal: true }) : null,
    coverage.length > 1 ? lines({ title: "Right answers by how much is left to the model", x: coverage.map((p) => p.coverage), lines: [{ name: "right", y: coverage.map((p) => p.accuracy), colour: "var(--cool)" }], to: 1, percent: true, xLabel: { text: "share of the items, the surest first", percent: true } }) : null));
  const facts = [["Expected calibration error", ece === null ? "–" : share(ece)]];
  if (temperature && !temperature.edge) facts.push(["Temperature that fits", `${temperature.value.toFixed(3)} (then the error is ${share(temperature.ece)})`]);
  facts.push([`To be right ${share(threshold.precision, 0)} of the time`, threshold.threshold === null ? "no probability is high enough" : `trust answers of at least ${share(threshold.threshold)}: these are ${share(threshold.coverage)} of the items`]);
  made.append(make("dl", { class: "facts" }, ...facts.flatMap(([name, text]) => [make("dt", {}, name), make("dd", {}, text)])));
}

function attributes() {
  if (!data.attributes) return;
  const made = section("attributes", "Attributes", data.attributes.note);
  const rate = (key, name) => ({ name, number: true, bar: true, value: (r) => r[key], cell: (r) => share(r[key]) });
  const text = (key) => ({ name: key, value: (r) => (r[key] ?? "").toLowerCase(), cell: (r) => r[key] ?? "–" });
  const number = (key, name) => ({ name, number: true, value: (r) => r[key], cell: (r) => count(r[key]) });
  made.append(sortable({
    caption: "Attributes by type", rows: data.attributes.types,
    columns: [text("type"), number("attributes", "attributes"), number("support", "images have one"), rate("recall3", "recall@3"), rate("recall5", "recall@5"), rate("map", "mAP")],
  }).table);
  const each = sortable({
    caption: "Each attribute", rows: data.attributes.each, by: 2,
    columns: [text("name"), text("type"), number("support", "images have it"), number("known", "known of"), rate("average_precision", "average precision")],
  });
  const search = make("input", { type: "search", id: "attribute-search", on: { input: () => each.show(data.attributes.each.filter((r) => r.name.toLowerCase().includes(search.value.toLowerCase()))) } });
  made.append(make("h3", {}, "Each attribute"), make("div", { class: "filters" }, make("label", {}, "Attribute contains", search)), make("div", { class: "scroll" }, each.table));
}

// the places of items on the map, and what a pointer or the keyboard shows of one
const tip = document.getElementById("tip");
function hint(i, x, y) {
  tip.replaceChildren(...(data.thumbnails[i] ? [make("img", { src: data.thumbnails[i], alt: "" })] : []),
    make("b", {}, className(items.predicted[i]) ?? ""), make("div", {}, outcome[i] === WRONG ? "labelled " + className(items.label[i]) : ""), make("div", {}, items.name[i]));
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(x + 14, innerWidth - box.width - 4)) + "px";
  tip.style.top = Math.max(4, Math.min(y + 14, innerHeight - box.height - 4)) + "px";
}
function embedding() {
  if (!data.map) return;
  const { item, x, y, method } = data.map;
  const how = method === "PCA" ? "the two directions in which features differ most (install scikit-learn for a map that keeps neighbours together)" : `${method} of the features`;
  const made = section("map", "Map", `${plural(item.length, "item")}, laid out by ${how}: what the network takes for alike lies close together. Colours are ${data.histograms.labelled ? "labels" : "predictions"}.`);
  const W = 1000, H = 650, M = 18;
  const group = item.map((i) => (data.histograms.labelled ? items.label[i] : items.predicted[i]));
  const present = [...new Set(group)].filter((g) => g >= 0).sort((a, b) => (data.classes[a] < data.classes[b] ? -1 : 1));
  const hue = new Map(present.map((g, i) => [g, `hsl(${Math.round((360 * i) / present.length)} 70% ${i % 2 ? 42 : 58}%)`]));
  const svg = draw("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": "Map of the items" });
  const across = (v) => M + v * (W - 2 * M), down = (v) => M + v * (H - 2 * M);
  const circles = item.map((i, p) => {
    const circle = draw("circle", { cx: across(x[p]).toFixed(1), cy: down(y[p]).toFixed(1), r: 5, style: `fill: ${hue.get(group[p]) ?? "var(--pale)"}` });
    // one stop of the tab key for the whole map, arrow keys within it
    circle.setAttribute("tabindex", p ? -1 : 0);
    circle.setAttribute("role", "button");
    circle.setAttribute("aria-label", `${items.name[i]}: ${className(group[p]) ?? "class not known"}`);
    circle.addEventListener("keydown", (event) => walk(event, p));
    circle.addEventListener("focus", () => { const box = circle.getBoundingClientRect(); hint(i, box.right, box.bottom); });
    circle.addEventListener("blur", () => { tip.hidden = true; });
    listen(circle, i);
    svg.append(circle);
    return circle;
  });
  function listen(element, i) {
    element.addEventListener("pointermove", (event) => hint(i, event.clientX, event.clientY));
    element.addEventListener("pointerleave", () => { tip.hidden = true; });
    element.addEventListener("click", () => gallery.open({ item: i }));
  }
  function walk(event, from) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      gallery.open({ item: item[from] });
      return;
    }
    const step = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
    if (!step) return;
    event.preventDefault();
    let best = null, least = Infinity;
    for (let p = 0; p < item.length; p++) {
      const [dx, dy] = [(x[p] - x[from]) * W, (y[p] - y[from]) * H];
      const ahead = dx * step[0] + dy * step[1], aside = Math.abs(dx * step[1]) + Math.abs(dy * step[0]);
      if (p !== from && ahead > 0 && ahead + 3 * aside < least) [best, least] = [p, ahead + 3 * aside];
    }
    if (best === null) return;
    circles[from].setAttribute("tabindex", -1);
    circles[best].setAttribute("tabindex", 0);
    circles[best].focus();
  }
  const pictures = draw("g");
  svg.append(pictures);
  function photos(wanted) {
    pictures.replaceChildren();
    if (!wanted) return;
    const taken = new Set(), side = 50;
    item.forEach((i, p) => {
      if (!data.thumbnails[i] || (pick.value !== "" && group[p] !== Number(pick.value))) return;
      const cell = `${Math.floor(across(x[p]) / side)} ${Math.floor(down(y[p]) / side)}`;
      if (taken.has(cell)) return;
      taken.add(cell);
      const [cx, cy] = [Math.floor(across(x[p]) / side) * side, Math.floor(down(y[p]) / side) * side];
      const frame = draw("rect", { x: cx + 1, y: cy + 1, width: side - 2, height: side - 2, style: `fill: ${hue.get(group[p]) ?? "var(--pale)"}` });
      listen(frame, i);
      pictures.append(frame);
      const image = draw("image", { x: cx + 4, y: cy + 4, width: side - 8, height: side - 8, href: data.thumbnails[i] });
      listen(image, i);
      pictures.append(image);
    });
  }
  const pick = make("select", { id: "map-class", on: { change: () => {
    circles.forEach((circle, p) => circle.classList.toggle("faded", pick.value !== "" && group[p] !== Number(pick.value)));
    photos(show.checked);
  } } }, make("option", { value: "" }, "all classes"), ...present.map((g) => make("option", { value: g }, data.classes[g])));
  const show = make("input", { type: "checkbox", id: "map-pictures", on: { change: () => photos(show.checked) } });
  made.append(make("div", { class: "filters" }, make("label", {}, "Highlight", pick), make("label", { class: "check" }, show, "show pictures")),
    make("div", { class: "map" }, svg),
    make("ul", { class: "legend" }, ...(present.length <= 24 ? present.map((g) => make("li", {}, make("i", { style: { "border-color": hue.get(g), "border-top-width": ".7em" } }), data.classes[g])) : [])));
}

const gallery = { open: () => {} };
function photographs() {
  const made = section("gallery", "Photographs", data.listed);
  const list = make("ul", { class: "cards", id: "cards" });
  const { bar, show } = pager(list, (i) => card(i, heat.checked));
  const options = (numbers) => [make("option", { value: "" }, "any"), ...numbers.sort((a, b) => (data.classes[a] < data.classes[b] ? -1 : 1)).map((n) => make("option", { value: n }, data.classes[n]))];
  const used = (column) => [...new Set(column)].filter((n) => n >= 0);
  const change = { on: { change: () => apply() } };
  const text = make("input", { type: "search", id: "by-name", on: { input: () => apply() } });
  const label = make("select", { id: "by-label", ...change }, ...options(used(items.label)));
  const predicted = make("select", { id: "by-predicted", ...change }, ...options(used(items.predicted)));
  const kinds = [WRONG, RIGHT, UNKNOWN, FAILED].filter((kind) => outcome.includes(kind));
  const kind = make("select", { id: "by-outcome", ...change }, make("option", { value: "" }, "any"), ...kinds.map((k) => make("option", { value: k }, k)), suspect.size ? make("option", { value: "doubtful" }, "label doubtful") : null);
  const low = make("input", { type: "number", id: "from", min: 0, max: 100, value: 0, ...change });
  const high = make("input", { type: "number", id: "to", min: 0, max: 100, value: 100, ...change });
  const order = make("select", { id: "order", ...change }, ...[["mistakes", "surest mistakes first"], ["unsure", "least sure first"], ["sure", "surest first"], ["name", "name"]].map(([value, name]) => make("option", { value }, name)));
  const heat = make("input", { type: "checkbox", id: "heat", on: { change: () => apply() } });
  const warm = Object.keys(data.heatmaps).length;
  const rank = { [WRONG]: 0, [UNKNOWN]: 1, [RIGHT]: 2, [FAILED]: 3 };
  const sorts = {
    mistakes: (a, b) => rank[outcome[a]] - rank[outcome[b]] || items.confidence[b] - items.confidence[a],
    unsure: (a, b) => items.confidence[a] - items.confidence[b],
    sure: (a, b) => items.confidence[b] - items.confidence[a],
    name: (a, b) => (items.name[a] < items.name[b] ? -1 : items.name[a] > items.name[b] ? 1 : 0),
  };
  let only = null, of = null; // a single item, and how many there are in all; of one opening
  function apply() {
    const needle = text.value.toLowerCase(), [from, to] = [low.value / 100, (high.value === "" ? 100 : high.value) / 100];
    const found = [];
    for (let i = 0; i < items.name.length; i++) {
      if (only !== null && i !== only) continue;
      if (needle && !items.name[i].toLowerCase().includes(needle)) continue;
      if (label.value !== "" && items.label[i] !== Number(label.value)) continue;
      if (predicted.value !== "" && items.predicted[i] !== Number(predicted.value)) continue;
      if (kind.value === "doubtful" ? !suspect.has(i) : kind.value !== "" && outcome[i] !== kind.value) continue;
      if (outcome[i] !== FAILED && (items.confidence[i] < from || items.confidence[i] > to)) continue;
      if (outcome[i] === FAILED && (from > 0 || to < 1)) continue;
      if (heat.checked && !data.heatmaps[i]) continue;
      found.push(i);
    }
    const left = of !== null && found.length < of ? `${count(of - found.length)} more are not in this report (--items lists more)` : "";
    show(found.sort(sorts[order.value]), left);
    [only, of] = [null, null];
  }
  gallery.open = (wanted) => {
    text.value = wanted.text ?? "";
    label.value = wanted.label ?? "";
    predicted.value = wanted.predicted ?? "";
    kind.value = ""; low.value = 0; high.value = 100; heat.checked = false;
    only = wanted.item ?? null;
    of = wanted.of ?? null;
    apply();
    made.scrollIntoView();
    label.focus({ preventScroll: true });
  };
  const clear = make("button", { class: "button", type: "button", on: { click: () => gallery.open({}) } }, "Show all");
  made.append(make("div", { class: "filters" },
    make("label", {}, "Name contains", text), make("label", {}, "Label", label), make("label", {}, "Prediction", predicted),
    make("label", {}, "Answer", kind), make("label", {}, "Probability from, %", low), make("label", {}, "to, %", high),
    make("label", {}, "Order", order),
    warm ? make("label", { class: "check" }, heat, `what the model looked at (${count(warm)})`) : null, clear), bar, list);
  apply();
}

function audit() {
  if (!data.audit) return;
  const { suspects, twins, outliers, note, total } = data.audit;
  const made = section("audit", "Labels to look at", note);
  const listed = (title, entries, shown, name, each = 24) => {
    if (!entries.length) return;
    const list = make("ul", { class: name });
    const { bar, show } = pager(list, shown, each);
    made.append(make("h3", {}, title), bar, list);
    show(entries);
  };
  const more = (entries, all) => (entries.length < all ? `, the first ${count(entries.length)}` : "");
  listed(`${plural(total.suspects, "label")} that the images contradict${more(suspects, total.suspects)}`, suspects, (s) => make("li", {}, picture(s.item),
    make("b", {}, `${s.label} → ${s.suggested}?`), make("small", {}, `${share(s.suggested_probability)} ${s.suggested}, ${share(s.label_probability)} ${s.label}`), make("small", {}, s.name)), "cards");
  listed(`${plural(total.twins, "pair")} of twins with different labels${more(twins, total.twins)}`, twins, (t) => make("li", {},
    make("div", { class: "pair" }, picture(t.item), picture(t.other)), make("b", {}, `${t.label} / ${t.twin_label}`), make("small", {}, `similarity ${t.similarity.toFixed(4)}`), make("small", {}, t.name), make("small", {}, t.twin)), "cards pairs", 12);
  listed("Items that nothing is like", outliers, (o) => make("li", {}, picture(o.item), make("b", {}, o.label), make("small", {}, `similarity to the tenth nearest ${o.similarity.toFixed(3)}`), make("small", {}, o.name)), "cards", 12);
}

function failures() {
  if (!data.failed.total) return;
  const made = section("failures", "Failures", `${plural(data.failed.total, "item")} could not be predicted${data.failed.rows.length < data.failed.total ? `; the first ${count(data.failed.rows.length)} are listed` : ""}.`);
  const table = sortable({
    caption: "Failures", rows: data.failed.rows, columns: [
      { name: "name", value: (r) => r.name, cell: (r) => r.name },
      { name: "stage", value: (r) => r.stage, cell: (r) => r.stage },
      { name: "reason", value: (r) => r.reason, cell: (r) => r.reason },
    ],
  });
  made.append(make("div", { class: data.failed.rows.length > 60 ? "scroll" : "" }, table.table));
}

for (const chapter of [overview, training, histograms, classes, confusion, trust, attributes, embedding, photographs, audit, failures]) chapter();
document.documentElement.dataset.ready = "yes";
