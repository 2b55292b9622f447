"""Why an update is refused."""

REASONS = (
    "malformed",
    "too_large",
    "unsigned",
    "wrong_root",
    "wrong_product",
    "wrong_hardware",
    "older_counter",
    "expired",
    "no_clock",
    "bootloader_too_old",
    "damaged",
    "busy",
    "not_healthy",
)


class Refused(Exception):
    """`reason` is one of REASONS, `detail` says it to a person. The node is as it was."""

    def __init__(self, reason, detail):
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
