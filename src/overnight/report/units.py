"""Numbers as a person reads them. Every function gives an em dash for None."""

import math
from datetime import datetime

NONE = "—"

_SI = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def plain(value: float | None, digits: int = 3) -> str:
    """A number to `digits` significant digits, without padding.

    >>> plain(0.0005), plain(0.00002), plain(1234567.0), plain(None)
    ('0.0005', '2e-5', '1,230,000', '—')
    """
    if value is None or not math.isfinite(value):
        return NONE
    if value and abs(value) < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa}e{int(exponent)}"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10 ** (digits - 1) else f"{rounded:g}"


def whole(value: float | None) -> str:
    """A count in full.

    >>> whole(86319360)
    '86,319,360'
    """
    return NONE if value is None else f"{value:,.0f}"


def si(value: float | None, unit: str = "") -> str:
    """A count to three digits with a decimal prefix.

    >>> si(86319360), si(412_300_000, "B"), si(950, "B/s")
    ('86.3 M', '412 MB', '950 B/s')
    """
    if value is None:
        return NONE
    factor, prefix = si_prefix(value)
    return f"{plain(value / factor)} {prefix}{unit}".strip()


def si_prefix(value: float) -> tuple[float, str]:
    """The decimal prefix that leaves `value` between 1 and 1000, as (factor, letter).

    >>> si_prefix(52_000)
    (1000.0, 'k')
    """
    # 999.6 k would be written 1,000 k at three digits, so a prefix begins a little before its power.
    return next(((factor, letter) for factor, letter in _SI if abs(value) >= 0.9995 * factor), (1.0, ""))


def duration(seconds: float | None) -> str:
    """A length of time in its two largest units.

    >>> duration(42.3), duration(192), duration(7500), duration(200_000)
    ('42.3 s', '3 min 12 s', '2 h 05 min', '2 d 08 h')
    """
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60:02d} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24:02d} h"


def moment(iso: str) -> str:
    """An ISO 8601 time to the minute; what is not one stays as it is.

    >>> moment("2025-11-20T18:03:11+00:00"), moment("2025-11-20T18:03:11Z"), moment("yesterday")
    ('2025-11-20 18:03 UTC', '2025-11-20 18:03 UTC', 'yesterday')
    """
    try:
        # Python 3.10 does not read the Z.
        when = datetime.fromisoformat(iso.removesuffix("Z") + ("+00:00" if iso.endswith("Z") else ""))
    except ValueError:
        return iso
    return f"{when:%Y-%m-%d %H:%M %Z}".strip()


def bits(value: float | None) -> str:
    """Bits per byte to three decimals.

    >>> bits(1.62349)
    '1.623'
    """
    return NONE if value is None else f"{value:.3f}"


def interval(low: float | None, high: float | None) -> str:
    """A confidence interval in bits per byte, or nothing when there is none.

    >>> interval(1.61, 1.6351), interval(None, 2.0)
    ('1.610–1.635', '')
    """
    return "" if low is None or high is None else f"{low:.3f}–{high:.3f}"


def power_of_ten(value: float) -> tuple[float, str]:
    """A factor that brings a small `value` near 1, and how an axis names it.

    >>> power_of_ten(0.0005)
    (0.0001, '×10⁻⁴')
    """
    if not value or 0.1 <= abs(value) < 1000:
        return 1.0, ""
    exponent = math.floor(math.log10(abs(value)))
    return float(f"1e{exponent}"), f"×10{str(exponent).translate(_SUPERSCRIPT)}"
