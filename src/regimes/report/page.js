(async () => {
  "use strict";
  document.documentElement.classList.add("js");
  const all = (selector, root = document) => [...root.querySelectorAll(selector)];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const mode = () => (dark.matches ? "dark" : "light");

  for (const button of all("[data-copy]")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(source);
        button.textContent = "Selected: press Ctrl+C";
      }
    });
  }

  const inflate = (id) => {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  };

  const charts = all("[data-chart]");
  let book;
  try {
    const [library, payload] = await Promise.all([inflate("vega"), inflate("charts")]);
    const script = document.createElement("script");
    script.textContent = library;
    document.head.append(script);
    book = JSON.parse(payload);
    if (!window.vegaEmbed) throw new Error("the drawing library did not start");
  } catch (error) {
    for (const chart of charts) chart.firstElementChild.textContent = `Not drawn by this browser: ${error.message}`;
    return;
  }

  const checked = (name) => document.querySelector(`input[name="${name}"]:checked`)?.value;
  const shown = () => all('input[name="arm"]:checked').map((box) => book.arms[Number(box.value)]);

  const rows = (columns) => {
    const names = Object.keys(columns);
    const first = columns[names[0]] ?? [];
    return first.map((_, place) => Object.fromEntries(names.map((name) => [name, columns[name][place]])));
  };

  const specification = (chart) => {
    const key = chart.dataset.chart.replace("{x}", checked("x")).replace("{y}", checked("y"));
    if (!book.specs[key]) return null;
    const { tables, ...spec } = structuredClone(book.specs[key]);
    spec.datasets = Object.fromEntries(tables.map((name) => [name, rows(book.tables[name])]));
    for (const param of spec.params ?? []) if (param.name === "shown") param.value = shown();
    return spec;
  };

  const embed = (element, spec, theme) =>
    vegaEmbed(element, spec, {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      ast: true,
      config: theme,
      tooltip: { theme: mode() },
    });

  const draw = async (chart) => {
    if (!chart.clientWidth) return;
    chart.drawn?.finalize();
    chart.drawn = null;
    const spec = specification(chart);
    if (spec) chart.drawn = await embed(chart, spec, book.themes[mode()]);
    else chart.textContent = "Nothing to draw here.";
  };

  const save = async (chart) => {
    const spec = specification(chart);
    spec.width = Math.max(chart.clientWidth, 480);
    spec.title = chart.getAttribute("aria-label");
    if (!chart.dataset.chart.startsWith("sensitivity/")) {
      for (const layer of [spec, ...(spec.layer ?? [])]) delete layer.encoding?.color?.legend;
    }
    const drawn = await embed(document.createElement("div"), spec, { ...book.themes.light, background: "white" });
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([await drawn.view.toSVG()], { type: "image/svg+xml" }));
    link.download = `${chart.dataset.chart.replace(/[^\w]+/g, "-")}.svg`;
    link.click();
    URL.revokeObjectURL(link.href);
    drawn.finalize();
  };

  const switched = charts.filter((chart) => chart.dataset.switched !== undefined);
  let queue = Promise.resolve();
  const drawAll = (some) => {
    // One after the other, so that of two quick switches the last one is what stays.
    for (const chart of some) queue = queue.then(() => draw(chart));
    return queue;
  };

  for (const input of all(".controls input")) input.addEventListener("change", () => drawAll(switched));
  for (const details of all("details")) {
    details.addEventListener("toggle", () => details.open && drawAll(all("[data-chart]", details)));
  }
  for (const button of all("[data-save]")) {
    button.addEventListener("click", () => save(button.closest("figure").querySelector("[data-chart]")));
  }
  dark.addEventListener("change", () => drawAll(charts));
  await drawAll(charts);
})();
