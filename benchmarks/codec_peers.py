"""Runs peers in a Python that has them: `python codec_peers.py JOB IN OUT`.

    levels   IN: .npz of integers; static ANS through constriction, with each tensor's
             histogram, and zstd, all tensors as one stream of bytes
    floats   IN: .npz of 32-bit floats as one stream; ZipNN, zstd, and zstd of shuffled bytes

OUT: .npz of bytes, seconds to encode and seconds to decode, by peer; a peer that is not
installed is left out. `codec.py` starts it: the peers pin other versions than ours.
"""

import contextlib
import sys
import time

import numpy as np


def by_constriction(levels: list[np.ndarray]) -> list[float]:
    """Its stack coder; the tables of probabilities are not counted."""
    from constriction.stream.model import Categorical  # type: ignore[import-not-found]
    from constriction.stream.stack import AnsCoder  # type: ignore[import-not-found]

    total, encoding, decoding = 0, 0.0, 0.0
    for one in levels:
        flat = one.reshape(-1).astype(np.int32)
        symbols = flat - flat.min()
        shares = (np.bincount(symbols) / symbols.size).astype(np.float32)
        model = Categorical(shares, perfect=False)
        begin = time.process_time()
        coder = AnsCoder()
        coder.encode_reverse(symbols, model)
        words = coder.get_compressed()
        between = time.process_time()
        back = AnsCoder(words).decode(model, symbols.size)
        decoding += time.process_time() - between
        encoding += between - begin
        total += words.nbytes
        if not np.array_equal(back, symbols):
            raise SystemExit("constriction does not decode what it encoded.")
    return [total, encoding, decoding]


def by_zipnn(floats: list[np.ndarray]) -> list[float]:
    """Its default: exponents apart, Huffman codes."""
    from zipnn import ZipNN  # type: ignore[import-not-found]

    raw = b"".join(one.astype(np.float32).tobytes() for one in floats)
    begin = time.process_time()
    coded = ZipNN(bytearray_dtype="float32").compress(bytearray(raw))
    between = time.process_time()
    back = ZipNN(bytearray_dtype="float32").decompress(coded)
    if bytes(back) != raw:
        raise SystemExit("ZipNN does not decode what it encoded.")
    return [len(coded), between - begin, time.process_time() - between]


def by_zstd(raw: bytes, level: int) -> list[float]:
    """Zstandard on one thread."""
    import zstandard  # type: ignore[import-not-found]

    begin = time.process_time()
    coded = zstandard.ZstdCompressor(level=level).compress(raw)
    between = time.process_time()
    back = zstandard.ZstdDecompressor().decompress(coded)
    if back != raw:
        raise SystemExit("zstd does not decode what it encoded.")
    return [len(coded), between - begin, time.process_time() - between]


def narrow(levels: list[np.ndarray]) -> bytes:
    """The levels in one or two bytes each."""
    return b"".join(
        one.astype(np.int8 if np.abs(one).max() < 128 else np.int16).tobytes() for one in levels
    )


def shuffled(floats: list[np.ndarray]) -> bytes:
    """All first bytes, then all second bytes, and so on."""
    flat = np.concatenate([one.astype(np.float32).reshape(-1) for one in floats])
    return flat.view(np.uint8).reshape(-1, 4).T.tobytes()


JOBS = {
    "levels": {
        "constriction": by_constriction,
        "zstd -19": lambda levels: by_zstd(narrow(levels), 19),
    },
    "floats": {
        "ZipNN": by_zipnn,
        "zstd -19": lambda floats: by_zstd(b"".join(one.tobytes() for one in floats), 19),
        "shuffled bytes, zstd -3": lambda floats: by_zstd(shuffled(floats), 3),
    },
}


def main(job: str, source: str, target: str) -> None:
    """Runs the peers of one job."""
    tensors, found = list(dict(np.load(source)).values()), {}
    for name, run in JOBS[job].items():
        with contextlib.suppress(ImportError):
            found[name] = run(tensors)
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
