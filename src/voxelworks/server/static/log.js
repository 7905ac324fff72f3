// The log of an attempt: of millions of lines only those around what is seen are in the page. Space above and below
// stands for the others, so that the scroll bar means the whole log; lines that scroll into view are fetched.
"use strict";

(() => {
  const BASE = document.documentElement.dataset.base; // Path of a proxy below which the server is found; mostly empty.
  const PART_LINES = 300; // Fetched at once.
  const KEPT_LINES = 1500; // Beyond this the lines that are farthest from view leave the page.
  const SPACE_MAX = 6000000; // Pixels: browsers cut what is higher than some tens of millions.
  const WRAP_OFF = "voxelworks-log-wrap-off";
  const numbers = new Intl.NumberFormat("en", { useGrouping: true });

  // A form that leads to the page of a job brings the script once more into the same document.
  if (document.documentElement.dataset.logScript) return;
  document.documentElement.dataset.logScript = "1";

  const part = (id) => document.getElementById(id);
  const spaced = (number) => numbers.format(number).replaceAll(",", "\u202f");

  let view = null;

  class LogView {
    constructor(box) {
      this.box = box;
      this.lines = part("log-lines");
      this.above = part("log-above");
      this.below = part("log-below");
      this.first = Number(box.dataset.first);
      this.total = Number(box.dataset.total);
      this.isOpen = box.dataset.open === "1";
      this.last = this.first + this.lines.children.length - 1;
      this.lineHeight = 20;
      this.lastTop = 0;
      this.ownTop = -1; // Where the script itself has scrolled to: not a wish of whoever reads.
      this.isBusy = false;
      this.search = { text: "", hits: [], count: 0, searched: 0, at: -1 };
      if (part("log-pager")) part("log-pager").hidden = true;
      box.addEventListener("scroll", () => this.scrolled());
      this.anew(() => this.space());
    }

    // Changes the space above lines that are laid out anew: nothing has moved then, neither to a reader, whose place is
    // set right afterwards, nor to what measures how much pages move.
    anew(change) {
      this.measure();
      this.lines.hidden = true;
      this.box.getBoundingClientRect();
      change();
      this.lines.hidden = false;
    }

    get address() {
      return `${BASE}/api/v1/jobs/${this.box.dataset.job}/log`;
    }

    get isFollowing() {
      return Boolean(part("follow") && part("follow").checked);
    }

    // Lines

    async fetchLines(first, limit) {
      const query = new URLSearchParams({ attempt: this.box.dataset.attempt, limit });
      if (first !== null) query.set("first", first);
      const answer = await fetch(`${this.address}/lines?${query}`);
      if (!answer.ok) throw new Error((await answer.json()).message);
      return answer.json();
    }

    element(number, text) {
      const line = document.createElement("div");
      line.className = "log-line";
      line.id = `L${number}`;
      const link = document.createElement("a");
      link.className = "log-number";
      link.href = `${BASE}/jobs/${this.box.dataset.job}/log?attempt=${this.box.dataset.attempt}&line=${number}#L${number}`;
      link.tabIndex = -1;
      link.textContent = number;
      const words = document.createElement("span");
      words.className = "log-text";
      words.textContent = text;
      line.append(link, words);
      this.mark(words);
      return line;
    }

    fragment(first, lines) {
      const made = document.createDocumentFragment();
      lines.forEach((text, index) => made.append(this.element(first + index, text)));
      return made;
    }

    // Shows other lines instead of those that are there.
    replace(piece) {
      this.first = piece.first;
      this.last = piece.first + piece.lines.length - 1;
      this.lines.replaceChildren(this.fragment(piece.first, piece.lines));
      this.grow(piece);
      this.measure();
      this.space();
    }

    // Takes over how long the log is.
    grow(piece) {
      if (piece.total < this.total) return;
      this.total = piece.total;
      this.isOpen = piece.is_open;
      this.lines.dataset.digits = Math.max(3, String(this.total).length);
      part("log-empty").hidden = this.total > 0;
      if (part("log-total")) part("log-total").textContent = `${spaced(this.total)} ${this.total === 1 ? "line" : "lines"}`;
    }

    measure() {
      const count = this.lines.children.length;
      if (count) this.lineHeight = this.lines.offsetHeight / count || 20;
    }

    // The space of the lines that are not in the page.
    get pixelsPerLine() {
      // By a rounded number of lines: a log that grows must not move what is seen of it.
      return Math.min(this.lineHeight, SPACE_MAX / 2 ** Math.ceil(Math.log2(Math.max(1, this.total))));
    }

    space() {
      this.above.style.height = `${Math.max(0, this.first - 1) * this.pixelsPerLine}px`;
      this.below.style.height = `${Math.max(0, this.total - this.last) * this.pixelsPerLine}px`;
    }

    scrollTo(top) {
      this.box.scrollTop = top;
      this.ownTop = this.lastTop = this.box.scrollTop;
    }

    scrollToEnd() {
      this.scrollTo(this.box.scrollHeight);
    }

    // Does something with the lines while the one that is seen first stays where it is.
    holding(change) {
      const top = this.box.getBoundingClientRect().top;
      const held = [...this.lines.children].find((line) => line.getBoundingClientRect().bottom > top);
      const before = held && held.getBoundingClientRect().top;
      change();
      if (held && held.isConnected) this.scrollTo(this.box.scrollTop + held.getBoundingClientRect().top - before);
    }

    trim(atEnd) {
      while (this.lines.children.length > KEPT_LINES) {
        if (atEnd) {
          this.lines.lastElementChild.remove();
          this.last -= 1;
        } else {
          this.lines.firstElementChild.remove();
          this.first += 1;
        }
      }
    }

    // Scrolling

    scrolled() {
      const top = this.box.scrollTop;
      const follow = part("follow");
      if (follow && Math.abs(top - this.ownTop) > 1) {
        const isAtEnd = this.last >= this.total && this.box.scrollHeight - top - this.box.clientHeight < 24;
        // New lines move the end away without anybody scrolling: only going up counts as wanting to stay.
        if (isAtEnd) follow.checked = true;
        else if (top < this.lastTop) follow.checked = false;
      }
      this.lastTop = top;
      if (!this.waiting) this.waiting = setTimeout(() => { this.waiting = null; this.fill(); }, 60);
    }

    // Fetches what is missing around the lines that are seen.
    async fill() {
      if (this.isBusy || !this.total) return;
      const { box, lines } = this;
      const linesTop = this.above.offsetHeight;
      const linesEnd = linesTop + lines.offsetHeight;
      const [top, end] = [box.scrollTop, box.scrollTop + box.clientHeight];
      const margin = box.clientHeight;
      let jump = null;
      if (end < linesTop) jump = 1 + Math.floor(top / this.pixelsPerLine);
      else if (top > linesEnd) jump = this.last + 1 + Math.floor((top - linesEnd) / this.pixelsPerLine);
      const wantsEarlier = jump === null && this.first > 1 && top - margin < linesTop;
      const wantsLater = jump === null && this.last < this.total && end + margin > linesEnd;
      if (jump === null && !wantsEarlier && !wantsLater) return;
      await this.busily(async () => {
        if (jump !== null) {
          const from = Math.max(1, Math.min(jump, this.total) - Math.floor(PART_LINES / 2));
          this.replace(await this.fetchLines(from, PART_LINES));
          const shown = part(`L${Math.min(jump, this.last)}`);
          if (shown) this.scrollTo(shown.offsetTop);
        } else if (wantsEarlier) {
          const from = Math.max(1, this.first - PART_LINES);
          const piece = await this.fetchLines(from, this.first - from);
          const given = piece.lines.slice(0, this.first - from);
          // Of very long lines fewer came than were asked for: those that are next to the ones here are what counts.
          if (from + given.length !== this.first) this.replace(piece);
          else this.holding(() => {
            lines.prepend(this.fragment(from, given));
            this.first = from;
            this.trim(true);
            this.measure();
            this.space();
          });
        } else {
          const piece = await this.fetchLines(this.last + 1, PART_LINES);
          this.holding(() => {
            if (piece.first !== this.last + 1) return; // Lines came with the stream meanwhile.
            lines.append(this.fragment(piece.first, piece.lines));
            this.last += piece.lines.length;
            this.grow(piece);
            this.trim(false);
            this.measure();
            this.space();
          });
        }
      });
      if (!this.waiting) this.waiting = setTimeout(() => { this.waiting = null; this.fill(); }, 60);
    }

    async busily(work) {
      this.isBusy = true;
      this.box.setAttribute("aria-busy", "true");
      try {
        await work();
      } catch (error) {
        document.dispatchEvent(new CustomEvent("voxelworks:problem", { detail: String(error.message || error) }));
      }
      this.isBusy = false;
      this.box.removeAttribute("aria-busy");
    }

    // Places

    async goTo(number, { isCentred = true } = {}) {
      const wanted = Math.max(1, Math.min(number, this.total));
      if (part("follow")) part("follow").checked = false;
      if (!part(`L${wanted}`)) {
        await this.busily(async () => this.replace(await this.fetchLines(Math.max(1, wanted - PART_LINES / 2), PART_LINES)));
      }
      const line = part(`L${wanted}`);
      if (!line) return;
      for (const other of this.lines.querySelectorAll(".is-present")) other.classList.remove("is-present");
      line.classList.add("is-present");
      this.scrollTo(isCentred ? line.offsetTop - this.box.clientHeight / 3 : line.offsetTop);
      this.fill();
    }

    async goToEnd() {
      if (this.last < this.total) await this.busily(async () => this.replace(await this.fetchLines(null, PART_LINES)));
      this.scrollToEnd();
      this.fill();
    }

    // The address names the line, with the attempt: the next one has other lines.
    keepAddress(number) {
      const address = new URL(location.href);
      address.search = new URLSearchParams({ attempt: this.box.dataset.attempt });
      address.hash = `L${number}`;
      history.replaceState(history.state, "", address);
    }

    // What comes while the page is open

    heard(piece) {
      if (this.box.dataset.attempt !== String(piece.attempt)) this.begin(piece.attempt);
      // Shows the end until now; whoever reads above it for long does not gather all that comes.
      const isWhole = this.last >= this.total && (this.isFollowing || this.lines.children.length <= 2 * KEPT_LINES);
      this.grow(piece);
      // The last line may have been there without its end; lines that came before are known.
      if (isWhole && piece.first <= this.last + 1) {
        while (this.last >= piece.first) {
          this.lines.lastElementChild?.remove();
          this.last -= 1;
        }
        this.lines.append(this.fragment(piece.first, piece.lines));
        this.last = piece.first + piece.lines.length - 1;
        if (this.isFollowing && this.lines.children.length > 2 * KEPT_LINES) {
          this.trim(false);
          this.anew(() => this.space());
        } else {
          this.space();
        }
        if (this.isFollowing) this.scrollToEnd();
      } else if (this.isFollowing) {
        this.replace(piece);
        this.scrollToEnd();
      } else {
        this.space();
        this.fill();
      }
    }

    // Another attempt began: its log starts anew.
    begin(attempt) {
      this.box.dataset.attempt = attempt;
      this.lines.replaceChildren();
      [this.first, this.last, this.total, this.isOpen] = [1, 0, 0, false];
      this.search = { text: "", hits: [], count: 0, searched: 0, at: -1 };
      part("log-found").textContent = "";
      for (const field of document.querySelectorAll(".log-attempt")) field.value = attempt;
      part("log-bar").hidden = false;
      const path = `${BASE}/jobs/${this.box.dataset.job}`;
      for (const [id, address] of [["log-download", `${path}/log.txt?attempt=${attempt}`], ["log-whole", `${path}/log?attempt=${attempt}`]]) {
        if (part(id)) Object.assign(part(id), { href: address, hidden: false });
      }
    }

    // Search

    mark(words) {
      const { text } = this.search;
      const plain = words.textContent;
      const small = plain.toLowerCase();
      // Letters whose small form is longer would shift the places: such a line is left without marks.
      if (!text || small.length !== plain.length) {
        if (words.firstElementChild) words.textContent = plain;
        return;
      }
      const pieces = [];
      let at = 0;
      for (let place = small.indexOf(text); place >= 0; place = small.indexOf(text, at)) {
        const mark = document.createElement("mark");
        mark.textContent = plain.slice(place, place + text.length);
        pieces.push(plain.slice(at, place), mark);
        at = place + text.length;
      }
      if (at || words.firstElementChild) words.replaceChildren(...pieces, plain.slice(at));
    }

    async find(text, step) {
      const wanted = text.toLowerCase();
      if (wanted !== this.search.text) {
        this.search = { text: wanted, hits: [], count: 0, searched: 0, at: -1 };
        for (const words of this.lines.querySelectorAll(".log-text")) this.mark(words);
      }
      const { search } = this;
      if (!wanted) return this.tell("");
      this.tell("Searching …");
      try {
        // The server looks for a bounded time, and tells where to go on; lines that are new are looked at too.
        while (search === this.search && search.searched < this.total - (this.isOpen && search.searched ? 1 : 0)) {
          const query = new URLSearchParams({ attempt: this.box.dataset.attempt, text, after: search.searched });
          const answer = await fetch(`${this.address}/search?${query}`);
          const found = await answer.json();
          if (!answer.ok) return this.tell(found.message);
          const isKnown = search.hits.length && search.hits[search.hits.length - 1] === found.lines[0];
          search.hits.push(...(isKnown ? found.lines.slice(1) : found.lines));
          search.count += found.count - (isKnown ? 1 : 0);
          const isStuck = found.searched <= search.searched;
          search.searched = Math.max(search.searched, found.searched);
          if (found.is_whole || isStuck) break;
          this.tell(`${spaced(search.count)} in the first ${spaced(search.searched)} lines …`);
        }
      } catch (error) {
        return this.tell(String(error.message || error));
      }
      if (search !== this.search) return undefined;
      if (!search.hits.length) return this.tell("Not found");
      if (search.at < 0) {
        // At first the next one from where somebody reads.
        const seen = this.seen();
        const next = search.hits.findIndex((line) => line >= seen);
        search.at = next < 0 ? 0 : next;
      } else {
        search.at = (search.at + step + search.hits.length) % search.hits.length;
      }
      const isCapped = search.count > search.hits.length;
      this.tell(`${spaced(search.at + 1)} of ${spaced(search.count)} ${search.count === 1 ? "line" : "lines"}${isCapped ? `; the first ${spaced(search.hits.length)} can be visited` : ""}`);
      return this.goTo(search.hits[search.at]);
    }

    seen() {
      const top = this.box.getBoundingClientRect().top;
      const line = [...this.lines.children].find((one) => one.getBoundingClientRect().bottom > top);
      return line ? Number(line.id.slice(1)) : 1;
    }

    tell(text) {
      part("log-found").textContent = text;
    }
  }

  function lineOfAddress() {
    const found = /^#L([1-9][0-9]{0,11})$/.exec(location.hash);
    return found ? Number(found[1]) : null;
  }

  function wrap() {
    const isOn = !localStorage.getItem(WRAP_OFF);
    part("log").classList.toggle("is-plain", !isOn);
    if (part("log-wrap")) part("log-wrap").checked = isOn;
  }

  function start() {
    const box = part("log");
    if (!box || (view && view.box === box)) return;
    wrap();
    view = new LogView(box);
    const find = part("log-find").value;
    const line = lineOfAddress() || Number(box.dataset.line || 0);
    if (find) view.find(find, 1);
    else if (line) view.goTo(line);
    else view.goToEnd();
  }

  function first() {
    if (part("follow")) part("follow").checked = false;
    view.goTo(1, { isCentred: false });
  }

  function last() {
    if (part("follow")) part("follow").checked = true;
    view.goToEnd();
  }

  document.addEventListener("voxelworks:log", (event) => { if (view) view.heard(event.detail); });
  window.addEventListener("hashchange", () => { if (view && lineOfAddress()) view.goTo(lineOfAddress()); });

  document.addEventListener("click", (event) => {
    if (!view || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const target = event.target.closest(".log-number, [data-log-go], [data-log-hit]");
    if (!target) return;
    event.preventDefault();
    if (target.matches(".log-number")) {
      const number = Number(target.textContent);
      view.keepAddress(number);
      for (const other of view.lines.querySelectorAll(".is-present")) other.classList.remove("is-present");
      target.closest(".log-line").classList.add("is-present");
      if (part("follow")) part("follow").checked = false;
    } else if (target.dataset.logHit) {
      view.find(part("log-find").value, Number(target.dataset.logHit));
    } else if (target.dataset.logGo === "first") {
      first();
    } else {
      last();
    }
  });

  document.addEventListener("keydown", (event) => {
    if (!view) return;
    const isFind = event.target.id === "log-find" && event.key === "Enter";
    // A browser scrolls to the ends smoothly, and would stop where lines are fetched on the way.
    const isEnd = event.target.id === "log" && ["Home", "End"].includes(event.key);
    if (!isFind && !isEnd) return;
    event.preventDefault();
    if (isFind) view.find(event.target.value, event.shiftKey ? -1 : 1);
    else if (event.key === "Home") first();
    else last();
  });

  document.addEventListener("submit", (event) => {
    if (!view || !event.target.matches("[data-log-search], [data-log-goto]")) return;
    event.preventDefault();
    if (event.target.matches("[data-log-search]")) {
      view.find(part("log-find").value, 1);
      return;
    }
    const number = Number(part("log-line").value.replace(/[\s,.\u202f]/g, ""));
    if (!Number.isInteger(number) || number < 1) {
      view.tell(`"${part("log-line").value}" is no line; give 1 to ${spaced(view.total)}`);
      return;
    }
    view.goTo(number);
    view.keepAddress(Math.min(number, view.total));
    view.box.focus({ preventScroll: true });
  });

  document.addEventListener("change", (event) => {
    if (!view) return;
    if (event.target.id === "follow" && event.target.checked) view.goToEnd();
    if (event.target.id !== "log-wrap") return;
    localStorage[event.target.checked ? "removeItem" : "setItem"](WRAP_OFF, "1");
    view.holding(() => { wrap(); view.measure(); view.space(); });
  });

  // The page of a job also comes without a load of its own, when a form has led there.
  document.addEventListener("htmx:afterSettle", start);
  start();
})();
