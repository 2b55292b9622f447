import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from ingest.decoders.topic_table import SUBSCRIPTIONS
from ingest.filters import OverlappingShards, check_shards, covers, overlap, without_needless


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/c", False),
        ("a/+", "+/b", True),
        ("a/+", "b/+", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "b/#", False),
        ("#", "a/b", True),
        ("a/+", "a", False),
        ("a/+/c", "a/b", False),
        ("+/+/online", "shellies/+/online", True),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
    ],
)
def test_filters_that_share_a_topic_overlap(one, other, expected):
    assert overlap(one, other) is expected
    assert overlap(other, one) is expected


FILTERS = st.lists(st.sampled_from(["a", "b", "+"]), min_size=1, max_size=4).flatmap(
    lambda levels: st.sampled_from(["/".join(levels), "/".join([*levels, "#"])])
)
TOPICS = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map("/".join)


@given(FILTERS, FILTERS, TOPICS)
def test_a_topic_that_matches_both_proves_overlap(one, other, topic):
    if topic_matches_sub(one, topic) and topic_matches_sub(other, topic):
        assert overlap(one, other)


@given(FILTERS, FILTERS, TOPICS)
def test_a_covering_filter_matches_whatever_the_covered_one_does(wide, narrow, topic):
    if covers(wide, narrow) and topic_matches_sub(narrow, topic):
        assert topic_matches_sub(wide, topic)


@given(FILTERS, FILTERS)
def test_overlap_has_a_witness(one, other):
    witness = "/".join(
        b if a in "+#" else a
        for a, b in zip(one.split("/"), other.split("/"), strict=False)
    ).replace("+", "c").replace("#", "c")  # fmt: skip
    longer = max((one, other), key=lambda name: len(name.split("/")))
    rest = longer.split("/")[len(witness.split("/")) :]
    whole = "/".join([witness, *rest]).replace("+", "c").replace("#", "c")
    candidates = {witness, whole, witness.rpartition("/")[0]} - {""}
    found = any(
        topic_matches_sub(one, topic) and topic_matches_sub(other, topic) for topic in candidates
    )
    assert overlap(one, other) is found


def test_filters_covered_by_another_are_left_out():
    assert without_needless(["shellies/+/online", "+/+/online", "x/#", "x", "+/+/online"]) == [
        "+/+/online",
        "x/#",
    ]


def test_what_we_subscribe_to_has_nothing_needless():
    assert without_needless(SUBSCRIPTIONS) == list(SUBSCRIPTIONS)


def test_overlapping_shards_are_refused_with_both_filters():
    with pytest.raises(OverlappingShards, match=r'shard 0 has "site1/#" and shard 2 has "\+/b"'):
        check_shards([["site1/#"], ["x"], ["a", "+/b"]])


def test_disjoint_shards_may_overlap_within():
    check_shards([["site1/#", "site1/+/online"], ["site2/#"]])
