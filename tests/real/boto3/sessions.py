"""An AWS client reads and spoils the session table; fans are served all the same."""

import os
import subprocess

from checks import EVENTS, SESSIONS, Fan, dynamodb, eventually, is_set, is_set_of, row, run


def scan():
    """The rows that these checks made: their fans' and their ghosts', not those of demo fans."""
    pages = dynamodb().get_paginator("scan").paginate(TableName=SESSIONS)
    items = [item for page in pages for item in page["Items"]]
    return [item for item in items if item.get("device_id") == {"S": "phone"} or is_ghost(item)]


def is_ghost(item):
    return item["session_id"]["S"].startswith("ghost-")


def put_ghost(name, attributes):
    item = {"session_id": {"S": "ghost-" + name}, **attributes}
    dynamodb().put_item(TableName=SESSIONS, Item=item)


async def the_session_table():
    """a scan of the session table shows the prototype's attributes, and no row of who has left"""
    fans = [await Fan.connect("camille", content_id="final") for _ in range(3)]
    fans.append(await Fan.connect("diego", content_id="final", protocol=2))
    await eventually(lambda: len(scan()) == 4)
    for item in scan():
        assert item["session_id"]["S"], item
        assert item["consumer_id"]["S"] in ("camille", "diego"), item
        assert item["device_id"] == {"S": "phone"}, item
        assert item["content_id"] == {"S": "final"}, item
    for fan in fans:
        await fan.close()
    await eventually(lambda: not scan())


# A session whose connection is gone.
WHOLE = {"consumer_id": {"S": "camille"}, "device_id": {"S": "d"}, "content_id": {"S": "final"}}

GHOSTS = [
    {"consumer_id": {"N": "7"}, "device_id": {"S": "d"}, "content_id": {"S": "final"}},
    {"consumer_id": {"NULL": True}, "device_id": {"S": "d"}, "content_id": {"S": "final"}},
    {"consumer_id": {"S": ""}, "device_id": {"S": "d"}, "content_id": {"S": "final"}},
    {"consumer_id": {"M": {"a": {"N": "1"}}}, "device_id": {"S": "d"}},
    {"consumer_id": {"S": "camille"}, "content_id": {"S": "final"}},
    {"consumer_id": {"S": "c" * 5000}, "device_id": {"S": "d"}, "content_id": {"S": "final"}},
    *[
        {
            "consumer_id": {"S": "camille"},
            "device_id": {"S": "d"},
            "content_id": {"S": "c" * 100_000},
        }
        for _ in range(12)
    ],
    {},
]


# The attributes by which Touchline's index finds a row.
INDEXED = {"audience_key": {"S": "final#00"}, "registered_at": {"N": "1"}}


async def left_over_rows():
    """rows that the prototype left behind (numbers, nulls, huge contents, ghosts) disturb nobody"""
    first = await Fan.connect("camille", content_id="final")
    second = await Fan.connect("diego", content_id="final", protocol=2)
    for number, attributes in enumerate(GHOSTS):
        put_ghost("plain-%d" % number, attributes)
        put_ghost("indexed-%d" % number, {**attributes, **INDEXED})
    put_ghost("whole", {**WHOLE, **INDEXED})
    await event_reaches("to-all", {}, first, second)
    await event_reaches("routed", {"content_id": "final"}, first, second)
    # A row that could be served and whose connection is gone goes at the first attempt.
    await eventually(lambda: not ghost_is_there("whole"))
    await first.close()
    await second.close()
    await eventually(lambda: all(is_ghost(item) for item in scan()))
    forget_ghosts()


async def upgraded_rows():
    """a row of the prototype is found after `touchline tables upgrade`; its ghost then goes"""
    put_ghost("before", WHOLE)
    touchline = os.path.join(os.environ["BINARIES"], "touchline")
    endpoint = "http://127.0.0.1:%s" % os.environ["DYNAMODB_PORT"]
    command = [touchline, "tables", "upgrade", "--dynamodb-endpoint", endpoint]
    upgrade = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert upgrade.returncode == 0, upgrade
    first = await Fan.connect("camille", content_id="final")
    second = await Fan.connect("diego", content_id="final", protocol=2)
    await event_reaches("upgraded", {"content_id": "final"}, first, second)
    await eventually(lambda: not ghost_is_there("before"))
    await first.close()
    await second.close()
    await eventually(lambda: not scan())


async def event_reaches(event_id, attributes, first, second):
    """Puts an event that both fans must receive, and deletes it."""
    table = dynamodb()
    table.put_item(TableName=EVENTS, Item=row(event_id, **attributes))
    envelope = await second.receive_until(is_set_of(event_id))
    assert envelope["components"], envelope
    await first.receive_until(is_set)
    table.delete_item(TableName=EVENTS, Key={"event_id": {"S": event_id}})


def ghost_is_there(name):
    return [item for item in scan() if item["session_id"]["S"] == "ghost-" + name]


def forget_ghosts():
    for item in scan():
        if is_ghost(item):
            key = {"session_id": item["session_id"]}
            dynamodb().delete_item(TableName=SESSIONS, Key=key)


async def a_row_that_is_changed_behind_a_connection():
    """a connection whose row is deleted by hand is closed or served, and disturbs nobody"""
    forget_ghosts()
    orphan = await Fan.connect("camille", content_id="final")
    await eventually(lambda: len(scan()) == 1)
    table = dynamodb()
    table.delete_item(TableName=SESSIONS, Key={"session_id": scan()[0]["session_id"]})
    fan = await Fan.connect("diego", content_id="final", protocol=2)
    table.put_item(TableName=EVENTS, Item=row("orphaned"))
    await fan.receive_until(is_set_of("orphaned"))
    table.delete_item(TableName=EVENTS, Key={"event_id": {"S": "orphaned"}})
    await orphan.close()
    await fan.close()
    await eventually(lambda: not scan())


run(
    the_session_table,
    left_over_rows,
    upgraded_rows,
    a_row_that_is_changed_behind_a_connection,
)
