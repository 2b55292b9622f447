"""The swarm's own record of what it sent and what it was told is safe: append-only, fsynced.

A line of JSON (`Header`), then frames: `S` a reading when it is made, `A` an acknowledgement, `J`
before the first reading whose registers have lost what they counted (a reset, a rollover).
An acknowledgement is believed only when its frame is on disk, so whatever a node has struck from
its outbox can be demanded from the database, whoever was killed meanwhile.
"""

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from infra.swarm.meters import CHANNELS, FIELDS

_SENT, _ACKED, _JUMPED = b"S", b"A", b"J"
_SENT_HEAD = "<cIIqq"
_NUMBERS = "iiiiiqq"
_ACKED_FRAME = struct.Struct("<cIIq")
_JUMPED_HEAD = "<cI"


_WIDTH = len(FIELDS)
_IMPORT, _EXPORT = FIELDS.index("import_total_wh"), FIELDS.index("export_total_wh")


@dataclass(frozen=True)
class Header:
    """What the frames do not repeat. `home` and the node's number make the address."""

    home: str
    devices: int
    phases: int
    seed: int
    believe: str
    v: int = 1


class Sent(NamedTuple):
    """A message; `numbers` are those of `meters.FIELDS` for each channel in turn.

    `hidden_uwh` is what the registers have counted and no longer show, import and export of each
    channel in turn; empty while they have only risen.
    """

    node: int
    seq: int
    at_ns: int
    measured_us: int
    numbers: tuple[int, ...]
    hidden_uwh: tuple[int, ...] = ()

    def registers_uwh(self) -> list[tuple[int, int]]:
        """The true import and export of each channel; a meter without an export has none."""
        shown = zip(self.numbers[_IMPORT::_WIDTH], self.numbers[_EXPORT::_WIDTH], strict=True)
        hidden = self.hidden_uwh or [0] * (2 * len(self.numbers) // _WIDTH)
        return [
            (imported + hidden[2 * i], exported + hidden[2 * i + 1])
            for i, (imported, exported) in enumerate(shown)
        ]


class Acked(NamedTuple):
    """`node` was told that everything up to and with `seq` is safe."""

    node: int
    seq: int
    at_ns: int


class RecordError(Exception):
    """The file is no record of a swarm."""


def sent_frame(phases: int) -> struct.Struct:
    return struct.Struct(_SENT_HEAD + _NUMBERS * len(CHANNELS[phases]))


def jumped_frame(phases: int) -> struct.Struct:
    return struct.Struct(_JUMPED_HEAD + "q" * (2 * len(CHANNELS[phases])))


class Record:
    """Writes a record. `sent` and `acked` only buffer; `commit` makes all before it durable.

    To commit in another thread while the buffer fills again, `take` in this one and `write` there.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self._pack = sent_frame(header.phases).pack
        self._pack_jump = jumped_frame(header.phases).pack
        self._buffer = bytearray(msgspec.json.encode(asdict(header)) + b"\n")
        self._file = path.open("xb", buffering=0)
        self.commit()

    def sent(
        self, node: int, seq: int, at_ns: int, measured_us: int, numbers: Sequence[int]
    ) -> None:
        self._buffer += self._pack(_SENT, node, seq, at_ns, measured_us, *numbers)

    def jumped(self, node: int, hidden_uwh: Sequence[int]) -> None:
        """From the node's next reading on its registers show so much less than they counted."""
        self._buffer += self._pack_jump(_JUMPED, node, *hidden_uwh)

    def acked(self, node: int, seq: int, at_ns: int) -> None:
        self._buffer += _ACKED_FRAME.pack(_ACKED, node, seq, at_ns)

    def take(self) -> bytearray:
        """What is buffered, to be given to `write`."""
        ready, self._buffer = self._buffer, bytearray()
        return ready

    def write(self, ready: bytearray) -> None:
        """Write and fsync; when this returns, `ready` and all written before are on disk."""
        left = memoryview(ready)
        while left:
            left = left[self._file.write(left) :]
        os.fsync(self._file.fileno())

    def commit(self) -> None:
        self.write(self.take())

    def close(self) -> None:
        self.commit()
        self._file.close()


def read_header(path: Path) -> Header:
    with path.open("rb") as file:
        line = file.readline()
    try:
        return msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{path} is not a record of a swarm: {error}") from error


def read(path: Path) -> Iterator[Sent | Acked]:
    """All readings and acknowledgements in order. A last frame cut off by a crash is left out."""
    header = read_header(path)
    frame, jumped = sent_frame(header.phases), jumped_frame(header.phases)
    assert len(frame.unpack(bytes(frame.size))) == 5 + len(FIELDS) * len(CHANNELS[header.phases])
    sizes = {_SENT: frame.size, _ACKED: _ACKED_FRAME.size, _JUMPED: jumped.size}
    hidden: dict[int, tuple[int, ...]] = {}
    with path.open("rb", buffering=1 << 20) as file:
        file.readline()
        while kind := file.read(1):
            if kind not in sizes:
                raise RecordError(f"{path}: an unknown frame {kind!r} at {file.tell() - 1}")
            data = kind + file.read(sizes[kind] - 1)
            if len(data) < sizes[kind]:
                return
            if kind == _SENT:
                _, node, seq, at_ns, measured_us, *numbers = frame.unpack(data)
                yield Sent(node, seq, at_ns, measured_us, tuple(numbers), hidden.get(node, ()))
            elif kind == _ACKED:
                yield Acked(*_ACKED_FRAME.unpack(data)[1:])
            else:
                _, node, *so_far = jumped.unpack(data)
                hidden[node] = tuple(so_far)
