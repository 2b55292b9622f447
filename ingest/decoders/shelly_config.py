"""Settings in what a Shelly of Gen2 answers. Source: Shelly Gen2 API, component Sys."""


def settings_in(result: dict[str, object]) -> dict[str, object] | None:
    """Settings by component, if it is the answer to `Shelly.GetConfig` or `Sys.GetConfig`.

    Both have a `device` in their `sys`; a status has none.
    """
    if "cfg_rev" in result and isinstance(result.get("device"), dict):
        return {"sys": result}
    system = result.get("sys")
    return result if isinstance(system, dict) and isinstance(system.get("device"), dict) else None
