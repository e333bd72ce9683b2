"""The template deployed to MiniStack: fans through its WebSocket API and the compiled functions, events
by an AWS client, pushes by the push adapter through @connections; what each role may do and may not."""

import asyncio
import functools
import http.server
import io
import json
import os
import subprocess
import threading
import time
import zipfile

import boto3
import botocore.exceptions
import jwt
import websockets
from cryptography.hazmat.primitives.asymmetric import ed25519

import checks
from conformance import Table
from checks import EVENTS, SESSIONS, client, eventually, is_set, row, run

STACK = "touchline"
PORT = os.environ["DYNAMODB_PORT"]
ENDPOINT = "http://127.0.0.1:%s" % PORT
FUNCTIONS = ["connect", "sendmessage", "disconnect", "default", "authorizer"]
REGION = os.environ["AWS_DEFAULT_REGION"]
BODIES = {
    "successfully processed client message...",
    "successfully handled default route",
    "successfully deleted session on disconnect",
}


@functools.lru_cache
def aws(service):
    return client(service, "DYNAMODB_PORT")


def deploy(change="create", **parameters):
    """Creates or updates the stack; gives its outputs."""
    parameters = {
        "CodeBucket": "code",
        "Architecture": "x86_64",
        "DynamoDbEndpoint": ENDPOINT,
        "ApiGatewayEndpoint": ENDPOINT + "/_aws/execute-api/{api}/{stage}",
        **parameters,
    }
    with open(os.environ["TEMPLATE"]) as template:
        getattr(aws("cloudformation"), change + "_stack")(
            StackName=STACK,
            TemplateBody=template.read(),
            Capabilities=["CAPABILITY_IAM"],
            Parameters=[
                {"ParameterKey": key, "ParameterValue": value}
                for key, value in parameters.items()
            ],
        )
    while True:
        stack = aws("cloudformation").describe_stacks(StackName=STACK)["Stacks"][0]
        status = stack["StackStatus"]
        if not status.endswith("IN_PROGRESS"):
            break
        time.sleep(0.05)
    assert status == change.upper() + "_COMPLETE", (status, stack.get("StackStatusReason"))
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def upload():
    aws("s3").create_bucket(Bucket="code")
    for name in FUNCTIONS:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as files:
            entry = zipfile.ZipInfo("bootstrap")
            entry.external_attr = 0o755 << 16
            with open(os.path.join(os.environ["BINARIES"], name), "rb") as binary:
                files.writestr(entry, binary.read())
        aws("s3").put_object(
            Bucket="code", Key="touchline/%s.zip" % name, Body=archive.getvalue()
        )


def resource(logical):
    found = aws("cloudformation").describe_stack_resource(
        StackName=STACK, LogicalResourceId=logical
    )
    return found["StackResourceDetail"]["PhysicalResourceId"]


@functools.lru_cache
def credentials(logical):
    """Keys of a user who has the policies of this role and no other: pods and functions are given
    theirs by services, which nobody can stand in for."""
    role, user = resource(logical).rsplit("/", 1)[-1], "as-" + logical
    aws("iam").create_user(UserName=user)
    for name in aws("iam").list_role_policies(RoleName=role)["PolicyNames"]:
        policy = aws("iam").get_role_policy(RoleName=role, PolicyName=name)
        aws("iam").put_user_policy(
            UserName=user, PolicyName=name, PolicyDocument=json.dumps(policy["PolicyDocument"])
        )
    if logical == "PushPodRole":
        # MiniStack judges the calls of a stream as if they named no resource.
        statement = {"Effect": "Allow", "Resource": "*", "Action": [
            "dynamodb:DescribeStream", "dynamodb:GetRecords", "dynamodb:GetShardIterator"]}
        policy = {"Version": "2012-10-17", "Statement": [statement]}
        aws("iam").put_user_policy(
            UserName=user, PolicyName="stream", PolicyDocument=json.dumps(policy)
        )
    key = aws("iam").create_access_key(UserName=user)["AccessKey"]
    return key["AccessKeyId"], key["SecretAccessKey"]


def as_role(logical, service, path=""):
    key, secret = credentials(logical)
    return boto3.client(
        service,
        endpoint_url=ENDPOINT + path,
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=checks.botocore.config.Config(retries={"max_attempts": 0}),
    )


services = []


def start(logical, name, *flags):
    key, secret = credentials(logical)
    environment = {**os.environ, "AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret}
    log = open(os.path.join(os.environ["LOGS"], name + ".log"), "ab")
    command = [os.path.join(os.environ["BINARIES"], name), "--metrics-listen", "127.0.0.1:0", *flags]
    services.append(subprocess.Popen(command, env=environment, stderr=log, stdout=log))


def stop():
    for service in services:
        service.terminate()
    for service in services:
        service.wait(20)
    services.clear()


def start_push(api_id, *flags):
    start(
        "PushPodRole",
        "touchline-push",
        *("--connections", "api-gateway", "--listen", "127.0.0.1:0"),
        *("--server", os.environ["TOUCHLINE_SERVER"]),
        *("--api-gateway-endpoint", "%s/_aws/execute-api/%s/dev" % (ENDPOINT, api_id)),
        *flags,
    )


class Fan:
    """A fan of the WebSocket API. MiniStack hands the functions' bodies on to the fan, which AWS does
    only for routes that have a response: these are passed over."""

    def __init__(self, socket):
        self.socket = socket

    @classmethod
    async def connect(cls, query="", **options):
        url = "ws://127.0.0.1:%s/_aws/execute-api/%s/dev%s" % (PORT, outputs["ApiId"], query)
        return cls(await websockets.connect(url, proxy=None, **options))

    async def register(self, consumer_id, content_id="match"):
        message = {"action": "sendmessage", "device_id": "phone", "content_id": content_id}
        if consumer_id is not None:
            message["consumer_id"] = consumer_id
        await self.say(message)

    async def say(self, message):
        await self.socket.send(message if isinstance(message, str) else json.dumps(message))

    async def hear(self):
        while True:
            text = await asyncio.wait_for(self.socket.recv(), checks.DEADLINE_SECONDS)
            message = json.loads(text)
            if not (isinstance(message, str) and message in BODIES):
                return message

    async def hear_until(self, wanted):
        for _ in range(20):
            message = await self.hear()
            if wanted(message):
                return message
        raise AssertionError("never came")

    async def close(self):
        await self.socket.close()


def rows():
    return aws("dynamodb").scan(TableName=SESSIONS)["Items"]


def put(**attributes):
    aws("dynamodb").put_item(TableName=EVENTS, Item=row("1", **attributes))


async def whole_life():
    """connect, sendmessage, an event row by boto3, a push, disconnect: through the compiled functions"""
    times = []
    for _ in range(2):
        started = time.monotonic()
        fan = await Fan.connect()
        times.append((time.monotonic() - started) * 1000)
        await eventually(lambda: len(rows()) == 1)
        if len(times) == 1:
            await fan.close()
            await eventually(lambda: not rows())
    print("figure: a connection takes %d ms by a function that starts, %d ms by one that runs" % tuple(times))
    assert "consumer_id" not in rows()[0]
    await fan.register("camille")
    assert await fan.hear_until(lambda said: said == {"status": "success"})
    stored = rows()[0]
    assert stored["consumer_id"] == {"S": "camille"}, stored
    assert stored["endpoint"]["S"] == "%s/_aws/execute-api/%s/dev" % (ENDPOINT, outputs["ApiId"])
    started = time.monotonic()
    await asyncio.to_thread(put, match_event="GOAL")
    shown = await fan.hear_until(is_set)
    print("figure: a change is on the fan's screen after %d ms" % ((time.monotonic() - started) * 1000))
    assert "PLAYER" in shown, shown
    await fan.close()
    await eventually(lambda: not rows())


async def open_connection(query=None, protocol=None):
    fan = await Fan.connect(
        "?token=" + query if query is not None else "",
        **({"subprotocols": ["touchline", "touchline.bearer." + protocol]} if protocol else {}),
    )
    return fan.socket


def conformance(with_tokens):
    return Table(
        os.path.join(os.environ["PROJECT"], "tests/conformance/messages.json"),
        connect=open_connection,
        rows=rows,
        remove_row=lambda session_id: aws("dynamodb").delete_item(
            TableName=SESSIONS, Key={"session_id": {"S": session_id}}),
        bodies=BODIES,
        tokens=lambda consumer_id, seconds, foreign=False: token(
            consumer_id, seconds, FOREIGN if foreign else KEY),
    ).run(with_tokens)


async def conforms():
    """the conformance table without tokens: what fans send, receive, and are in the table"""
    await conformance(False)


async def gone():
    """a connection that has gone loses its row, and the others are served"""
    fan = await Fan.connect()
    await fan.register("diego")
    await fan.hear_until(lambda said: said == {"status": "success"})
    ghost = {**rows()[0], "session_id": {"S": "GHOST="}}
    aws("dynamodb").put_item(TableName=SESSIONS, Item=ghost)
    await asyncio.to_thread(put, match_event="PENALTY")
    await fan.hear_until(is_set)
    await eventually(lambda: len(rows()) == 1)
    await fan.close()
    await eventually(lambda: not rows())


KEY, FOREIGN = (ed25519.Ed25519PrivateKey.generate() for _ in range(2))


class Keys(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        key = jwt.algorithms.OKPAlgorithm.to_jwk(KEY.public_key(), as_dict=True)
        body = json.dumps({"keys": [{**key, "kid": "one", "use": "sig", "alg": "EdDSA"}]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def token(consumer_id, lifetime=3600, key=KEY):
    claims = {"iss": "https://issuer.test", "aud": "touchline", "exp": int(time.time() + lifetime)}
    if consumer_id is not None:
        claims["sub"] = consumer_id
    return jwt.encode(claims, key, algorithm="EdDSA", headers={"kid": "one"})


def turn_tokens_on():
    keys = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Keys)
    threading.Thread(target=keys.serve_forever, daemon=True).start()
    deploy(
        "update",
        AuthJwks="http://127.0.0.1:%d/jwks" % keys.server_port,
        AuthIssuer="https://issuer.test",
        AuthAudience="touchline",
    )


async def conforms_with_tokens():
    """the conformance table with tokens: who comes in, whose consumer it is, whose refresh is taken"""
    turn_tokens_on()
    await conformance(True)


async def header():
    """with a good token as a subprotocol a fan comes in"""
    try:
        socket = await open_connection(protocol=token("camille"))
        await socket.close()
    except websockets.exceptions.NegotiationError:
        # MiniStack does not hand the function's header on, so the client hangs up: it was let in.
        pass


async def pushed_with_a_token():
    """a fan who came in by a token is pushed to"""
    await eventually(lambda: not rows())
    fan = await Fan.connect(query="?token=" + token("camille"))
    await fan.register(None)
    await fan.hear_until(lambda said: said == {"status": "success"})
    await asyncio.to_thread(put, match_event="THROW")
    await fan.hear_until(is_set)
    await fan.close()


async def expiry():
    """an expired connection is closed by a DELETE, unless it was refreshed; others' tokens refresh nothing"""
    await eventually(lambda: not rows())
    expiring = await Fan.connect(query="?token=" + token("diego", -25))
    renewed = await Fan.connect(query="?token=" + token("camille", -25))
    await renewed.say({"action": "refresh", "token": token("diego")})
    error = await renewed.hear_until(lambda said: isinstance(said, dict) and said.get("type") == "error")
    assert error["code"] == "forbidden", error
    await renewed.say({"action": "refresh", "token": token("camille")})
    await renewed.hear_until(lambda said: isinstance(said, dict) and said.get("type") == "refreshed")
    await asyncio.wait_for(expiring.socket.wait_closed(), 40)
    await eventually(lambda: len(rows()) == 1)
    await renewed.register(None)
    await renewed.hear_until(lambda said: said == {"status": "success"})
    await renewed.close()


def denied(call, **arguments):
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as error:
        code = error.response["Error"]["Code"]
        return "AccessDenied" in code or code == "ForbiddenException" or error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    return False


async def least_privilege():
    """each role is denied what it must not do, and allowed what it does"""
    key = {"session_id": {"S": "x"}}
    event = {"event_id": {"S": "1"}}
    item = {"item_id": {"S": "x"}}
    path = "/_aws/execute-api/%s/dev" % outputs["ApiId"]
    connection = {"ConnectionId": "gone="}
    calls = {
        "open": ("dynamodb", "put_item", {"TableName": SESSIONS, "Item": key}),
        "register": ("dynamodb", "update_item", {
            "TableName": SESSIONS, "Key": key, "UpdateExpression": "SET a = :a",
            "ExpressionAttributeValues": {":a": {"S": "a"}}}),
        "close": ("dynamodb", "delete_item", {"TableName": SESSIONS, "Key": key}),
        "read sessions": ("dynamodb", "scan", {"TableName": SESSIONS}),
        "read events": ("dynamodb", "scan", {"TableName": EVENTS}),
        "write events": ("dynamodb", "put_item", {"TableName": EVENTS, "Item": event}),
        "write items": ("dynamodb", "put_item", {
            "TableName": "rt_personalize_soccer_ux_item", "Item": item}),
        "read the lease": ("dynamodb", "get_item", {
            "TableName": "touchline_push_lease", "Key": {"lease_key": {"S": "x"}}}),
        "take the lease": ("dynamodb", "put_item", {
            "TableName": "touchline_push_lease", "Item": {"lease_key": {"S": "x"}}}),
        "drop a table": ("dynamodb", "delete_table", {"TableName": SESSIONS}),
        "read parameters": ("ssm", "get_parameter", {"Name": "/rt_personalize/api/api_gateway/stage"}),
        "write parameters": ("ssm", "put_parameter", {
            "Name": "/rt_personalize/api/api_gateway/stage", "Value": "dev", "Overwrite": True}),
        "post": ("apigatewaymanagementapi", "post_to_connection", {**connection, "Data": b"{}"}),
        "hang up": ("apigatewaymanagementapi", "delete_connection", connection),
        "make users": ("iam", "create_user", {"UserName": "eve"}),
    }
    allowed = {
        "ConnectRole": {"open"},
        "SendmessageRole": {"register", "post"},
        "DisconnectRole": {"close"},
        "DefaultRole": {"post"},
        "AuthorizerRole": set(),
        "ServerPodRole": {"read events", "write events", "read parameters", "read the lease"},
        "GatewayPodRole": {"read the lease"},
        "PushPodRole": {"read the lease", "open", "register", "close", "read sessions", "read events",
                        "take the lease", "read parameters", "post", "hang up"},
    }
    wrong, judged = [], 0
    for role, may in allowed.items():
        for what, (service, call, arguments) in calls.items():
            suffix = path if service == "apigatewaymanagementapi" else ""
            was_denied = denied(getattr(as_role(role, service, suffix), call), **arguments)
            judged += 1
            if was_denied == (what in may):
                wrong.append("%s %s %s" % (role, "is denied:" if was_denied else "may:", what))
    print("figure: %d calls judged" % judged)
    assert not wrong, "\n".join(wrong)


async def template_describes_the_tables():
    """tables are on demand, with stream, recovery and encryption; the parameters name this API"""
    table = aws("dynamodb").describe_table(TableName=EVENTS)["Table"]
    assert table["StreamSpecification"]["StreamViewType"] == "NEW_AND_OLD_IMAGES", table
    assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST", table
    names = {index["IndexName"] for index in
             aws("dynamodb").describe_table(TableName=SESSIONS)["Table"]["GlobalSecondaryIndexes"]}
    assert names == {"audience"}, names
    path = "/rt_personalize"
    found = aws("ssm").get_parameters_by_path(Path=path, Recursive=True)["Parameters"]
    values = {one["Name"][len(path):]: one["Value"] for one in found}
    assert values["/api/api_gateway/stage"] == "dev", values
    assert values["/api/api_gateway/domain"].startswith(outputs["ApiId"] + ".execute-api."), values
    assert values["/aws_personalize/num_results"] == "10", values
    assert outputs["apiGatewayInvokeURL"].startswith("wss://" + outputs["ApiId"]), outputs


upload()
before = time.monotonic()
outputs = deploy()
print("figure: the template is deployed after %d ms" % ((time.monotonic() - before) * 1000))
subprocess.run(
    [os.path.join(os.environ["BINARIES"], "touchline"), "items", "load",
     os.path.join(os.environ["PROJECT"], "clients/cli/demo/items.csv")],
    check=True, stdout=subprocess.DEVNULL,
)
start("ServerPodRole", "touchline-server", "--listen", "127.0.0.1:" + os.environ["GRPC_PORT"])
start_push(outputs["ApiId"], "--expiry-sweep", "10s")
try:
    run(template_describes_the_tables, conforms, whole_life, gone, conforms_with_tokens, header,
        pushed_with_a_token, expiry, least_privilege)
finally:
    stop()
