import pytest
from pydantic import ValidationError

from ingest.decoders.topic_table import SUBSCRIPTIONS
from ingest.settings import UplinkSettings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch):
    for name in ("SHARD", "SHARDS", "RECEIVE_MAXIMUM", "QUEUE_KBYTES"):
        monkeypatch.delenv(f"METERSTREAM_UPLINK_{name}", raising=False)


def test_one_shard_takes_all_subscriptions():
    settings = UplinkSettings()
    assert settings.filters == tuple(SUBSCRIPTIONS)
    assert settings.client_id == "meterstream-uplink-0"


def test_shards_are_a_json_list_of_lists(monkeypatch):
    monkeypatch.setenv("METERSTREAM_UPLINK_SHARDS", '[["a/#"], ["b/#", "c/+"]]')
    monkeypatch.setenv("METERSTREAM_UPLINK_SHARD", "1")
    settings = UplinkSettings()
    assert settings.filters == ("b/#", "c/+")
    assert settings.client_id == "meterstream-uplink-1"


@pytest.mark.parametrize(
    ("shards", "shard", "message"),
    [
        ('[["a/#"], ["+/b"]]', "0", 'shard 0 has "a/#" and shard 1 has "+/b"'),
        ('[["a/#"]]', "1", "shard 1 does not exist"),
        ('[["a/#"], []]', "0", "shard 1 has no filter"),
    ],
)
def test_a_bad_map_stops_the_start(monkeypatch, shards, shard, message):
    monkeypatch.setenv("METERSTREAM_UPLINK_SHARDS", shards)
    monkeypatch.setenv("METERSTREAM_UPLINK_SHARD", shard)
    with pytest.raises(ValidationError) as refused:
        UplinkSettings()
    assert message in str(refused.value)
