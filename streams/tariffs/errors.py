"""What goes wrong with tariffs: each says what, where and what to do. No bill comes of any."""


class TariffError(Exception):
    """Anything that keeps a bill from being made."""


class BadTariff(TariffError):
    """Tariff data that contradicts itself; it is not loaded."""


class UnknownTariff(TariffError):
    """No tariff has this id."""


class NotKnown(TariffError):
    """A rate, surcharge, price or holiday that nobody has entered; it is never guessed."""


class BadUsage(TariffError):
    """The energy to be billed does not fit the tariff or the cycle."""
