"""Figures with units, as people read them."""


def area_text(square_metres: float) -> str:
    """Return an area in hectares, or in square metres below one hectare."""
    if square_metres >= 10_000:
        return f"{square_metres / 10_000:,.2f} ha"
    return f"{square_metres:,.0f} m²"


def length_text(metres: float) -> str:
    """Return a ground sampling distance, in centimetres below a metre."""
    return f"{metres * 100:.3g} cm" if metres < 1 else f"{metres:.3g} m"
