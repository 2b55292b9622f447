"""Which application to start. Runs first after each start; what it chooses was verified."""

from ota.state import SLOTS, State, digest_of


def choose(flash):
    """(slot, trial): the slot to run, None for the built-in application; and whether it is tried.

    A tried application has TRIES starts to say that it is healthy (`State.confirm`); each is taken
    off before it runs, so one that hangs or resets is rolled back as well. An image whose bytes are
    not those that were verified does not run, nor does one older than the committed counter.
    """
    state = State(flash)
    trial = state.trial
    if trial is not None:
        if not _is_whole(flash, state, trial["slot"]):
            state.roll_back("damaged")
        elif trial["tries"] < 1:
            state.roll_back("not_healthy")
        else:
            trial["tries"] -= 1
            state.store()
            return trial["slot"], True
    for slot in sorted(SLOTS, key=lambda slot: slot != state.active):
        if _is_whole(flash, state, slot):
            if slot != state.active:
                state.active = slot
                state.store()
            return slot, False
    return None, False


def _is_whole(flash, state, slot):
    image = state.slots[slot]
    return (
        image is not None
        and image["counter"] >= state.counter
        and digest_of(flash, slot, image["size"]) == image["sha256"]
    )
