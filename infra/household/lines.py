"""The lines of a text file that may be compressed: plain, gzip or zip, told by its content."""

import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO

from infra.household.errors import FileRefused

CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
_LONGEST_LINE = 1 << 20

OnCut = Callable[[str], None]


def read_lines(path: Path, on_cut: OnCut) -> Iterator[tuple[str, bool]]:
    """Each line without its end, and whether it had one.

    `on_cut` is told when the compressed data stop too early; what came before is given out.
    Raises FileRefused where nothing can be read, and where the data are damaged in the middle.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            file.seek(0)
            if magic.startswith(GZIP_MAGIC):
                yield from _split(_gunzip(file, path, on_cut), path)
            elif magic == ZIP_MAGIC:
                with _only_member(file, path) as member:
                    yield from _split(_checked(_chunks(member), path), path)
            else:
                yield from _split(_chunks(file), path)
    except OSError as error:
        raise FileRefused(f"{path}: {error.strerror or error}; check the name") from error


def _split(chunks: Iterable[bytes], path: Path) -> Iterator[tuple[str, bool]]:
    rest = b""
    first = True
    for chunk in chunks:
        if first:
            chunk = chunk.removeprefix(b"\xef\xbb\xbf")
            first = False
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise FileRefused(f"{path}: a line is longer than 1 MiB; this is no table of minutes")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip("\r"), True
    if rest:
        yield rest.decode("utf-8", "replace"), False


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _gunzip(file: IO[bytes], path: Path, on_cut: OnCut) -> Iterator[bytes]:
    """As gzip does it, but all that a cut file holds is given out before it is called cut."""
    inflate = zlib.decompressobj(wbits=31)
    try:
        for chunk in _chunks(file):
            while chunk:
                if inflate.eof:  # another member follows, or padding
                    chunk = chunk.lstrip(b"\0")
                    if not chunk:
                        break
                    inflate = zlib.decompressobj(wbits=31)
                yield inflate.decompress(chunk)
                chunk = inflate.unused_data if inflate.eof else b""
    except zlib.error as error:
        raise FileRefused(f"{path}: the gzip data are damaged ({error}); fetch it again") from error
    if not inflate.eof:
        yield inflate.flush()
        on_cut("the gzip data stop before their end")


def _only_member(file: IO[bytes], path: Path) -> IO[bytes]:
    try:
        archive = zipfile.ZipFile(file)
        names = [one.filename for one in archive.infolist() if not one.is_dir()]
        tables = [name for name in names if name.lower().endswith((".csv", ".txt"))]
        if len(tables) != 1:
            raise FileRefused(
                f"{path}: the zip has {len(tables)} tables (.csv, .txt) among "
                f"{', '.join(names[:5]) or 'no files'}; it should have one: unpack it and name one"
            )
        return archive.open(tables[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise FileRefused(f"{path}: not a whole zip file ({error}); fetch it again") from error


def _checked(chunks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from chunks
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise FileRefused(f"{path}: the zip data are damaged ({error}); fetch it again") from error
