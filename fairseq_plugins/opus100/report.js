"use strict";
// The heads of sortable tables become buttons. Without scripts the tables stay in the order in which they were written.
(() => {
  const NUMBER = /^[+-]?\d+(\.\d+)?( \(\d+\))?$/;
  const missing = (text) => text === "-" || text === "";

  function sort(table, head, column) {
    const body = table.tBodies[0];
    const rows = Array.from(body.rows, (row) => ({ row, text: row.cells[column].textContent }));
    const present = rows.filter((one) => !missing(one.text));
    const numbers = present.every((one) => NUMBER.test(one.text));
    // scores from the best down, words from a to z; the other way round the second time
    const again = { ascending: "descending", descending: "ascending" };
    const order = again[head.getAttribute("aria-sort")] || (numbers ? "descending" : "ascending");
    const sign = order === "ascending" ? 1 : -1;
    const compare = numbers ? (a, b) => parseFloat(a) - parseFloat(b) : (a, b) => a.localeCompare(b, "en");
    present.sort((a, b) => sign * compare(a.text, b.text));
    body.append(...present.map((one) => one.row), ...rows.filter((one) => missing(one.text)).map((one) => one.row));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
  }

  for (const table of document.querySelectorAll("table.sortable")) {
    Array.from(table.tHead.rows[0].cells).forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => sort(table, head, column));
    });
  }
})();
