// What the pages do beside plain HTML: live streams that rest in hidden tabs, running times, small helpers.
"use strict";

(() => {
  const HIDDEN_REST_MS = 20000; // Browsers allow six connections to a server: hidden tabs give theirs back.
  const KEYS_OFF = "voxelworks-keys-off";
  const BASE = document.documentElement.dataset.base; // Path of a proxy below which the server is found; mostly empty.

  // An event source that rests while its tab is hidden and goes on where it stopped.
  class RestingSource {
    constructor(url) {
      this.url = url;
      this.listeners = [];
      this.lastId = null;
      this.isClosed = false;
      this.restTimer = null;
      this.onVisibility = () => this.visibilityChanged();
      document.addEventListener("visibilitychange", this.onVisibility);
      this.open();
    }

    get readyState() {
      return this.source ? this.source.readyState : EventSource.CONNECTING;
    }

    open() {
      const url = new URL(this.url, location.href);
      if (this.lastId !== null) url.searchParams.set("since", this.lastId);
      const source = new EventSource(url);
      this.source = source;
      source.onopen = (event) => {
        setOffline(false);
        if (this.onopen) this.onopen(event);
      };
      source.onerror = (event) => {
        setOffline(true);
        // The browser connects again by itself, unless the server refused; htmx then makes a new source.
        if (source.readyState === EventSource.CLOSED) {
          this.close();
          reloadIfShutOut();
        }
        if (this.onerror) this.onerror(event);
      };
      source.addEventListener("log", (event) => {
        this.lastId = event.lastEventId || this.lastId;
        document.dispatchEvent(new CustomEvent("voxelworks:log", { detail: JSON.parse(event.data) }));
      });
      for (const [name, listener] of this.listeners) source.addEventListener(name, listener);
    }

    visibilityChanged() {
      clearTimeout(this.restTimer);
      if (this.isClosed) return;
      if (document.hidden) {
        // Somebody waits for the end of this job: see jobs.js.
        if (document.documentElement.hasAttribute("data-restless")) return;
        this.restTimer = setTimeout(() => {
          this.source.close();
          this.source = null;
        }, HIDDEN_REST_MS);
      } else if (!this.source) {
        this.open();
      }
    }

    addEventListener(name, listener) {
      this.listeners.push([name, listener]);
      if (this.source) this.source.addEventListener(name, listener);
    }

    removeEventListener(name, listener) {
      this.listeners = this.listeners.filter((known) => known[0] !== name || known[1] !== listener);
      if (this.source) this.source.removeEventListener(name, listener);
    }

    close() {
      this.isClosed = true;
      clearTimeout(this.restTimer);
      document.removeEventListener("visibilitychange", this.onVisibility);
      if (this.source) this.source.close();
    }
  }

  htmx.createEventSource = (url) => new RestingSource(url);

  // Connection

  let offlineTimer = null;

  function setOffline(isOffline) {
    clearTimeout(offlineTimer);
    const banner = document.getElementById("offline");
    if (!banner) return;
    if (!isOffline) banner.hidden = true;
    // A restart of a second is not worth a word.
    else offlineTimer = setTimeout(() => { banner.hidden = false; }, 2500);
  }

  // A server that was started anew knows this browser no more: its page says what to do.
  async function reloadIfShutOut() {
    try {
      const answer = await fetch(location.href, { method: "HEAD" });
      if (answer.status === 401) location.reload();
    } catch {
      // Not reachable: the banner says so.
    }
  }

  function toast(text) {
    const element = document.getElementById("toast");
    element.textContent = text;
    element.hidden = false;
    clearTimeout(toast.timer);
    toast.timer = setTimeout(() => { element.hidden = true; }, 8000);
  }

  document.addEventListener("htmx:responseError", (event) => toast(event.detail.xhr.responseText));
  document.addEventListener("voxelworks:problem", (event) => toast(event.detail));
  document.addEventListener("htmx:sendError", () => toast("The server does not answer. Try again in a moment."));

  // Times that run on. They count from when they came into the page, so that no clock has to be right.

  const began = new WeakMap();

  function words(seconds) {
    const whole = Math.max(0, Math.round(seconds));
    const units = [[Math.floor(whole / 86400), "d"], [Math.floor(whole / 3600) % 24, "h"], [Math.floor(whole / 60) % 60, "min"], [whole % 60, "s"]];
    let first = units.findIndex(([number]) => number > 0);
    if (first < 0) first = 3;
    return units.slice(first, first + 2).filter(([number], index) => number > 0 || first + index === 3).map(([number, unit]) => `${number} ${unit}`).join(" ");
  }

  function agoWords(seconds) {
    if (seconds < 5) return "just now";
    const [size, unit] = seconds < 60 ? [1, "s"] : seconds < 3600 ? [60, "min"] : seconds < 86400 ? [3600, "h"] : [86400, "d"];
    return `${Math.floor(seconds / size)} ${unit} ago`;
  }

  function age(element, startS) {
    if (!began.has(element)) began.set(element, performance.now() / 1000 - Number(startS));
    return performance.now() / 1000 - began.get(element);
  }

  function say(element, text) {
    if (element.textContent !== text) element.textContent = text;
  }

  // What runs shows it by a step each second: a movement that never rests keeps a processor busy.
  const isStill = matchMedia("(prefers-reduced-motion: reduce)");
  let beat = 0;

  function turn() {
    beat = (beat + 1) % 8;
    if (document.hidden || isStill.matches) return;
    for (const arc of document.querySelectorAll(".icon .arc")) arc.setAttribute("transform", `rotate(${45 * beat} 10 10)`);
  }

  function tick() {
    if (document.hidden) return;
    for (const element of document.querySelectorAll("[data-running-s]")) say(element, words(age(element, element.dataset.runningS)));
    for (const element of document.querySelectorAll("[data-left-s]")) say(element, words(element.dataset.leftS - age(element, 0)));
    for (const element of document.querySelectorAll("[data-ago-s]")) say(element, agoWords(age(element, element.dataset.agoS)));
    const titled = document.querySelector("[data-title]");
    if (titled && document.title !== titled.dataset.title) document.title = titled.dataset.title;
  }

  setInterval(() => { tick(); turn(); }, 1000);
  document.addEventListener("visibilitychange", tick);
  document.addEventListener("htmx:afterSettle", tick);

  // Small helpers

  document.addEventListener("click", async (event) => {
    const target = event.target.closest("[data-copy], [data-fill], [data-close-browse]");
    if (!target) return;
    if (target.dataset.copy) {
      const word = target.querySelector("span");
      try {
        await navigator.clipboard.writeText(document.getElementById(target.dataset.copy).textContent);
        word.textContent = "Copied";
      } catch {
        word.textContent = "Copying is not allowed here";
      }
      setTimeout(() => { word.textContent = "Copy"; }, 2000);
    } else if (target.dataset.fill) {
      const input = document.getElementById(target.dataset.fill);
      input.value = target.dataset.value;
      target.closest(".browse").remove();
      input.focus();
    } else {
      const panel = target.closest(".browse");
      const input = document.getElementById(panel.dataset.target);
      panel.remove();
      input.focus();
    }
  });

  // The account menu closes like menus do.
  document.addEventListener("click", (event) => {
    for (const menu of document.querySelectorAll("details.menu[open]")) if (!menu.contains(event.target)) menu.open = false;
  });

  document.addEventListener("keydown", (event) => {
    const menu = event.key === "Escape" && document.querySelector("details.menu[open]");
    if (!menu) return;
    menu.open = false;
    menu.querySelector("summary").focus();
  });

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-submits]")) event.target.form.requestSubmit();
    if (event.target.id === "keys-on") localStorage[event.target.checked ? "removeItem" : "setItem"](KEYS_OFF, "1");
  });

  // Keyboard

  function moveInList(step) {
    const links = [...document.querySelectorAll(".row-link")];
    if (!links.length) return;
    const row = document.activeElement && document.activeElement.closest(".jobs tbody tr");
    const at = links.indexOf(row && row.querySelector(".row-link"));
    const next = at < 0 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, at + step));
    links[next].focus();
  }

  function press(id) {
    const element = document.getElementById(id);
    if (element) element.click();
  }

  function focusOn(id) {
    const element = document.getElementById(id);
    if (element) element.focus();
  }

  // What a page shows is searched: its list, or its log; from everywhere else, the jobs.
  function searchHere() {
    const search = document.querySelector("#search, #log-bar:not([hidden]) #log-find");
    if (search) search.select();
    else location.href = `${BASE}/jobs#search`;
  }

  const keys = {
    j: () => moveInList(1),
    k: () => moveInList(-1),
    n: () => { location.href = `${BASE}/workflows`; },
    "/": () => searchHere(),
    x: () => {},
    c: () => press("cancel"),
    r: () => focusOn("retry"),
    f: () => press("follow"),
    "?": () => document.getElementById("shortcuts").togglePopover(),
  };

  const isTyping = (element) => Boolean(element.closest("input:not([type=checkbox]), select, textarea, [contenteditable]"));

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target)) return;
    const action = keys[event.key];
    if (!action || localStorage.getItem(KEYS_OFF) || (document.querySelector(":popover-open") && event.key !== "?")) return;
    event.preventDefault();
    action();
    document.dispatchEvent(new CustomEvent("voxelworks:key", { detail: event.key }));
  });

  // Chips scroll sideways on a phone: the present one must not hide.
  function showPresentChips() {
    for (const chip of document.querySelectorAll(".chips > [aria-current]")) {
      const row = chip.parentElement;
      const left = chip.getBoundingClientRect().left - row.getBoundingClientRect().left;
      row.scrollLeft += left - (row.clientWidth - chip.offsetWidth) / 2;
    }
  }

  document.addEventListener("DOMContentLoaded", () => {
    showPresentChips();
    if (location.hash === "#search") searchHere();
    document.getElementById("keys-on").checked = !localStorage.getItem(KEYS_OFF);
    tick();
  });
})();
