"""A release at an API server: what `kube` and `cluster` ask of both, and checks that are counted."""
import json
import os
import pathlib
import ssl
import subprocess
import time
import urllib.error
import urllib.request

API, TOKEN = os.environ["API"], os.environ["TOKEN"]
CHART, HELM = pathlib.Path(os.environ["CHART"]), os.environ["HELM"]
NAMESPACE = "touchline"
LABELS = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}
OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=ssl._create_unverified_context()))
# Where what a release makes is found.
KINDS = [
    ("deployment", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"), ("service", f"/api/v1/namespaces/{NAMESPACE}/services"),
    ("networkpolicy", f"/apis/networking.k8s.io/v1/namespaces/{NAMESPACE}/networkpolicies"),
    ("serviceaccount", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts"),
    ("configmap", f"/api/v1/namespaces/{NAMESPACE}/configmaps"),
    ("poddisruptionbudget", f"/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets"),
    ("priorityclass", "/apis/scheduling.k8s.io/v1/priorityclasses")]
passed = failed = 0


def check(what, problems):
    global passed, failed
    problems = [problem for problem in problems if problem]
    passed, failed = passed + (not problems), failed + bool(problems)
    print(f"{'FAILED' if problems else 'ok    '}  {what}", flush=True)
    for problem in problems[:20]:
        print("        | " + str(problem).replace("\n", "\n        | "), flush=True)


def finish():
    """What lib.sh's `counted` reads."""
    print(f"{passed} {failed}")


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
    return subprocess.run([HELM, *arguments, "--namespace", NAMESPACE], capture_output=True, text=True)


def said(done):
    """What Helm complains of: its exit code, and the API server's warnings."""
    if done.returncode:
        yield done.stdout + done.stderr
    yield from (line for line in done.stderr.splitlines() if "arning" in line or "W1" in line[:2])


def left_over(kinds=KINDS):
    """What there still is of a release."""
    return [f"{kind} {item['metadata']['name']}" for kind, at in kinds for item in api("GET", at)[1]["items"]
            if item["metadata"].get("labels", {}).get("app.kubernetes.io/managed-by") == "Helm"]


def deployment(name):
    return api("GET", f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}")[1]


def is_ready():
    request = urllib.request.Request(API + "/readyz", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with OPENER.open(request, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def wait_for_api():
    end = time.monotonic() + 120
    while not is_ready():
        if time.monotonic() > end:
            raise SystemExit("kube-apiserver is not ready")
        time.sleep(0.2)
    return api("GET", "/version")[1]["gitVersion"]
