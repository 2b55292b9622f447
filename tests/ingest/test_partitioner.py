import pytest
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from ingest.partitioner import partition_of


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # Apache Kafka, UtilsTest.testMurmur2
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_the_hash_is_that_of_apache_kafka(key, hashed):
    assert partition_of(key, 1 << 31) == hashed & 0x7FFFFFFF


@given(st.binary(min_size=1, max_size=100), st.integers(1, 48))
def test_aiokafka_chooses_the_same_partition(key, partitions):
    every = list(range(partitions))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, every, every)
