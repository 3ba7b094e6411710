"""Options, marks and data that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import scvi

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--accelerator", default="cpu", help="accelerator that models train on")


@pytest.fixture
def accelerator(request: pytest.FixtureRequest) -> str:
    return request.config.getoption("--accelerator")


@pytest.fixture(autouse=True)
def _seed() -> None:
    scvi.settings.seed = 0


@pytest.fixture(scope="session")
def real_data():
    """Function from a file name to its path; skips the test where the file is missing."""
    folder = Path(os.environ.get("CANTATA_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(name: str) -> Path:
        path = folder / name
        if not path.exists():
            pytest.skip(f"{name} is not in {folder} (CANTATA_TEST_DATA): real-data test skipped")
        return path

    return find
