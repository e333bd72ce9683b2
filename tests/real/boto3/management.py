"""API Gateway's management API, by its own client, against the gateway's `/@connections`."""

import asyncio
import json
import os
import urllib.error
import urllib.request

import websockets
from botocore.exceptions import ClientError
from checks import SESSIONS, Fan, client, dynamodb, eventually, run


def management():
    return client("apigatewaymanagementapi", "MANAGEMENT_PORT", "/dev")


async def connection_of(consumer_id):
    def look():
        pages = dynamodb().get_paginator("scan").paginate(TableName=SESSIONS)
        items = [item for page in pages for item in page["Items"]]
        mine = [item for item in items if item.get("consumer_id") == {"S": consumer_id}]
        return mine and mine[0]["session_id"]["S"]

    return await eventually(look)


def refusal(call, **arguments):
    try:
        call(**arguments)
    except ClientError as error:
        status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        return status, error.response["Error"]["Code"]
    raise AssertionError("no error")


async def post_get_delete():
    """a connection is posted to, looked at, closed, and then gone"""
    fan = await Fan.connect("managed")
    connection = await connection_of("managed")
    api = management()
    posted = api.post_to_connection(ConnectionId=connection, Data=b'{"hello": "fan"}')
    assert posted["ResponseMetadata"]["HTTPStatusCode"] == 200, posted
    assert await fan.receive() == {"hello": "fan"}

    seen = api.get_connection(ConnectionId=connection)
    assert seen["ConnectedAt"] <= seen["LastActiveAt"], seen
    assert seen["Identity"]["SourceIp"] == "127.0.0.1", seen

    api.delete_connection(ConnectionId=connection)
    try:
        await asyncio.wait_for(fan.socket.recv(), 20)
        raise AssertionError("the connection is still open")
    except websockets.ConnectionClosed:
        pass
    gone = (410, "GoneException")
    assert refusal(api.post_to_connection, ConnectionId=connection, Data=b"{}") == gone
    assert refusal(api.get_connection, ConnectionId=connection) == gone
    assert refusal(api.delete_connection, ConnectionId=connection) == gone


async def unknown_connections():
    """connections that never were are gone, whatever their id looks like"""
    api = management()
    for connection in ("nobody", "L0SM9cOFvHcCIhw=", "x" * 500, "a/b", "%00", "ä"):
        status, _ = refusal(api.post_to_connection, ConnectionId=connection, Data=b"{}")
        assert status in (404, 410), (connection, status)


async def too_large():
    """a message above 128 KB is refused, one of 128 KB is delivered"""
    fan = await Fan.connect("large")
    connection = await connection_of("large")
    api = management()
    largest = json.dumps({"text": ""})
    largest = json.dumps({"text": "x" * (128 * 1024 - len(largest))}).encode()
    api.post_to_connection(ConnectionId=connection, Data=largest)
    assert len((await fan.receive())["text"]) > 130_000
    refused = refusal(api.post_to_connection, ConnectionId=connection, Data=largest + b" ")
    assert refused == (413, "PayloadTooLargeException"), refused
    await fan.close()


async def not_on_the_fans_port():
    """the management API does not answer on the fans' port"""
    fan = await Fan.connect("beside")
    for path in ("/@connections/nobody", "/dev/@connections/nobody"):
        url = "http://127.0.0.1:%s%s" % (os.environ["FANS_PORT"], path)
        try:
            with urllib.request.urlopen(url, data=b"{}", timeout=20) as answer:
                raise AssertionError("%s answers %s" % (path, answer.status))
        except urllib.error.HTTPError as error:
            assert error.code != 410, "%s is the management API" % path
        except urllib.error.URLError as error:
            assert isinstance(error.reason, ConnectionError), error
        except ConnectionError:
            pass
    await fan.close()


run(post_get_delete, unknown_connections, too_large, not_on_the_fans_port)
