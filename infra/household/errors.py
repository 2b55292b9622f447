"""Why a file of measurements is not taken."""


class FileRefused(Exception):
    """The file cannot be read as what it was said to be; the text says where and what to do."""
