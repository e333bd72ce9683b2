"""A release's life at a real API server: installed, upgraded, rolled back, uninstalled, in a namespace that enforces
Pod Security's level `restricted`; each pod is put to admission. Prints each check and, at last, PASSED FAILED."""
import copy
import json
import os
import pathlib
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request

import yaml

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "helm"))
import custom  # noqa: E402

API, TOKEN = os.environ["API"], os.environ["TOKEN"]
CHART, HELM = pathlib.Path(os.environ["CHART"]), os.environ["HELM"]
NAMESPACE = "touchline"
passed = failed = 0
OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))


def check(what, problems):
    global passed, failed
    problems = [problem for problem in problems if problem]
    passed, failed = passed + (not problems), failed + bool(problems)
    print(f"{'FAILED' if problems else 'ok    '}  {what}")
    for problem in problems[:20]:
        print(f"        | {problem}")


def api(method, path, body=None):
    """Status, answer and warnings."""
    request = urllib.request.Request(API + path, method=method, headers={"Authorization": f"Bearer {TOKEN}"})
    if body is not None:
        request.data = json.dumps(body, default=str).encode()
        request.add_header("Content-Type", "application/json")
    try:
        with OPENER.open(request, timeout=30) as answer:
            return answer.status, json.load(answer), answer.headers.get_all("Warning") or []
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), []


def helm(*arguments):
    done = subprocess.run([HELM, *arguments, "--namespace", NAMESPACE], capture_output=True, text=True)
    return done


def said(done):
    """What Helm complains of: its exit code, and the API server's warnings."""
    if done.returncode:
        yield done.stderr
    yield from (line for line in done.stderr.splitlines() if "arning" in line or "W1" in line[:2])


def deployment(name):
    return api("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")[1]


def arguments_of(name):
    return deployment(name)["spec"]["template"]["spec"]["containers"][0]["args"]


def release_objects():
    return [d for d in yaml.safe_load_all(helm("get", "manifest", "touchline").stdout) if d]


def pods():
    """Every pod that the release would have, its `helm test` too."""
    for document in release_objects():
        if document["kind"] == "Deployment":
            made = deployment(document["metadata"]["name"])
            template = made["spec"]["template"]
            yield document["metadata"]["name"], {"metadata": {"labels": template["metadata"]["labels"]}, "spec": template["spec"]}
    for document in yaml.safe_load_all(helm("get", "hooks", "touchline").stdout):
        if document and document["kind"] == "Pod":
            yield document["metadata"]["name"], {"metadata": {"labels": document["metadata"]["labels"]}, "spec": document["spec"]}


def admitted(pod):
    body = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(pod)}
    body["metadata"] = {**body["metadata"], "generateName": "try-", "namespace": NAMESPACE}
    return api("POST", f"/api/v1/namespaces/{NAMESPACE}/pods?dryRun=All&fieldValidation=Strict", body)


def is_ready():
    request = urllib.request.Request(API + "/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with OPENER.open(request, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


end = time.monotonic() + 120
while not is_ready():
    if time.monotonic() > end:
        raise SystemExit("kube-apiserver is not ready")
    time.sleep(0.2)
version = api("GET", "/version")[1]["gitVersion"]
print(f"-- kube-apiserver {version}")

# The cluster that a chart meets: custom resources, a namespace, its default account.
crds = custom.definitions()
made = [api("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
        for crd in crds]
check(f"{len(made)} custom resources are known", [
    *(str(answer) for status, answer, _ in made if status != 201)])


def established():
    items = api("GET", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions")[1]["items"]
    return sum(any(c["type"] == "Established" and c["status"] == "True" for c in (item.get("status", {}).get("conditions") or [])) for item in items)


for _ in range(100):
    if established() == len(crds):
        break
    time.sleep(0.1)
labels = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
api("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": labels}})
api("POST", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts", {"metadata": {"name": "default"}})
# One that stands already, which a combination names.
api("POST", "/apis/scheduling.k8s.io/v1/priorityclasses", {"metadata": {"name": "live"}, "value": 1000})

for path in sorted((CHART / "ci").glob("*-values.yaml")) + [CHART / "values-eks.yaml"]:
    name = path.name
    done = helm("install", "touchline", str(CHART), "--values", str(path))
    check(f"{name}: installed, without a warning", said(done))
    found = list(pods())
    answers = [(pod, admitted(spec)) for pod, spec in found]
    check(f"{name}: Pod Security admits all {len(found)} pods", [
        f"{pod}: {answer.get('message')} {warnings}" for pod, (status, answer, warnings) in answers if status != 201 or warnings])
    # What fields a server defaults must not look like a change at the next upgrade.
    before = {d["metadata"]["name"]: deployment(d["metadata"]["name"])["metadata"]["generation"]
              for d in release_objects() if d["kind"] == "Deployment"}
    done = helm("upgrade", "touchline", str(CHART), "--values", str(path))
    after = {one: deployment(one)["metadata"]["generation"] for one in before}
    check(f"{name}: the same again restarts nothing", [*said(done), None if before == after else f"{before} {after}"])
    done = helm("upgrade", "touchline", str(CHART), "--values", str(path), "--set", "server.drainSeconds=33")
    check(f"{name}: upgraded", [*said(done), None if "--drain=33s" in arguments_of("touchline-server") else "the old arguments"])
    done = helm("rollback", "touchline", "1")
    check(f"{name}: rolled back", [*said(done), None if "--drain=10s" in arguments_of("touchline-server") else "the new arguments"])
    done = helm("uninstall", "touchline")
    left = [f"{kind} {item['metadata']['name']}" for kind, at in [
        ("deployment", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"), ("service", f"/api/v1/namespaces/{NAMESPACE}/services"),
        ("networkpolicy", f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"),
        ("serviceaccount", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"),
        ("configmap", f"/api/v1/namespaces/{NAMESPACE}/configmaps"),
        ("podmonitor", f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/podmonitors"),
        ("scaledobject", f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects"),
        ("priorityclass", "/apis/scheduling.k8s.io/v1/priorityclasses")]
        for item in api("GET", at)[1]["items"]
        if item["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "Helm"]
    check(f"{name}: uninstalled, and nothing is left", [*said(done), *left])

# That it looks at all: what is not restricted is refused.
helm("install", "touchline", str(CHART), "--values", str(CHART / "ci" / "trial-values.yaml"))
name, pod = next(iter(pods()))
for what, change in [("a root user", lambda spec: spec["securityContext"].update(runAsUser=0)),
                     ("a capability", lambda spec: spec["containers"][0]["securityContext"]["capabilities"].update(add=["NET_ADMIN"])),
                     ("no seccomp profile", lambda spec: spec["securityContext"].pop("seccompProfile")),
                     ("a host's folder", lambda spec: spec.setdefault("volumes", []).append({"name": "host", "hostPath": {"path": "/"}}))]:
    wrong = copy.deepcopy(pod)
    change(wrong["spec"])
    status, answer, _ = admitted(wrong)
    check(f"refused: {what}", [None if status == 403 and "PodSecurity" in answer["message"] else f"{status} {answer}"])
unknown = copy.deepcopy(pod)
unknown["spec"]["containers"][0]["imagePullPolice"] = "Always"
status, answer, _ = admitted(unknown)
check("refused: a field that does not exist", [None if status == 400 and "imagePullPolice" in answer["message"] else f"{status} {answer}"])
helm("uninstall", "touchline")

print(f"{passed} {failed}")
