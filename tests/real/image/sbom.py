"""Writes what an image is made of: the crates of its binary, and the packages of its base.

    sbom.py BINARY --packages FOLDER --output FILE [--tree FOLDER]

CycloneDX 1.5, JSON. The crates are cargo-cyclonedx's answer (`cargo cyclonedx` must be installed), the
packages are what the folder's files say, one a package, in dpkg's form. SOURCE_DATE_EPOCH dates it; it
says the same whenever and wherever it is made.
"""

import argparse
import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path

# Each binary's crate and its features in the image.
CRATES = {
    "touchline-server": ("server", "touchline-server/ssm"),
    "touchline-push": ("push-adapter", "touchline-push/ssm"),
    "touchline": ("clients/cli", "touchline-server/ssm,touchline-push/ssm"),
}


def crates(tree, binary, target):
    """The crates of a binary; the files that cargo-cyclonedx leaves in the tree are taken away."""
    folder, features = CRATES[binary]
    before = set(tree.rglob("*.cdx.json"))
    subprocess.run(
        ["cargo", "cyclonedx", "--quiet", "--manifest-path", str(tree / folder / "Cargo.toml"),
         "--format", "json", "--spec-version", "1.5", "--describe", "binaries", "--target", target,
         "--features", features],
        check=True, stdout=subprocess.DEVNULL,
    )
    made = set(tree.rglob("*.cdx.json")) - before
    wanted = [path for path in made if path.name.startswith(f"{binary}_bin")]
    if len(wanted) != 1:
        raise SystemExit(f"cargo cyclonedx described {sorted(map(str, made))}, not {binary} once")
    text = wanted[0].read_text()
    for path in made:
        path.unlink()
    # The tree's place says nothing to whoever reads it elsewhere.
    return json.loads(text.replace(f"file://{tree}", "file:///touchline"))


def packages(folder):
    """The packages of the base, by what dpkg says of them."""
    for path in sorted(folder.iterdir()):
        if path.suffix == ".md5sums":
            continue
        fields = dict(
            line.split(": ", 1) for line in path.read_text().splitlines()
            if ": " in line and not line.startswith(" ")
        )
        name, version, architecture = (fields[key] for key in ("Package", "Version", "Architecture"))
        quoted = version.replace("+", "%2B").replace(":", "%3A").replace("~", "~")
        purl = f"pkg:deb/debian/{name}@{quoted}?arch={architecture}&distro=debian-12"
        yield {
            "type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl,
            "description": fields.get("Description", ""),
        }


def host():
    version = subprocess.run(["rustc", "-vV"], check=True, capture_output=True, text=True).stdout
    return next(line for line in version.splitlines() if line.startswith("host: "))[len("host: "):]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary", choices=CRATES)
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tree", type=Path, default=Path.cwd())
    parser.add_argument("--target")
    args = parser.parse_args()
    bom = crates(args.tree.resolve(), args.binary, args.target or host())
    debian = list(packages(args.packages))
    bom.setdefault("components", []).extend(debian)
    bom["components"].sort(key=lambda component: component["bom-ref"])
    root = bom["metadata"]["component"]["bom-ref"]
    for dependency in bom["dependencies"]:
        if dependency["ref"] == root:
            dependency["dependsOn"] = sorted(
                [*dependency.get("dependsOn", []), *(package["bom-ref"] for package in debian)]
            )
    bom["dependencies"].extend({"ref": package["bom-ref"]} for package in debian)
    bom["dependencies"].sort(key=lambda dependency: dependency["ref"])
    # Neither a number nor a time of its own, so that the same image has the same bytes.
    bom.pop("serialNumber", None)
    made_at = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), timezone.utc)
    bom["metadata"]["timestamp"] = made_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    args.output.write_text(json.dumps(bom, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


main()
