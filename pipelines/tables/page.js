for (const button of document.querySelectorAll("button.sort")) button.onclick = () => {
  const head = button.closest("th"), body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") !== "descending";
  const value = row => row.cells[head.cellIndex].dataset.value;
  const order = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...body.rows], known = rows.filter(row => value(row) !== "");
  known.sort((a, b) => (down ? -1 : 1) * order(value(a), value(b)));
  body.append(...known, ...rows.filter(row => value(row) === ""));
};
