"""The pods of each combination as processes: with the arguments, files and variables that the chart gives them they
start and listen, and a trial works as a whole. To be run in a network and a mount namespace of its own, since pods
listen on every address and read /etc. Prints each check and, at last, PASSED FAILED."""
import base64
import fcntl
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
import urllib.error
import urllib.request

import yaml

CHART, HELM = pathlib.Path(os.environ["CHART"]), os.environ["HELM"]
BINARIES, GRPCURL = pathlib.Path(os.environ["BINARIES"]), os.environ["GRPCURL"]
SCRATCH = pathlib.Path(os.environ["SCRATCH"]) / "pods"
DEADLINE = 30
ETC = SCRATCH / "etc"
# Of those that are kept for documents.
POD_ADDRESS = "198.51.100.7"
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
passed = failed = 0


def check(what, problems):
    global passed, failed
    problems = [problem for problem in problems if problem]
    passed, failed = passed + (not problems), failed + bool(problems)
    print(f"{'FAILED' if problems else 'ok    '}  {what}")
    for problem in problems[:20]:
        print("        | " + str(problem).replace("\n", "\n        | "), flush=True)


def machine():
    """Loopback, an address that others would see, and an /etc of this process and its children."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        # SIOCSIFFLAGS, IFF_UP; SIOCSIFADDR.
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh14x", b"lo", 1))
        fcntl.ioctl(any_socket, 0x8916, struct.pack("16sHH4s8x", b"lo:1", socket.AF_INET, 0, socket.inet_aton(POD_ADDRESS)))
    ETC.mkdir(parents=True)
    shutil.copytree("/etc/ssl", ETC / "ssl", symlinks=True, ignore=shutil.ignore_patterns("private"))
    (ETC / "nsswitch.conf").write_text("hosts: files\n")
    (ETC / "ld.so.cache").write_bytes(pathlib.Path("/etc/ld.so.cache").read_bytes())
    (ETC / "resolv.conf").write_text("")
    (ETC / "hosts").write_text("127.0.0.1 localhost\n")
    subprocess.run(["mount", "--bind", str(ETC), "/etc"], check=True)


def authority():
    """Certificates as a cluster's issuer would make them, for every name that a release has."""
    folder = SCRATCH / "tls"
    folder.mkdir()
    names = ["touchline-server", "touchline-server-headless", "touchline-push-headless", "push.touchline.example", "fans.touchline.example"]
    extension = folder / "extension"
    extension.write_text("subjectAltName=" + ",".join(f"DNS:{name}" for name in names))

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], check=True, capture_output=True, cwd=folder)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=authority",
            "-keyout", "ca.key", "-out", "ca.crt")
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=pod", "-keyout", "tls.key", "-out", "tls.csr")
    openssl("x509", "-req", "-in", "tls.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "extension",
            "-out", "tls.crt")
    modulus = base64.urlsafe_b64encode(b"\xff" * 256).rstrip(b"=").decode()
    (folder / "jwks.json").write_text(json.dumps({"keys": [{"kty": "RSA", "kid": "k", "alg": "RS256", "n": modulus, "e": "AQAB"}]}))
    (folder / "token").write_text("a.b.c")
    (folder / "users.csv").write_text("USER_ID,AGE\ndiego,40\n")
    return folder


def render(path):
    done = subprocess.run([HELM, "template", "touchline", str(CHART), "--values", str(path), "--namespace", "live"],
                          capture_output=True, text=True, check=True)
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def lay_files(documents, secrets):
    """What a pod finds at /etc/touchline, and the names of the release's services."""
    shutil.rmtree(ETC / "touchline", ignore_errors=True)
    policies = {name: text for d in documents if d["kind"] == "ConfigMap" for name, text in d["data"].items() if name == "policies.toml"}
    for folder in ("tls", "client-ca", "ca", "caller", "fans-tls", "jwks", "token", "users", "policies"):
        at = ETC / "touchline" / folder
        at.mkdir(parents=True)
        for file in secrets.iterdir():
            shutil.copy(file, at / file.name)
    (ETC / "touchline" / "policies" / "policies.toml").write_text(policies.get("policies.toml", 'blocked = ["ITEM_ID_1"]\n'))
    services = [d["metadata"]["name"] for d in documents if d["kind"] == "Service"]
    (ETC / "hosts").write_text(f"127.0.0.1 localhost {' '.join(services)}\n")


def has_parameters():
    """Whether these binaries read the prototype's parameters, as those of the images do: the feature `ssm`."""
    done = subprocess.run([str(BINARIES / "touchline-server"), "--help"], capture_output=True, text=True, check=True)
    return "--ssm-prefix" in done.stdout


HAS_PARAMETERS = has_parameters()


class Pod:
    """One container of a deployment, as a process."""

    def __init__(self, deployment, folder, arguments=None):
        spec = deployment["spec"]["template"]["spec"]
        self.container = spec["containers"][0]
        self.name = deployment["metadata"]["name"]
        self.grace = spec.get("terminationGracePeriodSeconds", 30)
        self.log = folder / f"{self.name}.log"
        data = folder / "data"
        data.mkdir(exist_ok=True)
        environment = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
        for variable in self.container.get("env", []):
            environment[variable["name"]] = variable.get("value", "127.0.0.1")
        if "[$(POD_IP)]" in str(self.container["args"]):
            environment["POD_IP"] = "::1"
        given = self.container["args"] if arguments is None else arguments
        given = [re.sub(r"\$\((\w+)\)", lambda match: environment[match.group(1)], a) for a in given]
        given = [a.replace("=/data", f"={data}") for a in given if HAS_PARAMETERS or not a.startswith("--ssm-")]
        program = re.sub(r"[:@].*", "", self.container["image"].rsplit("/", 1)[-1])
        program = {"touchline-cli": "touchline"}.get(program, program)
        with open(self.log, "w") as log:
            self.process = subprocess.Popen([str(BINARIES / program), *given], env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def ports(self):
        return {port["name"]: port["containerPort"] for port in self.container["ports"]}

    def listens(self):
        """Waits until all ports answer; what is wrong if they do not."""
        end = time.monotonic() + DEADLINE
        for name, port in self.ports().items():
            while True:
                if self.process.poll() is not None:
                    return f"{self.name} ended with {self.process.returncode}: {self.log.read_text()[-2000:]}"
                try:
                    socket.create_connection(("localhost", port), timeout=1).close()
                    break
                except OSError:
                    if time.monotonic() > end:
                        return f"{self.name} does not listen on {name}, {port}: {self.log.read_text()[-2000:]}"
                    time.sleep(0.02)
        return None

    def probe(self, which):
        """As the kubelet asks; what is wrong, if anything."""
        probe = self.container[which]
        if "grpc" in probe:
            done = subprocess.run([GRPCURL, "-plaintext", f"127.0.0.1:{probe['grpc']['port']}", "grpc.health.v1.Health/Check"],
                                  capture_output=True, text=True)
            return None if '"SERVING"' in done.stdout else f"{self.name}, {which}: {done.stdout}{done.stderr}"
        if "tcpSocket" in probe:
            return self.listens()
        port = self.ports()[probe["httpGet"]["port"]]
        try:
            with OPENER.open(f"http://127.0.0.1:{port}{probe['httpGet']['path']}", timeout=5):
                return None
        except OSError as error:
            said = error.read() if isinstance(error, urllib.error.HTTPError) else ""
            return f"{self.name}, {which}: {error} {said}"

    def eventually(self, which):
        end = time.monotonic() + DEADLINE
        while (problem := self.probe(which)) and time.monotonic() < end and self.process.poll() is None:
            time.sleep(0.05)
        return problem and f"{problem}\n{self.log.read_text()[-2000:]}"

    def end(self):
        """SIGTERM, and what is wrong with how it ends."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(self.grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return f"{self.name} was killed after {self.grace} s"
        return f"{self.name} ended with {code} after {time.monotonic() - began:.1f} s: {self.log.read_text()[-800:]}" if code else None


def administered(pod):
    """Without authentication a pod is administered from its own machine alone; what is wrong with that."""
    port = pod.ports()["grpc"]
    for address, wanted in [("127.0.0.1", '"startedAt"'), (POD_ADDRESS, "LOCAL_ONLY")]:
        done = subprocess.run([GRPCURL, "-plaintext", f"{address}:{port}", "touchline.v1.AdminService/GetStatus"],
                              capture_output=True, text=True)
        if wanted not in done.stdout + done.stderr:
            yield f"{pod.name} at {address}: {done.stdout}{done.stderr}"


def start(documents, name):
    folder = SCRATCH / name
    folder.mkdir()
    order = {"store": 0, "server": 1, "push": 2, "gateway": 3, "page": 4}
    deployments = [d for d in documents if d["kind"] == "Deployment"]
    deployments.sort(key=lambda d: order[d["spec"]["template"]["spec"]["containers"][0]["name"]])
    return [Pod(deployment, folder) for deployment in deployments]


machine()
secrets = authority()
for path in sorted((CHART / "ci").glob("*-values.yaml")) + [CHART / "values-eks.yaml"]:
    documents = render(path)
    lay_files(documents, secrets)
    pods = start(documents, path.stem)
    check(f"{path.name}: {', '.join(pod.name for pod in pods)} start and listen", [pod.listens() for pod in pods])
    check(f"{path.name}: they live", [pod.probe(which) for pod in pods for which in ("startupProbe", "livenessProbe")])
    is_trial = any(pod.container["name"] == "store" for pod in pods)
    if is_trial:
        check(f"{path.name}: all of them are ready", [pod.eventually("readinessProbe") for pod in pods])
        test = next(d for d in documents if d["kind"] == "Pod")["spec"]
        for step in test["initContainers"] + test["containers"]:
            done = subprocess.run([str(BINARIES / "touchline"), *step["args"]], capture_output=True, text=True, timeout=DEADLINE,
                                  env={"PATH": "/usr/bin:/bin"})
            seen = step["name"] != "watch" or '"GOAL"' in done.stdout
            check(f"{path.name}: helm test, {step['name']}", [None if done.returncode == 0 and seen else f"{done.returncode}: {done.stdout}{done.stderr}"])
        # Callers over mutual TLS are known, wherever they are.
        if "--tls-" not in str([pod.container["args"] for pod in pods]):
            check(f"{path.name}: they are administered from their own machine alone",
                  [problem for pod in pods if "grpc" in pod.ports() for problem in administered(pod)])
    # Where there is no AWS, a server waits for the tables, and must end in order all the same.
    check(f"{path.name}: they end in order", [pod.end() for pod in reversed(pods)])

# That it looks at all: a pod that the flags forbid is found.
documents = render(CHART / "ci" / "trial-values.yaml")
lay_files(documents, secrets)
server = next(d for d in documents if d["metadata"]["name"] == "touchline-server" and d["kind"] == "Deployment")
arguments = [a for a in server["spec"]["template"]["spec"]["containers"][0]["args"] if a != "--insecure"]
(SCRATCH / "refused").mkdir()
refused = Pod(server, SCRATCH / "refused", arguments)
problem = refused.listens()
check("found: a pod that refuses to start", [None if problem and "--listen 0.0.0.0:50051" in problem else problem or "it starts"])
if refused.process.poll() is None:
    refused.process.kill()

print(f"{passed} {failed}")
