"""Why a command is not accepted, or not cancelled. Each text says what to do."""


class CommandError(Exception):
    """What was asked of a device, or of a command, cannot be done."""


class UnknownCommand(CommandError):
    """No command has this id."""


class BadCommand(CommandError):
    """The command as such makes no sense."""


class NotConfirmed(CommandError):
    """It is dangerous, or for many devices, and nobody said `confirm`."""


class UnknownRelay(CommandError):
    """The device has no such relay, or several and none was named."""


class UnknownState(CommandError):
    """A toggle of a relay of which nobody knows whether it is on."""


class DeviceOffline(CommandError):
    """The device is offline, and the command may not wait."""


class TooSoon(CommandError):
    """Too many commands in too short a time."""

    def __init__(self, text: str, wait_s: float) -> None:
        super().__init__(text)
        self.wait_s = wait_s


class KeyReused(CommandError):
    """An idempotency key that was used for another command."""


class NotCancellable(CommandError):
    """The command is on its way, or has ended."""
