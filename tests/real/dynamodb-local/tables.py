"""Touchline's commands make, check and upgrade tables in AWS's own engine."""

import os
import subprocess

from checks import EVENTS, SESSIONS, client, dynamodb, run

ITEMS = "rt_personalize_soccer_ux_item"
LEASE = "touchline_push_lease"


def touchline(*arguments):
    command = [os.path.join(os.environ["BINARIES"], "touchline"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def succeeds(*arguments):
    done = touchline(*arguments)
    assert done.returncode == 0, done
    return done.stdout


def described(table):
    return dynamodb().describe_table(TableName=table)["Table"]


def load_items():
    demo = "../../../clients/cli/demo/items.csv"
    succeeds("items", "load", os.path.join(os.path.dirname(__file__), demo))


def drop_all():
    for table in dynamodb().list_tables()["TableNames"]:
        dynamodb().delete_table(TableName=table)


async def tables_are_made():
    """`tables create` makes every table, and leaves them as they are the second time"""
    drop_all()
    succeeds("tables", "create")
    assert {EVENTS, SESSIONS, ITEMS, LEASE} <= set(dynamodb().list_tables()["TableNames"])
    for table, key in ((EVENTS, "event_id"), (SESSIONS, "session_id"), (ITEMS, "item_id")):
        schema = described(table)["KeySchema"]
        assert schema == [{"AttributeName": key, "KeyType": "HASH"}], schema
    before = [described(table) for table in (EVENTS, SESSIONS, ITEMS, LEASE)]
    succeeds("tables", "create")
    assert before == [described(table) for table in (EVENTS, SESSIONS, ITEMS, LEASE)]


async def the_stream_is_keyed():
    """the event table's stream carries both images and names the table's key"""
    arn = described(EVENTS)["LatestStreamArn"]
    streams = client("dynamodbstreams", "DYNAMODB_PORT")
    stream = streams.describe_stream(StreamArn=arn)["StreamDescription"]
    assert stream["StreamStatus"] == "ENABLED", stream
    assert stream["StreamViewType"] == "NEW_AND_OLD_IMAGES", stream
    assert [key["AttributeName"] for key in stream["KeySchema"]] == ["event_id"], stream


async def another_key_is_refused():
    """`tables create` refuses a table of another shape, and names it"""
    drop_all()
    make(ITEMS, "id")
    done = touchline("tables", "create")
    assert done.returncode != 0 and ITEMS in done.stderr, done
    assert described(ITEMS)["KeySchema"][0]["AttributeName"] == "id"


async def items_are_loaded():
    """`items load` writes the demo's catalog, and again over itself"""
    drop_all()
    succeeds("tables", "create")
    for _ in range(2):
        load_items()
        assert dynamodb().scan(TableName=ITEMS, Select="COUNT")["Count"] == 40
    messi = dynamodb().get_item(TableName=ITEMS, Key={"item_id": {"S": "ITEM_ID_1"}})["Item"]
    assert messi["item_type"] == {"S": "PLAYER"}, messi


async def the_prototype_is_upgraded():
    """`tables upgrade` gives the prototype's session table the index and its rows their keys"""
    drop_all()
    make(SESSIONS, "session_id")
    row = {"session_id": "old", "consumer_id": "diego", "device_id": "tv", "content_id": "final"}
    dynamodb().put_item(TableName=SESSIONS, Item={key: {"S": row[key]} for key in row})
    succeeds("tables", "create")
    assert "GlobalSecondaryIndexes" not in described(SESSIONS)
    for _ in range(2):
        succeeds("tables", "upgrade")
        indexes = described(SESSIONS)["GlobalSecondaryIndexes"]
        assert [index["IndexStatus"] for index in indexes] == ["ACTIVE"], indexes
        upgraded = dynamodb().scan(TableName=SESSIONS, IndexName=indexes[0]["IndexName"])["Items"]
        assert [item["session_id"]["S"] for item in upgraded] == ["old"], upgraded
        assert row.items() <= {key: value.get("S") for key, value in upgraded[0].items()}.items()
    drop_all()


def make(table, key, stream=None):
    """A table as somebody else makes it."""
    enabled = {"StreamEnabled": True, "StreamViewType": stream}
    dynamodb().create_table(
        **({"StreamSpecification": enabled} if stream else {}),
        TableName=table,
        KeySchema=[{"AttributeName": key, "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )


if __name__ == "__main__":
    run(
        tables_are_made,
        the_stream_is_keyed,
        another_key_is_refused,
        items_are_loaded,
        the_prototype_is_upgraded,
    )
