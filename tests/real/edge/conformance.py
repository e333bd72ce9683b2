"""tests/conformance/messages.json through an API Gateway and its functions: what a fan sends, what it
receives, and what the session's row holds then. Knows nothing of Touchline but that table."""

import asyncio
import base64
import copy
import json

import websockets

import checks


class Table:
    """The table, at a front that `connect` opens connections of, and whose rows `rows` reads.
    `bodies` are what the functions return when all is well: MiniStack hands it on to the fan."""

    def __init__(self, path, connect, rows, remove_row, bodies, tokens):
        with open(path) as file:
            self.table = json.load(file)
        self.connect, self.rows, self.remove_row = connect, rows, remove_row
        self.bodies = bodies
        self.tokens = {name: tokens(**of) for name, of in self.table["tokens"].items()}

    def cases(self, with_tokens):
        """Each case on its own, words filled in, with what MiniStack does in place of API Gateway."""
        for case in self.table["cases"]:
            if case.get("tokens", False) == with_tokens:
                for word in case.get("for_each", ["WORD"]):
                    yield as_ministack(json.loads(json.dumps(case).replace("WORD", word)))

    async def run(self, with_tokens):
        ran, wrong = 0, []
        for case in self.cases(with_tokens):
            ran += 1
            try:
                await self.case(case)
            except Exception as error:  # Each case is its own, and all that fail are shown.
                wrong.append("%s: %r" % (case["case"], error))
                await checks.eventually(lambda: not self.rows())
        print("figure: %d cases of tests/conformance ran" % ran)
        assert ran > 6, "that is not the table"
        assert not wrong, "\n".join(wrong)

    async def case(self, case):
        front = {key: self.filled(value, None) for key, value in case.get("connect", {}).items()}
        try:
            socket = await self.connect(**front)
        except websockets.exceptions.InvalidStatus as error:
            assert error.response.status_code == case.get("refused"), error
            assert not self.rows()
            return
        assert "refused" not in case, "let in"
        fan = Fan(socket, self.bodies)
        try:
            await checks.eventually(lambda: len(self.rows()) == 1)
            self.connection = self.rows()[0]["session_id"]["S"]
            for index, step in enumerate(case["steps"]):
                try:
                    await self.step(fan, self.filled(step, self.connection))
                except Exception as error:
                    raise AssertionError("step %d: %r" % (index, error)) from error
            if fan.is_open:
                await fan.say("anything")
                heard = await fan.hear()
                assert heard == DEFAULT, "something else comes: %s" % (heard,)
        finally:
            await socket.close()
        await checks.eventually(lambda: not self.rows())

    async def step(self, fan, step):
        if "remove_row" in step:
            self.remove_row(self.connection)
        if "send" in step:
            await fan.say(step["send"])
        if "binary" in step:
            await fan.say(base64.b64decode(step["binary"]))
        for wanted in step.get("receive", []):
            heard = await fan.hear()
            assert is_like(wanted, heard), "%s in place of %s" % (heard, wanted)
        if "closed" in step:
            assert await fan.closed() == step["closed"], fan.socket.close_code
        if "leave" in step:
            fan.is_open = False
            await fan.socket.close()
        if "row" in step:
            wanted = step["row"]
            # What was answered is stored; what was not may still be on its way.
            await checks.eventually(lambda: is_row(wanted, self.rows()))

    def filled(self, part, connection):
        """A part of a case with what its short forms stand for."""
        if isinstance(part, str):
            if part.startswith("$token:"):
                return self.tokens[part[len("$token:"):]]
            return connection if part == "$connection" else part
        if isinstance(part, list):
            return [self.filled(one, connection) for one in part]
        if isinstance(part, dict):
            if "repeat" in part:
                return part["repeat"][0] * part["repeat"][1]
            return {
                key: self.filled(one, connection)
                for key, one in part.items()
                if not (isinstance(one, dict) and "absent" in one)
            }
        return part


DEFAULT = "this is default route. please use right action key"


class Fan:
    def __init__(self, socket, bodies):
        self.socket, self.bodies, self.is_open = socket, bodies, True
        # What was heard last, if it may come a second time as its function's body.
        self.twice = None

    async def say(self, message):
        is_raw = isinstance(message, (str, bytes))
        await self.socket.send(message if is_raw else json.dumps(message))

    async def hear(self):
        """The next message that was posted: MiniStack hands the functions' bodies on as well, and that
        of a refusal is what was posted."""
        while True:
            text = await asyncio.wait_for(self.socket.recv(), checks.DEADLINE_SECONDS)
            message = json.loads(text)
            is_body = isinstance(message, str) and message in self.bodies
            if is_body or message == self.twice:
                self.twice = None
                continue
            is_error = isinstance(message, dict) and ("requestId" in message or message.get("type") == "error")
            self.twice = message if is_error else None
            return message

    async def closed(self):
        """The code that the front closes with."""
        self.is_open = False
        await asyncio.wait_for(self.socket.wait_closed(), checks.DEADLINE_SECONDS)
        return self.socket.close_code


def as_ministack(part):
    """A part of a case with what stands under `ministack` in the place of its neighbours."""
    if isinstance(part, list):
        return [as_ministack(one) for one in part]
    if isinstance(part, dict):
        part = copy.copy(part)
        part.update(part.pop("ministack", {}))
        return {key: as_ministack(one) for key, one in part.items()}
    return part


def is_like(wanted, given):
    """Whether this is what is wanted, keys in this order, and nothing beside."""
    if wanted == "$text":
        return isinstance(given, str) and bool(given)
    if wanted == "$number":
        return str(given).isdigit()
    if isinstance(wanted, dict):
        return (
            isinstance(given, dict)
            and list(wanted) == list(given)
            and all(is_like(one, given[key]) for key, one in wanted.items())
        )
    return wanted == given


def is_row(wanted, rows):
    """Whether the only row has these attributes, and not those that are null; null: there is none."""
    if wanted is None or len(rows) != 1:
        return wanted is None and not rows
    row = rows[0]
    return all(
        name not in row if one is None else name in row and is_like(one, row[name])
        for name, one in wanted.items()
    )
