"""Seeds for the fuzz targets, made from what the tests send: seeds.py FOLDER writes a folder a target.

Messages are the JSON texts of the Rust tests, so that a new test's message is a seed by itself; frames
are the cases of ../websocket/cases.json in the notation of push-adapter/fuzz/src/script.rs.
"""

import hashlib
import json
import os
import re
import struct
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
PROJECT = os.path.join(HERE, "..", "..", "..")
SOURCES = ["push-adapter/src/routes", "push-adapter/src/messages.rs", "push-adapter/src/routes.rs",
           "push-adapter/tests", "tests/src", "tests/tests"]

RAW_TEXT = re.compile(r'r#"(.*?)"#', re.DOTALL)


def sources():
    for source in SOURCES:
        path = os.path.join(PROJECT, source)
        if os.path.isfile(path):
            yield path
        for folder, _, names in os.walk(path):
            yield from (os.path.join(folder, name) for name in names if name.endswith(".rs"))


def texts():
    """Every text of the tests that a fan might send or be sent."""
    found = set()
    for path in sources():
        with open(path, encoding="utf-8") as file:
            found.update(RAW_TEXT.findall(file.read()))
    # What is made by `format!` has its braces doubled.
    found.update([text.replace("{{", "{").replace("}}", "}") for text in found])
    return sorted(text for text in found if len(text) < 4096)


def registrations():
    """A registration for each kind of value in each field."""
    whole = {"action": "sendmessage", "consumer_id": "ann", "device_id": "phone", "content_id": "final"}
    values = ["", "é" * 256, "x" * 257, 42, -7, 18446744073709551615, 2.5, None, True, [1], {}]
    yield json.dumps(whole)
    for protocol in (1, 2, 3, "2", None):
        yield json.dumps({**whole, "protocol": protocol, "set_id": "abc"})
    for field in whole:
        yield json.dumps({name: value for name, value in whole.items() if name != field})
        yield from (json.dumps({**whole, field: value}, ensure_ascii=False) for value in values)
    yield json.dumps({"action": "refresh", "token": "a.b.c"})


def frame(first, payload):
    """One frame of a script."""
    if len(payload) < 250:
        return bytes([first, len(payload)]) + payload
    if payload.count(payload[0]) == len(payload):
        return bytes([first, 250, payload[0]]) + struct.pack("!H", len(payload))
    return bytes([first, 251]) + struct.pack("!H", len(payload)) + payload


def text_of(value, named):
    if isinstance(value, list):
        return value[0] * value[1]
    return named[value[1:]] if value.startswith("@") else value


def script(case, named):
    """A case of the conformance checks as a script."""
    written = b""
    for part in case["send"]:
        if "fragments" in part:
            payload = text_of(part["fragments"], named).encode()
            pieces = [payload[at : at + part["bytes"]] for at in range(0, len(payload), part["bytes"])]
            for index, piece in enumerate(pieces):
                if part.get("pings") and index and index % part["pings"] == 0:
                    written += frame(0x89, b"%d" % index)
                written += frame((0 if index else 1) | (0x80 if index == len(pieces) - 1 else 0), piece)
            continue
        first = int(part["first"], 16)
        payload = bytes.fromhex(part.get("hex", "")) + text_of(part.get("text", ""), named).encode()
        if "announce" in part:
            written += bytes([first, 254]) + struct.pack("!Q", part["announce"])
        elif part.get("masked") is False:
            written += bytes([first, 253, len(payload)]) + payload
        elif "header" in part:
            written += bytes([first, 252, len(payload)]) + payload
        else:
            written += frame(first, payload)
    return written


def client_messages():
    """How it comes in and who the fan is, and then frames."""
    for how, text in enumerate([*registrations(), *texts()]):
        yield bytes([how & 0x3F]) + frame(0x81, text.encode()[:0xFFFF])
    with open(os.path.join(HERE, "..", "websocket", "cases.json"), encoding="utf-8") as file:
        table = json.load(file)
    for how, case in enumerate(table["cases"]):
        yield bytes([how & 0x3F]) + script(case, table["named"])


# As Python's `websockets`, Node's `ws`, Chromium and a test with nothing but what is needed send them.
HEADS = [
    "GET /dev HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    "User-Agent: Python/3.11 websockets/17.4\r\n\r\n",
    "GET /dev?token=a.b.c HTTP/1.1\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    "Sec-WebSocket-Protocol: touchline,touchline.bearer.a.b.c\r\nHost: localhost\r\n\r\n",
    "GET /dev/ HTTP/1.1\r\nHost: 127.0.0.1:8081\r\nConnection: keep-alive, Upgrade\r\n"
    "Pragma: no-cache\r\nCache-Control: no-cache\r\nUser-Agent: Mozilla/5.0\r\nUpgrade: websocket\r\n"
    "Origin: https://fans.example\r\nSec-WebSocket-Version: 13\r\n"
    "Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en\r\nCookie: a=b\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: touchline.bearer.a.b.c, touchline\r\n"
    "Sec-WebSocket-Protocol: graphql-ws\r\n\r\n",
    "GET /dev HTTP/1.1\r\nConnection:upgrade\r\nUpgrade:WebSocket\r\n"
    "Sec-WebSocket-Version:13\r\nSec-WebSocket-Key:AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\x81\x80abcd",
    "GET /other HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET http://127.0.0.1/dev?x=1&token=t HTTP/1.1\r\nhost: x\r\n\r\n",
    "POST /dev HTTP/1.1\r\nhost: x\r\n\r\n",
    "GET /dev HTTP/1.0\r\n\r\n",
    "GET /dev HTTP/1.1\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "\x16\x03\x01\x02\x00\x01\x00",
]


def handshakes():
    yield from (head.encode("latin-1") for head in HEADS)
    whole = HEADS[0]
    for line in whole.split("\r\n")[1:-2]:
        yield whole.replace(line + "\r\n", "").encode()
    yield whole.replace("dGhlIHNhbXBsZSBub25jZQ==", "c2hvcnQ=").encode()
    yield whole.replace("Version: 13", "Version: 8").encode()


def proxies():
    """Headers of both versions, each with the beginning of a handshake."""
    rest = b"GET /dev HTTP/1.1\r\n"
    for line in ["TCP4 10.1.2.3 10.0.0.1 999 80", "TCP6 2001:db8::1 ::ffff:10.0.0.1 65535 0", "UNKNOWN", "UNKNOWN x y",
                 "TCP4 10.1.2.3 10.0.0.1 999", "TCP4 ::1 ::1 1 2", "UDP4 10.1.2.3 10.0.0.1 1 2"]:
        yield b"PROXY " + line.encode() + b"\r\n" + rest
    yield b"PROXY UNKNOWN \n\re\xc8\r\n" + rest
    signature = b"\r\n\r\n\0\r\nQUIT\n"
    for command in (0x20, 0x21, 0x22, 0x11):
        for family, addresses in ((0x11, 12), (0x21, 36), (0x31, 216), (0x00, 0), (0x11, 3)):
            for more in (b"", b"\x04\0\x03abc"):
                body = bytes(range(addresses)) + more
                yield signature + bytes([command, family]) + struct.pack("!H", len(body)) + body + rest


def envelopes():
    """Fields as push-adapter/fuzz/src/fields.rs reads them."""
    shown = [
        ["PLAYER", "ITEM_ID_18", "1 0.5", 'item_label=L"1'],
        ["GENERAL", "ITEM_ID_9", "2 1e-300", "a=b\nc=d"],
        ["PLAYER", "ITEM_ID_1", "3 NaN", ""],
        ["", "", "4294967295 inf", "=\n\\=\x00"],
    ]
    heads = [
        ["1", "abc", "5e7", "epoch", "7", 'rec"1'],
        ["é🦊", "", "", "", "", ""],
        ["\u2028\x7f\x00", "</script>", "\\", "\ud7ff", "9" * 40, "\n"],
    ]
    for first, head in enumerate(heads * 4):
        for count in range(len(shown) + 1):
            fields = head + sum(shown[:count], [])
            yield bytes([first * 16 + count]) + b"\xff".join(field.encode() for field in fields)
    for text in texts():
        yield b"\0" + b"\xff".join([b"1", text.encode(), b"", b"e", b"1", text.encode(), b"T", text.encode()])


def main(folder):
    for name, seeds in [
        ("proxy", proxies()),
        ("handshake", handshakes()),
        ("client_message", client_messages()),
        ("envelope", envelopes()),
    ]:
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        for seed in seeds:
            path = os.path.join(folder, name, hashlib.sha256(seed).hexdigest()[:16])
            with open(path, "wb") as file:
                file.write(seed)


main(sys.argv[1])
