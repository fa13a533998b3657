"""Settings every service has. A service subclasses `FleetSettings` and adds its own fields.

Read once at start from the environment: `QT_` prefix, names upper-case. A `QT_` name that no service of the fleet
declares stops start-up (F13: a mistyped limit must not be ignored).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SecretsSettingsSource,
    SettingsConfigDict,
)

from quantum_common import QuantumError
from quantum_common.contracts.envelope import Producer
from quantum_common.contracts.streams import Keys
from quantum_common.domain import SERVICE_PORTS, TIMEFRAME_MS
from quantum_common.service.names import FLEET_NAMES, TOOLKIT_NAMES

Source = PydanticBaseSettingsSource
Made = TypeVar("Made")


class UnknownSetting(QuantumError):
    """A QT_ variable that no service declares."""


class WrongSettings(QuantumError):
    """Settings that do not validate; names each variable and what it must be."""


class FleetSettings(BaseSettings):
    """Settings shared by all services. Secrets are `SecretStr`; `/info` and logs show them redacted."""

    model_config = SettingsConfigDict(
        env_prefix="QT_", env_ignore_empty=True, frozen=True, extra="ignore", use_attribute_docstrings=True
    )

    service: ClassVar[str] = ""
    """Name of the service: group name on the bus, `producer.service` of its events."""

    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """Redis ≥ 7 or Valkey ≥ 8; may hold a password. A cluster: `redis+cluster://host:port,host:port`."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 0
    """0 = the service's documented port plus `port_offset`."""
    port_offset: int = 0
    """Moves a whole fleet to other ports."""
    service_url: str = "http://127.0.0.1:{port}"
    """Where the other services answer; `{service}` and `{port}` stand for a name and its port."""
    secrets_dir: Path | None = None
    """Folder of files such as `qt_redis_url` and `qt_api_token`: settings that the environment does not name."""
    instance: str = "1"
    """Stable name of this replica: its consumer name in the groups."""
    account: str = "paper"
    """Names the account on the bus and in client order ids."""
    partitions: int = Field(1, ge=1, le=99)
    """Symbol partitions; fixed when a cluster is created."""
    symbols: Annotated[tuple[str, ...], NoDecode] = ("BTCUSDT", "ETHUSDT", "BNBUSDT", "SOLUSDT", "ADAUSDT")
    """Separated by commas."""
    timeframe: str = "1h"
    """1m, 5m, 15m, 1h, 4h or 1d."""
    clock: Literal["live", "replay"] = "live"
    """replay: market time comes from the control stream, and nothing has a deadline."""
    state_dir: Path = Path("state")
    """Everything a run writes."""
    models_dir: Path = Path("state/models")
    """`<agent>/<version>/` and the `current` pointers."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """DEBUG, INFO, WARNING or ERROR."""
    log_format: Literal["text", "json"] = "text"
    """text or json."""
    log_dir: Path | None = None
    """When set, log lines also go to `<log_dir>/<service>.log`."""
    api_token: SecretStr | None = None
    """Bearer token of mutations; without one they are refused."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: Source,
        env_settings: Source,
        dotenv_settings: Source,
        file_secret_settings: Source,
    ) -> tuple[Source, ...]:
        """Arguments before the environment before the files of `QT_SECRETS_DIR`; no .env file is read."""
        folder = os.environ.get("QT_SECRETS_DIR")
        files = [SecretsSettingsSource(settings_cls, secrets_dir=folder)] if folder else []
        return (init_settings, env_settings, *files)

    @field_validator("service_url")
    @classmethod
    def _fillable(cls, value: str) -> str:
        try:
            return value.rstrip("/") if value.format(service="x", port=1) else value
        except (KeyError, IndexError, ValueError):
            raise ValueError("use only {service} and {port} in braces") from None

    @field_validator("symbols", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return (
            tuple(part.strip().upper() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("timeframe")
    @classmethod
    def _known_timeframe(cls, value: str) -> str:
        if value not in TIMEFRAME_MS:
            raise ValueError(f"use one of {', '.join(TIMEFRAME_MS)}")
        return value

    @cached_property
    def keys(self) -> Keys:
        return Keys(self.partitions, self.account)

    @property
    def listen_port(self) -> int:
        return self.port or SERVICE_PORTS[self.service] + self.port_offset

    def url_of(self, service: str) -> str:
        """Where a service of this fleet answers, without a slash at the end."""
        return self.service_url.format(service=service, port=SERVICE_PORTS[service] + self.port_offset)

    @property
    def producer(self) -> Producer:
        from quantum_common import __version__

        return Producer(self.service, self.instance, __version__)


def check_names(environment: Iterable[str] | None = None) -> None:
    """Raise UnknownSetting for a QT_ name that no service declares."""
    names = os.environ if environment is None else environment
    ours = (name for name in names if name.startswith("QT_") and not name.startswith(TOOLKIT_NAMES))
    unknown = sorted(name for name in ours if name not in FLEET_NAMES)
    if unknown:
        raise UnknownSetting(f"unknown setting {', '.join(unknown)}: see docs/reference/settings.md for the names")


def validated(make: Callable[[], Made]) -> Made:
    """Make settings, or what is built from them. Raises WrongSettings without the values: one may be a secret."""
    try:
        return make()
    except ValidationError as error:
        rows = [f"{_variable(row['loc'])}: {row['msg']}" for row in error.errors()]
        raise WrongSettings("; ".join(rows)) from error


def _variable(loc: tuple[int | str, ...]) -> str:
    name = str(loc[0]) if loc else "settings"
    return name if name.isupper() else f"QT_{name.upper()}"
