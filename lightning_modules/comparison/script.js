"use strict";
(() => {
  document.documentElement.classList.add("js");
  const groupsOf = (element) => [...element.classList].filter((name) => /^group-\d+$/.test(name));
  const shown = [...document.querySelectorAll("[class*='group-']")].filter((element) => groupsOf(element).length);
  const rows = [...document.querySelectorAll("#groups tbody tr")];

  // filter: a group is hidden if one of its axis values is unchecked
  const boxes = [...document.querySelectorAll(".filters input")];
  const filter = () => {
    const off = boxes.filter((box) => !box.checked).map((box) => `${box.name}\n${box.value}`);
    const hidden = new Set();
    for (const row of rows) {
      const axes = Object.entries(JSON.parse(row.dataset.axes));
      if (axes.some(([name, value]) => off.includes(`${name}\n${value}`))) hidden.add(groupsOf(row)[0]);
    }
    for (const element of shown) {
      element.classList.toggle("hidden", groupsOf(element).some((name) => hidden.has(name)));
    }
  };
  boxes.forEach((box) => box.addEventListener("change", filter));
  filter(); // a browser may keep unchecked boxes when the page is loaded again

  // sort: numbers by value, texts by the alphabet, empty cells last
  const key = (row, column) => row.cells[column].dataset.value;
  const compare = (a, b, sign) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const numbers = [Number(a), Number(b)];
    return sign * (numbers.some(Number.isNaN) ? a.localeCompare(b, "en", { numeric: true }) : numbers[0] - numbers[1]);
  };
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th");
      const body = head.closest("table").tBodies[0];
      const descending = head.getAttribute("aria-sort") !== "descending";
      for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const lines = [...body.rows];
      lines.sort((a, b) => compare(key(a, head.cellIndex), key(b, head.cellIndex), descending ? -1 : 1));
      body.append(...lines);
    });
  }

  // hover: fade everything in the pictures that shows other groups
  const target = (event) => event.target.closest && event.target.closest("svg [class*='group-'], #groups tbody tr");
  const fade = (names) => {
    for (const element of shown) {
      const own = groupsOf(element);
      const near = names.length > 0 && names.every((name) => own.includes(name));
      if (element instanceof SVGElement) element.classList.toggle("far", names.length === 1 && !near);
      else if (element.tagName === "TR") element.classList.toggle("near", names.some((name) => own.includes(name)));
    }
  };
  document.addEventListener("mouseover", (event) => {
    const found = target(event);
    fade(found ? groupsOf(found) : []);
  });
})();
