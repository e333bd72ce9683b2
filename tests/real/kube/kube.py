"""A release's life at a real API server: installed, upgraded, rolled back, uninstalled, in a namespace that enforces
Pod Security's level `restricted`; each pod is put to admission. Prints each check and, at last, PASSED FAILED."""
import copy
import pathlib
import sys
import time

import yaml

from release import CHART, KINDS, LABELS, NAMESPACE, api, check, deployment, finish, helm, left_over, said, wait_for_api

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "helm"))
import custom  # noqa: E402

# What only custom resources add to a release.
EVERY_KIND = KINDS + [
    ("podmonitor", f"/apis/monitoring.coreos.com/v1/namespaces/{NAMESPACE}/podmonitors"),
    ("scaledobject", f"/apis/keda.sh/v1alpha1/namespaces/{NAMESPACE}/scaledobjects")]


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


print(f"-- kube-apiserver {wait_for_api()}")

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
api("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE, "labels": LABELS}})
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
    check(f"{name}: uninstalled, and nothing is left", [*said(done), *left_over(EVERY_KIND)])

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

finish()
