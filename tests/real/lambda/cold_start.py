"""Starts each function against a Lambda runtime interface, as a new container does, and measures the
time from the start of its process to its first answer. DynamoDB and @connections are answered here at
once and without TLS, so what is measured is the function's own; what AWS needs to fetch and start a
container comes on top."""

import http.server
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time

FOLDER = sys.argv[1]
STARTS = int(os.environ["STARTS"])
STARTED_BY = shlex.split(os.environ["STARTED_BY"])
DEADLINE_SECONDS = 120

# What each is sent, and how it answers.
EVENTS = {
    "connect": ("$connect", None, 200),
    "sendmessage": (
        "sendmessage",
        '{"action":"sendmessage","consumer_id":"ann","device_id":"phone","content_id":"final"}',
        200,
    ),
    "disconnect": ("$disconnect", None, 200),
    "default": ("$default", "hello", 200),
    # Nobody's token: the answer that API Gateway turns into 401.
    "authorizer": ("$connect", None, "Unauthorized"),
}


def event(route, body):
    return {
        "methodArn": "arn:aws:execute-api:us-east-1:123456789012:abc123/dev/$connect",
        "requestContext": {
            "routeKey": route,
            "stage": "dev",
            "requestId": "r-1",
            "connectionId": "L0SM9cOFvHcCIhw=",
            "apiId": "abc123",
        },
        "body": body,
        "isBase64Encoded": False,
    }


class Runtime(http.server.BaseHTTPRequestHandler):
    """The runtime interface for one invocation, and the services that a function calls."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if not self.server.events:
            # As Lambda does: there is nothing to do for now.
            self.server.over.wait()
            return
        headers = {
            "lambda-runtime-aws-request-id": "request",
            "lambda-runtime-deadline-ms": "4102444800000",
            "lambda-runtime-invoked-function-arn": "arn:aws:lambda:us-east-1:123456789012:function:f",
        }
        self.say(200, self.server.events.pop(), headers)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        what = self.path.rsplit("/", 1)[-1]
        if what in ("response", "error"):
            self.server.answered_at = time.monotonic()
            self.server.answer = json.loads(body)
            self.server.answered.set()
            self.say(202, {})
        else:
            self.say(200, {})

    def say(self, status, body, headers={}):
        body = json.dumps(body).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """A function that is killed leaves its connections open."""


def start(name, keys):
    """One container; gives milliseconds and the answer."""
    route, body, _ = EVENTS[name]
    server = Server(("127.0.0.1", 0), Runtime)
    server.events, server.answered, server.over = [event(route, body)], threading.Event(), threading.Event()
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    here = "127.0.0.1:%d" % server.server_port
    environment = {
        "AWS_LAMBDA_RUNTIME_API": here,
        "AWS_LAMBDA_FUNCTION_NAME": "f",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128",
        "AWS_LAMBDA_FUNCTION_VERSION": "1",
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "TOUCHLINE_DYNAMODB_ENDPOINT": "http://" + here,
        "TOUCHLINE_API_GATEWAY_ENDPOINT": "http://" + here + "/{stage}",
        "TOUCHLINE_AUTH_JWKS": keys,
        "TOUCHLINE_AUTH_ISSUER": "https://issuer.test",
        "TOUCHLINE_AUTH_AUDIENCE": "touchline",
    }
    started_at = time.monotonic()
    process = subprocess.Popen(
        [*STARTED_BY, os.path.join(FOLDER, name, "bootstrap")],
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        while not server.answered.wait(0.2):
            has_ended = process.poll() is not None
            if has_ended or time.monotonic() - started_at > DEADLINE_SECONDS:
                process.kill()
                raise AssertionError("no answer: %s" % process.stderr.read().decode()[-2000:])
        return (server.answered_at - started_at) * 1000, server.answer
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
        server.over.set()
        server.shutdown()
        server.server_close()


def percentile(sorted_times, percent):
    return sorted_times[min(len(sorted_times) - 1, len(sorted_times) * percent // 100)]


def main():
    passed = failed = 0
    with tempfile.NamedTemporaryFile("w", suffix=".json") as keys:
        # A key that signed nothing: RFC 8037's example.
        json.dump({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "k", "alg": "EdDSA", "use": "sig",
                             "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}, keys)
        keys.flush()
        for name, (_, _, wanted) in EVENTS.items():
            times, wrong = [], []
            for _ in range(STARTS):
                try:
                    milliseconds, answer = start(name, keys.name)
                except AssertionError as error:
                    wrong.append(str(error))
                    break
                times.append(milliseconds)
                given = answer.get("statusCode", answer.get("errorMessage"))
                if given != wanted:
                    wrong.append(answer)
            if wrong:
                failed += 1
                print("FAILED  %s answers its first event: %s" % (name, wrong[0]))
                continue
            passed += 1
            print("ok      %s answers its first event" % name)
            times.sort()
            if not STARTED_BY:
                print("figure: %s, %d cold starts: least %.1f, median %.1f, p90 %.1f, most %.1f ms" % (
                    name, len(times), times[0], percentile(times, 50), percentile(times, 90), times[-1]))
            sys.stdout.flush()
    print("%d %d" % (passed, failed))


main()
