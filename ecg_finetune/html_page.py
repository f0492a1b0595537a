"""The HTML shell of every report: one self-contained file, readable on a desktop, on a phone and in print."""

import itertools
import re
from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

STYLE = """
:root { color-scheme: light; --page: #fff; --ink: #1b2733; --soft: #5a6b7b; --line: #d8e0e7; --band: #f4f7f9;
  --accent: #0b62a4; --faint: #9aa8b5; --mark: #c2410c; --warn: #c77700; --warned: #fff7e8; --alarm: #b3261e;
  --alarmed: #fdecea; --alarm-ink: #8c1d18; }
@media screen and (prefers-color-scheme: dark) { :root { color-scheme: dark; --page: #12181e; --ink: #e4eaf0;
  --soft: #9fb0bf; --line: #34424f; --band: #1b242d; --accent: #6cb6f0; --faint: #6f8091; --mark: #fb923c;
  --warn: #d9a441; --warned: #2c2414; --alarm: #f2786f; --alarmed: #331a19; --alarm-ink: #ffb4ac; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem 1rem 4rem; max-width: 78rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", Arial, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: .4rem 0 .6rem; overflow-wrap: anywhere; text-wrap: balance; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .5rem; padding-bottom: .2rem; border-bottom: 2px solid var(--line); }
h3 { font-size: 1rem; margin: 1.4rem 0 .3rem; }
p { max-width: 48rem; margin: .4rem 0 .8rem; }
ul { padding-left: 1.2rem; } ul.warning { padding-left: 2rem; }
.note { color: var(--soft); font-size: .875rem; }
.warning { border-left: 4px solid var(--warn); background: var(--warned); padding: .5rem .8rem; }
.alarm { border-left: 4px solid var(--alarm); background: var(--alarmed); color: var(--alarm-ink); font-weight: 600;
  padding: .5rem .8rem .5rem 2rem; }
code { font: .875em ui-monospace, "DejaVu Sans Mono", Menlo, monospace; overflow-wrap: anywhere; }
svg, img { max-width: 100%; height: auto; }
figure { margin: .8rem 0; }
figcaption { font-size: .875rem; color: var(--soft); }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding: .2rem 0; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--band); vertical-align: bottom; white-space: nowrap; }
th[tabindex] { cursor: pointer; }
th:focus-visible { outline: 2px solid var(--accent); outline-offset: -2px; }
th[aria-sort=ascending]::after { content: " \\25B4"; }
th[aria-sort=descending]::after { content: " \\25BE"; }
tbody tr:last-child td { border-bottom-width: 2px; } tfoot td { background: var(--band); }
.n { text-align: right; white-space: nowrap; }
a { color: var(--accent); }
.contents { columns: 16rem; font-size: .875rem; margin: 0 0 1rem; padding: .5rem .8rem; background: var(--band); }
.contents ol { margin: 0; } h2[id] { scroll-margin-top: .5rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.6rem, 1fr)); gap: .6rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .5rem .8rem; background: var(--band); }
.card b { display: block; font-size: 1.5rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.card span { display: block; font-size: .8rem; color: var(--soft); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
@media (max-width: 480px) { body { padding: .6rem .7rem 3rem; } h1 { font-size: 1.3rem; }
  .panels { grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
  th, td { padding: .25rem .4rem; } td small { display: block; }
  th:first-child, td:first-child { position: sticky; left: 0; } tbody td:first-child { background: var(--page); } }
@media print { @page { size: A4; margin: 14mm; } html { font-size: 12px; }
  body { font-size: 9pt; max-width: none; padding: 0; } p { max-width: none; } tfoot { display: table-row-group; }
  .scroll { overflow: visible; } table { font-size: 7.5pt; } th, td { padding: 1mm 1.2mm; }
  thead { display: table-header-group; } th, th.n { white-space: normal; }
  tr, figure, .card { break-inside: avoid; } h2, h3 { break-after: avoid; }
  td { line-height: 1.25; } td small { display: block; } .panels, .cards { grid-template-columns: repeat(4, 1fr); }
  @page strips { size: A4 landscape; } .strips { page: strips; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""

# On printed pages; browsers that do not know such boxes leave them out.
RUNNING_HEAD = """@media print {{ @page {{ @top-left {{ content: {}; font-size: 8pt; color: #5a6b7b; }}
  @bottom-right {{ content: counter(page) " / " counter(pages); font-size: 8pt; color: #5a6b7b; }} }} }}
"""

# Click a column's head (or press Enter or the space bar on it) to sort by it, again to turn the order. Empty cells stay
# last, <tfoot> stays put. The heads are no buttons, because browsers do not repeat buttons on the next printed page.
SORTING = """
for (const table of document.querySelectorAll("table.sortable"))
  table.querySelectorAll("thead th").forEach((head, column) => {
    head.onclick = () => sort(table, head, column);
    head.onkeydown = event => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort(table, head, column);
    };
  });
function sort(table, head, column) {
  const numeric = head.classList.contains("n"), key = row => row.cells[column].textContent.trim();
  const value = text => numeric ? parseFloat(text.replace(/[,<]/g, "").replace("\\u2212", "-")) : text;
  const down = head.getAttribute("aria-sort") === (numeric ? null : "ascending");
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const compare = (a, b) => numeric ? value(a) - value(b) : a.localeCompare(b);
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const x = key(a), y = key(b);
    if (!x || !y) return !x - !y;
    return down ? compare(y, x) : compare(x, y);
  });
  table.tBodies[0].append(...rows);
}
"""

NUMBER = re.compile(r"<?[-+\u2212]?[0-9][0-9,]*(\.[0-9]+)?(e[-+]?[0-9]+)?\s?%?(\s.*)?", re.DOTALL)


def html_page(title: str, body: str, style: str = "", *, contents: bool = False) -> str:
    """Return a complete HTML document: no file, font or script is loaded from elsewhere.

    Parameters
    ----------
    title : str
        Plain text, shown in the window's title and as the heading of the page.
    body : str
        HTML below the heading. Tables come from `html_table`; the style offers the classes `note`, `warning`,
        `cards` > `card` (a number in <b>, its explanation in <span>), `panels` (a grid of small figures), `strips` (in
        print, pages wide enough for 10 s at 25 mm/s).
    style : str
        CSS of this page alone.
    contents : bool
        Whether a list of the sections, each an <h2>, comes before them.

    Printed pages have the title and their number at their edges.
    """
    if contents:
        body = with_contents(body)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{RUNNING_HEAD.format(css_string(title))}{style}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n<script>{SORTING}</script>\n</body>\n</html>\n"
    )


def with_contents(body: str) -> str:
    """Return HTML in which every <h2> has an id, after a list of links to them."""
    heads = re.findall("<h2>(.*?)</h2>", body, re.DOTALL)
    numbers = itertools.count(1)
    body = re.sub("<h2>", lambda _: f'<h2 id="section-{next(numbers)}">', body)
    links = "".join(f'<li><a href="#section-{number}">{head}</a></li>' for number, head in enumerate(heads, start=1))
    return f'<nav class="contents" aria-label="Contents"><ol>{links}</ol></nav>\n{body}'


def css_string(text: str) -> str:
    """Return a text as a string in a style sheet, with nothing in it that could end the string or the style sheet."""
    return '"' + "".join(char if char.isalnum() or char in " .,()-" else f"\\{ord(char):x} " for char in text) + '"'


def html_table(
    columns: Sequence[str], rows: Iterable[Sequence], caption: str = "", footer: Iterable[Sequence] = ()
) -> Markup:
    """Return a sortable table that scrolls sideways where the screen is narrow.

    Parameters
    ----------
    columns : sequence of str
        The heads.
    rows, footer : iterable of sequences
        Cells, shown with `str` and escaped unless they are `markupsafe.Markup`; None is an empty cell. A column whose
        every non-empty cell starts with a number ("0.97 (0.95 to 0.98)") is aligned right and sorted by that number.
        The rows of the footer are not sorted.
    caption : str
        Plain text above the table.
    """
    rows, footer = [list(row) for row in rows], [list(row) for row in footer]
    numeric = [_is_numeric([row[i] for row in rows + footer]) for i in range(len(columns))]

    def cell(tag: str, content, number: bool) -> str:
        return f"<{tag}{' class=n' if number else ''}>{content}</{tag.split()[0]}>"

    def lines(table: list[list]) -> str:
        return "\n".join(
            "<tr>" + "".join(cell("td", _shown(value), number) for value, number in zip(row, numeric)) + "</tr>"
            for row in table
        )

    head = "".join(cell("th tabindex=0", escape(name), number) for name, number in zip(columns, numeric))
    return Markup(
        '<div class="scroll"><table class="sortable">'
        + (f"<caption>{escape(caption)}</caption>" if caption else "")
        + f"<thead><tr>{head}</tr></thead>\n<tbody>{lines(rows)}</tbody>"
        + (f"<tfoot>{lines(footer)}</tfoot>" if footer else "")
        + "</table></div>"
    )


def _shown(value) -> Markup:
    return escape("" if value is None else value)


def _is_numeric(values: list) -> bool:
    shown = [_shown(value).striptags() for value in values]
    return any(shown) and all(NUMBER.fullmatch(text) for text in shown if text)
