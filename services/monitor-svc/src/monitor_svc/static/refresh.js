// Fetches the tiles every 5 s, counts ages up in between, and greys everything when the monitor does not answer.
"use strict";

const EVERY_MS = 5000;
const tiles = document.getElementById("tiles");
let loadedAt = performance.now();
let turn = 0;

function ago(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86400)} d ago`;
}

function countUp() {
  const passed = (performance.now() - loadedAt) / 1000;
  for (const age of document.querySelectorAll("[data-age]")) {
    age.textContent = ago(Number(age.dataset.age) + passed);
  }
}

async function refresh() {
  const mine = ++turn;
  try {
    const answer = await fetch("/tiles" + location.search, { cache: "no-store", signal: AbortSignal.timeout(4000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const html = await answer.text();
    if (mine !== turn) return; // a later one is under way
    const focused = document.activeElement?.id;
    tiles.innerHTML = html;
    if (focused) document.getElementById(focused)?.focus({ preventScroll: true });
    loadedAt = performance.now();
    document.body.classList.remove("lost");
  } catch {
    if (mine === turn) document.body.classList.add("lost");
  }
}

// A choice of symbol or decision changes the address and the tiles, not the place on the page.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-here]");
  if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, "", link.href);
  refresh();
});
window.addEventListener("popstate", refresh);
setInterval(countUp, 1000);
setInterval(refresh, EVERY_MS);
