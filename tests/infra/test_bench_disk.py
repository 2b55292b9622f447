"""The disk alone, as the end-to-end stage tells of it."""

from pathlib import Path

from infra.bench import disk


def test_the_disk_is_tried_and_leaves_no_file(tmp_path: Path):
    row = disk.row(tmp_path, seconds=0.4)

    figures = {name: value.p50 for name, value in row.figures.items()}
    assert 0 < figures["p50_ms"] <= figures["p95_ms"] <= figures["p99_ms"]
    assert row.note.startswith("fdatasync of 8,192 bytes, 20 times; at most ")
    assert list(tmp_path.iterdir()) == []
