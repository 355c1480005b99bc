"""The JSON API: its answers are the model's, and what it refuses it refuses in words."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from overnight.evaluate.framing import frame
from overnight.evaluate.load import ByteModel
from overnight.evaluate.transfer import Classifier, FeatureKind
from overnight.evaluate.transfer.logistic import Logistic

TEXTS = ["The night was long.", "", "x", "Tom &amp; Jerry\n<b>café</b> \x00", "of and to in it was " * 30]


def events(body: str) -> list[tuple[str, Any]]:
    found = []
    for part in body.split("\n\n")[:-1]:
        name, data = part.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_scores_are_the_models(client: TestClient, model: ByteModel) -> None:
    answer = client.post("/api/score", json={"texts": TEXTS})
    assert answer.status_code == 200
    scores = answer.json()["scores"]
    np.testing.assert_allclose([one["bits"] for one in scores], model.score(TEXTS), rtol=1e-5)
    assert [one["bytes"] for one in scores] == [len(frame(text)) - 1 for text in TEXTS]
    assert all(one["bits_per_byte"] == one["bits"] / one["bytes"] for one in scores)


@pytest.mark.parametrize("layer", [-1, 0])
@pytest.mark.parametrize("pool", ["last", "mean", "max"])
@pytest.mark.parametrize("tanh", [False, True])
def test_features_are_the_models(client: TestClient, model: ByteModel, layer: int, pool: str, tanh: bool) -> None:
    asked = {"texts": TEXTS, "layer": layer, "pool": pool, "tanh": tanh}
    features = np.array(client.post("/api/features", json=asked).json()["features"])
    for text, found in zip(TEXTS, features, strict=True):
        states = model.states(text, layer=layer)
        expected = {"last": states[-1], "mean": states.mean(0), "max": states.max(0)}[pool]
        np.testing.assert_allclose(found, np.tanh(expected) if tanh else expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_traces_are_the_models(client: TestClient, model: ByteModel, text: str) -> None:
    asked = {"text": text, "units": [3, 0], "top": 4, "layer": 0}
    answer = client.post("/api/trace", json=asked).json()
    assert bytes(answer["text"]) == frame(text)
    for unit, found in zip([3, 0], answer["units"], strict=True):
        assert found["unit"] == unit
        np.testing.assert_allclose(found["values"], model.trace(text, unit, layer=0).values, rtol=1e-4, atol=1e-5)
    assert answer["bits"] == pytest.approx(model.score([text])[0], rel=1e-5)
    assert sum(answer["bits_of_bytes"]) == pytest.approx(answer["bits"])
    states = model.states(text, layer=0)
    spreads = np.tanh(states).std(0)
    assert [one["spread"] for one in answer["top"]] == pytest.approx(sorted(spreads, reverse=True)[:4], rel=1e-3)
    for one in answer["top"]:
        assert one["last"] == pytest.approx(states[-1, one["unit"]], rel=1e-4, abs=1e-5)
    assert answer["classes"] is None


def test_a_text_that_grows_is_traced_as_if_read_anew(client: TestClient, model: ByteModel) -> None:
    whole = "The model of the night, 1 & 2"
    for text in [whole[:size] for size in (5, 6, 20, 19, 29)] + ["The modem", whole, ""]:
        answer = client.post("/api/trace", json={"text": text, "units": [7]}).json()
        np.testing.assert_allclose(answer["units"][0]["values"], model.trace(text, 7).values, rtol=1e-4, atol=1e-5)
        assert answer["bits"] == pytest.approx(model.score([text])[0], rel=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"seed": 1},
        {"seed": 2, "temperature": 0, "prompt": ""},
        {"seed": 3, "top_k": 5, "top_p": 0.9},
        {"seed": 4, "fix_units": [{"unit": 3, "value": 4.0}, {"unit": 0, "value": -4.0}]},
        {"seed": 5, "fix_units": [{"unit": 3, "value": 4.0}], "layer": 0},
    ],
)
def test_text_is_the_models(client: TestClient, model: ByteModel, settings: dict[str, Any]) -> None:
    asked = {"prompt": "The night", "length": 40} | settings
    answer = client.post("/api/generate", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    (start, given), *texts, (end, ended) = events(answer.text)
    own = {name: value for name, value in asked.items() if name != "fix_units"}
    own["fix_units"] = {one["unit"]: one["value"] for one in asked.get("fix_units", [])}
    assert "".join(data["text"] for _, data in texts) == "".join(model.generate(**own))
    assert (start, given["seed"], end, ended) == ("start", asked["seed"], "end", {"bytes": 40})
    assert given["fix_units"] == asked.get("fix_units", [])
    assert all(name == "text" and data["values"] is None for name, data in texts)


def test_text_comes_with_a_units_values(client: TestClient, model: ByteModel) -> None:
    asked = {"prompt": "The night", "length": 30, "unit": 5, "seed": 1}
    texts = [data for name, data in events(client.post("/api/generate", json=asked).text) if name == "text"]
    written = bytes(byte for data in texts for byte in data["bytes"])
    values = [value for data in texts for value in data["values"]]
    assert len(written) == len(values) == 30
    held = {"fix_units": [{"unit": 5, "value": 1.5}]}
    texts = [data for name, data in events(client.post("/api/generate", json=asked | held).text) if name == "text"]
    assert {value for data in texts for value in data["values"]} == {1.5}


def test_a_seed_that_is_not_given_is_told_and_gives_the_text_again(client: TestClient) -> None:
    first = events(client.post("/api/generate", json={"length": 20}).text)
    again = events(client.post("/api/generate", json={"length": 20, "seed": first[0][1]["seed"]}).text)
    text = ["".join(data["text"] for name, data in found if name == "text") for found in (first, again)]
    assert text[0] == text[1]


def test_what_is_served(client: TestClient, model: ByteModel, run: Path) -> None:
    about = client.get("/api/model").json()
    assert (about["name"], about["units"], about["layers"], about["step"]) == ("small", 16, 2, model.step)
    assert about["digest"] == model.digest
    assert about["classifiers"] == about["problems"] == []
    curves = client.get("/api/curves").json()
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert curves["training"]["bits_per_byte"] == [line["bits_per_byte"] for line in lines]
    assert curves["held_out"]["steps"][-1] == 20
    assert client.get("/healthz").json() == {"status": "ok", "requests": 0, "lanes": 0}


@pytest.mark.parametrize("path", ["/", "/page.css", "/page.js", "/text.js", "/writing.js", "/chart.js", "/icon.svg"])
def test_the_page_is_strict(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers
    assert "http" not in answer.text.replace("http://www.w3.org/2000/svg", "")
    assert client.head(path).status_code == 200


LONG = "a" * 20_001
MALFORMED: list[tuple[str, Any, int, str]] = [
    ("score", b"", 400, "The body is not valid JSON"),
    ("score", b'{"texts": ["a"', 400, "The body is not valid JSON"),
    ("score", b'{"texts": ["\xff"]}', 400, "The body is not valid JSON"),
    ("score", b'{"texts": ["\\ud800"]}', 400, "The body is not valid JSON"),
    ("score", b"[" * 100_000, 400, "The body is not valid JSON"),
    ("score", b'{"texts": [NaN]}', 400, "The body is not valid JSON"),
    ("score", [], 422, "The body must be an object."),
    ("score", {}, 422, "texts is missing."),
    ("score", {"texts": "a"}, 422, "texts must be a list."),
    ("score", {"texts": []}, 422, "texts must have at least 1 item."),
    ("score", {"texts": ["a"] * 257}, 422, "texts must have at most 256 items."),
    ("score", {"texts": ["a", 1]}, 422, "texts[1] must be a string."),
    ("score", {"texts": [LONG]}, 422, "texts[0] must have at most 20000 characters."),
    ("score", {"texts": [LONG[:-1]] * 11}, 413, "The texts have 220,000 characters together; 200,000 is the most."),
    ("score", {"texts": ["a"], "text": "a"}, 422, "text is not a field."),
    ("score", b'{"texts": ["' + b"a" * (1 << 20) + b'"]}', 413, "The request has more than 1,048,576 bytes."),
    ("features", {"texts": ["a"], "layer": 2}, 422, "layer must be at most 1."),
    ("features", {"texts": ["a"], "layer": 0.5}, 422, "layer must be a whole number."),
    ("features", {"texts": ["a"], "pool": "min"}, 422, "pool must be one of last, mean, max."),
    ("features", {"texts": ["a"], "tanh": 1}, 422, "tanh must be true or false."),
    ("trace", {"text": None}, 422, "text must be a string."),
    ("trace", {"text": "a", "units": [16]}, 422, "units[0] must be at most 15."),
    ("trace", {"text": "a", "units": [-1]}, 422, "units[0] must be at least 0."),
    ("trace", {"text": "a", "units": [True]}, 422, "units[0] must be a whole number."),
    ("trace", {"text": "a", "classifier": "none"}, 404, "This run has no classifier."),
    ("classify", {"texts": ["a"]}, 404, "This run has no classifier."),
    ("generate", {"temperature": -1}, 422, "temperature must be at least 0."),
    ("generate", b'{"temperature": 1e999}', 400, "The body is not valid JSON"),
    ("generate", {"length": 0}, 422, "length must be at least 1."),
    ("generate", {"top_p": 0}, 422, "top_p must be above 0."),
    ("generate", {"fix_units": [{"unit": 1}]}, 422, "fix_units[0].value is missing."),
    ("generate", {"fix_units": [{"unit": 16, "value": 1}]}, 422, "fix_units[0].unit must be at most 15."),
    (
        "generate",
        {"fix_units": [{"unit": 1, "value": 1}, {"unit": 1, "value": 1}]},
        422,
        "fix_units[1] names unit 1 twice.",
    ),
    ("generate", {"seed": "x"}, 422, "seed must be a whole number or null."),
]


@pytest.mark.parametrize(("name", "body", "status", "problem"), MALFORMED, ids=range(len(MALFORMED)))
def test_what_is_wrong_is_named(client: TestClient, name: str, body: Any, status: int, problem: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(f"/api/{name}", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["problem"].startswith(problem)
    assert set(error) == {"code", "problem", "remedy"}
    assert client.get("/healthz").json()["requests"] == 0


def test_a_request_within_the_limits_is_answered_in_time(serving: Callable[..., TestClient], model: ByteModel) -> None:
    client = serving(seconds=0.5, text_chars=10**6, total_chars=10**6, body_bytes=10**7)
    limits = client.get("/api/model").json()["limits"]
    assert 16 <= limits["text_chars"] < 10**5, "what this model cannot read in half a second"
    assert client.post("/api/score", json={"texts": ["a" * (limits["text_chars"] // 4)]}).status_code == 200
    too_long = client.post("/api/score", json={"texts": ["a" * (limits["text_chars"] + 1)]})
    assert (too_long.status_code, too_long.json()["error"]["code"]) == (422, "field")
    document = client.get("/openapi.json").json()["paths"]["/api/score"]["post"]
    assert "504" in document["responses"]
    schema = document["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["texts"]["items"]["maxLength"] == limits["text_chars"]


def test_a_body_without_a_length_is_cut_off(serving: Callable[..., TestClient]) -> None:
    client = serving(body_bytes=100)
    answer = client.post("/api/score", content=iter([b"a" * 60] * 3), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_other_addresses_methods_and_types(client: TestClient) -> None:
    assert client.get("/api/nothing").status_code == 404
    wrong = client.get("/api/score")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["problem"] == "This address does not take this method."
    plain = client.post("/api/score", content=b'{"texts": ["a"]}', headers={"Content-Type": "text/plain"})
    assert (plain.status_code, plain.json()["error"]["code"]) == (415, "type")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "127.0.0.1:8642"}, 200),
        ({"Host": "LOCALHOST"}, 200),
        ({"Host": "[::1]:8642"}, 200),
        ({"Host": "localhost", "Origin": "http://localhost"}, 200),
        ({"Host": "evil.example"}, 400),
        ({"Host": "localhost.evil.example:80"}, 400),
        ({"Host": "127.0.0.1.evil.example"}, 400),
        ({"Host": ""}, 400),
        ({"Host": "localhost", "Origin": "http://evil.example"}, 400),
        ({"Host": "localhost", "Origin": "null"}, 400),
    ],
)
def test_only_its_own_names_are_answered(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.get("/healthz", headers=headers).status_code == status


def test_every_request_schema_is_in_the_document(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    assert document["openapi"].startswith("3.1")
    paths = document["paths"]
    assert set(paths) == {
        *(f"/api/{name}" for name in ("features", "score", "trace", "classify", "generate", "model", "curves")),
        "/healthz",
    }
    schema = paths["/api/trace"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["units"]["items"]["maximum"] == 15


@pytest.fixture
def classified(run: Path, model: ByteModel, tmp_path: Path) -> Path:
    """The run with a classifier of two classes, one of three on means, one of another model's, and a damaged one."""
    folder = tmp_path / "classified"
    shutil.copytree(run, folder)
    draw = np.random.default_rng(0)
    for name, count, kind in (("two", 1, FeatureKind()), ("means", 3, FeatureKind(0, "mean", True))):
        classes = ("bad", "good") if count == 1 else ("<i>one</i>", "two", "three")
        weights = Logistic(draw.normal(size=(count, 16)), draw.normal(size=count))
        Classifier(weights, classes, model.digest, kind, best_unit=3).save(folder / "transfer" / name)
    Classifier(weights, classes, "0" * 64).save(folder / "transfer" / "other")
    Classifier(weights, classes, model.digest).save(folder / "transfer" / "torn")
    (folder / "transfer" / "torn" / "classifier.safetensors").write_bytes(b"")
    return folder


@pytest.mark.parametrize("name", ["two", "means"])
def test_classes_are_the_classifiers(
    serving: Callable[..., TestClient], classified: Path, model: ByteModel, name: str
) -> None:
    client = serving(classified)
    answer = client.post("/api/classify", json={"texts": TEXTS, "classifier": name}).json()
    assert answer["classifier"] == name
    classifier = Classifier.load(classified / "transfer" / name)
    expected = classifier.predict_proba(classifier.features(model, TEXTS, precision="fp32"))
    found = [[one["probability"] for one in result["probabilities"]] for result in answer["results"]]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    labels = [classifier.classes[row.argmax()] for row in expected]
    assert [result["label"] for result in answer["results"]] == labels
    traced = client.post("/api/trace", json={"text": TEXTS[0], "classifier": name}).json()["classes"]
    assert traced["label"] == answer["results"][0]["label"]
    np.testing.assert_allclose([one["probability"] for one in traced["probabilities"]], found[0], rtol=1e-3)


def test_classifiers_that_cannot_be_used_are_named(serving: Callable[..., TestClient], classified: Path) -> None:
    client = serving(classified)
    about = client.get("/api/model").json()
    assert [one["name"] for one in about["classifiers"]] == ["means", "two"]
    assert about["classifiers"][1]["best_unit"] == 3
    assert [one["layer"] for one in about["classifiers"]] == [0, -1]
    other, torn = about["problems"]
    assert "other weights" in other
    assert "damaged" in torn
    missing = client.post("/api/classify", json={"texts": ["a"], "classifier": "other"})
    assert missing.status_code == 404
    assert missing.json()["error"]["problem"] == "There is no classifier 'other'."
