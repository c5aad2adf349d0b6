#include "report/page_parts.h"

namespace kvsmith {
namespace {

// A page is checked as markup, script included: there is no "less than" in here.
constexpr std::string_view kScript = R"js(
(() => {
  const table = document.querySelector("table.points");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const marks = [...document.querySelectorAll("g[data-point]")];
  const rowOf = Object.fromEntries(rows.map(row => [row.dataset.point, row]));
  const facets = [...document.querySelectorAll("fieldset[data-facet]")];

  // The front of what is left, as a staircase through the marks on it.
  function drawFront(svg) {
    const path = svg.querySelector("path.front");
    if (!path) return;
    const shown = [...svg.querySelectorAll("g[data-point]")]
      .filter(mark => mark.style.display !== "none")
      .map(mark => ({mark, bytes: +mark.dataset.bytes, cost: +mark.dataset.cost}))
      .sort((a, b) => a.bytes - b.bytes || a.cost - b.cost);
    let best = null, line = "";
    for (const point of shown) {
      const equal = best && point.bytes === best.bytes && point.cost === best.cost;
      const front = equal || !best || best.cost > point.cost;
      point.mark.classList.toggle("dim", !front);
      point.mark.querySelector(".mark").classList.toggle("hollow", !front);
      if (!front) continue;
      const {x, y} = point.mark.dataset;
      line += line ? `H${x}V${y}` : `M${x} ${y}`;
      best = point;
    }
    path.setAttribute("d", line);
  }

  function applyFilters() {
    const allowed = facets.map(facet => [facet.dataset.facet, new Set(
      [...facet.querySelectorAll("input:checked")].map(input => input.value))]);
    for (const row of rows)
      row.hidden = !allowed.every(([name, values]) => values.has(row.dataset[name]));
    for (const mark of marks)
      mark.style.display = rowOf[mark.dataset.point].hidden ? "none" : "";
    new Set(marks.map(mark => mark.ownerSVGElement)).forEach(drawFront);
  }

  for (const facet of facets) {
    const labels = [...facet.querySelectorAll("label")];
    if (2 > labels.length) {
      facet.removeAttribute("data-facet");
      continue;
    }
    for (const label of labels) {
      const input = document.createElement("input");
      input.type = "checkbox";
      input.checked = true;
      input.value = label.dataset.value;
      input.addEventListener("change", applyFilters);
      label.prepend(input);
    }
  }
  facets.splice(0, facets.length, ...document.querySelectorAll("fieldset[data-facet]"));

  const valueOf = (row, column) => {
    const cell = row.cells[column];
    return "value" in cell.dataset ? Number(cell.dataset.value) : cell.textContent;
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b
      : typeof a === "number" ? -1 : typeof b === "number" ? 1 : a.localeCompare(b);
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const falling = head.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", falling ? "descending" : "ascending");
      rows.sort((a, b) => (falling ? -1 : 1) * compare(valueOf(a, column), valueOf(b, column)));
      body.append(...rows);
    });
  });

  const tip = document.createElement("div");
  tip.className = "tip";
  tip.hidden = true;
  document.body.append(tip);
  function light(point, on) {
    rowOf[point].classList.toggle("lit", on);
    for (const mark of marks)
      if (mark.dataset.point === point) mark.classList.toggle("lit", on);
  }
  for (const mark of marks) {
    const title = mark.querySelector("title"), text = title.textContent;
    // The browser would show its own tip beside this one.
    title.remove();
    mark.setAttribute("role", "img");
    mark.setAttribute("aria-label", text);
    mark.addEventListener("pointerenter", () => {
      tip.textContent = text;
      tip.hidden = false;
      light(mark.dataset.point, true);
    });
    mark.addEventListener("pointermove", event => {
      const right = innerWidth - tip.offsetWidth - 8, below = innerHeight - tip.offsetHeight - 8;
      tip.style.left = Math.max(8, Math.min(event.clientX + 14, right)) + "px";
      tip.style.top = Math.max(8, Math.min(event.clientY + 14, below)) + "px";
    });
    mark.addEventListener("pointerleave", () => {
      tip.hidden = true;
      light(mark.dataset.point, false);
    });
  }
  for (const row of rows) {
    row.addEventListener("pointerenter", () => light(row.dataset.point, true));
    row.addEventListener("pointerleave", () => light(row.dataset.point, false));
  }
})();
)js";

}  // namespace

std::string_view page_script() { return kScript; }

}  // namespace kvsmith
