// What the dialog of a job does beside plain HTML: boxes are filled in with one press, long lists are searched.
"use strict";

(() => {
  // Without this the button sends the form, which then comes back with the box.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-box]");
    if (!button) return;
    event.preventDefault();
    const input = document.getElementById(button.dataset.box);
    input.value = button.dataset.value;
    input.focus();
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // The search field of a list. What is chosen stays, and the first option of a select, which stands for no choice.
  const whole = new WeakMap(); // Not every browser can hide options: those of a select are taken out.

  function narrow(find) {
    const list = document.getElementById(find.dataset.narrows);
    if (!whole.has(list)) whole.set(list, [...list.children]);
    const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    const isKept = (item) => item.value === "" || item.selected || Boolean(item.querySelector(":checked"))
      || words.every((word) => item.textContent.toLowerCase().includes(word));
    list.replaceChildren(...whole.get(list).filter(isKept));
  }

  document.addEventListener("input", (event) => {
    if (!event.target.matches("[data-narrows]")) return;
    event.stopPropagation(); // It is no part of the form: nothing is to be priced anew.
    narrow(event.target);
  }, true);

  document.addEventListener("change", (event) => {
    if (event.target.matches("[data-narrows], [name=more]")) event.stopPropagation();
  }, true);

  // Enter goes on to what was found instead of sending the form.
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !event.target.matches("[data-narrows]")) return;
    event.preventDefault();
    const list = document.getElementById(event.target.dataset.narrows);
    const found = [...list.children].filter((item) => item.value !== "" && !item.selected);
    if (list.matches("select") && found.length === 1) {
      list.value = found[0].value;
      list.dispatchEvent(new Event("change", { bubbles: true }));
    }
    (list.matches("select") ? list : found[0]?.querySelector("input") || list).focus();
  });

  // The form comes anew when something was chosen. A name may be typed into a list letter by letter: a form that comes
  // in between would cut it short.
  const BETWEEN_LETTERS_MS = 1000; // After that browsers take a letter for the first one of another name.
  let letterAt = -Infinity;
  let waiting;

  function refresh(input) {
    clearTimeout(waiting);
    waiting = setTimeout(() => htmx.trigger(input, "chosen"), letterAt + BETWEEN_LETTERS_MS - performance.now());
  }

  document.addEventListener("change", (event) => {
    if (event.target.matches("#dialog [hx-trigger=chosen]")) refresh(event.target);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key.length !== 1 || !event.target.matches("#dialog select[hx-trigger=chosen]")) return;
    letterAt = performance.now();
    htmx.trigger(document.getElementById("main"), "htmx:abort");
    refresh(event.target);
  });

  // What was unfolded or filled in while the form was on its way stays so when it comes.
  const sent = new WeakMap(); // What the form held when a request left, by request.
  let unfolded = [];
  let typed = [];

  const held = (input) => (input.type === "checkbox" ? input.checked : input.value);

  function inputs() {
    return [...document.querySelectorAll("#dialog :is(input, select):not([type=hidden])")].filter((input) => input.id);
  }

  document.addEventListener("htmx:beforeSend", (event) => {
    if (event.detail.target.id !== "dialog") return;
    sent.set(event.detail.xhr, new Map(inputs().map((input) => [input.id, held(input)])));
  });

  document.addEventListener("htmx:beforeSwap", (event) => {
    // The form that comes brings its own price: one that was asked for before must not come after it.
    const quote = document.getElementById("quote");
    if (quote && event.detail.target !== quote && event.detail.target.contains(quote)) htmx.trigger(quote, "htmx:abort");
    unfolded = [...document.querySelectorAll("#dialog details[open]")].map((part) => part.id);
    const before = sent.get(event.detail.xhr);
    typed = before ? inputs().filter((input) => before.get(input.id) !== held(input)) : [];
  });

  function fillIn(old) {
    const input = document.getElementById(old.id);
    if (!input || input.type !== old.type) return;
    if (input.type === "checkbox") input.checked = old.checked;
    else input.value = old.value;
    if (input === document.activeElement && input.type === "text") {
      input.setSelectionRange(old.selectionStart, old.selectionEnd);
    }
    input.dispatchEvent(new Event("input", { bubbles: true })); // It is priced anew.
  }

  document.addEventListener("htmx:afterSwap", () => {
    for (const id of unfolded) {
      const part = document.getElementById(id);
      if (part) part.open = true;
    }
  });

  // Not before: until then nobody listens yet who would price it anew.
  document.addEventListener("htmx:afterSettle", () => {
    const filled = typed;
    typed = [];
    for (const old of filled) fillIn(old);
  });

  // What was chosen or typed before the scripts had come, or what the browser filled in as it was before a reload.
  function isChanged(input) {
    if (input.type === "checkbox") return input.checked !== input.defaultChecked;
    if (!input.matches("select")) return input.value !== input.defaultValue;
    const first = [...input.options].find((option) => option.defaultSelected) || input.options[0];
    return Boolean(first) && !first.selected;
  }

  document.addEventListener("DOMContentLoaded", () => {
    for (const input of inputs().filter(isChanged)) {
      input.dispatchEvent(new Event("change", { bubbles: true }));
    }
  });

  function showFinds() {
    for (const find of document.querySelectorAll("[data-narrows][hidden]")) find.hidden = false;
  }

  document.addEventListener("DOMContentLoaded", showFinds);
  document.addEventListener("htmx:afterSwap", showFinds);
})();
