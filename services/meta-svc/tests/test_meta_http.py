"""The HTTP contract."""

import asyncio

import httpx
import pytest
from pydantic import SecretStr

from meta_svc.app import build
from meta_svc.settings import Settings
from quantum_common.bus import MemoryBus, Output, Unit
from quantum_common.contracts import CONTROL, DECISIONS, DecisionMade, Keys, Look, Producer, encode, envelope
from quantum_common.domain import Action
from quantum_common.service import Stop, build_app
from quantum_common.testing import eventually

KEYS = Keys()
BAR, HOUR = 1_700_000_000_000, 3_600_000
QUESTION = {
    "symbol": "BTCUSDT",
    "base_predictions": {
        "xgb": {"action": "BUY", "confidence": 0.6},
        "lgbm": {"action": "BUY", "confidence": 0.6},
        "nhits": {"action": "HOLD", "confidence": 0.9},
        "patchtst": None,
    },
    "regime_info": {"volatility": 0.52, "trend_strength": 0.15},
}

VOTES = QUESTION["base_predictions"]


@pytest.fixture
def bus():
    return MemoryBus()


def client_of(bus, **changes):
    app = build_app(build(Settings(**changes), bus))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://meta")


@pytest.fixture
async def client(bus, tmp_path):
    async with client_of(bus, models_dir=tmp_path) as client:
        yield client


async def count(bus, counter, times):
    await bus.commit([Unit(writes=[("HINCRBY", KEYS.counters("meta-svc"), counter, times)])])


async def publish(bus, symbol, bar):
    made = DecisionMade(
        action=Action.BUY,
        confidence=0.7,
        reason="meta_override_buy",
        use_meta=True,
        meta_action=Action.BUY,
        meta_confidence=0.7,
        base_ensemble_action=Action.HOLD,
        base_ensemble_confidence=0.5,
        consensus_strength=0.5,
        votes=(),
        explanation=None,
        trigger="complete",
        input_event_ids=(),
        meta_version="v2",
        meta_model_version="v1",
        volatility=0.5,
        trend_strength=0.0,
    )
    event = envelope(
        made,
        producer=Producer("meta-svc", "1", "0.1.0"),
        produced_at_ms=bar + HOUR,
        symbol=symbol,
        timeframe="1h",
        bar_ts_ms=bar,
    )
    await bus.commit([Unit(outputs=[Output(KEYS.stream(DECISIONS, symbol), encode(event))])])
    return event


async def test_status_has_every_documented_field_before_the_first_decision(client):
    status = (await client.get("/api/ai/meta/status")).json()
    assert {name: status[name] for name in ("total_predictions", "meta_overrides", "override_rate")} == {
        "total_predictions": 0,
        "meta_overrides": 0,
        "override_rate": 0.0,
    }
    assert len(status["fallback_reasons"]) == 9
    assert (status["model_ready"], status["meta_threshold"], status["consensus_threshold"], status["version"]) == (
        False,
        0.65,
        0.75,
        "v2",
    )


async def test_override_rate_has_three_decimals(bus, client):
    await count(bus, "meta_overrides", 1)
    await count(bus, "strong_consensus", 2)
    status = (await client.get("/api/ai/meta/status")).json()
    assert (status["total_predictions"], status["override_rate"]) == (3, 0.333)


async def test_counters_of_all_partitions_are_added(bus, tmp_path):
    for partition in (0, 1):
        key = Keys(2).counters("meta-svc", partition)
        await bus.commit([Unit(writes=[("HINCRBY", key, "low_meta_confidence", 1)])])
    async with client_of(bus, models_dir=tmp_path, partitions=2) as client:
        status = (await client.get("/api/ai/meta/status")).json()
    assert status["fallback_reasons"]["low_meta_confidence"] == 2


async def test_reset_stats_needs_no_token_and_returns_the_zeroed_status(bus, client):
    await count(bus, "meta_overrides", 7)
    answer = await client.post("/api/ai/meta/reset_stats")
    assert (answer.status_code, answer.json()["total_predictions"]) == (200, 0)
    assert (await client.get("/api/ai/meta/status")).json()["meta_overrides"] == 0


async def test_reset_stats_needs_a_token_when_the_setting_says_so(bus, tmp_path):
    await count(bus, "meta_overrides", 7)
    token = SecretStr("let me in")
    async with client_of(bus, models_dir=tmp_path, reset_stats_needs_token=True, api_token=token) as client:
        assert (await client.post("/api/ai/meta/reset_stats")).status_code == 401
        assert (await client.get("/api/ai/meta/status")).json()["meta_overrides"] == 7
        allowed = await client.post("/api/ai/meta/reset_stats", headers={"Authorization": "Bearer let me in"})
        assert (allowed.status_code, allowed.json()["meta_overrides"]) == (200, 0)


async def test_a_what_if_answers_like_a_bar_and_counts_nothing(client):
    answer = (await client.post("/api/ai/meta/predict", json=QUESTION)).json()
    assert (answer["symbol"], answer["action"], answer["reason"]) == ("BTCUSDT", "BUY", "model_not_loaded")
    assert (answer["use_meta"], answer["meta_confidence"], answer["consensus_strength"]) == (False, None, 0.5)
    assert answer["base_ensemble_confidence"] == pytest.approx(0.375)
    assert (await client.get("/api/ai/meta/status")).json()["total_predictions"] == 0


async def test_f11_a_lower_case_action_is_read(client):
    vote = {"action": "buy", "confidence": 0.7}
    answer = await client.post("/api/ai/meta/predict", json={"symbol": "BTCUSDT", "base_predictions": {"xgb": vote}})
    assert (answer.status_code, answer.json()["action"]) == (200, "BUY")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"symbol": ""}, "symbol"),
        ({"base_predictions": None}, "base_predictions"),
        ({"base_predictions": {"xgb": {"action": "LONG", "confidence": 0.5}}}, "action"),
        ({"base_predictions": {"xgb": {"action": 1, "confidence": 0.5}}}, "action"),
        ({"base_predictions": {"xgb": {"action": "BUY", "confidence": 1.5}}}, "confidence"),
        ({"base_predictions": {"xgb": {"action": "BUY"}}}, "confidence"),
        ({"base_predictions": {"svm": {"action": "BUY", "confidence": 0.5}}}, "svm"),
        ({"regime_info": {"volatility": -1}}, "volatility"),
        ({"regime_info": {"trend": 0.5}}, "trend"),
        ({"regime": {}}, "regime"),
    ],
)
async def test_a_bad_question_is_a_422_that_names_the_field(client, change, field):
    answer = await client.post("/api/ai/meta/predict", json={**QUESTION, **change})
    assert answer.status_code == 422
    assert field in {str(part) for error in answer.json()["detail"] for part in error["loc"]}


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_a_number_that_is_none_is_a_422(client, number):
    body = f'{{"symbol": "BTCUSDT", "base_predictions": {{"xgb": {{"action": "BUY", "confidence": {number}}}}}}}'
    answer = await client.post("/api/ai/meta/predict", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert "confidence" in answer.text


async def test_decisions_come_newest_first_and_limited(bus, client):
    events = [await publish(bus, symbol, BAR + n * HOUR) for n in range(3) for symbol in ("ETHUSDT", "BTCUSDT")]
    shown = (await client.get("/api/ai/meta/decisions", params={"limit": 3})).json()
    assert [(row["bar_ts_ms"], row["symbol"]) for row in shown] == [
        (BAR + 2 * HOUR, "BTCUSDT"),
        (BAR + 2 * HOUR, "ETHUSDT"),
        (BAR + HOUR, "BTCUSDT"),
    ]
    assert shown[0]["decision_id"] == events[-1].event_id
    assert (shown[0]["action"], shown[0]["reason"], shown[0]["trigger"]) == ("BUY", "meta_override_buy", "complete")


async def test_decisions_of_one_symbol(bus, client):
    for number in range(3):
        await publish(bus, "ETHUSDT", BAR + number * HOUR)
    await publish(bus, "BTCUSDT", BAR)
    shown = (await client.get("/api/ai/meta/decisions", params={"symbol": "btcusdt", "limit": 1})).json()
    assert [row["symbol"] for row in shown] == ["BTCUSDT"]
    assert (await client.get("/api/ai/meta/decisions", params={"symbol": "DOGEUSDT"})).json() == []


@pytest.mark.parametrize("limit", ["0", "501", "many"])
async def test_a_bad_limit_is_a_422_that_names_it(client, limit):
    answer = await client.get("/api/ai/meta/decisions", params={"limit": limit})
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"] == ["query", "limit"]


async def test_without_a_model_the_service_is_ready_only_if_it_fails_open(bus, tmp_path):
    async with client_of(bus, models_dir=tmp_path) as client:
        assert (await client.get("/health/ready")).status_code == 200
    async with client_of(bus, models_dir=tmp_path, fail_open=False) as client:
        answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert "META_FAIL_OPEN" in answer.json()["reasons"][0]


async def test_age_and_weights_are_read_when_they_are_asked_for(client):
    metrics = (await client.get("/metrics")).text
    assert "quantum_meta_model_age_seconds NaN" in metrics
    assert 'quantum_meta_effective_weight_ratio{agent="nhits"} NaN' in metrics
    assert (await client.get("/info")).json()["effective_weights"] == {}


async def test_the_age_of_the_model_counts_from_its_last_label(bus, tmp_path, publish_meta):
    publish_meta(tmp_path, "v1")
    service, stop, name = build(Settings(models_dir=tmp_path), bus), Stop(), "quantum_meta_model_age_seconds "
    watching = asyncio.create_task(service.loops["models"](stop, lambda: None))
    transport = httpx.ASGITransport(app=build_app(service))
    async with httpx.AsyncClient(transport=transport, base_url="http://meta") as client:

        async def age_s():
            lines = (await client.get("/metrics")).text.splitlines()
            found = next(line for line in lines if line.startswith(name)).removeprefix(name)
            return None if found == "NaN" else float(found)

        assert 1.7e9 < await eventually(age_s) < 4e9  # the manifest's last label ended in 1970
    stop.request()
    await watching


async def test_the_running_service_serves_a_published_model_and_says_when_it_is_unproven(bus, tmp_path, publish_meta):
    service = build(Settings(models_dir=tmp_path), bus)
    publish_meta(tmp_path, "v1", quality="unproven")
    stop = Stop()
    transport = httpx.ASGITransport(app=build_app(service))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://meta") as client,
        asyncio.TaskGroup() as loops,
    ):
        for loop in service.loops.values():
            loops.create_task(loop(stop, lambda: None))

        async def status_of(version):
            status = (await client.get("/api/ai/meta/status")).json()
            return status if status["model_version"] == version else None

        status = await eventually(lambda: status_of("v1"))
        assert (status["model_ready"], status["model_quality"]) == (True, "unproven")
        answer = (await client.post("/api/ai/meta/predict", json=QUESTION)).json()
        assert len(answer["explanation"]["inputs"]) == len(answer["explanation"]["contributions"]) == 26
        assert (await client.get("/info")).json()["models"] == {"meta": "v1"}
        publish_meta(tmp_path, "v2", seed=2)
        look = envelope(Look("models"), producer=Producer("quantum", "1", "0.1.0"), produced_at_ms=1)
        await bus.append(KEYS.stream(CONTROL), encode(look))
        await eventually(lambda: status_of("v2"))
        stop.request()


async def test_what_if_of_v2p_needs_the_probabilities_and_names_the_vote_without_them(bus, tmp_path):
    full = {agent: vote and {**vote, "probabilities": [0.2, 0.2, 0.6]} for agent, vote in VOTES.items()}
    async with client_of(bus, models_dir=tmp_path, version="v2p") as client:
        answer = await client.post("/api/ai/meta/predict", json=QUESTION)
        assert (answer.status_code, "base_predictions.xgb.probabilities" in answer.text) == (422, True)
        beyond = {**full, "lgbm": {**VOTES["lgbm"], "probabilities": [0.2, 0.2, 1.6]}}
        answer = await client.post("/api/ai/meta/predict", json={**QUESTION, "base_predictions": beyond})
        assert (answer.status_code, "probabilities" in answer.text) == (422, True)
        answer = await client.post("/api/ai/meta/predict", json={**QUESTION, "base_predictions": full})
        assert (answer.status_code, answer.json()["reason"]) == (200, "model_not_loaded")
        status = (await client.get("/api/ai/meta/status")).json()
        assert (status["version"], status["meta_threshold"], status["total_predictions"]) == ("v2p", 0.65, 0)


async def test_the_status_of_v1_shows_its_own_threshold(bus, tmp_path):
    async with client_of(bus, models_dir=tmp_path, version="v1") as client:
        status = (await client.get("/api/ai/meta/status")).json()
    assert (status["version"], status["meta_threshold"]) == ("v1", 0.60)
