"""``python -m hrrsi``."""

from hrrsi.cli import main

if __name__ == "__main__":
    main()
