"""Load the settings from the environment, and check that the files they name exist."""

from __future__ import annotations

import os
from pathlib import Path

from schemas.settings import PREFIX, Settings, SettingsError, read_settings
from tasks.files.prefect_profile import VARIABLE, read_profile


def load_settings() -> Settings:
    """Load the settings.

    Raises:
        SettingsError: If a setting is invalid or its file does not exist. The text names the variable but not
            its value.
    """
    settings, faults = check_settings()
    if faults:
        raise SettingsError("; ".join(text for _, text in faults))
    return settings


def check_settings() -> tuple[Settings, list[tuple[str, str]]]:
    """Load the settings and list what is wrong with them.

    Returns:
        The settings, with the default in place of each invalid value; and for each invalid value the name of
        the setting and a message, which names the variable but not the value.
    """
    settings, faults = read_settings()
    if settings.ca_file is not None and not settings.ca_file.is_file():
        faults = [*faults, ("ca_file", f"{PREFIX}CA_FILE: the file does not exist")]
        settings = settings.model_copy(update={"ca_file": None})
    if profile := os.environ.get(VARIABLE):
        try:
            read_profile(Path(profile))
        except SettingsError as error:  # Prefect would start a server of its own, without a login
            faults = [*faults, (VARIABLE.lower(), f"{VARIABLE}: {error}")]
    return settings, faults
