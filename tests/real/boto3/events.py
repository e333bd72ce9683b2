"""An AWS client writes the event table; fans of both protocols are served."""

import asyncio
import functools

from checks import (
    EVENTS,
    Fan,
    client,
    dynamodb,
    eventually,
    first_of_each_type,
    is_set,
    is_set_of,
    row,
    run,
)


async def put(item):
    await asyncio.to_thread(dynamodb().put_item, TableName=EVENTS, Item=item)


async def delete(event_id):
    key = {"event_id": {"S": event_id}}
    await asyncio.to_thread(dynamodb().delete_item, TableName=EVENTS, Key=key)


async def update(event_id, attribute, value):
    await asyncio.to_thread(
        dynamodb().update_item,
        TableName=EVENTS,
        Key={"event_id": {"S": event_id}},
        UpdateExpression="SET #attribute = :value",
        ExpressionAttributeNames={"#attribute": attribute},
        ExpressionAttributeValues={":value": {"S": value}},
    )


async def life_of_a_row():
    """a row that boto3 puts, updates and deletes reaches fans of both protocols"""
    first = await Fan.connect("diego")
    second = await Fan.connect("diego", protocol=2)
    await put(row("boto3"))
    envelope = await second.receive_until(is_set_of("boto3"))
    assert envelope["components"] and envelope["sequence"], envelope
    assert await first.receive_until(is_set) == first_of_each_type(envelope)

    await update("boto3", "match_event", "GOAL")
    changed = await second.receive_until(is_set_of("boto3"))
    assert changed["version"] != envelope["version"], changed
    assert changed["sequence"] > envelope["sequence"], changed
    shown = await first.receive_until(is_set)
    assert list(shown.items()) == list(first_of_each_type(changed).items()), shown

    await delete("boto3")
    ended = await second.receive_until(lambda message: message.get("type") == "ended")
    assert ended["event_id"] == "boto3", ended
    await first.close()
    await second.close()


async def numbers_are_texts():
    """a number and the same text in an attribute are the same state"""
    fan = await Fan.connect("diego", protocol=2)
    await put(row("numbers", score_difference="2"))
    as_text = await fan.receive_until(is_set_of("numbers"))
    await put({**row("numbers"), "score_difference": {"N": "1"}})
    other = await fan.receive_until(is_set_of("numbers"))
    await put({**row("numbers"), "score_difference": {"N": "2"}})
    as_number = await fan.receive_until(is_set_of("numbers"))
    assert as_number["version"] == as_text["version"] != other["version"]
    assert as_number["set_id"] == as_text["set_id"]
    await delete("numbers")
    await fan.close()


async def content_routes():
    """a row that names contents reaches their fans alone, one that names none reaches all"""
    here = await Fan.connect("diego", content_id="here")
    there = await Fan.connect("diego", content_id="there")
    await put({**row("routed"), "content_id": {"S": "here"}})
    await here.receive_until(is_set)
    await put({**row("routed", match_event="GOAL"), "content_id": {"SS": ["here", "there"]}})
    # The first message that reaches the other fan is the second state's.
    set_here, set_there = await asyncio.gather(
        here.receive_until(is_set), there.receive_until(is_set)
    )
    assert set_here == set_there, (set_here, set_there)
    await put(row("to-all", match_event="PENALTY"))
    await asyncio.gather(here.receive_until(is_set), there.receive_until(is_set))
    for event_id in ("routed", "to-all"):
        await delete(event_id)
    await here.close()
    await there.close()


ODD = {
    "a_binary": {"B": b"\x00\xff"},
    "a_binary_set": {"BS": [b"\x00", b"\xff"]},
    "a_boolean": {"BOOL": True},
    "a_list": {"L": [{"S": "a"}, {"N": "1"}]},
    "a_map": {"M": {"a": {"M": {"b": {"L": []}}}}},
    "a_null": {"NULL": True},
    "a_number_set": {"NS": ["1", "2.5"]},
    "an_empty_text": {"S": ""},
    "a_long_text": {"S": "x" * 100_000},
}


async def odd_attributes():
    """a row with attributes of every kind disturbs nobody"""
    fan = await Fan.connect("diego", protocol=2)
    await put({**row("odd"), **ODD})
    for number, kind in enumerate(ODD.values()):
        await put({**row("odd-%d" % number), "match_event": kind, "content_id": kind})
    await put({"event_id": {"S": "odd-bare"}})
    await put(row("x" * 2000))
    await put(row("after-odd"))
    envelope = await fan.receive_until(is_set_of("after-odd"))
    assert envelope["components"], envelope
    odd = ["odd", "odd-bare", "x" * 2000, "after-odd"]
    odd += ["odd-%d" % number for number in range(len(ODD))]
    for event_id in odd:
        await delete(event_id)
    await fan.receive_until(
        lambda message: message.get("type") == "ended" and message["event_id"] == "after-odd"
    )
    await fan.close()


@functools.lru_cache
def streams():
    return client("dynamodbstreams", "DYNAMODB_PORT")


def records_of(event_id):
    """All records of one event in the table's stream, in its order."""
    arn = dynamodb().describe_table(TableName=EVENTS)["Table"]["LatestStreamArn"]
    records = []
    for shard in streams().describe_stream(StreamArn=arn)["StreamDescription"]["Shards"]:
        iterator = streams().get_shard_iterator(
            StreamArn=arn, ShardId=shard["ShardId"], ShardIteratorType="TRIM_HORIZON"
        )["ShardIterator"]
        while iterator:
            page = streams().get_records(ShardIterator=iterator)
            records += page["Records"]
            iterator = page.get("NextShardIterator") if page["Records"] else None
    key = {"event_id": {"S": event_id}}
    return [record for record in records if record["dynamodb"]["Keys"] == key]


async def many_changes():
    """after a hundred quick changes fans of both protocols end on the newest state"""
    first = await Fan.connect("maradona")
    second = await Fan.connect("maradona", protocol=2)
    for number in range(100):
        event = ("THROW", "YELLOW-CARD", "FREE-KICK")[number % 3]
        await put(row("quick", match_event=event, score_difference=str(number % 2)))
    await put(row("quick", match_event="GOAL", score_difference="2"))

    newest = await eventually(lambda: records_of("quick")[100:])
    record = newest[-1]["dynamodb"]["SequenceNumber"].zfill(40)
    envelope = await second.receive_until(
        lambda message: (message.get("sequence") or "").endswith("." + record)
    )
    wanted = first_of_each_type(envelope)
    await first.receive_until(lambda message: message == wanted)
    await delete("quick")
    await first.close()
    await second.close()


async def the_stream():
    """boto3 reads the table's own stream: INSERT, MODIFY, REMOVE with both images"""
    await put(row("streamed"))
    await update("streamed", "match_event", "GOAL")
    await delete("streamed")
    table = dynamodb().describe_table(TableName=EVENTS)["Table"]
    assert table["StreamSpecification"]["StreamViewType"] == "NEW_AND_OLD_IMAGES", table
    listed = streams().list_streams(TableName=EVENTS)["Streams"]
    assert table["LatestStreamArn"] in [stream["StreamArn"] for stream in listed], listed

    await eventually(lambda: records_of("streamed")[2:])
    records = records_of("streamed")
    assert [record["eventName"] for record in records] == ["INSERT", "MODIFY", "REMOVE"], records
    images = [sorted(set(record["dynamodb"]) & {"NewImage", "OldImage"}) for record in records]
    assert images == [["NewImage"], ["NewImage", "OldImage"], ["OldImage"]], images


run(life_of_a_row, numbers_are_texts, content_routes, odd_attributes, many_changes, the_stream)
