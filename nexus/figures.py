"""Figures as people read them: a share in percent, anything else with its unit."""


def number(value: float, unit: str, digits: str = ".3f", sign: str = "") -> str:
    """A share (unit `%`, 0..1) times 100 with one digit; anything else as `digits`, a format of Python, says.

    `sign="+"` writes the sign of positive values too.
    """
    return f"{100 * value:{sign}.1f}" if unit == "%" else f"{value:{sign}{digits}}"


def quantity(value: float, unit: str, digits: str = ".3f", gap: str = " ") -> str:
    """The number and its unit, which may be empty, with `gap` between them."""
    return f"{number(value, unit, digits)}{gap}{unit}" if unit else number(value, unit, digits)
