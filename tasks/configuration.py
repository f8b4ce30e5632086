"""The settings as a run needs them: read from the environment, and the files that they name are there."""

from __future__ import annotations

from schemas.settings import PREFIX, Settings, SettingsError, read_settings


def load_settings() -> Settings:
    """Read the settings.

    Raises:
        SettingsError: When one is malformed or names no file; it names the variable, never the value.
    """
    settings, faults = check_settings()
    if faults:
        raise SettingsError("; ".join(text for _, text in faults))
    return settings


def check_settings() -> tuple[Settings, list[tuple[str, str]]]:
    """Read the settings; a faulty one has its default, and its name and fault are returned."""
    settings, faults = read_settings()
    if settings.ca_file is not None and not settings.ca_file.is_file():
        faults = [*faults, ("ca_file", f"{PREFIX}CA_FILE: names no file")]
        settings = settings.model_copy(update={"ca_file": None})
    return settings, faults
