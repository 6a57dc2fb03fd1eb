"""The official SDK trains with ``tinkex local serve`` and its PyTorch engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.contract.test_official_sdk import BASE_MODEL, served, with_the_sdk
from tests.contract.test_official_sdk import pytestmark as needs_the_sdk

pytestmark = [pytest.mark.train, *needs_the_sdk]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory):
    """What the SDK saw, with all its parts in one process."""
    driver = Path(__file__).with_name("sdk_training_driver.py")
    with served(tmp_path_factory.mktemp("sdk"), "tml-dummy") as environ:
        environ = environ | {"TINKER_API_KEY": "tml-dummy"}
        return json.loads(with_the_sdk(driver, BASE_MODEL, env=environ))


def test_a_supervised_loop_learns_its_example(found):
    assert found["trainable"] is True
    supervised = found["supervised"]
    assert supervised["losses"][-1] < 0.01 < 40 < supervised["losses"][0]
    assert (supervised["type"], supervised["shape"]) == ("ArrayRecord", [6])
    assert supervised["forward"] == pytest.approx(supervised["sum"], rel=1e-5)


def test_saved_weights_with_the_optimizer_continue_as_if_not_interrupted(found):
    assert found["resumed"] == pytest.approx(found["continued"], rel=1e-4)
    assert found["fresh optimizer"][0] == pytest.approx(found["continued"][0], rel=1e-4)
    assert found["fresh optimizer"][1] != pytest.approx(found["continued"][1], rel=0.1)


def test_the_trained_weights_are_those_that_sample(found):
    assert found["sampled"] == [801, 802, 803, 804] != found["base"]
    assert sum(found["scored"]) == pytest.approx(-found["continued"][0], rel=1e-3)
    for token, logprob, row in found["top"]:
        assert row[0] == [token, pytest.approx(logprob, abs=1e-6)]
        assert row[1][1] < logprob


def test_importance_sampling_makes_a_rewarded_token_likely(found):
    assert found["reinforced"] == sorted(found["reinforced"])
    assert found["reinforced"][0] < -10 < -0.1 < found["reinforced"][-1]


def test_a_loss_of_the_client_is_computed_as_the_same_one_of_the_server(found):
    assert found["custom"]["losses"] == pytest.approx(found["supervised"]["losses"][:3], rel=1e-4)


def test_one_call_in_several_requests_is_one_batch(found):
    one_each, all_in_one = found["chunks"]
    assert one_each == pytest.approx(all_in_one, rel=1e-4)


def test_invalid_batches_are_refused_and_the_loop_may_go_on(found):
    unknown, outside = found["refused"]
    assert "BadRequestError" in unknown
    assert "this service supports: cross_entropy, importance_sampling, ppo, cispo, dro" in unknown
    assert "Token 1000000 in data[0].loss_fn_inputs.target_tokens is outside" in outside
