"""Numbers as the report shows them."""

import math

from markupsafe import Markup

MOST_DIGITS = 9


def signed(value: float, digits: int = 3) -> str:
    """Return a difference with its sign; what rounds to 0 has none.

    >>> signed(0.0124), signed(-0.0004), signed(-0.2, 1)
    ('+0.012', '0.000', '-0.2')
    """
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def signed_interval(value: float, low: float, high: float, digits: int = 3) -> tuple[str, str]:
    """Return a difference and its interval; more digits where an end would read 0 and the interval excludes it.

    >>> signed_interval(0.0124, 0.0002, 0.0246)
    ('+0.0124', '+0.0002 to +0.0246')
    >>> signed_interval(0.0124, -0.0002, 0.025)
    ('+0.012', '0.000 to +0.025')
    """
    if math.isnan(low):
        return signed(value, digits), ""
    excludes = low > 0 or high < 0
    while excludes and digits < MOST_DIGITS and not all(round(end, digits) for end in (low, high)):
        digits += 1
    return signed(value, digits), f"{signed(low, digits)} to {signed(high, digits)}"


def plain_interval(value: float, low: float, high: float, digits: int = 3) -> tuple[str, str]:
    """Return a value and its interval as text, ("0.968", "0.960 to 0.975"); "" for what is undefined.

    >>> plain_interval(0.9681, 0.96, 0.975), plain_interval(float("nan"), 0, 1)
    (('0.968', '0.960 to 0.975'), ('', ''))
    """
    if math.isnan(value):
        return "", ""
    texts = [f"{number:.{digits}f}" for number in (value, low, high)]
    value_text, *ends = (text if float(text) else text.lstrip("-") for text in texts)
    return value_text, "" if math.isnan(low) else " to ".join(ends)


def with_small_interval(value: str, interval: str, *, bold: bool = False) -> Markup | None:
    """Return a cell: a value with its interval in small type; None where it is undefined."""
    if not value:
        return None
    shown = Markup("<b>{}</b>").format(value) if bold else Markup("{}").format(value)
    ends = interval if "-" in interval or "+" in interval else interval.replace(" to ", "\u2013")
    return Markup("{} <small>{}</small>").format(shown, ends) if interval else shown


def capital(text: str) -> str:
    """Return a text with a capital at its beginning; what follows stays as it is.

    >>> capital("not visible in Lead I")
    'Not visible in Lead I'
    """
    return text[:1].upper() + text[1:]


def p_text(p: float) -> str:
    """Return a p value.

    >>> p_text(0.0321), p_text(0.00001), p_text(float("nan"))
    ('0.032', '<0.001', '')
    """
    if math.isnan(p):
        return ""
    return f"{p:.3f}" if p >= 0.001 else "<0.001"


def share_text(share: float) -> str:
    """Return a share as a percentage, with more digits where it is small.

    >>> share_text(0.225), share_text(0.0009)
    ('22.5%', '0.09%')
    """
    return "" if math.isnan(share) else f"{share:.1%}" if share >= 0.01 else f"{share:.2%}"
