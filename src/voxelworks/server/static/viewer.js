/* The page of the viewer: says what it opens with, before it reads its address, and copies and shares that address. */

(() => {
  const bar = document.getElementById("viewer-bar");
  const files = `${location.origin}${document.documentElement.dataset.base}${bar.dataset.files}/`;

  // A view names files by full addresses. Whatever server name or share it was made under, it is read through this page's.
  const anyFiles = /(https?:\/\/[^"|]+?)?\/(api\/v1\/datasets|shared)\/[^\/"|]+\/files\//g;

  const given = () => {
    if (!location.hash.startsWith("#!")) return null;
    try {
      const text = decodeURIComponent(location.hash.slice(2));
      return text.startsWith("{") ? text : null;
    } catch {
      return null;
    }
  };

  const view = given();
  if (view !== null) delete bar.dataset.contrast; // who made it has chosen what is black and white
  const state = (view ?? bar.dataset.state).replace(anyFiles, files);
  history.replaceState(null, "", `${location.pathname}#!${encodeURIComponent(state)}`);

  document.getElementById("copy-link").addEventListener("click", async (event) => {
    const word = event.currentTarget.querySelector("span");
    const before = word.textContent;
    try {
      await navigator.clipboard.writeText(location.href);
      word.textContent = "Copied";
    } catch {
      word.textContent = "Copying is not allowed here";
    }
    setTimeout(() => { word.textContent = before; }, 2000);
  });

  document.getElementById("share-form")?.addEventListener("submit", (event) => {
    event.currentTarget.elements.view.value = location.hash;
  });
})();
