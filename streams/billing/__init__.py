"""Bills of homes: what they hold, when they are issued, what late data changes. Pure."""
