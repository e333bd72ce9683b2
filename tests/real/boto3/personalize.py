"""boto3's client of Personalize's runtime against the stand-in that Touchline is tested with."""

import json
import os
import urllib.request

import botocore
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError
from checks import client, run

ARN = "arn:aws:personalize:us-east-1:000000000000:campaign/touchline"


def runtime(**config):
    return client("personalize-runtime", "STAND_IN_PORT", **config)


def ask(consumer_id, api=None, **arguments):
    given = {
        "campaignArn": ARN,
        "userId": consumer_id,
        "numResults": 10,
        "context": {"MATCH_EVENT": "GOAL", "SCORE_DIFFERENCE": "1"},
    }
    return (api or runtime()).get_recommendations(**{**given, **arguments})


def refusal(consumer_id, api=None, **arguments):
    try:
        ask(consumer_id, api, **arguments)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status, error.response["Error"]["Code"]
    raise AssertionError("no error")


def control(method, path, body=None):
    request = urllib.request.Request(
        "http://127.0.0.1:%s/stand-in/%s" % (os.environ["STAND_IN_PORT"], path),
        method=method,
        data=None if body is None else json.dumps(body).encode(),
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        text = answer.read()
    return json.loads(text) if text else None


async def answers():
    """consumers and contexts have rankings of their own, the same ones again"""
    ann = ask("ann")
    items = [item["itemId"] for item in ann["itemList"]]
    scores = [item["score"] for item in ann["itemList"]]
    assert len(items) == len(set(items)) == 10, items
    assert scores == sorted(scores, reverse=True), scores
    assert ann["recommendationId"]
    assert [item["itemId"] for item in ask("ann")["itemList"]] == items
    assert [item["itemId"] for item in ask("bob")["itemList"]] != items
    injury = ask("ann", context={"MATCH_EVENT": "INJURY"})
    assert [item["itemId"] for item in injury["itemList"]] != items


async def counts():
    """calls are counted by what they ask"""
    control("DELETE", "calls")
    for consumer_id in ("ann", "bob", "ann"):
        ask(consumer_id)
    counted = control("GET", "calls")
    assert counted["total"] == 3, counted
    by_consumer = {call["userId"]: call["count"] for call in counted["calls"]}
    assert by_consumer == {"ann": 2, "bob": 1}, counted
    assert counted["calls"][0]["context"] == {"MATCH_EVENT": "GOAL", "SCORE_DIFFERENCE": "1"}


async def refusals():
    """what the service refuses is refused by the same names"""
    ask("x" * 256, numResults=500)
    invalid = (400, "InvalidInputException")
    assert refusal("ann", numResults=501) == invalid
    assert refusal("x" * 257) == invalid
    assert refusal("ann", context={"KEY_%d" % key: "v" for key in range(151)}) == invalid
    unknown = refusal("ann", campaignArn=ARN + "-elsewhere")
    assert unknown == (404, "ResourceNotFoundException"), unknown
    unsigned = refusal("ann", runtime(signature_version=botocore.UNSIGNED))
    assert unsigned == (403, "MissingAuthenticationTokenException"), unsigned


async def throttling():
    """a throttle is one to boto3: it tries again by itself"""
    control("PATCH", "behaviour", {"budget": {"per_second": 2.0, "burst": 1.0}})
    try:
        ask("ann")
        assert refusal("ann") == (400, "ThrottlingException")
        control("DELETE", "calls")
        ask("ann", runtime(retries={"mode": "standard", "max_attempts": 10}))
        assert control("GET", "calls")["total"] > 1
    finally:
        control("PATCH", "behaviour", {"budget": None})


async def failures():
    """errors, hangs and resets are what boto3 knows them as"""
    try:
        control("PATCH", "behaviour", {"fault": "error"})
        assert refusal("ann") == (500, "InternalFailure")
        for fault, error in (("hang", ReadTimeoutError), ("reset", ConnectionClosedError)):
            control("PATCH", "behaviour", {"fault": fault})
            try:
                ask("ann", runtime(read_timeout=0.3))
                raise AssertionError("no error")
            except error:
                pass
    finally:
        control("PATCH", "behaviour", {"fault": None})
    ask("ann")


async def bad_control():
    """a mistake on the control path changes nothing and is explained"""
    before = control("GET", "behaviour")
    for patch in ({"fault": "sulk"}, {"no_such": 1}, ["fault"], {"items": 7}):
        try:
            control("PATCH", "behaviour", patch)
            raise AssertionError("%s was taken" % patch)
        except urllib.error.HTTPError as error:
            assert error.code == 400 and error.read(), patch
    assert control("GET", "behaviour") == before


run(answers, counts, refusals, throttling, failures, bad_control)
