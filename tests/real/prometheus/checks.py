"""Holds helm/alerts, helm/dashboards and docs/runbook.md against promtool, against each other, and
against a Prometheus that scrapes a running stack while a match goes by.

Prints its checks and ends with "PASSED FAILED". Starts nothing: `run` does.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

PROJECT = Path(os.environ["PROJECT"])
PROMTOOL = os.environ["PROMTOOL"]
PROMETHEUS = os.environ["PROMETHEUS_URL"]
DEADLINE_SECONDS = float(os.environ["DEADLINE_SECONDS"])
ALERTS = PROJECT / "helm/alerts/touchline.yaml"
DASHBOARD = PROJECT / "helm/dashboards/touchline.json"
RUNBOOK = PROJECT / "docs/runbook.md"
UNIT_TESTS = PROJECT / "tests/real/prometheus/alerts.yaml"
RUNBOOK_URL = "https://github.com/touchline/touchline/blob/main/docs/runbook.md#"

# How the stack is scraped: as without Kubernetes, and with the labels that an operator adds there.
SCRAPED_AS = [
    {"namespace": ".*", "job": "touchline", "instance": ".+"},
    {"namespace": "match-day", "job": "touchline-pods", "instance": ".+"},
]
# What nobody measures without Kubernetes; with_kubernetes() shows that these queries fit together.
OF_KUBERNETES = "container_"
# Say how fast it goes, which on a busy machine says nothing of the rule.
OF_SPEED = {"TouchlineChangesReachFansLate", "TouchlineCallsSlow"}
# A series that is made with the first of its kind.
MADE_LATE = "touchline_server_calls_total"

passed = failed = 0
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def check(what, problems):
    """Counts a check, which passes when there are no problems."""
    global passed, failed
    problems = list(problems)
    if problems:
        failed += 1
        print(f"FAILED  {what}")
        for problem in problems:
            print(f"        | {problem}")
    else:
        passed += 1
        print(f"ok      {what}")


def ask(path, **parameters):
    """What Prometheus's API answers; its error where it refuses."""
    url = f"{PROMETHEUS}/api/v1/{path}?{urllib.parse.urlencode(parameters, doseq=True)}"
    try:
        with opener.open(url, timeout=20) as answer:
            return json.load(answer)["data"], None
    except urllib.error.HTTPError as error:
        return None, json.load(error).get("error", str(error))


def samples(expression):
    """The values that a query has at the moment, without those that are no number."""
    data, error = ask("query", query=expression)
    if error:
        raise ValueError(error)
    values = (float(sample["value"][1]) for sample in data["result"])
    return [value for value in values if value == value]


def eventually(problem):
    """Asks for a problem until there is none, and returns the last one."""
    end = time.monotonic() + DEADLINE_SECONDS
    while (found := problem()) and time.monotonic() < end:
        time.sleep(0.2)
    return found


def promtool(*arguments):
    ran = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True)
    return ran.returncode, ran.stdout + ran.stderr


def unit_tests(rules, alerts):
    """Each alert fires when it must and not when it must not, and a test would notice otherwise."""
    code, output = promtool("test", "rules", str(UNIT_TESTS))
    check("promtool's unit tests pass", [] if code == 0 else [output])
    tests = yaml.safe_load(UNIT_TESTS.read_text())
    named = {group["name"] for group in tests["tests"]}
    check("each alert has a unit test, each unit test an alert", sorted(named ^ set(alerts)))

    def unnoticed(expression):
        """The alerts whose tests pass although all rules have this expression."""
        spoilt = json.loads(json.dumps(rules))
        for group in spoilt["groups"]:
            for rule in group["rules"]:
                rule["expr"] = expression
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "rules.yaml").write_text(json.dumps(spoilt))
            (Path(folder) / "tests.yaml").write_text(json.dumps({**tests, "rule_files": ["rules.yaml"]}))
            _, output = promtool("test", "rules", str(Path(folder) / "tests.yaml"))
        # Each test asks for its own alert alone, and what fails is printed.
        return sorted(alert for alert in alerts if f'alertname=\\"{alert}\\"' not in output)

    check("their tests notice alerts that never fire", unnoticed("vector(0) > 1"))
    every = 'label_replace(vector(1), "namespace", "always", "", "")'
    check("their tests notice alerts that always fire", unnoticed(every))


def annotations(alerts):
    """What whoever is woken reads."""
    problems = []
    for name, rule in alerts.items():
        wanted = {"summary", "description", "runbook_url"}
        if set(rule["annotations"]) != wanted:
            problems.append(f"{name}: {sorted(rule['annotations'])}")
        if rule["labels"].get("severity") not in ("critical", "warning"):
            problems.append(f"{name}: severity {rule['labels']}")
    check("each alert has a severity, a summary, a description and a runbook", problems)


def runbook(alerts):
    """An anchor for each alert, an alert for each anchor, and the same severity."""
    text = RUNBOOK.read_text()
    headings = re.findall(r"^### (\S+)\n`(\w+)` ", text, re.MULTILINE)
    anchors = {heading.lower(): heading for heading in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    check("each section of the runbook is an alert's", set(anchors.values()) ^ set(alerts))
    wrong = [
        f"{name}: {rule['annotations']['runbook_url']}"
        for name, rule in alerts.items()
        if anchors.get(rule["annotations"]["runbook_url"].removeprefix(RUNBOOK_URL)) != name
    ]
    check("each runbook_url is a section's anchor", wrong)
    severities = {name: rule["labels"]["severity"] for name, rule in alerts.items()}
    check("the runbook says how severe each is", set(severities.items()) ^ set(headings))
    links = set(re.findall(r"\]\(#([^)]+)\)", text)) - set(anchors)
    check("links within the runbook lead somewhere", sorted(links))


def queries_of_runbook():
    for block in re.findall(r"```promql\n(.*?)```", RUNBOOK.read_text(), re.DOTALL):
        yield from block.strip().splitlines()


def selectors(expression):
    """Each metric with one value for each of its matchers, as a query that has an answer where such a
    series exists; without those of the dashboard's variables."""
    for name, matchers in re.findall(r"\b(touchline_\w+)(?:\{([^}]*)\})?", expression):
        if name == MADE_LATE:
            matchers = ""
        pairs = re.findall(r'(\w+)(!?[=~]=?~?)"([^"]*)"', matchers or "")
        chosen = [(label, value) for label, _, value in pairs if "$" not in value]
        values = [(label, one) for label, value in chosen for one in value.split("|")]
        yield name
        for label, value in values:
            yield f'{name}{{{label}="{value}"}}'


def words(texts):
    """Names and values of labels that nothing shows: a rule over these would be silent for ever."""
    wanted = sorted({selector for text in texts for selector in selectors(text)})

    def unknown():
        return [selector for selector in wanted if not samples(f"count({selector})")]

    check("the metrics and values of labels that are asked for exist", eventually(unknown))


def substituted(expression, values):
    for name, value in {"__rate_interval": "10s", **values}.items():
        expression = expression.replace(f"${name}", value)
    return expression


def targets(dashboard):
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


def layout(dashboard):
    """As Grafana takes it: nothing twice, nothing over another, one data source, chosen by the reader."""
    problems = []
    panels = dashboard["panels"]
    ids = [panel["id"] for panel in panels]
    problems += [f"id {id} twice" for id in set(ids) if ids.count(id) > 1]
    taken = {}
    for panel in panels:
        place = panel["gridPos"]
        if place["x"] + place["w"] > 24:
            problems.append(f"{panel['title']} is wider than the page")
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                other = taken.setdefault((x, y), panel["title"])
                if other != panel["title"]:
                    problems.append(f"{panel['title']} lies over {other}")
        if panel["type"] == "row":
            continue
        for source in [panel["datasource"], *(t["datasource"] for t in panel["targets"])]:
            if source != {"type": "prometheus", "uid": "${datasource}"}:
                problems.append(f"{panel['title']} has a data source of its own: {source}")
        if not panel.get("description"):
            problems.append(f"{panel['title']} does not say what it shows")
    check("the dashboard's panels stand beside each other", sorted(set(problems)))
    text = DASHBOARD.read_text()
    named = set(re.findall(r"Touchline[A-Z]\w+", text))
    check("the dashboard names alerts that exist", sorted(named - set(read_alerts()[1])))


def variables(dashboard):
    """What a reader can choose from, by the same calls that Grafana makes."""
    for variable in dashboard["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["definition"]).groups()
        selector = substituted(selector, {"namespace": ".*", "job": ".+"})

        def missing():
            values, error = ask(f"label/{label}/values", **{"match[]": selector})
            return [error] if error else [] if values else [f"{label}: nothing to choose from"]

        check(f"the variable {variable['name']} has values", eventually(missing))


def dashboard_answers(dashboard):
    """Each query of each panel has data; a counter of what has not happened is a zero."""
    asked = list(targets(dashboard))
    check("the dashboard has queries", [] if len(asked) > 50 else [f"{len(asked)}"])
    for values in SCRAPED_AS:

        def empty():
            problems = []
            for title, expression in asked:
                found = samples(substituted(expression, values))
                if OF_KUBERNETES in expression:
                    continue
                if not found:
                    problems.append(f"{title}: {expression}")
            return problems

        check(f"each query of the dashboard has data, as {values['job']}", eventually(empty))


def with_kubernetes(dashboard):
    """The queries that need the kubelet's metrics, over made-up ones."""
    values = {"namespace": "match-day", "job": ".+", "instance": ".+"}
    series = [
        ('touchline_push_leader{namespace="match-day", job="push", instance="a", pod="push-0"}', "1x20"),
        ('touchline_push_leader{namespace="other", job="push", instance="b", pod="push-0"}', "1x20"),
    ]
    for namespace, pod in [("match-day", "push-0"), ("match-day", "stranger-0"), ("other", "push-0")]:
        labels = f'namespace="{namespace}", pod="{pod}", container="push"'
        series.append((f"container_memory_working_set_bytes{{{labels}}}", "1000x20"))
        series.append((f"container_cpu_usage_seconds_total{{{labels}}}", "0+15x20"))
    expected = {"memory": 1000, "cpu": 0.5}
    tests = [
        {
            "expr": substituted(expression, {**values, "__rate_interval": "2m"}),
            "eval_time": "5m",
            "exp_samples": [
                {
                    "labels": '{namespace="match-day", pod="push-0"}',
                    "value": expected["memory" if "memory" in expression else "cpu"],
                }
            ],
        }
        for _, expression in targets(dashboard)
        if OF_KUBERNETES in expression
    ]
    group = {
        "interval": "30s",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "promql_expr_test": tests,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tests.yaml"
        path.write_text(json.dumps({"evaluation_interval": "30s", "tests": [group]}))
        code, output = promtool("test", "rules", str(path))
    check(f"{len(tests)} queries of the kubelet's metrics find our pods and no others",
          [output] if code or len(tests) != 2 else [])


def runbook_answers():
    """What the runbook says to look at can be asked, and has an answer."""
    asked = list(queries_of_runbook())
    check("the runbook has queries", [] if len(asked) > 20 else [f"{len(asked)}"])
    # Empty on a stack that is well: nobody is down, and a code is counted from its first call on.
    silent = {"up == 0", 'sum by (method, code) (rate(touchline_server_calls_total{code!="OK"}[5m]))'}

    def empty():
        return [query for query in asked if not samples(f"count({query})") and query not in silent]

    check("each query of the runbook has data", eventually(empty))
    check("what is silent there is in the runbook", silent - set(asked))


def healthy():
    """A running stack, which nothing is wrong with, in the eyes of the rules."""

    def problems():
        data, error = ask("rules", type="alert")
        if error:
            return [error]
        rules = [rule for group in data["groups"] for rule in group["rules"]]
        unwell = [f"{rule['name']}: {rule['health']} {rule.get('lastError', '')}" for rule in rules
                  if rule["health"] != "ok"]
        alarmed = [
            f"{rule['name']} {alert['state']}: {alert['labels']}"
            for rule in rules
            if rule["name"] not in OF_SPEED
            for alert in rule["alerts"]
        ]
        return ["no rules"] * (not rules) + unwell + alarmed

    check("Prometheus evaluates every rule, and none alerts", eventually(problems))


def read_alerts():
    rules = yaml.safe_load(ALERTS.read_text())
    listed = [rule for group in rules["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in listed}
    assert len(alerts) == len(listed), "an alert twice"
    return rules, alerts


def main():
    rules, alerts = read_alerts()
    dashboard = json.loads(DASHBOARD.read_text())
    # First what needs the match to go by.
    dashboard_answers(dashboard)
    variables(dashboard)
    runbook_answers()
    healthy()
    expressions = [rule["expr"] for rule in alerts.values()]
    words(expressions + [expression for _, expression in targets(dashboard)] + list(queries_of_runbook()))
    layout(dashboard)
    with_kubernetes(dashboard)
    annotations(alerts)
    runbook(alerts)
    code, output = promtool("check", "rules", str(ALERTS))
    check("promtool has nothing to complain of in the rules", [output] if code else [])
    unit_tests(rules, alerts)


try:
    main()
except Exception:
    # Whatever was not looked at is not well.
    failed += 1
    traceback.print_exc(file=sys.stdout)
print(passed, failed)
