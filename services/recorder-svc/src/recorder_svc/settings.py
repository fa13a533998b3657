"""Settings of the recorder."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from pydantic import SecretStr

from quantum_common.service import FleetSettings


class Settings(FleetSettings):
    service: ClassVar[str] = "recorder-svc"

    ledger_url: SecretStr | None = None
    """SQLAlchemy URL of the ledger database; default SQLite at `<state_dir>/ledger.sqlite`."""

    @property
    def archive_dir(self) -> Path:
        return self.state_dir / "archive"

    @property
    def database_url(self) -> str:
        if self.ledger_url is not None:
            return self.ledger_url.get_secret_value()
        return f"sqlite:///{self.state_dir.resolve() / 'ledger.sqlite'}"
