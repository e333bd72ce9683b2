"""Python's `websockets`: its protocol over a bare socket for what it would never send by itself, and its
client for what it does by itself."""

import json
import os
import socket
import struct
import sys
import time
import traceback
import urllib.error
import urllib.request

from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect
from websockets.uri import parse_uri

DEADLINE_SECONDS = float(os.environ.get("DEADLINE_SECONDS", "20"))
FANS_PORT = int(os.environ["FANS_PORT"])
FANS = "ws://127.0.0.1:%d/dev" % FANS_PORT

with open(os.path.join(os.path.dirname(__file__), "cases.json"), encoding="utf-8") as file:
    TABLE = json.load(file)
NAMED = TABLE["named"]


class Wire:
    """A connection whose frames are sent as they are given, and read by `websockets`."""

    def __init__(self, url=FANS, segments=None, after_request=b"", receive_buffer=None, **options):
        self.socket = socket.socket()
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(DEADLINE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", FANS_PORT))
        self.protocol = ClientProtocol(parse_uri(url), max_size=None, **options)
        self.received = []
        self.is_ended = False
        self.protocol.send_request(self.protocol.connect())
        self.send(b"".join(self.protocol.data_to_send()) + after_request, segments)
        self.response = self.next()
        if self.protocol.handshake_exc:
            raise self.protocol.handshake_exc

    def send(self, data, segments=None):
        step = segments or len(data) or 1
        try:
            for start in range(0, len(data), step):
                self.socket.sendall(data[start : start + step])
        except (BrokenPipeError, ConnectionResetError):
            # The server has closed already and says why, or says nothing, which is seen by who reads.
            pass

    def next(self):
        """What comes next: the answer to the handshake, then frames; None at the end."""
        while not self.received and not self.is_ended:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                data = b""
            if data:
                self.protocol.receive_data(data)
            else:
                self.protocol.receive_eof()
                self.is_ended = True
            self.received = self.protocol.events_received()
        return self.received.pop(0) if self.received else None

    def answers(self):
        """The next frames that are no pings of the server's."""
        while True:
            frame = self.next()
            if frame is None:
                return
            if frame.opcode is not Opcode.PING:
                yield frame

    def close(self):
        self.socket.close()


def text_of(value):
    if isinstance(value, list):
        return value[0] * value[1]
    return NAMED[value[1:]] if value.startswith("@") else value


def header(first, length, is_masked, size=None):
    mask_bit = 0x80 if is_masked else 0
    if size == 8 or length > 0xFFFF:
        return bytes([first, mask_bit | 127]) + struct.pack("!Q", length)
    if length > 125:
        return bytes([first, mask_bit | 126]) + struct.pack("!H", length)
    return bytes([first, mask_bit | length])


def masked(payload):
    mask = os.urandom(4)
    whole = int.from_bytes(payload, "big")
    # As one number, since a loop over 128 KB in Python takes longer than everything else here.
    over = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return mask + (whole ^ int.from_bytes(over, "big")).to_bytes(len(payload), "big")


def bytes_of(part):
    """What the table says of one frame, or of a text in fragments, as bytes."""
    if "fragments" in part:
        return fragments(text_of(part["fragments"]).encode(), part["bytes"], part.get("pings"))
    first = int(part["first"], 16)
    if "announce" in part:
        return header(first, part["announce"], True) + os.urandom(4)
    payload = bytes.fromhex(part.get("hex", "")) + text_of(part.get("text", "")).encode()
    is_masked = part.get("masked", True)
    head = header(first, len(payload), is_masked, part.get("header"))
    return head + (masked(payload) if is_masked else payload)


def fragments(payload, size, pings):
    """By `websockets`' own writer of frames."""
    pieces = [payload[start : start + size] for start in range(0, len(payload), size)]
    frames = []
    for index, piece in enumerate(pieces):
        if pings and index and index % pings == 0:
            frames.append(Frame(Opcode.PING, b"%d" % (index // pings)))
        opcode = Opcode.CONT if index else Opcode.TEXT
        frames.append(Frame(opcode, piece, fin=index == len(pieces) - 1))
    return b"".join(frame.serialize(mask=True) for frame in frames)


def expected(answer):
    """Opcode and payload of an answer in the table."""
    if isinstance(answer, int):
        return Opcode.PONG, b"%d" % answer
    if isinstance(answer, dict):
        return Opcode.PONG, bytes.fromhex(answer["pong"]) * answer.get("times", 1)
    return Opcode.TEXT, text_of(answer).encode()


def run_case(case):
    wire = Wire()
    sent = b"".join(bytes_of(part) for part in case["send"])
    wire.send(sent, case.get("segments"))
    answers = wire.answers()
    if not case.get("answers_any"):
        for answer in case.get("answers", []):
            frame = next(answers)
            assert (frame.opcode, bytes(frame.data)) == expected(answer), frame
            assert frame.fin and not (frame.rsv1 or frame.rsv2 or frame.rsv3), frame
    if "close" not in case:
        wire.send(Frame(Opcode.CLOSE, struct.pack("!H", 1000)).serialize(mask=True))
    closing = next(answers)
    while case.get("answers_any") and closing.opcode is not Opcode.CLOSE:
        closing = next(answers)
    assert closing.opcode is Opcode.CLOSE, closing
    data, code = bytes(closing.data), case.get("close", 1000)
    assert data[:2] == (b"" if code is None else struct.pack("!H", code)), data
    data[2:].decode()
    # Whoever closed first, the server ends the connection; nothing follows its close frame.
    assert next(answers, None) is None
    assert wire.is_ended
    wire.close()


def compression_is_declined():
    """compression is offered and declined, and what is sent arrives all the same"""
    wire = Wire(extensions=[ClientPerMessageDeflateFactory(client_max_window_bits=True)])
    assert "Sec-WebSocket-Extensions" not in wire.response.headers, wire.response.headers
    assert wire.protocol.extensions == []
    wire.send(Frame(Opcode.TEXT, NAMED["registration"].encode()).serialize(mask=True))
    assert next(wire.answers()).data == NAMED["registered"].encode()
    wire.close()


def a_subprotocol_is_accepted():
    """`touchline` is accepted where it is offered, beside a token that is never repeated"""
    wire = Wire(subprotocols=["graphql-ws", "touchline", "touchline.bearer.a.b.c"])
    assert wire.response.headers.get_all("Sec-WebSocket-Protocol") == ["touchline"]
    assert wire.protocol.subprotocol == "touchline"
    wire.close()


def an_unknown_subprotocol_is_not_accepted():
    """a subprotocol that nobody knows is not accepted, and the connection serves all the same"""
    wire = Wire(subprotocols=["graphql-ws"])
    assert "Sec-WebSocket-Protocol" not in wire.response.headers, wire.response.headers
    wire.send(Frame(Opcode.TEXT, b"hello").serialize(mask=True))
    assert next(wire.answers()).data == NAMED["default"].encode()
    wire.close()


def a_handshake_byte_by_byte():
    """a handshake, one byte a segment"""
    wire = Wire(segments=1)
    assert wire.response.status_code == 101
    wire.close()


def a_message_in_the_segment_of_the_handshake():
    """a message in the same segment as the handshake is not lost"""
    wire = Wire(after_request=Frame(Opcode.TEXT, b"hello").serialize(mask=True))
    assert next(wire.answers()).data == NAMED["default"].encode()
    wire.close()


def half_a_message_in_the_segment_of_the_handshake():
    """half a frame in the same segment as the handshake goes on in the next one"""
    frame = Frame(Opcode.TEXT, b"hello").serialize(mask=True)
    wire = Wire(after_request=frame[:5])
    wire.send(frame[5:])
    assert next(wire.answers()).data == NAMED["default"].encode()
    wire.close()


def another_path_is_refused():
    """another path than the stage is refused with 403 before the upgrade"""
    try:
        Wire(url="ws://127.0.0.1:%d/other" % FANS_PORT)
    except InvalidStatus as refused:
        assert refused.response.status_code == 403, refused
    else:
        raise AssertionError("it was let in")


HANDSHAKE = {
    "Host": "127.0.0.1",
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def shake(method="GET", version="HTTP/1.1", path="/dev", **changes):
    """What a handshake with these headers is answered: all that comes until nothing more does."""
    headers = {**HANDSHAKE, **{name.replace("_", "-"): value for name, value in changes.items()}}
    lines = ["%s %s %s" % (method, path, version)]
    lines += ["%s: %s" % header for header in headers.items() if header[1] is not None]
    with socket.create_connection(("127.0.0.1", FANS_PORT), timeout=DEADLINE_SECONDS) as stream:
        stream.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        answer = b""
        while not answer.startswith(b"HTTP/1.1 101") or b"\r\n\r\n" not in answer:
            try:
                data = stream.recv(65536)
            except ConnectionResetError:
                data = b""
            if not data:
                break
            answer += data
        return answer.decode()


def the_rfcs_own_key_is_answered():
    """the key of RFC 6455's example is answered as there, whatever the case of the headers"""
    answer = shake(Upgrade="WebSocket", Connection="keep-alive, Upgrade").lower()
    assert "\r\nsec-websocket-accept: %s\r\n" % "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=".lower() in answer
    assert "\r\nupgrade: websocket\r\n" in answer and "\r\nconnection: upgrade\r\n" in answer


def what_is_no_handshake_is_refused():
    """what is no handshake is not upgraded, and is not waited for"""
    for wrong in [
        {"Upgrade": None},
        {"Upgrade": "h2c"},
        {"Connection": None},
        {"Connection": "close"},
        {"Sec_WebSocket_Key": None},
        {"Sec_WebSocket_Key": "c2hvcnQ="},
        {"Sec_WebSocket_Version": None},
        {"Sec_WebSocket_Version": "8"},
        {"method": "POST"},
        {"version": "HTTP/1.0"},
    ]:
        answer = shake(**wrong)
        assert answer == "" or answer.startswith("HTTP/1.1 4"), (wrong, answer)


def the_clients_own_ways():
    """the client's own fragments, pings and closing, with compression offered as is its default"""
    with connect(FANS, proxy=None) as fan:
        pongs = []

        def pieces():
            for index, piece in enumerate(NAMED["registration"]):
                # More of them would be a flood.
                if index % 10 == 0:
                    pongs.append(fan.ping())
                yield piece

        fan.send(pieces())
        assert fan.recv(timeout=DEADLINE_SECONDS) == NAMED["registered"]
        assert all(pong.wait(DEADLINE_SECONDS) for pong in pongs)
        fan.pong(b"nobody asked")
        fan.send("x" * 32768)
        assert fan.recv(timeout=DEADLINE_SECONDS) == NAMED["default"]
        fan.close(4001, "é" * 61)
        assert (fan.close_code, fan.close_reason) == (4001, "é" * 61)


def a_fan_who_answers_no_ping():
    """a fan is pinged, and dropped when it does not answer"""
    wire = Wire()
    pings = 0
    while True:
        data = wire.socket.recv(65536)
        if not data:
            break
        # Nothing but pings without payload, and at most a word at the end.
        if data.startswith(b"\x89\x00"):
            pings += 1
    assert pings >= 1
    wire.close()


def post(connection_id, text):
    url = "http://127.0.0.1:%s/@connections/%s" % (os.environ["MANAGEMENT_PORT"], connection_id)
    request = urllib.request.Request(url, data=text.encode(), method="POST")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=DEADLINE_SECONDS) as answer:
        assert answer.status == 200, answer.status


def connection_id_of(wire):
    """API Gateway's own error names the connection."""
    wire.send(Frame(Opcode.TEXT, b'{"action":"sendmessage"}').serialize(mask=True))
    return json.loads(next(wire.answers()).data)["connectionId"]


def no_pong_stands_within_a_message():
    """while messages are written to a fan who reads slowly, pongs come between them, never within"""
    wire = Wire(receive_buffer=4096)
    connection_id = connection_id_of(wire)
    texts = [chr(ord("a") + index) * 131072 for index in range(24)]
    for index, text in enumerate(texts):
        post(connection_id, text)
        # More of them would be a flood.
        if index % 4 == 3:
            wire.send(Frame(Opcode.PING, b"%d" % index).serialize(mask=True))
    received, pongs = [], []
    for frame in wire.answers():
        # A pong may stand for those before it (RFC 6455, 5.5.3).
        (pongs if frame.opcode is Opcode.PONG else received).append(bytes(frame.data))
        if len(received) == len(texts) and pongs and pongs[-1] == b"23":
            break
    assert received == [text.encode() for text in texts]
    numbers = [int(pong) for pong in pongs]
    assert numbers == sorted(set(numbers)), numbers
    wire.close()


CHECKS = [
    compression_is_declined,
    a_subprotocol_is_accepted,
    an_unknown_subprotocol_is_not_accepted,
    a_handshake_byte_by_byte,
    a_message_in_the_segment_of_the_handshake,
    half_a_message_in_the_segment_of_the_handshake,
    another_path_is_refused,
    the_rfcs_own_key_is_answered,
    what_is_no_handshake_is_refused,
    the_clients_own_ways,
    a_fan_who_answers_no_ping,
    no_pong_stands_within_a_message,
]


def main():
    counts = [0, 0]
    for case in TABLE["cases"]:
        check(counts, case["what"], run_case, case)
    for each in CHECKS:
        check(counts, " ".join(each.__doc__.split()), each)
    print("%d %d" % tuple(counts))
    sys.exit(1 if counts[1] else 0)


def check(counts, what, run, *arguments):
    started = time.monotonic()
    try:
        run(*arguments)
        counts[0] += 1
        print("ok      %s" % what, flush=True)
    except Exception:
        counts[1] += 1
        print("FAILED  %s (after %.1f s)" % (what, time.monotonic() - started))
        print("        | " + traceback.format_exc().strip().replace("\n", "\n        | "))
        sys.stdout.flush()


main()
