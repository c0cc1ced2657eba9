"""Finds what makes a page hard to read, in the browser.

It finds texts without contrast and controls without a name. If axe is installed (PyPI:
axe-playwright-python), its findings are included.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

# The contrast, by WCAG 2.2, of each text with its background.
_CONTRAST_JS = """() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const parse = (text) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = text; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([r, g, b]) => [r, g, b].map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, index) => sum + c * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    for (let parent = element; parent; parent = parent.parentElement) {
      const colour = parse(getComputedStyle(parent).backgroundColor);
      if (colour[3] > 200) return colour;
    }
    return [255, 255, 255, 255];
  };
  const poor = [];
  for (const element of document.querySelectorAll('#keys-page *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.closest('svg') || element.disabled || !element.checkVisibility()) continue;
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) poor.push([element.className, element.textContent.slice(0, 30), ratio.toFixed(2)]);
  }
  return poor;
}"""
# Controls without a name for a screen reader.
_NAMELESS_JS = """() => [...document.querySelectorAll('#keys-page button, #keys-page input, #keys-page [role=meter], '
  + '#keys-page [role=img], #keys-page article, #keys-page section, #keys-page dialog')]
  .filter((element) => !(element.getAttribute('aria-label') || document.getElementById(element.getAttribute('aria-labelledby'))
    || element.textContent.trim() && element.tagName === 'BUTTON' || element.labels && element.labels.length))
  .map((element) => element.outerHTML.slice(0, 120))"""

# Elements of the canvas without a visible colour: neither a background nor a border.
_COLOURLESS_JS = """() => {
  const colours = (element) => getComputedStyle(element).backgroundColor;
  const canvas = colours(document.documentElement);
  return [...document.querySelectorAll('.key-meter-bar, .plot-key, [aria-pressed=true]')]
    .filter((element) => element.getClientRects().length && element.getBoundingClientRect().width)
    .filter((element) => [canvas, colours(document.body), 'rgba(0, 0, 0, 0)'].includes(colours(element)))
    .map((element) => element.className);
}"""

_AXE_JS = """async () => (await axe.run(document)).violations
  .map((element) => [element.id, element.help, element.nodes.slice(0, 3).map((node) => node.html.slice(0, 160))])"""


def unreadable(page: Any) -> list[Any]:
    """Return what people cannot read or use on the present page."""
    problems = [*page.evaluate(_CONTRAST_JS), *page.evaluate(_NAMELESS_JS)]
    spec = find_spec("axe_playwright_python")
    if spec is not None and spec.origin is not None:
        page.evaluate((Path(spec.origin).parent / "axe.min.js").read_text(encoding="utf-8"))
        problems += page.evaluate(_AXE_JS)
    return problems


def colourless(page: Any) -> list[str]:
    """Return the elements that show something by their background only, and have none now."""
    return list(page.evaluate(_COLOURLESS_JS))


def too_wide(page: Any) -> bool:
    """Whether the page has to be scrolled sideways."""
    return bool(
        page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    )
