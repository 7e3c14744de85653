"""What is answered is what the published document says."""

import base64
import json
from typing import Any

import jsonschema
import pytest

from .bad_inputs import encoded, photo
from .client import Answer, ask
from .service import Service


@pytest.fixture(scope="module")
def document(here: Service) -> Any:
    return ask(f"{here.url}/openapi.json", method="GET").json()


def checked(document: Any, path: str, answer: Answer, status: int = 200) -> None:
    assert answer.status == status, answer.body
    (operation,) = document["paths"][path].values()
    told = operation["responses"][str(status)]["content"]["application/json"]
    schema = told["schema"] | {"components": document["components"]}
    for value in [answer.json(), *([told["example"]] if "example" in told else [])]:
        jsonschema.validate(value, _strict(schema))


def _strict(schema: Any) -> Any:
    """The schema, and that nothing else is in an answer, as far as it names what is."""
    if isinstance(schema, list):
        return [_strict(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: _strict(part) for name, part in schema.items()}
    return found | ({"additionalProperties": False} if "properties" in schema and "type" in schema else {})


def test_every_answer_is_as_the_document_says(here: Service, document: Any) -> None:
    picture = encoded(photo(), "JPEG", quality=90)
    items = [{"image": base64.b64encode(picture).decode(), "external_id": "a"}, {"image": "!"}]
    for path in ("/v1/score", "/v1/explain"):
        checked(document, path, ask(here.url + path, body=picture))
        checked(document, path, ask(f"{here.url}{path}?external_id=a", body=picture))
        checked(document, path, ask(here.url + path, body=b""), 400)
        checked(document, path, ask(here.url + path, body=b"no picture"), 415)
    checked(document, "/v1/explain", ask(f"{here.url}/v1/explain?images=true&side=32", body=picture))
    checked(document, "/v1/score:batch", ask(f"{here.url}/v1/score:batch", body={"items": items}))
    lines = ask(f"{here.url}/v1/score:batch", body={"items": items}, headers={"Accept": "application/x-ndjson"})
    schema = {"$ref": "#/components/schemas/BatchItem", "components": document["components"]}
    for line in lines.body.splitlines():
        jsonschema.validate(json.loads(line), _strict(schema))
    for path in ("/v1/model", "/readyz"):
        checked(document, path, ask(here.url + path, method="GET"))
