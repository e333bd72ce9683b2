"""The services as processes of their own over AWS's engine: the prototype's tables, and restarts."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time

from checks import (
    DEADLINE_SECONDS,
    EVENTS,
    SESSIONS,
    Fan,
    dynamodb,
    eventually,
    is_set,
    is_set_of,
    row,
    run,
)
from tables import described, drop_all, load_items, make, succeeds

PORTS = {name: os.environ[name] for name in os.environ if name.endswith("_PORT")}


@contextlib.contextmanager
def process(name, ports, *arguments):
    """A service that listens on these ports; killed at the end, unless it has ended."""
    command = [os.path.join(os.environ["BINARIES"], name), *arguments]
    with open(os.path.join(os.environ["LOGS"], name + ".log"), "ab") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        for port in ports:
            until_it_listens(running, port)
        yield running
    finally:
        running.kill()
        running.wait()


def until_it_listens(running, port):
    end = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            socket.create_connection(("127.0.0.1", int(port)), 1).close()
            return
        except OSError:
            assert running.poll() is None and time.monotonic() < end, "no port %s" % port
            time.sleep(0.02)


def server():
    listen = "127.0.0.1:" + PORTS["GRPC_PORT"]
    flags = ["--listen", listen, "--metrics-listen", "127.0.0.1:0"]
    return process("touchline-server", [PORTS["GRPC_PORT"]], *flags)


def push(*arguments, front=True):
    """The push adapter, with a front of its own or in front of an API Gateway."""
    flags = {"--listen": "PUSH_GRPC_PORT"}
    if front:
        flags.update({"--fans-listen": "FANS_PORT", "--management-listen": "MANAGEMENT_PORT"})
    given = [text for flag in flags for text in (flag, "127.0.0.1:" + PORTS[flags[flag]])]
    given += ["--metrics-listen", "127.0.0.1:0"]
    ports = [PORTS[name] for name in flags.values()]
    return process("touchline-push", ports, *given, *arguments)


def ends_in_order(running):
    running.send_signal(signal.SIGTERM)
    assert running.wait(DEADLINE_SECONDS) == 0, running.returncode


def put(event_id, **attributes):
    dynamodb().put_item(TableName=EVENTS, Item=row(event_id, **attributes))


def delete(event_id):
    dynamodb().delete_item(TableName=EVENTS, Key={"event_id": {"S": event_id}})


async def the_prototype_is_served():
    """over the prototype's tables fans are found by scan, and by the index after the upgrade"""
    drop_all()
    make(SESSIONS, "session_id")
    make(EVENTS, "event_id", stream="NEW_AND_OLD_IMAGES")
    make("rt_personalize_soccer_ux_item", "item_id")
    load_items()
    with server() as first_process, push() as second_process:
        first = await Fan.connect("diego")
        second = await Fan.connect("diego", protocol=2)
        assert "GlobalSecondaryIndexes" not in described(SESSIONS)
        await life_of_an_event("scanned", first, second)
        succeeds("tables", "upgrade")
        assert "GlobalSecondaryIndexes" in described(SESSIONS)
        await life_of_an_event("indexed", first, second)
        await first.close()
        await second.close()
        ends_in_order(second_process)
        ends_in_order(first_process)


async def life_of_an_event(event_id, first, second):
    """INSERT and MODIFY reach fans of both protocols; REMOVE ends the event."""
    put(event_id)
    inserted = await second.receive_until(is_set_of(event_id))
    assert inserted["components"], inserted
    await first.receive_until(is_set)
    put(event_id, match_event="GOAL")
    # The answer to the registration, which may have no position yet, can come before the push.
    modified = await second.receive_until(is_other_set(inserted))
    assert modified["sequence"] > (inserted["sequence"] or ""), modified
    await first.receive_until(is_set)
    delete(event_id)
    await second.receive_until(is_end_of(event_id))


def is_end_of(event_id):
    return lambda message: message.get("type") == "ended" and message["event_id"] == event_id


class Gateway:
    """Stands where API Gateway's management API is, and keeps what is posted to connections."""

    def __init__(self):
        self.posts = posts = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                posts.append((self.path.rsplit("/", 1)[-1], json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = "http://127.0.0.1:%d/dev" % self.http.server_port

    async def posted(self, connection, wanted):
        """A message to a connection that was not asked for before, in whatever order it came."""

        def look():
            for number, (to, message) in enumerate(self.posts):
                if to == connection and wanted(message):
                    return self.posts.pop(number)[1]

        try:
            return await eventually(look)
        except AssertionError:
            raise AssertionError("never posted; instead: %s" % self.posts) from None


def api_gateway_session(connection, **attributes):
    """A row as the prototype's connect handler makes it: it says nothing of an endpoint."""
    texts = {"session_id": connection, "consumer_id": "diego", "device_id": "tv"}
    texts.update(attributes, content_id="final")
    dynamodb().put_item(TableName=SESSIONS, Item={key: {"S": texts[key]} for key in texts})


async def nothing_is_lost():
    """states written while touchline-push is down are delivered when it is back, even if killed"""
    drop_all()
    succeeds("tables", "create")
    load_items()
    gateway = Gateway()
    flags = ("--connections", "api-gateway", "--api-gateway-endpoint", gateway.url)
    api_gateway_session("old")
    api_gateway_session("new", protocol="2")
    succeeds("tables", "upgrade")
    with server():
        with push(*flags, front=False) as ended:
            put("kept")
            put("ending")
            kept = await gateway.posted("new", is_set_of("kept"))
            await gateway.posted("new", is_set_of("ending"))
            await gateway.posted("old", is_set)
            await gateway.posted("old", is_set)
            ends_in_order(ended)
        gateway.posts.clear()
        put("kept", match_event="GOAL")
        delete("ending")
        put("begun", match_event="PENALTY")
        with push(*flags, front=False) as killed:
            changed = await gateway.posted("new", is_other_set(kept))
            await gateway.posted("new", is_set_of("begun"))
            await gateway.posted("old", is_set)
            killed.kill()
            killed.wait()
        put("kept", match_event="YELLOW-CARD")
        with push(*flags, front=False):
            await gateway.posted("new", is_other_set(changed))
    gateway.http.shutdown()


def is_other_set(earlier):
    """Whether a message is a set of the same event in another state."""
    return lambda message: (
        is_set_of(earlier["event_id"])(message) and message["version"] != earlier["version"]
    )


run(the_prototype_is_served, nothing_is_lost)
