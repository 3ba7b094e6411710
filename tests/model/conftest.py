"""Every model in turn, as it is made and trained."""

from __future__ import annotations

from typing import Any

import pytest
from model_cases import CASES, Case


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture(scope="module")
def fitted_models() -> dict[str, Any]:
    return {}


@pytest.fixture
def model(case: Case, fitted_models: dict[str, Any]) -> Any:
    """A trained model that no test may change."""
    name = case.cls.__name__
    if name not in fitted_models:
        fitted_models[name] = case.fit(case.data())
    return fitted_models[name]
