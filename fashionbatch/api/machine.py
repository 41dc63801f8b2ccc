"""Looks at the machine that is to do the work."""

from __future__ import annotations

from pathlib import Path


def doctor(folder: str | Path = ".") -> list[dict[str, str]]:
    """Finds out whether this machine and this installation can do the work.

    Args:
        folder: where results are going to be written.

    Returns:
        ``{"about", "state", "text"}`` of each thing that was looked at: what it is, ``"ok"``,
        ``"note"`` or ``"broken"``, and what was found, in one line.

    Example:
        >>> fashionbatch.doctor()[0]["about"]  # doctest: +SKIP
        'installation'
    """
    from fashionbatch.diagnosis import diagnose

    return diagnose(Path(folder))
