"""The shell of the HTML reports."""

from html.parser import HTMLParser

from markupsafe import Markup

from ecg_finetune.html_page import html_page, html_table


class Reader(HTMLParser):
    """Collects the text of every cell and every address a page refers to; fails on tags that do not close."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.cells, self.addresses = [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href")]
        if tag == "td":
            self.cells.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def test_page_is_well_formed_and_loads_nothing():
    page = html_page("AUROC < 1 & rising", str(html_table(["label", "n"], [["a", 1]])))
    assert "AUROC &lt; 1 &amp; rising" in page
    reader = Reader(page)
    assert reader.addresses == []
    assert "http" not in page and "@import" not in page


def test_cells_are_escaped_unless_markup():
    table = html_table(["x"], [["<script>"], [Markup("<b>bold</b>")], [None]])
    assert "<script>" not in table and "<b>bold</b>" in table
    assert Reader(table).cells == ["<script>", "bold", ""]


def test_numeric_columns():
    table = html_table(
        ["label", "auroc", "difference"],
        [["1st degree atrioventricular block", "0.97 (0.95 to 0.98)", "-0.2"], ["Sinus rhythm", None, "\u22120.1"]],
        footer=[["all", "1,234", "5 %"]],
    )
    assert "<th tabindex=0>label" in table
    assert "<th tabindex=0 class=n>auroc" in table and "<th tabindex=0 class=n>difference" in table
    assert "<tfoot><tr><td>all" in table


def test_numbers_in_markup_are_numbers():
    bold = Markup("<b>+0.012</b> <small>+0.001 to +0.023</small>")
    table = html_table(["difference", "p", "label"], [[bold, "<0.001", Markup("<b>x</b>")], [None, "0.04", "1st"]])
    assert "<th tabindex=0 class=n>difference" in table and "<th tabindex=0 class=n>p" in table
    assert "<th tabindex=0>label" in table


def test_contents_link_to_every_section():
    page = html_page("T", "<h2>One</h2><p>a</p><h2>Two &amp; three</h2>", contents=True)
    reader = Reader(page)
    assert reader.addresses == ["#section-1", "#section-2"]
    assert '<h2 id="section-2">Two &amp; three</h2>' in page and ">Two &amp; three</a>" in page
    assert "<nav" not in html_page("T", "<h2>One</h2>")


def test_a_title_cannot_leave_the_style_sheet():
    page = html_page('a"; } </style><script>x</script>\\9', "")
    style = page.split("<style>")[1].split("</style>")[0]
    assert "script" in page and "<script>x" not in page
    assert "\\22 \\3b  \\7d  \\3c " in style.split("@top-left")[1]
