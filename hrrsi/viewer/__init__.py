"""Maps in a browser: a page of this machine that shows them over their scenes."""
