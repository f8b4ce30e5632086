"""The style sheet and the script of the HTML report."""

from __future__ import annotations

# How a page of ours is recognised, so that a later report may overwrite it.
GENERATOR = '<meta name="generator" content="outlook-import">'
STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1c2127; --quiet: #59636e; --line: #d5dae0; --panel: #f5f7f9; --link: #0b5cad;
  --works: #2b8a3e; --half: #1971c2; --wait: #b26a00; --fails: #c92a2a; --skipped: #868e96;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e6e9ed; --quiet: #a0a9b4; --line: #343b44; --panel: #1d2228; --link: #74b4f5;
    --works: #51b868; --half: #5aa9ee; --wait: #e0a030; --fails: #f06a6a; --skipped: #7d8791;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 1200px; padding: 28px 20px 60px; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; }
h3 { font-size: 1rem; margin: 0 0 4px; }
p { margin: 0 0 8px; max-width: 90ch; }
header p { max-width: none; }
h2 span { color: var(--quiet); font-weight: 400; }
a { color: inherit; text-decoration-color: var(--quiet); }
code { font: .92em ui-monospace, Consolas, Menlo, monospace; background: var(--panel); padding: 1px 4px; }
code span { white-space: nowrap; }
.quiet, figcaption { color: var(--quiet); }
.who { font-size: 1.1rem; font-weight: 600; margin: 20px 0 12px; max-width: 100ch; }
figure { margin: 24px 0; }
svg { display: block; width: 100%; height: 26px; }
figcaption ul {
  list-style: none; margin: 10px 0 0; padding: 0; display: flex; flex-wrap: wrap; gap: 4px 22px;
}
figcaption li::before {
  content: ""; display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 7px;
  background: currentColor;
}
figcaption b, figcaption span { color: var(--ink); }
.works { color: var(--works); fill: var(--works); }
.half { color: var(--half); fill: var(--half); }
.wait { color: var(--wait); fill: var(--wait); }
.fails { color: var(--fails); fill: var(--fails); }
.skipped { color: var(--skipped); fill: var(--skipped); }
.note { border-left: 4px solid var(--wait); background: var(--panel); padding: 10px 14px; }
.note p { margin: 0; max-width: none; }
section.reason {
  border: 1px solid var(--line); border-radius: 8px; padding: 14px 16px; margin: 0 0 12px;
  break-inside: avoid;
}
section.reason:target { border-color: var(--link); }
.reason .count { float: right; margin-left: 12px; font-weight: 600; }
.reason .whom { font-size: .9rem; color: var(--quiet); margin: 6px 0 0; max-width: none; }
button, select, input {
  font: inherit; color: inherit; background: var(--paper); border: 1px solid var(--line);
  border-radius: 6px; padding: 6px 10px;
}
button { color: var(--link); cursor: pointer; padding: 2px 9px; font-size: .9rem; }
form { display: flex; flex-wrap: wrap; gap: 8px; align-items: center; margin: 0 0 12px; }
form[hidden] { display: none; }
input { flex: 1 1 260px; min-width: 0; }
select { flex: 0 1 340px; min-width: 0; }
output { color: var(--quiet); white-space: nowrap; }
:focus-visible { outline: 2px solid var(--link); outline-offset: 1px; }
table { width: 100%; border-collapse: collapse; font-size: .875rem; table-layout: fixed; }
th, td {
  text-align: left; vertical-align: top; padding: 7px 10px 7px 0; border-bottom: 1px solid var(--line);
}
th { border-bottom-width: 2px; position: sticky; top: 0; background: var(--paper); }
th:nth-child(1) { width: 3.5em; }
th:nth-child(2) { width: 25%; }
th:nth-child(3) { width: 12%; }
th:nth-child(4) { width: 23%; }
td small { display: block; color: var(--quiet); font-size: inherit; }
td .said { display: block; }
@media screen and (max-width: 760px) {
  body { padding: 18px 14px 40px; }
  figcaption ul { gap: 4px 16px; }
  select { flex-basis: 100%; }
  thead { display: none; }
  table, tbody, tr, td { display: block; }
  tr { border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; margin: 0 0 8px; }
  tr[hidden] { display: none; }
  td { border: 0; padding: 2px 0; }
  td:nth-child(1)::before { content: "Line "; color: var(--quiet); }
  td:nth-child(1) { float: right; color: var(--quiet); padding-left: 10px; }
  td:nth-child(2) { font-weight: 600; }
  td:nth-child(2) small { font-weight: 400; }
}
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --ink: #000; --quiet: #444; --line: #bbb; --panel: #fff; --link: #000;
    --works: #2b8a3e; --half: #1971c2; --wait: #b26a00; --fails: #c92a2a; --skipped: #868e96;
  }
  @page { margin: 14mm; }
  body { font-size: 10pt; padding: 0; max-width: none; }
  table { font-size: 7.5pt; line-height: 1.35; }
  a { color: inherit; text-decoration: none; }
  svg rect, figcaption li::before { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  form, button { display: none; }
  td, th { padding: 3px 8px 3px 0; }
  th { position: static; }
  thead { display: table-header-group; }
  tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}
"""

# Everything is readable without the script; it only filters the table.
SCRIPT = """
(() => {
  const form = document.querySelector("form");
  const search = form.querySelector("input");
  const kind = form.querySelector("select");
  const shown = form.querySelector("output");
  const rows = [...document.querySelectorAll("tbody tr")].map((row) => ({
    row,
    kinds: (row.dataset.k || "").split(" "),
    text: row.textContent.toLowerCase(),
  }));
  const filter = () => {
    const words = search.value.toLowerCase().split(/\\s+/).filter(Boolean);
    let count = 0;
    for (const { row, kinds, text } of rows) {
      const fits = (!kind.value || kinds.includes(kind.value)) && words.every((word) => text.includes(word));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count.toLocaleString("en")} of ${rows.length.toLocaleString("en")} rows`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", filter);
  for (const button of document.querySelectorAll("button[data-k]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      kind.value = button.dataset.k;
      search.value = "";
      filter();
      document.getElementById("rows").scrollIntoView();
    });
  }
  filter();
})();
"""
