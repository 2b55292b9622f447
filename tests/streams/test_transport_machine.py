"""The chunk transport's offsets against a small model: fetches, acks, retries, rebalances, stops.

The consumer is the real one, over the wire of `test_transport_contract.py`. The model knows which
records were fetched since the last seek and which of them are processed; nothing else. What Faust
may tell Kafka's group is the end of the processed prefix, never more, whatever was acknowledged
before a seek, twice, or by somebody who has lost the partition.
"""

import asyncio
import importlib.util
from collections import defaultdict
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from faust.types import TP
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.examples import examples

_spec = importlib.util.spec_from_file_location(
    "transport_contract", Path(__file__).with_name("test_transport_contract.py")
)
assert _spec is not None
assert _spec.loader is not None
contract = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(contract)

PARTITIONS = contract.PARTITIONS
PARTS = st.sampled_from(PARTITIONS)
WHICH = st.integers(0, 5)
COUNTS = st.sampled_from([0, 1, 2, 2, 4])
BACK = st.sampled_from([0, 0, 1, 2, 4, 9])
FINISH = st.lists(WHICH, max_size=2)
LONGEST_S = 5.0


class Offsets(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self.loop)
        self.run(self._start())

    async def _start(self) -> None:
        self.log = contract.Log()
        self.delivered: dict[TP, list[contract.Chunk]] = defaultdict(list)  # since the seek
        self.processed: dict[TP, set[int]] = defaultdict(set)  # records, since the seek
        self.begin: dict[TP, int] = dict.fromkeys(PARTITIONS, 0)  # where the seek went
        self.old: list[contract.Chunk] = []  # delivered before it

    def run(self, step: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(asyncio.wait_for(step, LONGEST_S))

    # ---- the model

    def first_open(self, tp: TP) -> int:
        """The first record since the seek that is not processed, or not fetched yet."""
        at = self.begin[tp]
        while at in self.processed[tp]:
            at += 1
        return at

    def _acknowledge(self, message: contract.Chunk) -> None:
        """Of a fetch's chunks all are stored in one transaction."""
        self.log.ack(message)
        for tp, chunks in self.delivered.items():
            for chunk in chunks:
                if chunk.message is message.message:
                    self.processed[tp] |= {record.offset for record in chunk.records}

    def _forget(self, tps: tuple[TP, ...] = PARTITIONS) -> None:
        for tp in tps:
            self.old += self.delivered.pop(tp, [])
            self.processed.pop(tp, None)
            self.begin[tp] = self.log.wire.position[tp]
        self.old = self.old[-20:]

    # ---- the steps

    @rule(counts=st.tuples(COUNTS, COUNTS), commits=st.booleans())
    def fetch(self, counts: tuple[int, int], commits: bool) -> None:
        self.run(self._fetch(dict(zip(PARTITIONS, counts, strict=True))))
        if commits:
            self.commit()

    async def _fetch(self, counts: dict[TP, int]) -> None:
        before = {tp: (len(self.log.chunks[tp]), self.log.wire.position[tp]) for tp in PARTITIONS}
        await self.log.fetch(counts)
        for tp, (known, position) in before.items():
            new = self.log.chunks[tp][known:]
            offsets = [record.offset for message in new for record in message.records]
            owned = tp in self.log.wire.assigned and counts[tp]
            expected = range(position, position + counts[tp]) if owned else range(0)
            assert offsets == list(expected), "each record once, in order, none left out"
            self.delivered[tp] += new

    @rule(tp=PARTS, which=WHICH, commits=st.booleans())
    def process(self, tp: TP, which: int, commits: bool) -> None:
        """A transaction has stored a chunk; those of a partition may finish in any order here."""
        waiting = [m for m in self.delivered[tp] if not m.acked]
        if waiting:
            self._acknowledge(waiting[which % len(waiting)])
        if commits:
            self.commit()

    @rule(tp=PARTS, which=WHICH, before_the_seek=st.booleans())
    def acknowledge_again(self, tp: TP, which: int, before_the_seek: bool) -> None:
        """By a retry; or by one who does not know that the partition was sought anew."""
        said = self.old if before_the_seek else [m for m in self.delivered[tp] if m.acked]
        if said:
            self.log.ack(said[which % len(said)])

    def commit(self) -> None:
        before = dict(self.log.wire.committed)
        self.run(self.log.commit())
        for tp in PARTITIONS:
            committed = self.log.wire.committed.get(tp)
            if committed != before.get(tp):
                assert committed is not None
                assert committed <= self.first_open(tp), "committed past an open record"

    @rule(back=st.tuples(BACK, BACK), finish=FINISH)
    def seek(self, back: tuple[int, int], finish: list[int]) -> None:
        """What is in flight finishes inside of it; the database may be behind, after a crash."""
        self._prepare(back, finish)
        self.run(self.log.seek())
        self._after_the_seek()

    @rule(
        back=st.tuples(BACK, BACK),
        finish=FINISH,
        lost=st.sets(PARTS, max_size=1),
    )
    def rebalance(self, back: tuple[int, int], finish: list[int], lost: set[TP]) -> None:
        self._prepare(back, finish)
        self.log.wire.assigned = set(PARTITIONS) - lost
        self.run(self.log.rebalance())
        self.log.consumer._set_active_tps({*self.log.wire.assigned, contract.OTHER})
        self._after_the_seek()

    def _prepare(self, back: tuple[int, int], finish: list[int]) -> None:
        waiting = [m for tp in PARTITIONS for m in self.delivered[tp] if not m.acked]
        self.log.finish_before_seek = [waiting[i % len(waiting)] for i in finish if waiting]
        for tp, steps in zip(PARTITIONS, back, strict=True):
            self.log.stored[tp.partition] = max(0, self.first_open(tp) - steps)

    def _after_the_seek(self) -> None:
        for tp in self.log.wire.assigned:
            assert self.log.wire.position[tp] == self.log.stored[tp.partition]
        self._forget()

    @rule(answered=st.booleans(), stops=st.booleans(), count=st.integers(1, 4))
    def seek_during_a_fetch(self, answered: bool, stops: bool, count: int) -> None:
        """Records on their way while the flow stops, or a seek goes on, are left and sought again.

        The wire may have answered before it, or answer from behind it: nobody knows.
        """
        self.run(self._sought_fetch(answered, stops, count))
        self._after_the_seek()

    async def _sought_fetch(self, answered: bool, stops: bool, count: int) -> None:
        log = self.log
        for tp in PARTITIONS:
            log.stored[tp.partition] = self.first_open(tp)
            log.chunks[tp] = []
        gate = asyncio.Event()
        if answered:
            log.wire.held = gate
        else:
            log.wire.asked = gate
        log.wire.next_fetch = dict.fromkeys(log.wire.assigned, count)
        fetching = asyncio.create_task(log.consumer._drain_messages(contract.Once()))
        for _ in range(10):  # until it waits for its answer
            await asyncio.sleep(0)
        if stops:
            log.consumer.stop_flow()
        else:
            await log.seek()
        gate.set()
        await fetching
        log.wire.held = log.wire.asked = None
        log.wire.next_fetch = {}
        assert all(log.chunks[tp] == [] for tp in PARTITIONS), "they are from before the seek"
        log.consumer.resume_flow()

    # ---- in the end

    def teardown(self) -> None:
        """All partitions come back, all is processed: the group is told the end, exactly."""
        if not hasattr(self, "loop"):
            return
        if hasattr(self, "log"):
            self.rebalance((0, 0), [], set())
            self.fetch((3, 2), True)
            for tp in PARTITIONS:
                for message in reversed(self.delivered[tp]):
                    self._acknowledge(message)
            self.commit()
            for tp in PARTITIONS:
                assert self.log.wire.committed[tp] == self.first_open(tp)
                assert self.log.wire.committed[tp] == self.log.wire.position[tp]
        asyncio.set_event_loop(None)
        self.loop.close()


TestOffsets = Offsets.TestCase
TestOffsets.settings = settings(max_examples=examples(60), deadline=None)
