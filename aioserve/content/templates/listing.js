"use strict";
(() => {
  // Without this script the list is read, sorted and paged by links and forms. It filters, sorts in place,
  // previews, and moves by keys.
  const list = document.getElementById("list");
  const body = list && list.tBodies ? list.tBodies[0] : null;
  if (!body) return;
  const rows = [...body.rows];
  const linkOf = (row) => row.cells[0].firstElementChild;
  const nameOf = (row) => linkOf(row).querySelector("bdi").textContent;

  // Dates in the time of the reader, as the page has them in UTC.
  const day = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
  for (const row of rows) {
    const time = row.cells[2].firstElementChild;
    const date = new Date(time.dateTime);
    if (isNaN(date)) continue;
    time.firstChild.data = day.format(date);
    time.lastChild.firstChild.data = " " + clock.format(date);
  }

  // Filter.
  const filter = document.getElementById("filter");
  const status = document.getElementById("status");
  const none = document.getElementById("none");
  const names = new Map(rows.map((row) => [row, nameOf(row).toLowerCase()]));
  const visible = () => [...body.rows].filter((row) => !row.hidden);
  const applyFilter = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const name = names.get(row);
      const fits = words.every((word) => name.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    list.hidden = !count;
    none.hidden = count > 0;
    status.textContent = words.length ? `${count} of ${rows.length} names` : `${rows.length} names`;
  };
  filter.addEventListener("input", applyFilter);
  filter.parentElement.hidden = false;
  if (filter.value) applyFilter();

  // Sort in place, where all of the folder is here. The same order as the server's.
  const keys = {
    name: (row) => nameOf(row).toLowerCase().replace(/[0-9]+/g, (digits) => digits.padStart(20, "0")),
    size: (row) => Number(row.cells[1].dataset.bytes || 0),
    date: (row) => row.cells[2].firstElementChild.dateTime,
  };
  const isFolder = (row) => linkOf(row).classList.contains("folder");
  const byName = "whole" in list.dataset ? sorted(rows, keys.name, false) : [];
  function sorted(items, key, descending) {
    const sign = descending ? -1 : 1;
    return items
      .map((row) => [isFolder(row), key(row), row])
      .sort((a, b) => b[0] - a[0] || sign * ((a[1] > b[1]) - (a[1] < b[1])))
      .map((item) => item[2]);
  }
  const sortBy = (button) => {
    const head = button.closest("th");
    const order = button.form.elements.order;
    const descending = order.value === "desc";
    for (const other of head.parentElement.cells) {
      const form = other.querySelector("form");
      other.setAttribute("aria-sort", "none");
      form.elements.order.value = other.className === "name" ? "asc" : "desc";
    }
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    order.value = descending ? "asc" : "desc";
    // Once for all, not once for each row.
    body.remove();
    body.append(...sorted(byName, keys[button.value], descending));
    list.append(body);
    status.textContent = `Sorted by ${button.textContent.toLowerCase()}, ${head.getAttribute("aria-sort")}`;
    const address = new URL(location.href);
    address.searchParams.set("order", descending ? "desc" : "asc");
    address.searchParams.set("sort", button.value);
    history.replaceState(null, "", address);
  };
  if ("whole" in list.dataset) {
    list.tHead.addEventListener("submit", (event) => {
      event.preventDefault();
      sortBy(event.submitter);
    });
  }

  // Preview.
  const dialog = document.getElementById("preview");
  const stage = document.getElementById("preview-stage");
  const title = document.getElementById("preview-name");
  const open = document.getElementById("preview-open");
  const before = document.getElementById("preview-before");
  const after = document.getElementById("preview-after");
  const TEXT_BYTES = 262144;
  let current = null;
  let loading = null;

  const say = (text) => {
    const line = document.createElement("p");
    line.textContent = text;
    stage.replaceChildren(line);
  };
  const showText = async (url) => {
    loading = new AbortController();
    const signal = loading.signal;
    say("Loading …");
    try {
      const answer = await fetch(url, { headers: { Range: `bytes=0-${TEXT_BYTES - 1}` }, signal });
      if (!answer.ok && answer.status !== 416) throw new Error(answer.status);
      const size = Number((answer.headers.get("Content-Range") || "").split("/")[1] || 0);
      const buffer = answer.status === 416 ? new ArrayBuffer(0) : await answer.arrayBuffer();
      const text = document.createElement("pre");
      text.tabIndex = 0;
      text.textContent = new TextDecoder().decode(buffer.slice(0, TEXT_BYTES));
      stage.replaceChildren(text);
      if (size > TEXT_BYTES || buffer.byteLength > TEXT_BYTES) {
        const line = document.createElement("p");
        line.textContent = "This is the beginning of a longer file.";
        stage.append(line);
      }
    } catch (error) {
      if (!signal.aborted) say("It could not be loaded.");
    }
  };
  const clear = () => {
    if (loading) loading.abort();
    loading = null;
    stage.replaceChildren();
  };
  const previewable = () => visible().filter((row) => linkOf(row).dataset.preview);
  const show = (row) => {
    clear();
    current = row;
    const link = linkOf(row);
    const kind = link.dataset.preview;
    title.textContent = nameOf(row);
    open.href = link.href;
    if (kind === "text") {
      showText(link.href);
    } else {
      const element = document.createElement(kind === "image" ? "img" : kind);
      element.addEventListener("error", () => say("It could not be shown."));
      if (kind === "image") element.alt = nameOf(row);
      else element.controls = true;
      element.src = link.href;
      stage.replaceChildren(element);
    }
    const all = previewable();
    before.disabled = all[0] === row;
    after.disabled = all[all.length - 1] === row;
    if (!dialog.open) {
      dialog.showModal();
      document.getElementById("preview-close").focus();
    }
  };
  const step = (by) => {
    const all = previewable();
    const row = all[all.indexOf(current) + by];
    if (row) show(row);
  };
  before.addEventListener("click", () => step(-1));
  after.addEventListener("click", () => step(1));
  document.getElementById("preview-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  dialog.addEventListener("close", () => {
    clear();
    if (current) linkOf(current).focus();
  });
  dialog.addEventListener("keydown", (event) => {
    if (event.target.closest("audio, video") || event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else return;
    event.preventDefault();
  });
  // A row gets its button when it is pointed at, or has the focus; where nothing points, all have one. Each costs
  // as much as the rest of its row.
  const icon = document.querySelector("#preview-close svg");
  const addButton = (row) => {
    if (!row || row.cells[0].children.length > 1 || !linkOf(row).dataset.preview) return;
    const button = document.createElement("button");
    const eye = icon.cloneNode(true);
    button.type = "button";
    button.setAttribute("aria-label", `Preview ${nameOf(row)}`);
    eye.firstElementChild.setAttribute("href", "#i-eye");
    button.append(eye);
    row.cells[0].append(button);
  };
  if (matchMedia("(hover: none)").matches) rows.forEach(addButton);
  for (const kind of ["pointerover", "focusin"]) {
    body.addEventListener(kind, (event) => addButton(event.target.closest("tr")));
  }
  body.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) show(button.closest("tr"));
  });

  // Keys.
  document.querySelector(".keys").hidden = false;
  const focusRow = (all, index) => {
    const row = all[Math.min(Math.max(index, 0), all.length - 1)];
    if (row) linkOf(row).focus();
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
    const target = event.target;
    if (target === filter) {
      if (event.key === "Escape") {
        if (filter.value) {
          filter.value = "";
          applyFilter();
        } else filter.blur();
      } else if (event.key === "ArrowDown") focusRow(visible(), 0);
      else if (event.key === "Enter" && filter.value) visible()[0] && linkOf(visible()[0]).click();
      else return;
      event.preventDefault();
      return;
    }
    const row = target.closest("tbody > tr");
    const inList = row && body.contains(row);
    if (event.key === "/") filter.focus();
    else if (event.key === "Escape" && filter.value) {
      filter.value = "";
      applyFilter();
    } else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      if (!inList && target !== document.body && target !== list) return;
      const all = visible();
      if (inList && event.key === "ArrowUp" && all[0] === row) filter.focus();
      else focusRow(all, inList ? all.indexOf(row) + (event.key === "ArrowDown" ? 1 : -1) : 0);
    } else if (inList && event.key === "Home") focusRow(visible(), 0);
    else if (inList && event.key === "End") focusRow(visible(), rows.length);
    else if (inList && event.key === " " && target === linkOf(row) && target.dataset.preview) show(row);
    else return;
    event.preventDefault();
  });
})();
