"""docker-compose.yml: a server for benchmarks that is safe to start as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loaders import postgres_cluster

yaml: Any = pytest.importorskip("yaml", reason="PyYAML comes with pre-commit")


@pytest.fixture(scope="module")
def service() -> dict[str, Any]:
    text = (Path(__file__).resolve().parents[2] / "docker-compose.yml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)["services"]["postgres"]
    return found


def test_its_settings_are_the_embedded_server_s(service: dict[str, Any]) -> None:
    """Both servers run with the same settings, so that they can be compared."""
    words = service["command"]
    assert words[0] == "postgres"
    assert set(words[1::2]) == {"-c"}
    assert dict(word.split("=") for word in words[2::2]) == {**postgres_cluster.SETTINGS, "shared_buffers": "1GB"}


def test_it_is_the_same_version(service: dict[str, Any]) -> None:
    """The image is of the version that the embedded binaries are of."""
    assert service["image"] == "postgres:18"


def test_it_is_for_this_machine_only(service: dict[str, Any]) -> None:
    """The port is bound to 127.0.0.1, and there is no default password."""
    assert service["ports"] == ["127.0.0.1:${LOADSTONE_POSTGRES_PORT:-5432}:5432"]
    assert service["environment"]["POSTGRES_PASSWORD"].startswith("${POSTGRES_PASSWORD:?")


def test_it_has_a_volume_a_health_check_and_shared_memory(service: dict[str, Any]) -> None:
    """Data lie in a volume where image 18 wants it; ``--wait`` has something to wait for."""
    assert service["volumes"] == ["postgres-data:/var/lib/postgresql"]
    assert "pg_isready" in service["healthcheck"]["test"]
    assert service["shm_size"] == "1gb"
