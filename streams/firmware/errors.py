"""What is wrong with firmware, its documents or its roll-out; the text says what to do."""


class FirmwareError(Exception):
    """Base of the errors of firmware."""


class NotTrusted(FirmwareError):
    """A document that the keys which count have not signed, or that says what cannot be."""


class BadImage(FirmwareError):
    """Bytes that are not the image that the manifest speaks of, or no sound bundle."""


class UnknownFirmware(FirmwareError):
    """No firmware or roll-out is called that."""


class BadRollout(FirmwareError):
    """A roll-out that cannot be so."""
