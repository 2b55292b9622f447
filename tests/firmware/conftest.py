"""The node's modules are imported as the node imports them."""

import sys
from pathlib import Path

import pytest

FIRMWARE = Path(__file__).resolve().parents[2] / "firmware"
if str(FIRMWARE) not in sys.path:
    sys.path.insert(0, str(FIRMWARE))
sys.path.insert(0, str(Path(__file__).parent))

from node_process import freeze  # noqa: E402


@pytest.fixture(scope="session")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The firmware as a board has it."""
    return freeze(tmp_path_factory.mktemp("frozen"))
