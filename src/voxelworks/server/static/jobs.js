// The list of jobs and the page of a job beside what all pages do: selecting rows, filters in the address, keys, a
// notification at the end of a job, and the state of the job in the icon of its tab.
"use strict";

(() => {
  // A form that leads to the page of a job brings the script once more into the same document.
  if (document.documentElement.dataset.jobsScript) return;
  document.documentElement.dataset.jobsScript = "1";

  const BASE = document.documentElement.dataset.base; // Path of a proxy below which the server is found; mostly empty.
  const part = (id) => document.getElementById(id);

  // Filters: what is empty stays out of the address, and days begin where the reader is.

  document.addEventListener("submit", (event) => {
    if (event.target.id !== "filters") return;
    const fields = [...event.target.elements].filter((field) => field.name);
    const hasDays = fields.some((field) => ["period", "since", "until"].includes(field.name) && field.value);
    part("zone").value = hasDays ? Intl.DateTimeFormat().resolvedOptions().timeZone || "" : "";
    const empty = fields.filter((field) => !field.value);
    for (const field of empty) field.disabled = true;
    // For whoever comes back to this page.
    setTimeout(() => { for (const field of empty) field.disabled = false; }, 500);
  });

  // Selected rows: remembered while the stream of the list renders them anew.

  const selected = new Set();
  const boxes = () => [...document.querySelectorAll(".select input")];

  function showSelection() {
    if (!part("bulk")) return;
    const all = part("select-all").checked;
    const shown = boxes();
    const here = new Set(shown.map((box) => box.value));
    for (const id of selected) if (!here.has(id)) selected.delete(id);
    for (const box of shown) box.checked = all || selected.has(box.value);
    part("select-page").checked = all || (shown.length > 0 && shown.every((box) => box.checked));
    const none = !all && selected.size === 0;
    for (const id of ["bulk-cancel", "bulk-retry"]) part(id).disabled = none;
    const text = all ? "All that match are selected" : none ? "" : `${selected.size} selected`;
    if (part("bulk-count").textContent !== text) part("bulk-count").textContent = text;
  }

  document.addEventListener("change", (event) => {
    const { target } = event;
    if (target.matches(".select input")) {
      // One that is taken out of all leaves the others of this page.
      if (part("select-all").checked) for (const box of boxes()) selected.add(box.value);
      part("select-all").checked = false;
      selected[target.checked ? "add" : "delete"](target.value);
    } else if (target.id === "select-page") {
      part("select-all").checked = false;
      for (const box of boxes()) selected[target.checked ? "add" : "delete"](box.value);
    } else if (target.id === "select-all") {
      if (!target.checked) selected.clear();
    } else {
      return;
    }
    showSelection();
  });

  document.addEventListener("submit", (event) => {
    // With all that match, the ticks of this page say nothing more.
    if (event.target.id !== "bulk" || !part("select-all").checked) return;
    const shown = boxes();
    for (const box of shown) box.disabled = true;
    setTimeout(() => { for (const box of shown) box.disabled = false; }, 500);
  });

  // Keys of the list: x selects the row that has the focus, c and r ask for the selected ones, or for that row alone.

  function focusedBox() {
    const row = document.activeElement && document.activeElement.closest(".jobs tbody tr");
    return row && row.querySelector(".select input");
  }

  function act(id) {
    if (!selected.size && !part("select-all").checked && focusedBox()) {
      selected.add(focusedBox().value);
      showSelection();
    }
    if (!part(id).disabled) part(id).click();
  }

  document.addEventListener("voxelworks:key", (event) => {
    if (!part("bulk")) return;
    if (event.detail === "x" && focusedBox()) focusedBox().click();
    else if (event.detail === "c") act("bulk-cancel");
    else if (event.detail === "r") act("bulk-retry");
  });

  // The state of a job in the icon of its tab, and a notification when it has ended: asked for by a click alone, and
  // shown only while nobody sees the page.

  const WATCHED = "voxelworks-watched";
  let lastState = null;

  const watched = () => new Set(JSON.parse(localStorage.getItem(WATCHED) || "[]"));

  function watch(id, isOn) {
    const ids = watched();
    ids[isOn ? "add" : "delete"](id);
    localStorage.setItem(WATCHED, JSON.stringify([...ids].slice(-50)));
  }

  function showState() {
    const line = document.querySelector("[data-state]");
    if (!line) return;
    const { state, job, icon } = line.dataset;
    const link = document.querySelector("link[rel=icon]");
    if (link.getAttribute("href") !== icon) link.setAttribute("href", icon);
    const isOver = line.dataset.over === "1";
    const button = part("notify");
    const isWatched = watched().has(job) && "Notification" in window && Notification.permission === "granted";
    button.hidden = isOver || !("Notification" in window);
    button.setAttribute("aria-pressed", String(isWatched));
    // A tab that is not seen rests, and would hear nothing.
    document.documentElement.toggleAttribute("data-restless", isWatched && !isOver);
    if (isOver && lastState !== null && lastState !== state && isWatched) notify(line.dataset);
    if (isOver) watch(job, false);
    lastState = state;
  }

  function notify({ job, words, about }) {
    if (!document.hidden) return;
    try {
      const note = new Notification(words, { body: about, tag: job, icon: `${BASE}/static/icon.svg` });
      note.onclick = () => { window.focus(); note.close(); };
    } catch {
      // Some browsers on phones show none from pages.
    }
  }

  async function toggleWatch(button) {
    const { job } = document.querySelector("[data-state]").dataset;
    const wants = button.getAttribute("aria-pressed") !== "true";
    if (wants && (await Notification.requestPermission()) !== "granted") {
      document.dispatchEvent(new CustomEvent("voxelworks:problem", {
        detail: "This browser does not show notifications of this page; its settings for the address can allow them.",
      }));
      return;
    }
    watch(job, wants);
    showState();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("#notify");
    if (button) toggleWatch(button);
  });

  function refresh() {
    showSelection();
    showState();
  }

  document.addEventListener("htmx:afterSettle", refresh);
  window.addEventListener("pageshow", refresh);
  if (part("bulk-page")) part("bulk-page").hidden = false;
  for (const box of boxes()) if (box.checked) selected.add(box.value); // A browser keeps ticks on the way back.
  refresh();
})();
