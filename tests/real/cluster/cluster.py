"""A release in a cluster whose pods run: installed, tested, shown a goal, its pods deleted, upgraded and scaled under
load, broken and rolled back, uninstalled. Prints each check and, at last, PASSED FAILED."""
import json
import os
import pathlib
import signal
import subprocess
import threading
import time
import urllib.request

import release
from release import API, CHART, LABELS, NAMESPACE, OPENER, TOKEN, api, check, deployment, finish, helm, left_over, said, wait_for_api

BINARIES, SCRATCH, GHZ = (pathlib.Path(os.environ[name]) for name in ("BINARIES", "SCRATCH", "GHZ"))
NODE = os.environ["NODE"]
PROJECT = CHART.parent
VALUES = ["--values", str(CHART / "ci" / "trial-values.yaml"), "--values", str(pathlib.Path(__file__).with_name("values.yaml"))]
DEPLOYMENTS = {"store": 1, "server": 2, "push": 2, "gateway": 1, "page": 1}
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
DEADLINE = 120


def figure(text):
    print(f"figure: {text}", flush=True)


def eventually(ask, seconds=DEADLINE):
    """Asks until there is no problem, and returns the last one."""
    end = time.monotonic() + seconds
    while (problem := ask()) and time.monotonic() < end:
        time.sleep(0.1)
    return problem


def pods(component=None):
    chosen = f"?labelSelector=app.kubernetes.io/component={component}" if component else ""
    return api("GET", PODS + chosen)[1]["items"]


def containers(pod):
    status = pod.get("status", {})
    return status.get("initContainerStatuses", []) + status.get("containerStatuses", [])


class Ends:
    """How each container ended, as the kubelet says before its pod is gone: {container's id: (pod, exit code)}."""

    def __init__(self):
        self.codes, self.known = {}, set()
        self.gone = set()
        threading.Thread(target=self.watch, daemon=True).start()

    def watch(self):
        while True:
            listed = api("GET", PODS)[1]
            for pod in listed["items"]:
                self.see(pod)
            path = f"{PODS}?watch=1&timeoutSeconds=3600&resourceVersion={listed['metadata']['resourceVersion']}"
            request = urllib.request.Request(API + path, headers={"Authorization": f"Bearer {TOKEN}"})
            with OPENER.open(request, timeout=3600) as answer:
                for line in answer:
                    change = json.loads(line)
                    if change["type"] == "ERROR":
                        break
                    self.see(change["object"])
                    if change["type"] == "DELETED":
                        self.gone.add(change["object"]["metadata"]["name"])

    def see(self, pod):
        name = pod["metadata"]["name"]
        for one in containers(pod):
            for state in (one["state"], one["lastState"]):
                container = state.get("terminated", {}).get("containerID", name)
                if "terminated" in state and container not in self.known:
                    self.codes[container] = (name, state["terminated"]["exitCode"])

    def forget(self):
        """Leaves out what ended until now, for good."""
        self.known |= self.codes.keys()
        self.codes.clear()

    def badly(self):
        return [f"{pod} ended with {code}" for pod, code in self.codes.values() if code]

    def of(self, pod):
        return [code for name, code in self.codes.values() if name == pod]


def restarted():
    return [f"{pod['metadata']['name']}: {one['name']} was started {one['restartCount'] + 1} times"
            for pod in pods() for one in containers(pod) if one["restartCount"]]


def unavailable(wanted=DEPLOYMENTS):
    """What the controllers do not yet call available, with all of it new and none of the old left."""
    problems = []
    for name, replicas in wanted.items():
        one = deployment(f"touchline-{name}")
        status = one.get("status", {})
        is_new = status.get("observedGeneration", 0) >= one["metadata"]["generation"]
        numbers = [status.get(number, 0) for number in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")]
        if not is_new or numbers != [replicas] * 4 or len(pods(name)) != replicas:
            problems.append(f"{name}: {numbers} of {replicas}, {len(pods(name))} pods, {status.get('conditions')}")
    return "\n".join(problems)


def address(service, port):
    made = api("GET", f"/api/v1/namespaces/{NAMESPACE}/services/touchline-{service}")[1]["spec"]
    assert port in [one["port"] for one in made["ports"]], made
    return f"{made['clusterIP']}:{port}"


def touchline(*arguments):
    return subprocess.run([str(BINARIES / "touchline"), *arguments], capture_output=True, text=True, timeout=DEADLINE,
                          env={"PATH": "/usr/bin:/bin", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})


def put(server, **attributes):
    """Puts an event; its version, or what is wrong."""
    done = touchline("event", "put", "1", *(f"{name}={value}" for name, value in attributes.items()), "--server", f"http://{server}", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[0])["version"]


class Fan:
    """`touchline fan`, on the node, at the service's address."""

    def __init__(self, front):
        self.shown, self.said = [], []
        self.process = subprocess.Popen(
            [str(BINARIES / "touchline"), "fan", "diego", "--json", "--gateway", f"ws://{front}/dev"], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PATH": "/usr/bin:/bin"})
        for lines, kept in ((self.process.stdout, self.shown), (self.process.stderr, self.said)):
            threading.Thread(target=self.read, args=(lines, kept), daemon=True).start()

    @staticmethod
    def read(lines, kept):
        for line in lines:
            kept.append((time.monotonic(), line))

    def connections(self):
        return [at for at, line in self.said if "is connected" in line]

    def not_connected(self, times=1):
        """What is wrong, if the fan was not connected so often."""
        return None if len(self.connections()) >= times else f"not connected: {[line for _, line in self.said]}"

    def away(self):
        """Seconds without a connection, of the last time that it was lost."""
        lost = [at for at, line in self.said if "interrupted" in line]
        return self.connections()[-1] - max(at for at in lost if at < self.connections()[-1])

    def shown_at(self, version):
        """When the fan was first shown components of this version of the event."""
        for at, line in list(self.shown):
            one = json.loads(line)
            if one.get("version") == version and one.get("components"):
                return at
        return None

    def has_not(self, version):
        """What is wrong, if it was not."""
        return None if self.shown_at(version) else f"version {version} was not shown: {self.said[-2:]} {self.shown[-2:]}"

    def end(self):
        self.process.terminate()
        self.process.wait(20)


class Load:
    """Unary calls over several connections, through the service's address; made by ghz, which tries nothing twice."""

    def __init__(self, server, seconds):
        self.report = SCRATCH / "load.json"
        self.process = subprocess.Popen(
            [str(GHZ), "--insecure", "--call", "touchline.v1.ComponentService/GetComponents",
             "--data", '{"consumer_id": "fan-{{randomInt 0 1000}}", "event_id": "1"}', "--rps", "50", "--connections", "8",
             "--concurrency", "8", "--duration", f"{seconds}s", "--duration-stop", "wait", "--timeout", "10s", "--format", "json",
             "--output", str(self.report), server], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def problems(self, what):
        """Waits for its end. It must have been going on until now, and every call must have been answered."""
        went_on = self.process.poll() is None
        self.process.wait(300)
        report = json.loads(self.report.read_text())
        at = {one["percentage"]: one["latency"] / 1e6 for one in report["latencyDistribution"]}
        figure(f"{what}: {report['count']} calls, {report['statusCodeDistribution']}, p50 {at[50]:.1f} ms, p99 {at[99]:.1f} ms, "
               f"longest {report['slowest'] / 1e6:.0f} ms")
        yield None if went_on else "the load had ended before"
        yield from (f"a call of {one['timestamp']}, ended after {one['latency'] / 1e6:.1f} ms: {one['status']}, {one['error']}"
                    for one in report["details"] if one["status"] != "OK")
        yield None if report["statusCodeDistribution"] == {"OK": report["count"]} else str(report["errorDistribution"])


def show_pods():
    """What a reader of a failure wants to know."""
    for event in api("GET", f"/api/v1/namespaces/{NAMESPACE}/events")[1]["items"][-60:]:
        print(f"        event | {event['involvedObject']['name']}: {event['reason']}: {event.get('message')}")
    for log in sorted(pathlib.Path("/var/log/pods").glob("*/*/*.log")):
        print(f"        {log.parent.parent.name.split('_')[1]} {log.parent.name}")
        for line in log.read_text().splitlines()[-12:]:
            print(f"        | {line[:300]}")


def tasks():
    """A line for each process of a pod that containerd knows."""
    done = subprocess.run(["ctr", "--namespace", "k8s.io", "tasks", "list"], capture_output=True, text=True, check=True)
    return "\n".join(done.stdout.splitlines()[1:])


def processes():
    """The process of each container of the release, as the kernel describes it."""
    for line in tasks().splitlines():
        process = pathlib.Path("/proc") / line.split()[1]
        program = process.joinpath("cmdline").read_bytes().split(b"\0")[0].decode()
        if program != "/pause":
            status = dict(line.split(":\t", 1) for line in process.joinpath("status").read_text().splitlines() if ":\t" in line)
            root = next(line.split()[5] for line in process.joinpath("mountinfo").read_text().splitlines() if line.split()[4] == "/")
            yield program, status, root


def unconfined():
    wanted = {"Uid": "65532\t" * 3 + "65532", "Gid": "65532\t" * 3 + "65532", "CapPrm": "0" * 16, "CapEff": "0" * 16, "CapBnd": "0" * 16,
              "NoNewPrivs": "1", "Seccomp": "2"}
    found = list(processes())
    yield None if len(found) == sum(DEPLOYMENTS.values()) else f"{len(found)} processes: {[program for program, _, _ in found]}"
    for program, status, root in found:
        yield from (f"{program}: {name} is {status[name]}" for name, value in wanted.items() if status[name] != value)
        yield None if root.split(",")[0] == "ro" else f"{program}: its root is {root}"


def memory():
    summary = api("GET", f"/api/v1/nodes/{NODE}/proxy/stats/summary")[1]
    for pod in sorted(summary.get("pods", []), key=lambda one: one["podRef"]["name"]):
        for one in pod.get("containers", []):
            if "memory" in one:
                yield one["name"], one["memory"]["workingSetBytes"] / 1e6


def the_node():
    print(f"-- Kubernetes {wait_for_api()}")

    def not_ready():
        status, node, _ = api("GET", f"/api/v1/nodes/{NODE}")
        conditions = node.get("status", {}).get("conditions", []) if status == 200 else []
        return None if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions) else str(conditions or node)

    problem = eventually(not_ready)
    check("the node is ready", [problem])
    if problem:
        return False
    about = api("GET", f"/api/v1/nodes/{NODE}")[1]["status"]["nodeInfo"]
    print(f"-- kubelet {about['kubeletVersion']}, {about['containerRuntimeVersion']}, Linux {about['kernelVersion'].split('-')[0]}")
    api("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": LABELS}})
    return not eventually(lambda: api("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")[0] != 200)


def installed():
    began = time.monotonic()
    check("installed, without a warning", said(helm("install", "touchline", str(CHART), *VALUES)))
    seen = {}

    def asked():
        for name in DEPLOYMENTS:
            if name not in seen and not unavailable({name: DEPLOYMENTS[name]}):
                seen[name] = time.monotonic() - began
        return None if len(seen) == len(DEPLOYMENTS) else unavailable() or "not all at once"

    problem = eventually(asked, 240)
    check(f"all {len(DEPLOYMENTS)} deployments are available", [problem])
    figure("seconds from helm install to available: " + ", ".join(f"{name} {seconds:.1f}" for name, seconds in seen.items()))
    return not problem


def the_catalog(server):
    """Loads the demo's items, and waits until each server has read them: by default they look about twice a minute."""
    done = touchline("items", "load", str(PROJECT / "clients/cli/demo/items.csv"), "--dynamodb-endpoint", f"http://{address('store', 8000)}")
    check("the demo's items are loaded", [None if done.returncode == 0 else done.stdout + done.stderr])
    began = time.monotonic()
    assert touchline("event", "put", "catalog", "match_event=THROW", "--content-id=nobody", "--server", f"http://{server}").returncode == 0

    def not_read(pod):
        done = touchline("watch", "catalog", "--consumer", "diego", "--states", "1", "--json", "--server",
                         f"http://{pod['status']['podIP']}:50051")
        return None if '"item_id"' in done.stdout else done.stdout + done.stderr

    check("each server reads them", [eventually(lambda: not_read(pod)) for pod in pods("server")])
    figure(f"each server has the items {time.monotonic() - began:.1f} s after they were loaded")
    touchline("event", "delete", "catalog", "--server", f"http://{server}")


def the_goal(fan, server):
    check("a fan connects", [eventually(fan.not_connected)])
    began = time.monotonic()
    version = put(server, match_event="GOAL", match_timing="FIRST-HALF-1", score_difference=1)
    was_put = time.monotonic()
    problem = eventually(lambda: fan.has_not(version))
    check("a goal is put, and the fan is shown components", [problem])
    if not problem:
        figure(f"the fan is shown the goal {(fan.shown_at(version) - began) * 1000:.0f} ms after `touchline event put` was started, "
               f"which itself took {(was_put - began) * 1000:.0f} ms")


def a_deleted_gateway(fan, server, ends):
    before = len(fan.connections())
    name = pods("gateway")[0]["metadata"]["name"]
    began = time.monotonic()
    api("DELETE", f"{PODS}/{name}")

    def not_replaced():
        others = [pod for pod in pods("gateway") if pod["metadata"]["name"] != name]
        return None if any(one.get("ready") for pod in others for one in containers(pod)) else str([pod["status"] for pod in others])[:600]

    problem = eventually(not_replaced)
    replaced = time.monotonic() - began
    check("a deleted gateway is replaced", [problem])
    problem = eventually(lambda: fan.not_connected(before + 1))
    check("its fan comes back", [problem])
    check("and it ends with exit code 0, within its grace", [
        eventually(lambda: None if name in ends.gone else f"{name} is still there"),
        None if ends.of(name) == [0] else f"exit codes {ends.of(name)}"])
    if not problem:
        figure(f"a deleted gateway: another is ready after {replaced:.1f} s, its fan is sent there after "
               f"{fan.connections()[-1] - began:.1f} s and is away for {fan.away() * 1000:.0f} ms, it is gone after "
               f"{time.monotonic() - began:.1f} s")
    version = put(server, match_event="PENALTY", match_timing="FIRST-HALF-1", score_difference=1)
    check("the fan is shown the next event", [eventually(lambda: fan.has_not(version))])


def upgraded(fan, server):
    load = Load(server, 100)
    before = len(fan.connections())
    began = time.monotonic()
    old = {pod["metadata"]["name"] for pod in pods() if pod["metadata"]["labels"].get("app.kubernetes.io/component") in ("server", "push", "gateway")}
    done = helm("upgrade", "touchline", str(CHART), *VALUES, "--set", "server.drainSeconds=11,push.drainSeconds=6,gateway.drainSeconds=25",
                "--wait", "--timeout", "3m")
    check("server, push adapter and gateway are upgraded under load", said(done))
    check("none of their old pods is left", [
        eventually(unavailable), *(f"{one} is as old" for one in old & {pod["metadata"]["name"] for pod in pods()})])
    problem = eventually(lambda: fan.not_connected(before + 1))
    check("the fan is sent to the new gateway", [problem])
    figure(f"an upgrade of all their pods takes {time.monotonic() - began:.1f} s"
           + ("" if problem else f", and the fan is away for {fan.away() * 1000:.0f} ms of it"))
    check("and no call was lost meanwhile", load.problems("load during the upgrade"))
    version = put(server, match_event="CORNER", match_timing="FIRST-HALF-1", score_difference=1)
    check("the fan is shown what comes after the upgrade", [eventually(lambda: fan.has_not(version))])


def scaled(server):
    load = Load(server, 60)
    for replicas in (3, 2):
        began = time.monotonic()
        api("PUT", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/touchline-server/scale", {
            "apiVersion": "autoscaling/v1", "kind": "Scale", "metadata": {"name": "touchline-server", "namespace": NAMESPACE},
            "spec": {"replicas": replicas}})
        check(f"{replicas} servers", [eventually(lambda: unavailable({"server": replicas}))])
        figure(f"{replicas} servers after {time.monotonic() - began:.1f} s")
    # As a node's drain asks: the disruption budget lets one go, and the next only once there is another.
    answers = [api("POST", f"{PODS}/{pod['metadata']['name']}/eviction", {
        "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod["metadata"]["name"], "namespace": NAMESPACE}})
        for pod in pods("server")]
    check("a drain may take one server, and not the other", [None if [status for status, _, _ in answers] == [201, 429] else str(answers)])
    check("an evicted server is replaced", [eventually(lambda: unavailable({"server": 2}))])
    check("and no call was lost meanwhile", load.problems("load during scaling and the eviction"))


def a_killed_leader(fan, server, ends):
    """The leading push adapter's process is killed, as when memory ends: the other leads, and the kubelet restarts it."""
    leader, process = None, None
    for pod in pods("push"):
        with OPENER.open(f"http://{pod['status']['podIP']}:9091/metrics", timeout=10) as answer:
            if "\ntouchline_push_leader 1\n" in answer.read().decode():
                leader = pod["metadata"]["name"]
                container = pod["status"]["containerStatuses"][0]["containerID"].split("//")[1]
                process = next(int(line.split()[1]) for line in tasks().splitlines() if line.split()[0] == container)
    check("one push adapter leads", [None if leader else "none does"])
    if not leader:
        return
    began = time.monotonic()
    os.kill(process, signal.SIGKILL)
    version = put(server, match_event="GOAL", match_timing="SECOND-HALF-1", score_difference=2)
    problem = eventually(lambda: fan.has_not(version))
    check("the leader is killed, and the fan is shown a goal of the same moment", [problem])
    check("the kubelet starts it again, and nothing else", [
        eventually(lambda: None if restarted() else "no restart"), eventually(lambda: unavailable({"push": 2})),
        None if [leader in line for line in restarted()] == [True] else str(restarted()),
        None if ends.of(leader) == [128 + signal.SIGKILL] else f"exit codes {ends.of(leader)}"])
    if not problem:
        figure(f"a killed leader: the fan is shown the next goal after {fan.shown_at(version) - began:.1f} s, both push adapters are "
               f"available after {time.monotonic() - began:.1f} s")
    ends.forget()


def broken_and_rolled_back(server, ends):
    """That it looks at all: a release whose server cannot start is found, and the old one goes on."""
    done = helm("upgrade", "touchline", str(CHART), *VALUES, "--set", "server.extraArgs={--no-such-flag}", "--wait", "--timeout", "20s")
    check("found: an upgrade whose server does not start", [None if done.returncode else "Helm waited for nothing"])
    check("found: its exit code and its restarts", [
        None if ends.badly() else "no exit code",
        eventually(lambda: None if any("-server-" in line for line in restarted()) else "no restart"),
        None if unavailable({"server": 2}) else "it is called available"])
    done = touchline("admin", "health", "--server", f"http://{server}")
    check("the servers of before go on serving", [None if done.returncode == 0 else done.stdout + done.stderr])
    check("rolled back", [*said(helm("rollback", "touchline", "--wait", "--timeout", "2m")), eventually(unavailable)])
    ends.forget()


def uninstalled(ends):
    began = time.monotonic()
    check("uninstalled", said(helm("uninstall", "touchline", "--wait", "--timeout", "2m")))
    # The hook's pod stays, as its policy says, for who wants to read its log.
    for pod in pods():
        if pod["metadata"].get("annotations", {}).get("helm.sh/hook"):
            api("DELETE", f"{PODS}/{pod['metadata']['name']}")
    check("nothing is left of it", [eventually(lambda: str([pod["metadata"]["name"] for pod in pods()]) if pods() else None), *left_over()])
    figure(f"everything is gone {time.monotonic() - began:.1f} s after helm uninstall")
    check("each of its containers ended with exit code 0", [
        *ends.badly(), None if len(ends.codes) >= sum(DEPLOYMENTS.values()) else f"only {len(ends.codes)} were seen to end"])
    check("no process of a pod is left on the node", [eventually(tasks)])


def whole_life():
    if not the_node():
        return
    ends = Ends()
    if not installed():
        return
    check("each process is nobody's, without rights, on a root that cannot be written", unconfined())
    began = time.monotonic()
    done = helm("test", "touchline", "--logs", "--timeout", "2m")
    check("helm test passes", [*said(done), None if "Phase:          Succeeded" in done.stdout else done.stdout + done.stderr])
    figure(f"helm test takes {time.monotonic() - began:.1f} s")
    server, front = address("server", 50051), address("fans", 8081)
    the_catalog(server)
    fan = Fan(front)
    try:
        the_goal(fan, server)
        a_deleted_gateway(fan, server, ends)
        upgraded(fan, server)
        scaled(server)
        figure("memory of the pods, MB: " + ", ".join(f"{name} {size:.0f}" for name, size in memory()))
        check("nothing was restarted, and all that ended did so with exit code 0", [*restarted(), *ends.badly()])
        a_killed_leader(fan, server, ends)
    finally:
        fan.end()
    broken_and_rolled_back(server, ends)
    uninstalled(ends)


try:
    whole_life()
except Exception as error:  # A cluster can fail anywhere; what passed before is still worth printing.
    check("the checks go through", [f"{type(error).__name__}: {error}"])
if release.failed:
    show_pods()
finish()
