
"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const column = [...heading.parentNode.children].indexOf(heading);
    const down = heading.getAttribute("aria-sort") === "ascending";
    for (const other of heading.parentNode.children) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => {
      const cell = row.cells[column];
      const text = cell.dataset.value ?? cell.textContent.trim();
      return text === "-" ? null : text !== "" && !isNaN(text) ? Number(text) : text;
    };
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x === null || y === null) return (x === null) - (y === null); // what was not measured comes last
      const found = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
      return down ? -found : found;
    };
    body.append(...[...body.rows].sort(order));
  });
}
for (const button of document.querySelectorAll(".download")) {
  button.addEventListener("click", async () => {
    const data = document.getElementById(button.dataset.from);
    let found = data.textContent;
    if (data.type.startsWith("application/gzip")) { // of large pages
      const packed = Uint8Array.from(atob(found), (letter) => letter.charCodeAt(0));
      const text = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
      found = await new Response(text).blob();
    } else if (button.dataset.type === "text/csv") found = found.replaceAll("\\u003c", "<");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([found], { type: button.dataset.type }));
    link.download = button.dataset.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}
