"""`python -m tersenet.data`: downloads Fashion-MNIST where it is not there yet, whole."""

import logging
import sys
from pathlib import Path

from tersenet.data import fashion_mnist
from tersenet.errors import DataError, TersenetError

_log = logging.getLogger("tersenet.data")


def main() -> int:
    """Checks or downloads the data set and logs where it lies; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        try:
            _check(fashion_mnist.find())
        except DataError as error:
            _log.info("%s", error)
            _check(fashion_mnist.download())
    except TersenetError as error:
        _log.error("%s", error)
        return 1
    return 0


def _check(folder: Path) -> None:
    for split in ("train", "test"):
        images = fashion_mnist.load(split, folder)
        _log.info("%s: %s images in %s, checksums right", images.name, f"{len(images):,}", folder)


if __name__ == "__main__":
    sys.exit(main())
