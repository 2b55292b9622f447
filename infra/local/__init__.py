"""The local stack: real servers and Meterstream's processes on one machine, without Docker."""

from infra.local.errors import StackError
from infra.local.settings import StackSettings
from infra.local.stack import ProcessStatus, Stack, start

__all__ = ["ProcessStatus", "Stack", "StackError", "StackSettings", "start"]
