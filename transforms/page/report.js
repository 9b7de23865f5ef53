// The report and the review desk. No library, no build step; data come as scripts that call unfade.*, because a page
// that is opened from disk may load scripts but not fetch files. Text from files only ever becomes text nodes.
"use strict";

const unfade = (() => {
  const PAGE = 24;
  const CHOSEN = { accept: "accepted", reject: "rejected", input: "input is used", caption: "caption corrected" };
  const THEMES = ["", "light", "dark"];
  const SHOWN_BY_BROWSERS = /\.(jpe?g|png|webp|avif|gif|bmp)$/i;

  let about = null; // data/index.js
  let live = false; // whether a server takes decisions
  let turn = 0; // of drawing: what was asked for last is drawn, whatever arrives first
  let listed = { key: null, list: null };
  let overlays = { unsure: false, defects: false };
  let shortcuts = remembered("unfade:shortcuts") !== "off";
  const shards = new Map(), columns = new Map(), loads = new Map(), fields = new Map();
  const decisions = new Map(); // id -> { id, decision, caption }
  const captions = new Map(); // id -> corrected caption that this run has obeyed: to be looked at again
  const own = new Map(); // what was decided on this page and is in no file yet: id -> decision, or null if taken back

  // --- small helpers -------------------------------------------------------------------------------------------------

  const by = (id) => document.getElementById(id);

  function make(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties ?? {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name.startsWith("--")) element.style.setProperty(name, value);
      else element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
    return element;
  }

  function draw(tag, attributes, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function remembered(key) {
    try { return localStorage.getItem(key); } catch { return null; }
  }

  function remember(key, value) {
    try { localStorage.setItem(key, value); return true; } catch { return false; }
  }

  function problem(text) {
    by("problem").textContent = text;
    by("problem").hidden = !text;
  }

  function number(value) {
    if (value === null || value === undefined) return "";
    if (Number.isInteger(value)) return value.toLocaleString("en");
    const size = Math.abs(value);
    if (size < 0.001) return String(Number(value.toPrecision(1)));
    return value.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 1 ? 2 : 3);
  }

  const about2 = (value) => String(Number(value.toPrecision(2)));
  const percent = (share) => `${Math.round(100 * share)}%`;
  const plural = (count, one) => `${number(count)} ${one}${count === 1 ? "" : "s"}`;
  const folded = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();

  // --- data, loaded when asked for -----------------------------------------------------------------------------------

  function load(file) {
    if (!loads.has(file)) {
      loads.set(file, new Promise((resolve, reject) => {
        const script = make("script", { src: `data/${file}` });
        script.onload = () => { script.remove(); resolve(); };
        script.onerror = () => {
          loads.delete(file);
          script.remove();
          reject(new Error(`report/data/${file} cannot be loaded. Is the whole folder report/ here?`));
        };
        document.head.append(script);
      }));
    }
    return loads.get(file);
  }

  async function column(name) {
    const known = about.columns.find((one) => one.name === name);
    if (!known) return null;
    await load(known.file);
    return columns.get(name);
  }

  async function item(index) {
    const shard = Math.floor(index / about.shard);
    await load(`items-${String(shard).padStart(5, "0")}.js`);
    const values = shards.get(shard)[index % about.shard];
    const found = { index, failed: index >= about.restored };
    for (const [name, place] of fields) found[name] = values[place];
    return found;
  }

  async function indexOf(id) {
    const ids = await column("id");
    return ids ? ids.indexOf(id) : -1;
  }

  // --- the address: what is shown, so that it can be sent to somebody -------------------------------------------------

  function asked() {
    const given = new URLSearchParams(location.hash.replace(/^#/, ""));
    const view = { view: "pictures", q: "", sort: "", desc: "", result: "", decision: "", page: 1, id: "", is: {}, in: {} };
    for (const [key, value] of given) {
      if (key.startsWith("is.")) view.is[key.slice(3)] = value;
      else if (key.startsWith("in.")) {
        const ends = value.split("..").map((end) => (end === "" ? null : Number(end)));
        if (ends.length === 2 && !ends.some(Number.isNaN)) view.in[key.slice(3)] = ends;
      } else if (key === "page") view.page = Math.max(1, Math.trunc(Number(value)) || 1);
      else if (typeof view[key] === "string") view[key] = value;
    }
    if (!["pictures", "desk", "run"].includes(view.view)) view.view = "pictures";
    return view;
  }

  function address(view) {
    const given = new URLSearchParams({ view: view.view });
    for (const key of ["q", "sort", "desc", "result", "decision", "id"]) if (view[key]) given.set(key, view[key]);
    for (const [name, value] of Object.entries(view.is)) given.set(`is.${name}`, value);
    for (const [name, ends] of Object.entries(view.in)) given.set(`in.${name}`, ends.map((end) => end ?? "").join(".."));
    if (view.page > 1) given.set("page", view.page);
    return `#${given}`;
  }

  function go(change, replace = false) {
    const next = address({ ...asked(), ...change });
    if (next === location.hash) return show();
    if (!replace) { location.hash = next; return undefined; } // hashchange shows it
    history.replaceState(null, "", next);
    return show();
  }

  // --- which items, in which order -----------------------------------------------------------------------------------

  async function select(view) {
    const key = JSON.stringify([view.q, view.sort, view.desc, view.result, view.decision, view.is, view.in]);
    // A list by decision stays as it was while it is worked through, or it would slip away under the reviewer.
    if (listed.key === key) return listed.list;
    const tests = [];
    if (view.result === "restored") tests.push((i) => i < about.restored);
    if (view.result === "failed") tests.push((i) => i >= about.restored);
    const kinds = { ...view.is };
    if (view.result.includes("/")) kinds.error = view.result;
    for (const [name, value] of Object.entries(kinds)) {
      const codes = await column(name);
      const code = about.columns.find((one) => one.name === name)?.values?.indexOf(value) ?? -1;
      tests.push((i) => codes !== null && code >= 0 && codes[i] === code);
    }
    for (const [name, [low, high]] of Object.entries(view.in)) {
      const values = await column(name);
      tests.push((i) => {
        const value = values?.[i] ?? null;
        return value !== null && (low === null || value >= low) && (high === null || value <= high);
      });
    }
    if (view.decision) {
      const ids = decisions.size || view.decision !== "none" ? await column("id") : null;
      const wanted = view.decision === "none" ? undefined : view.decision;
      tests.push((i) => i < about.restored && (ids ? decisions.get(ids[i])?.decision : undefined) === wanted);
    }
    const words = folded(view.q).split(/\s+/).filter(Boolean);
    if (words.length) {
      const text = await searchable();
      tests.push((i) => words.every((word) => text[i].includes(word)));
    }
    let list = [];
    for (let i = 0; i < about.items; i++) if (tests.every((test) => test(i))) list.push(i);
    const values = view.sort ? await column(view.sort) : null;
    if (values) {
      const codes = about.columns.find((one) => one.name === view.sort).kind === "class"; // in the order of their names
      const sign = view.desc ? -1 : 1;
      const order = (a, b) => {
        const [x, y] = [values[a], values[b]].map((value) => (codes && value < 0 ? null : value ?? null));
        if (x === y) return a - b;
        if (x === null || y === null) return x === null ? 1 : -1; // without a value: last, whichever way round
        return x < y ? -sign : sign;
      };
      list.sort(order);
    } else if (view.desc) list.reverse();
    listed = { key, list };
    return list;
  }

  let searched = null;
  async function searchable() {
    if (!searched) {
      const [ids, captions] = [await column("id"), await column("caption")];
      searched = Array.from({ length: about.items }, (_, i) => folded(`${ids?.[i] ?? ""} ${captions?.[i] ?? ""}`));
    }
    return searched;
  }

  // --- before and after ----------------------------------------------------------------------------------------------

  function sources(one) {
    if (one.preview) {
      return { before: `${one.preview}-before.jpg`, after: `${one.preview}-after.jpg`, maps: one.preview };
    }
    const files = full(one);
    return files ? { ...files, maps: null } : null;
  }

  function full(one) {
    const before = original(one), after = one.output?.[1];
    const shown = SHOWN_BY_BROWSERS.test(one.uri?.[0] ?? "") && SHOWN_BY_BROWSERS.test(one.output?.[0] ?? "");
    return before && after && shown ? { before, after } : null;
  }

  function original(one) {
    return live && one.uri?.[1] ? `../original?id=${encodeURIComponent(one.id)}` : one.uri?.[1] ?? null;
  }

  function compare(one, lazy) {
    const files = one.failed ? null : sources(one);
    if (!files) {
      const why = one.failed
        ? [make("strong", {}, one.error), make("span", {}, one.message)]
        : [make("span", {}, "No preview was written, and browsers do not show these files.")];
      return make("div", { class: "compare" }, make("p", { class: "nothing" }, why));
    }
    const loading = lazy ? "lazy" : "eager";
    const picture = (kind, src, alt) => make("img", { class: kind, src, alt, loading, decoding: "async", draggable: "false",
      onerror: (event) => event.target.replaceWith(missing(kind)) });
    const box = make("div", { class: "compare" },
      picture("before", files.before, `${one.id}, before`),
      picture("after", files.after, `${one.id}, after`));
    if (!lazy && files.maps) {
      for (const kind of ["unsure", "defects"]) {
        box.append(make("img", { class: `overlay ${kind}`, src: `${files.maps}-${kind}.png`, alt: "", hidden: !overlays[kind],
          onerror: (event) => { event.target.remove(); tools(one); } }));
      }
    }
    const slider = make("input", { type: "range", min: "0", max: "100", value: "50",
      "aria-label": `Before and after: ${one.id}` });
    const move = () => {
      box.style.setProperty("--at", `${slider.value}%`);
      slider.setAttribute("aria-valuetext", `${slider.value}% before, ${100 - slider.value}% after`);
    };
    slider.addEventListener("input", move);
    move();
    box.append(make("div", { class: "handle", "aria-hidden": "true" }),
      make("span", { class: "side left", "aria-hidden": "true" }, "before"),
      make("span", { class: "side right", "aria-hidden": "true" }, "after"), slider);
    return box;
  }

  function missing(kind) {
    return make("p", { class: `nothing ${kind}` }, `${kind}: the picture is not where the report expects it`);
  }

  // --- the pictures --------------------------------------------------------------------------------------------------

  function tag(kind, text) {
    return make("span", { class: `tag ${kind}` }, text);
  }

  function bar(share) {
    return make("span", { class: "bar", "aria-hidden": "true" }, make("span", { "--share": percent(share) }));
  }

  function card(one, view) {
    const decision = decisions.get(one.id);
    const marks = [
      decision && tag("decided", CHOSEN[decision.decision]),
      one.failed && tag("failed", one.retryable ? "failed, may succeed later" : "failed"),
      one.colour_class && tag(one.colour_class, `colours ${one.colour_class}`),
      one.damage && tag("", one.damage),
    ];
    const sure = one.confidence !== null && one.confidence !== undefined
      && make("p", { class: "sure" }, bar(one.confidence), `confidence ${one.confidence.toFixed(2)}`);
    return make("li", { class: "card" }, compare(one, true),
      make("div", { class: "about" },
        make("h3", {}, make("a", { href: address({ ...view, view: "desk", id: one.id, page: 1 }) }, one.id)),
        make("p", { class: "caption", dir: "auto" }, decision?.caption || one.caption || "no caption"),
        make("div", { class: "tags" }, marks), sure));
  }

  async function showPictures(view, mine) {
    fill(view);
    const cards = by("cards");
    cards.setAttribute("aria-busy", "true");
    const list = await select(view);
    const pages = Math.max(1, Math.ceil(list.length / PAGE));
    const page = Math.min(view.page, pages);
    const items = await Promise.all(list.slice((page - 1) * PAGE, page * PAGE).map(item));
    if (mine !== turn) return;
    cards.replaceChildren(...items.map((one) => card(one, view)));
    cards.removeAttribute("aria-busy");
    const all = list.length === about.items;
    by("found").textContent = all ? plural(list.length, "picture") : `${number(list.length)} of ${plural(about.items, "picture")}`;
    chips(view);
    pager(view, page, pages);
  }

  function pager(view, page, pages) {
    const wanted = [...new Set([1, page - 2, page - 1, page, page + 1, page + 2, pages])].filter((n) => n >= 1 && n <= pages);
    const links = [];
    wanted.forEach((n, i) => {
      if (i && n - wanted[i - 1] > 1) links.push(make("span", { "aria-hidden": "true" }, "…"));
      links.push(make("a", { href: address({ ...view, page: n }), "aria-current": n === page && "page",
        "aria-label": `Page ${n}` }, number(n)));
    });
    by("pages").replaceChildren(...(pages > 1 ? links : []));
  }

  // --- filters -------------------------------------------------------------------------------------------------------

  const label = (one) => (["before", "after"].includes(one.group) || one.group.includes("target")
    ? `${one.label}, ${one.group.replace(", against the target", "")}` : one.label);

  function numbers() {
    const groups = new Map();
    for (const one of about.columns) {
      if (one.kind === "number") groups.set(one.group, [...(groups.get(one.group) ?? []), one]);
    }
    const first = ["the model says", "after, against the target"];
    return [...groups].sort(([a], [b]) => first.indexOf(b) - first.indexOf(a));
  }

  function choices(blank) {
    return [...(blank ? [make("option", { value: "" }, blank)] : []), ...numbers().map(([group, some]) =>
      make("optgroup", { label: group }, some.map((one) => make("option", { value: one.name }, label(one)))))];
  }

  function prepare() {
    const named = about.columns.filter((one) => one.kind === "class" || one.name === "id");
    by("sort").append(...choices("least sure first"),
      make("optgroup", { label: "alphabetically" }, named.map((one) => make("option", { value: one.name }, one.label))));
    by("range-name").append(...choices(""));
    by("decision").append(...[["", "any"], ["none", "undecided"], ...Object.entries(CHOSEN)].map(([value, text]) =>
      make("option", { value }, text)));
    const errors = about.columns.find((one) => one.name === "error");
    by("result").append(...[["", "any"], ["restored", `restored (${number(about.restored)})`],
      ["failed", `failed (${number(about.items - about.restored)})`]].map(([value, text]) => make("option", { value }, text)),
    ...(errors?.values ?? []).map((kind, i) => make("option", { value: kind }, `${kind} (${number(errors.counts[i])})`)));
    const fixed = new Set(["colour_class", "damage", "error"]);
    for (const one of about.columns) {
      if (one.kind !== "class") continue;
      let choice = document.querySelector(`select[data-class="${CSS.escape(one.name)}"]`);
      if (!choice && !fixed.has(one.name)) {
        choice = make("select", { "data-class": one.name });
        by("classes").append(make("label", {}, one.label, choice));
      }
      choice?.append(make("option", { value: "" }, "any"), ...one.values.map((value, i) =>
        make("option", { value }, `${value || "(empty)"} (${number(one.counts[i])})`)));
    }
    for (const choice of document.querySelectorAll("select[data-class]")) {
      choice.closest("label").hidden = !choice.options.length;
      choice.addEventListener("change", () => {
        const is = { ...asked().is };
        if (choice.value) is[choice.dataset.class] = choice.value; else delete is[choice.dataset.class];
        go({ is, page: 1 });
      });
    }
    by("classes").hidden = !by("classes").querySelector("select");
    for (const [id, name] of [["sort", "sort"], ["order", "desc"], ["result", "result"], ["decision", "decision"]]) {
      by(id).addEventListener("change", () => go({ [name]: by(id).value, page: 1 }));
    }
    let typing;
    by("search").addEventListener("input", () => {
      clearTimeout(typing);
      typing = setTimeout(() => go({ q: by("search").value, page: 1 }, true), 200);
    });
    by("filters").addEventListener("submit", (event) => event.preventDefault());
    const explain = () => {
      const one = about.columns.find((known) => known.name === by("range-name").value);
      by("range-help").textContent = one ? `${one.help ? `${one.help}; ` : ""}here ${number(one.low)} to ${number(one.high)}` : "";
    };
    by("range-name").addEventListener("change", explain);
    explain();
    by("range-add").addEventListener("click", () => {
      const ends = ["range-low", "range-high"].map((id) => by(id).value.trim().replace(",", "."));
      if (ends.every((end) => end === "") || ends.some((end) => end !== "" && Number.isNaN(Number(end)))) {
        by("range-help").textContent = "Give a number in one field or both.";
        by("range-low").focus();
        return;
      }
      go({ in: { ...asked().in, [by("range-name").value]: ends.map((end) => (end === "" ? null : Number(end))) }, page: 1 });
      by("range-low").value = by("range-high").value = "";
    });
    by("theme").addEventListener("click", () => {
      remember("unfade:theme", THEMES[(THEMES.indexOf(remembered("unfade:theme") ?? "") + 1) % THEMES.length]);
      theme();
    });
    by("more").addEventListener("click", () => {
      by("more").setAttribute("aria-expanded", String(by("filters").classList.toggle("open")));
    });
    by("download").addEventListener("click", download);
  }

  function theme() {
    const chosen = remembered("unfade:theme") ?? "";
    document.documentElement.dataset.theme = chosen;
    by("theme").textContent = `Theme: ${chosen || "automatic"}`;
  }

  /** The controls, as the address says. */
  function fill(view) {
    if (document.activeElement !== by("search")) by("search").value = view.q;
    by("sort").value = view.sort;
    by("order").value = view.desc;
    by("result").value = view.result;
    by("decision").value = view.decision;
    for (const choice of document.querySelectorAll("select[data-class]")) choice.value = view.is[choice.dataset.class] ?? "";
  }

  function chips(view) {
    const found = [];
    const add = (text, change) => found.push(make("li", {},
      make("button", { type: "button", "aria-label": `Remove the filter ${text}`, onclick: () => go({ ...change, page: 1 }) }, `${text} ×`)));
    const without = (all, name) => Object.fromEntries(Object.entries(all).filter(([key]) => key !== name));
    const named = (name) => { const one = about.columns.find((known) => known.name === name); return one ? label(one) : name; };
    if (view.q) add(`“${view.q}”`, { q: "" });
    for (const [name, value] of Object.entries(view.is)) add(`${named(name)}: ${value}`, { is: without(view.is, name) });
    for (const [name, [low, high]] of Object.entries(view.in)) {
      const text = low === null ? `at most ${high}` : high === null ? `at least ${low}` : `${low} to ${high}`;
      add(`${named(name)}: ${text}`, { in: without(view.in, name) });
    }
    if (view.result) add(view.result, { result: "" });
    if (view.decision) add(view.decision === "none" ? "undecided" : CHOSEN[view.decision] ?? view.decision, { decision: "" });
    by("chips").replaceChildren(...found);
  }

  // --- the desk: one picture, and what is decided about it -------------------------------------------------------------

  let current = null; // { one, list, place, view }

  async function showDesk(view, mine) {
    const list = await select(view);
    let index = view.id ? await indexOf(view.id) : list.find((i) => i < about.restored) ?? -1;
    if (mine !== turn) return;
    if (index < 0) {
      current = null;
      by("desk").replaceChildren(make("div", { class: "deskhead" }, make("h2", { tabindex: "-1" },
        view.id ? `There is no picture ${view.id} in this run` : "Nothing is left to review here"),
      make("p", {}, make("a", { href: "#view=pictures" }, "All pictures"))));
      return;
    }
    const one = await item(index);
    if (mine !== turn) return;
    const place = list.indexOf(index);
    current = { one, list, place, view };
    const next = await neighbour(1), last = await neighbour(-1);
    if (mine !== turn) return;
    Object.assign(current, { next, last });
    const step = (text, id, key) => make("a", { href: id === null ? null : address({ ...view, id }), role: id === null ? "link" : null,
      "aria-disabled": id === null && "true", "aria-keyshortcuts": key }, text);
    const back = address({ ...view, view: "pictures", id: "", page: place < 0 ? 1 : Math.floor(place / PAGE) + 1 });
    const head = make("div", { class: "deskhead" },
      make("h2", { tabindex: "-1" }, one.id),
      make("p", { class: "quiet" }, place < 0 ? "" : `${number(place + 1)} of ${number(list.length)}${view.sort || view.desc ? "" : ", least sure first"}`),
      make("nav", { "aria-label": "Neighbours" }, step("‹ Previous", last, "K"), step("Next ›", next, "J"),
        make("a", { href: back }, "All pictures")));
    const viewer = make("div", { class: "viewer" }, compare(one, false));
    const stage = make("div", { class: "stage" }, viewer, make("div", { class: "tools", id: "tools" }));
    by("desk").replaceChildren(head, stage, facts(one));
    fit(viewer);
    tools(one);
  }

  async function neighbour(step) {
    const { list, place } = current;
    const index = place < 0 ? undefined : list[place + step];
    return index === undefined ? null : (await item(index)).id;
  }

  function fit(viewer) {
    const after = viewer.querySelector("img.after");
    const set = () => {
      if (after.naturalWidth) viewer.style.setProperty("--ratio", after.naturalWidth / after.naturalHeight);
      viewer.style.setProperty("--actual", `${after.naturalWidth}px`);
    };
    after?.addEventListener("load", set);
    if (after?.complete) set();
  }

  function tools(one) {
    const place = by("tools"), viewer = document.querySelector(".viewer");
    if (!place || !viewer) return;
    const check = (text, on, change, swatch) => make("label", {}, make("input", { type: "checkbox", checked: on, onchange: change }),
      swatch && make("span", { class: `swatch ${swatch}` }), text);
    const overlay = (kind, text) => viewer.querySelector(`.overlay.${kind}`) && check(text, overlays[kind], (event) => {
      overlays[kind] = event.target.checked;
      viewer.querySelector(`.overlay.${kind}`).hidden = !overlays[kind];
    }, kind);
    const files = one.failed ? null : full(one);
    const actual = files && check("full files, 1 : 1", viewer.classList.contains("actual"), (event) => {
      const on = event.target.checked, small = sources(one);
      viewer.classList.toggle("actual", on);
      for (const kind of ["before", "after"]) {
        const image = viewer.querySelector(`img.${kind}`);
        if (image) image.src = on ? files[kind] : small[kind];
      }
    });
    const [from, to] = about.unsure;
    place.replaceChildren(...[
      overlay("unsure", `where the model is unsure (expected error ${from} to ${to})`), overlay("defects", "scratches and dust found"), actual,
      make("label", {}, make("input", { type: "checkbox", checked: shortcuts, onchange: (event) => {
        shortcuts = event.target.checked;
        remember("unfade:shortcuts", shortcuts ? "on" : "off");
      } }), "keys A, R, I, C, J, K"),
    ].filter(Boolean));
  }

  function facts(one) {
    const decision = decisions.get(one.id);
    const parts = [make("p", { class: "words", dir: "auto" }, decision?.caption || one.caption || (one.failed ? one.message : "No caption."))];
    if (decision?.caption && one.caption) parts.push(make("p", { class: "quiet" }, "Caption before: ", make("span", { dir: "auto" }, one.caption)));
    if (one.failed) parts.push(make("p", {}, tag("failed", one.error), one.retryable ? " The same run may succeed later." : ""));
    else parts.push(verdict(one, decision));
    if (one.confidence !== null && one.confidence !== undefined) parts.push(certainty(one));
    if (one.damage) {
      const kinds = about.columns.filter((column) => column.group === "damage");
      parts.push(part("What the print looks like", make("table", {}, make("tbody", {}, kinds.map((kind) => make("tr", {},
        make("th", { scope: "row" }, kind.label), make("td", { class: "n" }, bar(one[kind.name] ?? 0), make("span", { class: "share" }, percent(one[kind.name] ?? 0)))))))));
    }
    const quality = measures("before_", "after_", one), truth = measures("input_", "", one);
    if (quality) parts.push(part("Measured", quality));
    if (truth) parts.push(part("Against the original", truth));
    parts.push(part("Files", files(one)));
    const carried = about.columns.length ? [...fields.keys()].filter((name) => group(name) === "catalogue" && one[name]) : [];
    if (carried.length) {
      parts.push(part("From the catalogue", make("table", {}, make("tbody", {}, carried.map((name) => make("tr", {},
        make("th", { scope: "row" }, name), make("td", { dir: "auto" }, String(one[name]))))))));
    }
    return make("div", { class: "facts" }, parts);
  }

  const OURS = new Set(["id", "uri", "output", "preview", "notes", "message", "caption", "identical"]);
  function group(name) {
    if (OURS.has(name)) return "file";
    return about.columns.find((column) => column.name === name)?.group ?? (about.own.includes(name) ? "file" : "catalogue");
  }

  function part(title, ...content) {
    return make("section", {}, make("h3", {}, title), content);
  }

  function certainty(one) {
    const interval = one.error_low === null ? "" : ` (8 in 10 such pictures: ${about2(one.error_low)} to ${about2(one.error_high)})`;
    const shares = ["measured", "amplified", "invented"].map((kind) => [kind, one[`colour_${kind}`] ?? 0]);
    const words = { measured: "was in the scan", amplified: "was amplified from traces", invented: "comes from caption and training alone" };
    return part("How sure",
      make("p", {}, `Confidence ${one.confidence.toFixed(2)}: the model expects colours to be off by ${about2(one.expected_error)} CIEDE2000${interval}.`),
      one.fallback > 0.01 && make("p", { class: "quiet" }, `Drawn back to the input by ${percent(one.fallback)}, because no gain was expected.`),
      one.colour_class && [
        make("div", { class: "shares", "aria-hidden": "true" }, shares.map(([kind, share]) => make("span", { class: kind, "--share": percent(share) }))),
        make("ul", {}, shares.map(([kind, share]) => make("li", {}, tag(kind, kind), ` ${percent(share)} of the colour ${words[kind]}`))),
      ]);
  }

  function measures(before, after, one) {
    const names = about.columns.filter((column) => column.name.startsWith(before)).map((column) => column.name.slice(before.length));
    const rows = names.filter((name) => (one[before + name] ?? null) !== null || (one[after + name] ?? null) !== null).map((name) => {
      const known = about.columns.find((column) => column.name === before + name);
      return make("tr", {}, make("th", { scope: "row", title: known.help }, known.label),
        make("td", { class: "n" }, number(one[before + name])), make("td", { class: "n" }, number(one[after + name])));
    });
    return rows.length ? make("table", {}, make("thead", {}, make("tr", {}, make("td", {}),
      make("th", { scope: "col", class: "n" }, "before"), make("th", { scope: "col", class: "n" }, "after"))), make("tbody", {}, rows)) : null;
  }

  function files(one) {
    const link = (text, href, name) => (href ? make("a", { href, target: "_blank", rel: "noopener noreferrer" }, text) : make("span", { class: "quiet" }, `${text}: ${name}`));
    const said = one.failed ? [] : [
      `${number(one.width)} × ${number(one.height)} px, ${one.bits_in ?? one.bits} bits, ${one.format}`
        + (one.output_format !== one.format ? `, written as ${one.output_format}` : ""),
    ];
    return [make("p", { class: "links" }, link("input file", original(one), one.uri?.[0] ?? ""), one.output && link("restored file", one.output[1], one.output[0])),
      make("p", { class: "quiet" }, said), one.notes && make("p", { class: "quiet" }, one.notes)];
  }

  function verdict(one, decision) {
    const choose = (kind, text, key) => make("button", { type: "button", "aria-pressed": String(decision?.decision === kind),
      "aria-keyshortcuts": key, "data-decision": kind, onclick: () => decide(one, kind) }, text, make("kbd", { "aria-hidden": "true" }, key));
    const words = make("textarea", { id: "correction", dir: "auto", rows: "4" });
    words.value = decision?.caption || one.caption || "";
    const correct = make("div", { class: "correct", hidden: decision?.decision !== "caption" }, make("label", {}, "The right caption", words),
      make("button", { type: "button", class: "main", id: "correct", onclick: () => decide(one, "caption", words.value.trim()) }, "Save, restore anew with it"));
    const open = make("button", { type: "button", id: "open-correction", "aria-keyshortcuts": "C", "aria-pressed": String(decision?.decision === "caption"),
      onclick: () => { correct.hidden = false; words.focus(); } }, "Correct caption", make("kbd", { "aria-hidden": "true" }, "C"));
    return make("section", { class: "verdict", "aria-label": "Decision" },
      make("div", { class: "buttons" }, choose("accept", "Accept", "A"), choose("reject", "Reject", "R"),
        choose("input", "Use the input", "I"), open), correct);
  }

  async function decide(one, kind, corrected = "") {
    const caption = corrected || decisions.get(one.id)?.caption || captions.get(one.id) || "";
    const before = decisions.get(one.id);
    if (kind === "caption" && (!corrected || corrected === (one.caption ?? ""))) {
      problem(corrected ? "The caption is the same as before." : "A caption needs some words.");
      return;
    }
    const undone = before?.decision === kind && (before.caption ?? "") === caption;
    const record = undone ? null : { id: one.id, decision: kind, ...(caption ? { caption } : {}) };
    if (record) decisions.set(one.id, record); else decisions.delete(one.id);
    problem("");
    await save(one.id, record);
    const { view, next } = current ?? {};
    if (!undone && view?.decision === "none" && next !== null) go({ id: next });
    else { if (view?.decision !== "none") listed.key = null; show(); }
  }

  // --- keeping decisions -----------------------------------------------------------------------------------------------

  const kept = () => `unfade:decisions:${location.pathname}`;

  async function save(id, record) {
    if (live) {
      try {
        const answer = await fetch("../decisions", { method: "POST", headers: { "Content-Type": "application/json" },
          body: JSON.stringify(record ?? { id, decision: null }) });
        if (!answer.ok) throw new Error(await answer.text());
        saved();
        return;
      } catch (error) {
        problem(`The decision could not be written (${error.message}). Is unfade review still running? Decisions can be downloaded below.`);
        by("download").hidden = false;
      }
    }
    own.set(id, record);
    if (!remember(kept(), JSON.stringify([...own])) && !live) {
      problem("This browser keeps nothing for this page: download the decisions before you close it.");
    }
    saved();
  }

  function saved() {
    const count = decisions.size, rest = Math.max(0, about.restored - count);  // some may be about pictures of another run
    by("download").hidden = live ? by("download").hidden : !count;
    by("saved").textContent = count ? `${plural(count, "picture")} decided, ${number(rest)} to go. ${live ? "Written to decisions.jsonl."
      : own.size ? "Kept in this browser; download them for unfade restore --decisions." : ""}` : "";
  }

  function download() {
    // What was obeyed stays in the file: without it, the next run would take the catalogue's caption again.
    const obeyed = [...captions].filter(([id]) => !decisions.has(id)).map(([id, caption]) => ({ id, decision: "caption", caption }));
    const text = [...obeyed, ...decisions.values()].map((record) => `${JSON.stringify(record)}\n`).join("");
    const url = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
    make("a", { href: url, download: "decisions.jsonl" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }

  // --- the run -------------------------------------------------------------------------------------------------------

  function showRun() {
    const { summary } = about, counts = summary.counts ?? {};
    const tile = (value, text) => value !== null && value !== undefined && make("div", { class: "tile" }, make("strong", {}, value), make("span", {}, text));
    const against = (summary.quality?.after ?? {}).ciede2000;
    const tiles = make("div", { class: "tiles" }, tile(number(counts.restored), "restored"), counts.skipped > 0 && tile(number(counts.skipped), "skipped"),
      tile(number(counts.failed), "failed"), summary.confidence !== null && summary.confidence !== undefined && tile(summary.confidence.toFixed(2), "mean confidence"),
      against !== undefined && tile(`${number(summary.quality.before.ciede2000)} → ${number(against)}`, `CIEDE2000 to the original, ${plural(summary.with_target, "picture")}`),
      tile(number(summary.pictures_per_second), "pictures a second"), tile(duration(summary.seconds), "in all"));
    const parts = [make("div", {}, make("h2", { id: "run-title", tabindex: "-1" }, "The run"), tiles)];
    if (about.histograms.length) {
      parts.push(make("div", {}, make("h3", {}, "Distributions before and after"),
        make("p", { class: "key" }, make("span", {}, make("i", { class: "before" }), "before"), make("span", {}, make("i", { class: "after" }), "after")),
        make("div", { class: "plots" }, about.histograms.map(histogram))));
    }
    if (about.timeline) parts.push(make("div", {}, make("h3", {}, "Throughput"), make("div", { class: "plots" }, throughput(about.timeline))));
    const kinds = (name, title) => about.counts[name]?.length > 0 && make("div", {}, make("h3", {}, title),
      tally(about.counts[name].map(([kind, count]) => [kind, count, address({ ...fresh(), is: { [name]: kind } })])));
    const failed = about.errors.length > 0 && make("div", {}, make("h3", {}, "Errors by class"),
      tally(about.errors.map((error) => [error.kind, error.count, address({ ...fresh(), result: error.kind }), error.examples[0].message])));
    parts.push(make("div", { class: "split" }, kinds("colour_class", "Colours are mostly"), kinds("damage", "Prints look"), failed));
    const listed = (title, values) => make("div", {}, make("h3", {}, title), make("table", {}, make("tbody", {}, Object.entries(values ?? {})
      .filter(([, value]) => value !== null && value !== false).map(([name, value]) => make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, String(value)))))));
    parts.push(make("div", { class: "split" }, listed("Options", summary.options), listed("Versions", { ...summary.versions, model_sha256: summary.model_sha256 })));
    by("run").replaceChildren(...parts);
  }

  const fresh = () => ({ view: "pictures", q: "", sort: "", desc: "", result: "", decision: "", page: 1, id: "", is: {}, in: {} });

  function duration(seconds) {
    if (seconds === undefined) return null;
    if (seconds < 120) return `${Math.round(seconds)} s`;
    return seconds < 7200 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
  }

  function tally(rows) {
    const most = Math.max(...rows.map(([, count]) => count));
    return make("table", {}, make("tbody", {}, rows.map(([kind, count, href, example]) => make("tr", {},
      make("th", { scope: "row" }, make("a", { href }, kind), example && make("div", { class: "quiet" }, example)),
      make("td", { class: "n" }, bar(count / most), number(count))))));
  }

  // Plots are stretched to their place; what is written stands outside, where it is not stretched.
  const WIDTH = 300, HEIGHT = 100;

  function plot(wide, says, legend, ends, ...shapes) {
    return make("figure", { class: wide ? "plot wide" : "plot" }, make("figcaption", {}, legend),
      draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": says }, ...shapes,
        draw("path", { class: "axis", d: `M0,${HEIGHT}H${WIDTH}` })),
      make("div", { class: "ends", "aria-hidden": "true" }, ends.map((end) => make("span", {}, end))));
  }

  function histogram(one) {
    const bins = one.after.length, top = Math.max(...one.after, ...(one.before ?? []));
    const x = (i) => (WIDTH * i) / bins, y = (count) => HEIGHT - (HEIGHT * count) / top;
    const steps = (counts) => `M0,${HEIGHT}${counts.map((count, i) => `V${y(count)}H${x(i + 1)}`).join("")}V${HEIGHT}`;
    const [before, after] = one.medians;
    const median = before === null ? `median ${number(after)}` : `median ${number(before)} → ${number(after)}`;
    return plot(false, `Distribution of ${one.label}: ${median}`,
      [make("strong", {}, one.label), make("span", { class: "median" }, median), make("p", { class: "quiet" }, one.help ?? "")],
      [number(one.low), number(one.high)],
      ...(one.before ? [draw("path", { class: "before", d: steps(one.before) })] : []), draw("path", { class: "after", d: steps(one.after) }));
  }

  function throughput({ rates, seconds }) {
    const top = Math.max(...rates), total = duration(seconds * rates.length);
    const steps = rates.map((rate, i) => `V${HEIGHT - (HEIGHT * rate) / top}H${(WIDTH * (i + 1)) / rates.length}`).join("");
    return plot(true, `Pictures a second over ${total}: at most ${number(top)}`,
      [make("strong", {}, "Pictures a second"), make("span", { class: "median" }, `at most ${number(top)}`)], ["0", total],
      draw("path", { class: "area", d: `M0,${HEIGHT}${steps}V${HEIGHT}` }), draw("path", { class: "after", d: `M0,${HEIGHT}${steps}V${HEIGHT}` }));
  }

  // --- showing what the address asks for -------------------------------------------------------------------------------

  let shownView = null;

  async function show() {
    const mine = ++turn, view = asked();
    for (const name of ["pictures", "desk", "run"]) by(name).hidden = name !== view.view;
    for (const link of document.querySelectorAll("[data-view]")) {
      // A picture that is looked at among all others belongs to them; the review is of those not decided yet.
      if (link.dataset.view === (view.view === "desk" && view.decision !== "none" ? "pictures" : view.view)) link.setAttribute("aria-current", "page"); else link.removeAttribute("aria-current");
    }
    document.title = `${view.view === "desk" && view.id ? view.id : about.name} – unfade report`;
    try {
      if (view.view === "pictures") await showPictures(view, mine);
      else if (view.view === "desk") await showDesk(view, mine);
      else showRun();
    } catch (error) {
      problem(error.message);
    }
    if (mine !== turn) return;
    // A new view, or the next picture: readers start at its title, and at the top. Not on the first, nor while filtering.
    const place = `${view.view} ${view.view === "desk" ? current?.one.id : view.view === "pictures" ? view.page : ""}`;
    if (shownView !== null && shownView !== place) {
      window.scrollTo(0, 0);
      (view.view === "pictures" ? by("main") : by(view.view).querySelector("h2"))?.focus({ preventScroll: true });
    }
    shownView = place;
  }

  addEventListener("hashchange", () => { if (asked().view !== "desk" || !asked().id) listed.key = null; problem(""); show(); });
  addEventListener("keydown", (event) => {
    if (!shortcuts || !current || by("desk").hidden || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("textarea, select, input:not([type=range], [type=checkbox])")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const { one, next, last } = current;
    const key = event.key.toLowerCase();  // Caps Lock is no reason to do nothing
    const act = { a: "accept", r: "reject", i: "input" }[key];
    if (act && !one.failed) decide(one, act);
    else if (key === "c" && !one.failed) { by("open-correction")?.click(); event.preventDefault(); }
    else if (key === "j" && next !== null) go({ id: next });
    else if (key === "k" && last !== null) go({ id: last });
  });

  return {
    /** data/index.js: all that is needed to start. */
    start(index) {
      about = index;
      index.fields.forEach((name, place) => fields.set(name, place));
      by("name").textContent = index.name;
      prepare();
      theme();
      show();
    },
    items(shard, rows) { shards.set(shard, rows); },
    column(name, values) { columns.set(name, values); },
    /** data/decisions.js: what was decided before; `taken`: whether a server takes more. */
    decided(records, taken) {
      live = taken;
      const written = new Map();
      for (const { obeyed, ...record } of records) {
        written.set(record.id, record);
        if (obeyed) captions.set(record.id, record.caption); else decisions.set(record.id, record);
      }
      const same = (one, other) => one?.decision === other?.decision && (one?.caption ?? "") === (other?.caption ?? "");
      try {
        for (const [id, record] of JSON.parse((live ? null : remembered(kept())) ?? "[]")) {
          if (same(record, written.get(id))) continue; // a run has been told since, and its report is this one
          own.set(id, record);
          if (record) decisions.set(id, record); else decisions.delete(id);
        }
        if (!live && remembered(kept())) remember(kept(), JSON.stringify([...own]));
      } catch { /* what is kept there is not ours */ }
      saved();
      listed.key = null;
      show();
    },
  };
})();
