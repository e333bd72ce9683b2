"""The chart as Helm renders it: combinations that must work, each object held to the schemas of Kubernetes and of
the custom resources; values that must be refused, and why; flags that the binaries know. Prints each check and,
at last, PASSED FAILED."""
import copy
import itertools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import jsonschema
import kubernetes_validate
import yaml

import custom

CHART = pathlib.Path(os.environ["CHART"])
HELM = os.environ["HELM"]
UNITTEST = os.environ["UNITTEST"]
MINORS = os.environ["KUBERNETES_MINORS"].split()
BINARIES = pathlib.Path(os.environ["BINARIES"])
HERE = pathlib.Path(__file__).resolve().parent
SCRATCH = pathlib.Path(tempfile.mkdtemp(dir=os.environ["SCRATCH"]))

passed = failed = 0


def check(what, problems):
    global passed, failed
    problems = list(problems)
    if problems:
        failed += 1
        print(f"FAILED  {what}")
        for problem in problems[:20]:
            print(f"        | {problem}")
    else:
        passed += 1
        print(f"ok      {what}")


def helm(*arguments, chart=CHART, values=()):
    command = [HELM, *arguments, str(chart)]
    for path in values:
        command += ["--values", str(path)]
    return subprocess.run(command, capture_output=True, text=True)


def render(*values, chart=CHART, minor=None, extra=()):
    version = ["--kube-version", f"{minor}.0"] if minor else []
    done = helm("template", "touchline", "--namespace", "live", *version, *extra, chart=chart, values=values)
    if done.returncode:
        raise SystemExit(f"helm template {values}: {done.stderr}")
    return [document for document in yaml.load_all(done.stdout, custom.Loader) if document]


# ---- Schemas -----------------------------------------------------------------------------------------------


def closed(schema):
    """A structural schema in which what is not named is refused, as the API server prunes it or warns of it."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    out = {key: closed(value) for key, value in schema.items() if key != "properties"}
    out.pop("format", None)
    if schema.get("x-kubernetes-int-or-string"):
        out.pop("type", None)
    if "properties" in schema:
        out["properties"] = {key: closed(value) for key, value in schema["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
            out["additionalProperties"] = False
    return out


def custom_resources():
    """Schemas by (apiVersion, kind)."""
    found = {}
    for crd in custom.definitions():
        for version in crd["spec"]["versions"]:
            schema = closed(version["schema"]["openAPIV3Schema"])
            schema["properties"].update(metadata={}, apiVersion={}, kind={})
            found[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = schema
    return found


CUSTOM = custom_resources()


def problems_of(document, minor):
    key = document["apiVersion"], document["kind"]
    name = f"{document['kind']} {document['metadata']['name']}"
    if key in CUSTOM:
        validator = jsonschema.Draft202012Validator(CUSTOM[key])
        for error in validator.iter_errors(document):
            yield f"{name}: {'/'.join(map(str, error.absolute_path))}: {error.message}"
        return
    try:
        kubernetes_validate.validate(document, minor, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"{name}: {'/'.join(map(str, error.path))}: {error.message}"
    except kubernetes_validate.SchemaNotFoundError as error:
        yield f"{name}: {error}"


# ---- What a release must be like -----------------------------------------------------------------------------


def pods(documents):
    """Each pod's name and spec."""
    for document in documents:
        if document["kind"] == "Pod":
            yield document["metadata"]["name"], document["spec"]
        elif document["kind"] == "Deployment":
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def containers(spec):
    return spec.get("initContainers", []) + spec["containers"]


def restricted(documents):
    """What the level `restricted` of Pod Security asks for, and what the chart promises beyond."""
    for name, spec in pods(documents):
        security = spec.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or security.get("seccompProfile", {}).get("type") != "RuntimeDefault":
            yield f"{name}: {security}"
        if spec.get("automountServiceAccountToken") is not False:
            yield f"{name}: mounts a token of Kubernetes"
        for volume in spec.get("volumes", []):
            if not set(volume) - {"name"} <= {"configMap", "secret", "emptyDir", "persistentVolumeClaim", "projected"}:
                yield f"{name}: volume {volume}"
        for container in containers(spec):
            security = container.get("securityContext", {})
            if security.get("allowPrivilegeEscalation") is not False or security.get("capabilities") != {"drop": ["ALL"]}:
                yield f"{name}: {security}"
            if security.get("readOnlyRootFilesystem") is not True:
                yield f"{name}: a root that can be written"
            if "memory" not in container["resources"].get("limits", {}) or "cpu" not in container["resources"]["requests"]:
                yield f"{name}: {container['resources']}"


def wired(documents):
    """Every service finds a container's port, every mount a volume, every reference of one of these objects another."""
    names = {}
    for document in documents:
        key = document["kind"], document["metadata"]["name"]
        if key in names:
            yield f"{key} is there twice"
        names[key] = document
    templates = [d["spec"]["template"] for d in documents if d["kind"] == "Deployment"]
    for document in documents:
        kind, spec = document["kind"], document.get("spec", {})
        name = f"{kind} {document['metadata']['name']}"
        if kind == "Service":
            chosen = [t for t in templates if spec["selector"].items() <= t["metadata"]["labels"].items()]
            if len(chosen) != 1:
                yield f"{name} chooses the pods of {len(chosen)} deployments"
                continue
            ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
            yield from (f"{name}: no port {p['targetPort']}" for p in spec["ports"] if p["targetPort"] not in ports)
        if kind in ("PodDisruptionBudget", "NetworkPolicy"):
            wanted = (spec.get("selector") or spec.get("podSelector"))["matchLabels"]
            chosen = [t for t in templates if wanted.items() <= t["metadata"]["labels"].items()]
            if len(chosen) != 1:
                yield f"{name} chooses the pods of {len(chosen)} deployments"
        if kind == "NetworkPolicy" and chosen:
            ports = {p["name"] for c in chosen[0]["spec"]["containers"] for p in c["ports"]}
            for rule in spec["ingress"]:
                yield from (f"{name}: no port {p['port']}" for p in rule["ports"] if p["port"] not in ports)
        if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = names.get(("Deployment", spec["scaleTargetRef"]["name"]))
            if target is None or "replicas" in target["spec"]:
                yield f"{name}: its deployment is not there, or has a number of its own"
        if kind == "Deployment":
            labels = spec["template"]["metadata"]["labels"]
            if not spec["selector"]["matchLabels"].items() <= labels.items():
                yield f"{name}: its selector does not choose its pods"
            account = spec["template"]["spec"].get("serviceAccountName")
            if account and ("ServiceAccount", account) not in names:
                yield f"{name}: no service account {account}"
        for backend in re.findall(r"'(?:service|backendRefs)': \[?\{'name': '([^']+)'", str(spec)):
            if ("Service", backend) not in names:
                yield f"{name}: no service {backend}"
    services = {name for kind, name in names if kind == "Service"}
    for name, spec in pods(documents):
        volumes = {volume["name"] for volume in spec.get("volumes", [])}
        for container in containers(spec):
            mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
            yield from (f"{name}: no volume {mount}" for mount in set(mounts) - volumes)
            for argument in container["args"]:
                host = re.match(r"--(?:server|dynamodb-endpoint)=https?://([^:/.]+):|--(replicas-service)=(.+)", argument)
                host = host and (host.group(1) or host.group(3))
                if host and host.startswith("touchline") and host not in services:
                    yield f"{name}: {argument} names no service"
                path = re.search(r"=(/etc/touchline/[^/]+)/", argument)
                if path and path.group(1) not in mounts.values():
                    yield f"{name}: nothing is mounted at {path.group(1)}"


def graceful(documents):
    """No pod is killed before its own end."""
    flags = {"server": ("--drain=", 1), "push": ("--drain-timeout=", 2), "gateway": ("--drain-timeout=", 1)}
    for name, spec in pods(documents):
        for container in spec["containers"]:
            if container["name"] in flags:
                flag, times = flags[container["name"]]
                drain = next(int(a[len(flag):-1]) for a in container["args"] if a.startswith(flag))
                pause = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
                if spec["terminationGracePeriodSeconds"] <= pause + times * drain:
                    yield f"{name}: {spec['terminationGracePeriodSeconds']} s for {pause} s and {drain} s"


# ---- Combinations ----------------------------------------------------------------------------------------------

combinations = sorted((CHART / "ci").glob("*-values.yaml")) + [CHART / "values-eks.yaml"]
for path in combinations:
    done = helm("lint", "--strict", values=[path])
    check(f"helm lint --strict, {path.name}", [] if done.returncode == 0 else [done.stdout + done.stderr])
done = helm("lint", "--strict")
check("helm lint --strict, the values as they stand", [] if done.returncode == 0 else [done.stdout + done.stderr])

rendered = {}
for path in combinations:
    for minor in MINORS:
        documents = rendered[path] = render(path, minor=minor)
        found = [problem for document in documents for problem in problems_of(document, minor)]
        check(f"{path.name}: {len(documents)} objects, Kubernetes {minor}", found)
    check(f"{path.name}: every pod is restricted", restricted(documents))
    check(f"{path.name}: everything finds what it names", wired(documents))
    check(f"{path.name}: no pod is killed before its end", graceful(documents))

kinds = {document["kind"] for documents in rendered.values() for document in documents}
templates = {p for p in (CHART / "templates").rglob("*.yaml")}
check("some combination renders each kind", [
    kind for kind in ["Deployment", "Service", "ServiceAccount", "ConfigMap", "PersistentVolumeClaim", "Pod", "NetworkPolicy",
                      "HorizontalPodAutoscaler", "ScaledObject", "PodDisruptionBudget", "Ingress", "GRPCRoute", "HTTPRoute",
                      "PodMonitor", "ServiceMonitor", "PriorityClass"] if kind not in kinds])


def resource_files():
    for path in templates:
        if path.parent.name == "tests":
            continue
        kind = re.search(r"^kind: (\S+)", path.read_text(), re.M).group(1).lower()
        if path.name.split("-")[0] != kind + ("" if "-" in path.name else ".yaml"):
            yield f"{path.relative_to(CHART)} holds a {kind}"


check("each file holds one resource and is named for its kind", resource_files())


# That these look at all: what is wrong is found.
def broken(change):
    documents = copy.deepcopy(rendered[CHART / "ci" / "gateway-values.yaml"])
    one = {(d["kind"], d["metadata"]["name"]): d for d in documents}
    change(one)
    return documents


def misspell(one):
    one["Deployment", "touchline-server"]["spec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = "Always"


def wrong_type(one):
    one["PodMonitor", "touchline"]["spec"]["podMetricsEndpoints"][0]["interval"] = 5


def unknown_field(one):
    one["PodMonitor", "touchline"]["spec"]["selektor"] = {}


def root(one):
    one["Deployment", "touchline-push"]["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] = False


def lost_port(one):
    one["Service", "touchline-fans"]["spec"]["ports"][0]["targetPort"] = "fan"


def lost_secret(one):
    one["Deployment", "touchline-gateway"]["spec"]["template"]["spec"]["volumes"].pop()


def killed(one):
    one["Deployment", "touchline-gateway"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = 30


for change, look in [(misspell, None), (wrong_type, None), (unknown_field, None), (root, restricted),
                     (lost_port, wired), (lost_secret, wired), (killed, graceful)]:
    documents = broken(change)
    look = look or (lambda documents: (p for d in documents for p in problems_of(d, MINORS[-1])))
    check(f"found: {change.__name__.replace('_', ' ')}", [] if list(look(documents)) else ["nothing was found"])

# ---- Alerts and dashboards ---------------------------------------------------------------------------------------

with_files = SCRATCH / "with-files"
shutil.copytree(CHART, with_files)
for folder in ("alerts", "dashboards"):
    shutil.rmtree(with_files / folder, ignore_errors=True)
    (with_files / folder).mkdir()
(with_files / "alerts" / "push_adapter.yaml").write_text(
    "groups:\n  - name: push\n    rules:\n      - alert: NobodyLeads\n        expr: sum(touchline_push_leader) < 1\n"
    "        annotations:\n          summary: '{{ $labels.namespace }} has no leader'\n")
(with_files / "dashboards" / "fans.json").write_text('{"title": "Fans", "templating": "{{pod}}"}\n')
documents = render(CHART / "ci" / "gateway-values.yaml", chart=with_files)
rules = [d for d in documents if d["kind"] == "PrometheusRule"]
boards = [d for d in documents if d["kind"] == "ConfigMap" and "dashboard" in d["metadata"]["name"]]
check("a file of alerts is a PrometheusRule, its own templates left alone", [
    problem for problem in [
        *(p for d in rules for p in problems_of(d, MINORS[-1])),
        None if [d["metadata"]["name"] for d in rules] == ["touchline-push-adapter"] else f"{rules}",
        None if "{{ $labels.namespace }}" in str(rules) else "the rule's template is gone"] if problem])
check("a file of a dashboard is a ConfigMap for Grafana's sidecar", [
    problem for problem in [
        *(p for d in boards for p in problems_of(d, MINORS[-1])),
        None if boards and json.loads(boards[0]["data"]["fans.json"])["templating"] == "{{pod}}" else f"{boards}",
        None if boards and boards[0]["metadata"]["labels"].get("grafana_dashboard") == "1" else "no label"] if problem])
own = render(CHART / "ci" / "gateway-values.yaml")
check("the chart's own alerts and dashboards are what Kubernetes takes", [
    problem for d in own if d["kind"] in ("PrometheusRule", "ConfigMap") for problem in problems_of(d, MINORS[-1])])

# ---- Refusals ------------------------------------------------------------------------------------------------------


def merged(below, above):
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: merged(below.get(key), value) for key, value in above.items()}}


refused = yaml.safe_load((HERE / "refused.yaml").read_text())
schema = json.loads((CHART / "values.schema.json").read_text())
defaults = yaml.safe_load((CHART / "values.yaml").read_text())
check("the base of the refused values is taken", [
    error.message for error in jsonschema.Draft7Validator(schema).iter_errors(merged(defaults, refused["base"]))])
proven = set()
for case in refused["cases"]:
    values = merged(refused["base"], case["values"])
    path = SCRATCH / "refused.yaml"
    path.write_text(yaml.safe_dump(values))
    problems = []
    done = helm("template", "touchline", values=[path])
    said = " ".join(done.stderr.replace("\\", "").split())
    if done.returncode == 0:
        problems.append("it is taken")
    elif case["says"] not in said:
        problems.append(f"it is refused otherwise: {said}")
    if "rule" in case:
        without = {**schema, "allOf": [rule for rule in schema["allOf"] if rule["title"] != case["rule"]]}
        if len(without["allOf"]) != len(schema["allOf"]) - 1:
            problems.append(f"no rule {case['rule']}")
        whole = merged(defaults, values)
        if jsonschema.Draft7Validator(schema).is_valid(whole):
            problems.append("the schema takes it")
        if not jsonschema.Draft7Validator(without).is_valid(whole):
            problems.append("it is refused without its rule as well")
        proven.add(case["rule"])
    check(f"refused: {case['name']}", problems)


def said_as_well():
    """Helm since 3.18 has another reader of schemas, which is the one that helm-unittest has."""
    chart = SCRATCH / "refused"
    shutil.copytree(CHART, chart, ignore=shutil.ignore_patterns("*_test.yaml"))
    tests = [{"it": case["name"], "set": merged(refused["base"], case["values"]), "asserts": [
        {"failedTemplate": {"errorPattern": re.escape(case["says"]).replace("'", r"\\?'")}}]} for case in refused["cases"]]
    suite = {"suite": "refused", "templates": ["server/deployment.yaml"], "tests": tests}
    (chart / "tests" / "refused_test.yaml").write_text(yaml.safe_dump(suite))
    done = subprocess.run([UNITTEST, str(chart)], capture_output=True, text=True)
    if done.returncode or f"{len(tests)} passed" not in done.stdout:
        yield from ["not all cases passed", *(done.stdout + done.stderr).splitlines()]


check(f"the other reader of schemas says the same in all {len(refused['cases'])} cases", said_as_well())
check("each rule of the schema has a case", [
    rule["title"] for rule in schema["allOf"] if rule["title"] not in proven])


def open_objects(schema, path=""):
    """Objects of the chart's own that take what is not named: only those of Kubernetes may, and maps of texts."""
    for key, one in schema.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        if not one.get("title") or not one.get("description"):
            yield f"{here} has no title or no description"
        if one.get("type") == "object" and "additionalProperties" not in one and key not in ("global", "affinity"):
            yield f"{here} takes anything"
        yield from open_objects(one, here)


check("everything in the schema is named, described and closed", open_objects(schema))


def unknown_values(values, schema, path=""):
    for key, value in values.items():
        here = f"{path}.{key}" if path else key
        if key not in schema.get("properties", {}):
            if schema.get("additionalProperties") is False:
                yield here
        elif isinstance(value, dict):
            yield from unknown_values(value, schema["properties"][key], here)


def undocumented(values, schema, path=""):
    for key, one in schema.get("properties", {}).items():
        here = f"{path}.{key}" if path else key
        if key in ("global", "flags") or here.endswith("resources"):
            continue
        if key not in values:
            yield f"{here} is in the schema and not in values.yaml"
        elif isinstance(values[key], dict):
            yield from undocumented(values[key], one, here)


check("values.yaml and the schema name the same", [*unknown_values(defaults, schema), *undocumented(defaults, schema)])

# ---- Flags -----------------------------------------------------------------------------------------------------------


# Images are built with the feature `ssm`, these binaries without: its flags are those of its source.
SSM = {f"--{name.replace('_', '-')}" for name in re.findall(
    r"pub (ssm_\w+):", (CHART.parent / "server" / "store" / "src" / "parameters.rs").read_text())}
HAVE_SSM = {("touchline-server",), ("touchline-push",)}


def known_flags(*command):
    done = subprocess.run([str(BINARIES / command[0]), *command[1:], "--help"], capture_output=True, text=True)
    found = set(re.findall(r"^\s+(?:-\w, )?(--[a-z0-9-]+)", done.stdout, re.M))
    return found | SSM if command in HAVE_SSM else found


COMMANDS = {"server": ["touchline-server"], "push": ["touchline-push"], "gateway": ["touchline-push", "gateway"]}
known = {part: known_flags(*command) for part, command in COMMANDS.items()}


def kebab(key):
    return re.sub("([A-Z])", lambda match: "-" + match.group(1).lower(), key)


for part in COMMANDS:
    flags = schema["properties"][part]["properties"]["flags"]["properties"]
    check(f"{part}.flags are flags of {' '.join(COMMANDS[part])}", [f"--{kebab(key)}" for key in flags if f"--{kebab(key)}" not in known[part]])
    auth = schema["properties"]["auth"]["properties"]["flags"]["properties"]
    check(f"auth.flags are flags of {' '.join(COMMANDS[part])}", [f"--auth-{kebab(key)}" for key in auth if f"--auth-{kebab(key)}" not in known[part]])
    # What the chart decides itself, or what has no place in a cluster.
    others = {"--help", "--version", "--ssm-endpoint"}
    settable = {f"--{kebab(key)}" for key in flags} | {f"--auth-{kebab(key)}" for key in auth} | others
    given = {argument.split("=")[0] for documents in rendered.values() for name, spec in pods(documents)
             for container in spec["containers"] if container["name"] == part for argument in container["args"] if argument.startswith("--")}
    by_chart = {
        "push": {"--sole-leader", "--never-lead"},
        # Its administration stays on loopback, in plain text.
        "gateway": {"--tls-certificate", "--tls-key", "--tls-client-ca", "--tls-client-scopes"},
    }.get(part, set())
    check(f"every flag of {' '.join(COMMANDS[part])} is a value or the chart's", sorted(known[part] - settable - given - by_chart))

def unknown_arguments():
    """Arguments that the binary of a container does not know, of every container of every combination."""
    for name, spec in (pod for documents in rendered.values() for pod in pods(documents)):
        for container in containers(spec):
            command = COMMANDS.get(container["name"])
            if command is None:
                words = itertools.takewhile(lambda argument: re.fullmatch("[a-z]+", argument), container["args"])
                command = ["touchline", *words]
            key = " ".join(command)
            if key not in known:
                known[key] = known_flags(*command)
            for argument in container["args"]:
                if argument.startswith("--") and argument.split("=")[0] not in known[key]:
                    yield f"{name}, {container['name']}: {argument}"


for part, command in COMMANDS.items():
    known[" ".join(command)] = known[part]
check("the binaries know every argument of every pod", sorted(set(unknown_arguments())))

print(f"{passed} {failed}")
