"""Command line: ``python -m pg_lightning fit``."""

from pg_lightning.cli import main

if __name__ == "__main__":
    main()
