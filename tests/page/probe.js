// Runs beside a frame that holds the page, and writes what it finds there into the document as JSON.
// Characters outside of ASCII and those of markup are escaped, so that the dump holds the JSON as it is.
"use strict";

const round = (x) => Math.round(x * 100) / 100;
const colour = (text) => (text.match(/[\d.]+/g) || []).map(Number);

// https://www.w3.org/TR/WCAG21/#dfn-relative-luminance
function luminance(text) {
  const [r, g, b] = colour(text).map((x) => {
    const share = x / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(a, b) {
  const [light, dark] = [luminance(a), luminance(b)].sort((x, y) => y - x);
  return (light + 0.05) / (dark + 0.05);
}

function background(element, view) {
  for (let at = element; at; at = at.parentElement) {
    const found = view.getComputedStyle(at).backgroundColor;
    if (colour(found)[3] !== 0) return found;
  }
  return "rgb(255, 255, 255)";
}

// Every element with text of its own: how large, and how far from what lies under it.
function texts(document, view) {
  const own = (element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  return [...document.body.querySelectorAll("*")].filter(own).map((element) => {
    const style = view.getComputedStyle(element);
    const svg = element.closest("svg");
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    return {
      text: element.textContent.trim().slice(0, 40),
      pixels: round(parseFloat(style.fontSize) * scale),
      contrast: round(contrast(svg ? style.fill : style.color, background(element, view))),
    };
  });
}

function chart(svg, view) {
  const { width, height } = svg.getBoundingClientRect();
  const place = (text) => ({
    text: text.textContent.trim(),
    x: Number(text.getAttribute("x")),
    y: Number(text.getAttribute("y")),
    anchor: text.getAttribute("text-anchor"),
  });
  const shape = (element) => {
    const box = element.getBBox();
    const style = view.getComputedStyle(element);
    const drawn = element.matches(".stroke") ? style.stroke : style.fill;
    return {
      tag: element.tagName,
      class: element.getAttribute("class"),
      dashes: style.strokeDasharray,
      x: box.x,
      y: box.y,
      width: box.width,
      height: box.height,
      contrast: round(contrast(drawn, background(svg.parentElement, view))),
    };
  };
  return {
    label: svg.getAttribute("aria-label"),
    width: round(width),
    height: round(height),
    box: [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height],
    texts: [...svg.querySelectorAll("text")].map(place),
    shapes: [...svg.querySelectorAll("polyline, circle, rect, polygon, line")].map(shape),
  };
}

function row(tr) {
  const cell = (td) => [td.dataset.column, { text: td.textContent, value: td.dataset.value }];
  return Object.fromEntries([...tr.querySelectorAll("td[data-column]")].map(cell));
}

window.addEventListener("load", () => {
  const frame = document.querySelector("iframe");
  const [page, view] = [frame.contentDocument, frame.contentWindow];
  const scroll = page.querySelector(".scroll");
  const found = {
    dark: view.matchMedia("(prefers-color-scheme: dark)").matches,
    width: page.documentElement.clientWidth,
    scroll_width: Math.max(page.documentElement.scrollWidth, page.body.scrollWidth),
    table: [scroll.clientWidth, scroll.scrollWidth],
    texts: texts(page, view),
    charts: [...page.querySelectorAll("svg.chart")].map((svg) => chart(svg, view)),
    rows: [...page.querySelectorAll("table.rows tbody tr")].map(row),
  };
  const escape = (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0");
  document.querySelector("pre").textContent = JSON.stringify(found).replace(/[<>&\u007f-\uffff]/g, escape);
});
