"""Reads what Autobahn's testsuite reports, and compares each case with what is expected of it: that it
passes, unless expected.json lists it."""

import json
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
REPORTS = os.environ["REPORTS"]
# How many the suite has; a suite that runs fewer proves less.
CASES = 517


def load(*path):
    with open(os.path.join(*path), encoding="utf-8") as file:
        return json.load(file)


def listed(lists, case):
    """The name of the list that has this case or its group."""
    for name, cases in lists.items():
        for each in cases:
            if case == each or (each.endswith(".*") and case.startswith(each[:-1])):
                return name
    return None


def problem(case, result, kind):
    """What is not as it is expected; None when all is."""
    found = result["behavior"], result["behaviorClose"]
    code = result["remoteCloseCode"]
    if kind is None:
        wanted = [("OK", "OK")]
    elif kind == "non-strict":
        wanted = [("NON-STRICT", "OK")]
    elif kind == "informational":
        wanted = [("INFORMATIONAL", "INFORMATIONAL"), ("INFORMATIONAL", "OK"), ("OK", "INFORMATIONAL")]
    elif kind == "declined":
        wanted = [("UNIMPLEMENTED", "UNIMPLEMENTED"), ("UNIMPLEMENTED", "OK")]
    else:
        # Closed, with the code that is the list's name.
        return None if str(code) == kind else "closed with %s rather than %s" % (code, kind)
    if found in wanted:
        return None
    report = load(REPORTS, result["reportfile"])
    return "%s/%s, closed with %s: %s\n%s" % (
        *found,
        code,
        report.get("resultClose"),
        report.get("result"),
    )


def main():
    lists = load(HERE, "expected.json")["lists"]
    results = load(REPORTS, "index.json")["gateway"]
    passed = failed = 0
    for case in sorted(results, key=lambda case: [int(part) for part in case.split(".")]):
        kind = listed(lists, case)
        wrong = problem(case, results[case], kind)
        if wrong is None:
            passed += 1
            print("ok      %s%s" % (case, " (%s)" % kind if kind else ""))
        else:
            failed += 1
            print("FAILED  %s: %s" % (case, wrong.replace("\n", "\n        | ")))
    names = {name for cases in lists.values() for name in cases}
    unused = [name for name in names if not any(listed({"one": [name]}, case) for case in results)]
    for what, holds in [
        ("all %d cases ran, not %d" % (CASES, len(results)), len(results) == CASES),
        ("no case is expected that does not exist: %s" % unused, not unused),
    ]:
        passed, failed = passed + holds, failed + (not holds)
        print("%s %s" % ("ok     " if holds else "FAILED ", what))
    print("%d %d" % (passed, failed))
    sys.exit(1 if failed else 0)


main()
