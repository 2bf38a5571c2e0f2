"""Train, validate, test or predict: ``python train.py fit``, ``python train.py fit --help``."""

from pg_lightning.cli import main

if __name__ == "__main__":
    main()
