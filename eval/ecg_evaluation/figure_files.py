"""The figures of a report as files for a paper: each as SVG, with its numbers as CSV."""

import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ecg_evaluation.figures import STYLE
from ecg_finetune.files import replacing
from ecg_finetune.tables import write_table

# The report's colours on a white page; programs that draw SVG files rarely know the variables of a style sheet.
COLOURS = {
    "page": "#fff",
    "ink": "#1b2733",
    "soft": "#5a6b7b",
    "line": "#d8e0e7",
    "band": "#f4f7f9",
    "accent": "#0b62a4",
    "faint": "#9aa8b5",
    "mark": "#c2410c",
}

LONGEST = 50  # characters of a name; a file's may have 255 bytes


@dataclass
class Album:
    """Keeps what a report draws: `figures` is name to SVG and numbers."""

    figures: dict[str, tuple[str, pd.DataFrame]] = field(default_factory=dict)

    def add(self, name: str, svg: str, numbers: pd.DataFrame) -> str:
        """Keep a figure under a name, which becomes that of its files (numbered where it is taken); return its SVG."""
        words = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", name.lower())).strip("_")
        name = words = words[:LONGEST]
        number = 1
        while name in self.figures:
            name = f"{words}_{(number := number + 1)}"
        self.figures[name] = svg, numbers
        return svg


def standalone(svg: str) -> str:
    """Return an inline SVG of a report as a document of its own."""
    if "xmlns=" in svg:  # a strip, which has its colours in it
        return svg
    style = re.sub(r"var\(--(\w+)\)", lambda name: COLOURS[name[1]], STYLE)
    style = f"<style>svg {{ font-family: sans-serif; background: #fff; }} {style}</style>"
    return re.sub(r"<svg ([^>]*)>", rf'<svg xmlns="http://www.w3.org/2000/svg" \1>{style}', svg, count=1)


def write_figures(folder: Path, album: Album) -> None:
    """Write `<name>.svg` and `<name>.csv` of every figure into a folder; files of the same names are replaced."""
    for name, (svg, numbers) in album.figures.items():
        with replacing(folder / f"{name}.svg") as temporary:
            temporary.write_text(standalone(svg) + "\n", encoding="utf-8")
        write_table(folder / f"{name}.csv", numbers)
