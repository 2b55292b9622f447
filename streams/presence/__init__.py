"""Who is there: `online`, `late` and `offline`, from the raw log and its own time."""
