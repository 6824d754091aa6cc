"""Maps: labels on their way to files, and what is made from them."""
