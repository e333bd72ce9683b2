"""Holds the lists in the images against CycloneDX's schema, cargo and dpkg.

    check_sbom.py SBOM BINARY ROOT

Ends with a text that says what is wrong.
"""

import json
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import jsonschema_rs

# The schemas that CycloneDX's own library ships. Its validator takes minutes for a list of some hundred
# crates; this one follows the same schemas.
SCHEMAS = files("cyclonedx.schema") / "_res"
BASE = "http://cyclonedx.org/schema/"


def schema(name):
    return json.loads((SCHEMAS / f"{name}.SNAPSHOT.schema.json").read_text())


registry = jsonschema_rs.Registry(
    [(f"{BASE}{name}.SNAPSHOT.schema.json", schema(name)) for name in ("spdx", "jsf-0.82")]
)
validator = jsonschema_rs.validator_for(schema("bom-1.5"), registry=registry, validate_formats=True)

path, binary, root = Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
text = path.read_text()
problems = []
bom = json.loads(text)
problems += [f"no CycloneDX 1.5: {error.message}" for error in validator.iter_errors(bom)]
assert not validator.is_valid({**bom, "specVersion": 1}), "the validator accepts anything"
components = bom["components"]
listed = {(one["name"], one["version"]) for one in components}
described = bom["metadata"]["component"]["name"]
if described != binary:
    problems.append(f"it is of {described}, not of {binary}")

# cargo's own list of what is compiled into the binary.
PACKAGES = {"touchline-server": "touchline-server", "touchline-push": "touchline-push", "touchline": "touchline-cli"}
FEATURES = {
    "touchline-server": "touchline-server/ssm",
    "touchline-push": "touchline-push/ssm",
    "touchline": "touchline-server/ssm,touchline-push/ssm",
}
host = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
target = next(line.split()[1] for line in host.splitlines() if line.startswith("host: "))
tree = subprocess.run(
    ["cargo", "tree", "--locked", "--package", PACKAGES[binary], "--features", FEATURES[binary],
     "--target", target, "--edges", "normal", "--prefix", "none", "--format", "{p}"],
    check=True, capture_output=True, text=True,
).stdout
compiled = {(name, version.removeprefix("v")) for name, version, *_ in map(str.split, tree.splitlines())}
compiled.discard((PACKAGES[binary], next(v for n, v in compiled if n == PACKAGES[binary])))
if len(compiled) < 100:
    problems.append(f"cargo tree names {len(compiled)} crates only")
for missing in sorted(compiled - listed):
    problems.append(f"missing: {' '.join(missing)}")

packages = set()
for description in (root / "var/lib/dpkg/status.d").iterdir():
    fields = dict(line.split(": ", 1) for line in description.read_text().splitlines() if ": " in line)
    packages.add((fields["Package"], fields["Version"]))
if len(packages) < 4:
    problems.append(f"the image has {len(packages)} packages only")
for missing in sorted(packages - listed):
    problems.append(f"missing: {' '.join(missing)}")
without = [one["name"] for one in components if not one.get("purl")]
if without:
    problems.append(f"without a purl: {without}")
places = set(re.findall(r"file://(/[^/\"]+)", text))
if places != {"/touchline"}:
    problems.append(f"it names places of this machine: {sorted(places)}")
print(f"{len(components)} components")
sys.exit("\n".join(problems) or None)
