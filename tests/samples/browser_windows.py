"""Sizes of the windows that pages are opened in, in pixels."""

WIDE, PHONE = (1440, 900), (390, 844)
