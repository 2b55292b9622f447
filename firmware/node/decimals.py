"""Whole numbers as decimal text: a board's floats have 24 bits, too few for a register."""


def decimal(value, digits):
    """`value` steps of 10^-digits as text: decimal(2257, 1) is "225.7"."""
    if digits == 0:
        return str(value)
    sign = "-" if value < 0 else ""
    whole, part = divmod(abs(value), 10**digits)
    return "%s%d.%s" % (sign, whole, ("0" * digits + str(part))[-digits:])
