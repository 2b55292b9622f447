"""Bundles as the node reads them, and records that a power cut hits. No server is needed."""

import io

import pytest
from ota.bundle import BadBundle, BundleFiles, head_of
from ota.http import fetch
from ota.record import Record
from ota_device import TORN, CutFlash, PowerCut

from infra.firmware_bundle import bundle_of

FILES = {"main.py": b"print(1)\n", "node/__init__.py": b"", "node/outbox.mpy": bytes(range(200))}


def test_each_file_of_a_bundle_is_found(tmp_path):
    (tmp_path / "b.img").write_bytes(bundle_of(FILES) + b"left over from an image before")
    mounted = BundleFiles(str(tmp_path / "b.img"), len(bundle_of(FILES)))
    for name, data in FILES.items():
        with mounted.open("/" + name, "rb") as file:
            assert file.read() == data
        assert mounted.stat("/" + name)[6] == len(data)
    assert mounted.stat("/node")[0] == mounted.stat("/")[0] == 0x4000
    for missing in ("/other.py", "/nod", "/node/outbox"):
        with pytest.raises(OSError):  # noqa: PT011
            mounted.stat(missing)
    for mode in ("wb", "ab", "r+b"):
        with pytest.raises(OSError, match="30"):
            mounted.open("/main.py", mode)


def test_reading_in_small_parts_ends_with_the_file(tmp_path):
    (tmp_path / "b.img").write_bytes(bundle_of(FILES))
    mounted = BundleFiles(str(tmp_path / "b.img"), len(bundle_of(FILES)))
    with mounted.open("/node/outbox.mpy", "rb") as file:
        parts = []
        while True:
            buffer = bytearray(64)
            count = file.readinto(buffer)
            if not count:
                break
            parts.append(bytes(buffer[:count]))
    assert b"".join(parts) == FILES["node/outbox.mpy"]


def test_a_bundle_cut_anywhere_or_of_another_length_is_none():
    image = bundle_of(FILES)
    for size in range(len(image)):
        with pytest.raises(BadBundle):
            head_of(io.BytesIO(image[:size]), size)
    with pytest.raises(BadBundle):
        head_of(io.BytesIO(image + b"\0"), len(image) + 1)
    with pytest.raises(BadBundle):
        head_of(io.BytesIO(b"MSB2" + image[4:]), len(image))


@pytest.mark.parametrize("torn", TORN)
def test_a_record_cut_at_any_byte_is_the_old_or_the_new(torn: str):
    for cut in range(400):
        flash = CutFlash(torn)
        for number in range(3):
            Record(flash, "r").store({"number": number})
        flash.left = cut
        try:
            Record(flash, "r").store({"number": 3})
            done = True
        except PowerCut:
            done = False
        said = Record(flash, "r").load()["number"]
        assert said == 3 if done else said in (2, 3)
        flash.left = None
        Record(flash, "r").store({"number": 4})
        assert Record(flash, "r").load() == {"number": 4}


def test_a_damaged_copy_falls_back_to_the_one_before():
    flash = CutFlash("prefix")
    for number in range(4):
        Record(flash, "r").store(number)
    for bit in range(0, 8 * flash.size("r.1"), 7):
        damaged = CutFlash("prefix")
        damaged.files = dict(flash.files)
        damaged.flip("r.1", bit)
        assert Record(damaged, "r").load() == 2


@pytest.mark.parametrize("url", ["https://h/x", "ftp://h/x", "http://", "http://h:x/", "x", ""])
def test_only_http_addresses_are_fetched(url: str):
    with pytest.raises(OSError, match="is no http address"):
        fetch(url, 0, 1)
