"""Where a node belongs and how it gets there: set on the spot, never over MQTT, never logged. Pure.

{"home", "node", "wifi": {"ssid", "password"},
 "mqtt": {"host", "port", "tls", "user", "token", "client_id", "ca_pem"}}
"""

from node.seldom import seldom


class BadAccount(Exception):
    """It cannot be taken; the text says why, and no secret."""


class Account:
    """Raises BadAccount."""

    def __init__(self, document):
        seldom("account_fields").fill(self, document)

    def topic(self, tail):
        return "homesync/%s/nodes/%s/%s" % (self.home, self.node, tail)
