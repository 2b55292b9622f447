"""What a quantity costs in blocks: exact, not yet rounded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from streams.tariffs.model import Block


@dataclass(frozen=True, slots=True)
class Share:
    """What fell into one block `(above, up_to]`: its quantity (kWh or kW), price and cost."""

    above: Decimal
    up_to: Decimal | None
    quantity: Decimal
    price: Decimal

    @property
    def amount(self) -> Decimal:
        return self.quantity * self.price


def shares(
    blocks: Sequence[Block], quantity: Decimal, scale: Decimal = Decimal(1)
) -> Iterator[Share]:
    """Split `quantity` over the blocks, whose edges are multiplied by `scale` (proration).

    The first block is always there, also of nothing; the others where something is in them.
    """
    above = Decimal(0)
    for block in blocks:
        up_to = None if block.up_to is None else block.up_to * scale
        top = quantity if up_to is None else min(quantity, up_to)
        if top > above or above == 0:
            yield Share(above, up_to, max(top - above, Decimal(0)), block.price)
        if up_to is None or quantity <= up_to:
            return
        above = up_to
