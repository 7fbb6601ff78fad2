"""The public HTTP API against its own OpenAPI: whatever is sent, the answer is one that the description knows."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance

from app.gateway.openapi import openapi
from tests.fuzz.mutations import FUZZ
from tests.fuzz.stack import Running

# 503 and 504 are answers; that what the description allows can still be wrong (no such field or partition, another
# dimension) is what 400 says
NOT_CHECKED = [not_a_server_error, positive_data_acceptance]
WAIT_MS = 20


described = schemathesis.openapi.from_dict(openapi("1"))


@described.parametrize()
@FUZZ
def test_every_answer_is_one_that_the_description_knows(case: Case, served: Running) -> None:
    _wait_only_shortly(case.body)
    response = case.call_and_validate(base_url=served.gateway, excluded_checks=NOT_CHECKED)
    assert response.status_code < 500 or response.status_code == (503 if case.path == "/readyz" else 504)


def _wait_only_shortly(body: Any) -> None:
    """Without making a wrong body right."""
    if isinstance(body, dict):
        asked = body.get("timeout_ms", 2000)
        if isinstance(asked, int) and 1 <= asked <= 60_000:
            body["timeout_ms"] = min(asked, WAIT_MS)
