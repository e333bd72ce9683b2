"""What the scripts of this folder share: AWS clients, fans and checks that are counted."""

import asyncio
import functools
import json
import os
import sys
import traceback

import boto3
import botocore.config
import websockets

DEADLINE_SECONDS = float(os.environ.get("DEADLINE_SECONDS", "20"))
EVENTS = "rt_personalize_event_manager"
SESSIONS = "rt_personalize_user_session_store"
FANS = "ws://127.0.0.1:%s/dev" % os.environ["FANS_PORT"]

CONTEXT = {
    "match_event": "THROW",
    "match_timing": "FIRST-HALF-1",
    "score_difference": "0",
    "match_venue": "France",
    "match_type": "FINAL",
}


def client(service, port, path="", **config):
    """A client of a service on a loopback port. It tries once, so that failures are seen."""
    settings = {"retries": {"max_attempts": 0}, "connect_timeout": 5, "read_timeout": 20}
    return boto3.client(
        service,
        endpoint_url="http://127.0.0.1:%s%s" % (os.environ[port], path),
        config=botocore.config.Config(**{**settings, **config}),
    )


@functools.lru_cache
def dynamodb():
    return client("dynamodb", "DYNAMODB_PORT")


def row(event_id, **attributes):
    """An event row as DynamoDB's wire format has it; every value is text."""
    values = {**CONTEXT, **attributes, "event_id": event_id}
    return {name: {"S": value} for name, value in values.items()}


class Fan:
    """One open WebSocket of one fan."""

    def __init__(self, socket):
        self.socket = socket

    @classmethod
    async def connect(cls, consumer_id, content_id="match", protocol=None):
        socket = await websockets.connect(FANS, proxy=None)
        fan = cls(socket)
        message = {
            "action": "sendmessage",
            "consumer_id": consumer_id,
            "device_id": "phone",
            "content_id": content_id,
        }
        if protocol is not None:
            message["protocol"] = protocol
        await socket.send(json.dumps(message))
        if protocol is None:
            answer = await fan.receive()
            assert answer == {"status": "success"}, answer
        return fan

    async def receive(self):
        text = await asyncio.wait_for(self.socket.recv(), DEADLINE_SECONDS)
        return json.loads(text)

    async def receive_until(self, wanted):
        """The first message that is wanted; those before it are passed over."""
        end = asyncio.get_running_loop().time() + DEADLINE_SECONDS
        passed_over = []
        while asyncio.get_running_loop().time() < end:
            try:
                message = await self.receive()
            except asyncio.TimeoutError:
                break
            if wanted(message):
                return message
            passed_over.append(message)
        raise AssertionError("never came; instead: %s" % passed_over)

    async def close(self):
        await self.socket.close()


def is_set(message):
    """Whether a message of protocol 1 is a component set."""
    return (
        isinstance(message, dict)
        and bool(message)
        and "status" not in message
        and all(isinstance(item_id, str) for item_id in message.values())
    )


def is_set_of(event_id):
    """Whether a message of protocol 2 is a component set of this event."""
    return lambda message: (
        message.get("type") == "components" and message.get("event_id") == event_id
    )


def first_of_each_type(envelope):
    """What protocol 1 shows of a protocol 2 envelope, in the same order."""
    shown = {}
    for component in envelope["components"]:
        shown.setdefault(component["item_type"], component["item_id"])
    return shown


async def eventually(look):
    """Looks until something is seen; returns it."""
    end = asyncio.get_running_loop().time() + DEADLINE_SECONDS
    while True:
        seen = await asyncio.to_thread(look)
        if seen:
            return seen
        assert asyncio.get_running_loop().time() < end, "never seen"
        await asyncio.sleep(0.05)


def run(*checks):
    """Runs coroutines, each a check named by its docstring; prints the counts as the last line."""
    passed = failed = 0
    for check in checks:
        what = " ".join((check.__doc__ or check.__name__).split())
        try:
            asyncio.run(check())
            passed += 1
            print("ok      %s" % what, flush=True)
        except Exception:
            failed += 1
            print("FAILED  %s" % what)
            print("        | " + traceback.format_exc().strip().replace("\n", "\n        | "))
            sys.stdout.flush()
    print("%d %d" % (passed, failed))
    sys.exit(1 if failed else 0)
