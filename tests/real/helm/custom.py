"""The custom resources that the chart makes, as their projects define them."""
import os
import pathlib

import yaml

WANTED = {
    "podmonitors.monitoring.coreos.com", "servicemonitors.monitoring.coreos.com", "prometheusrules.monitoring.coreos.com",
    "grpcroutes.gateway.networking.k8s.io", "httproutes.gateway.networking.k8s.io", "scaledobjects.keda.sh",
}


class Loader(yaml.CSafeLoader):
    """YAML as Kubernetes reads it, to which a lone = is text."""


Loader.add_constructor("tag:yaml.org,2002:value", Loader.construct_yaml_str)


def definitions():
    """Each CustomResourceDefinition once; all that are wanted, or the script ends."""
    found = {}
    for folder in os.environ["CRDS"].split(":"):
        for path in sorted(pathlib.Path(folder).glob("*.yaml")):
            text = path.read_text()
            if any(f"name: {name}\n" in text for name in WANTED):
                documents = [d for d in yaml.load_all(text, Loader) if d and d["kind"] == "CustomResourceDefinition"]
                found.update((d["metadata"]["name"], d) for d in documents if d["metadata"]["name"] in WANTED)
    if found.keys() != WANTED:
        raise SystemExit(f"no definition of {WANTED - found.keys()}")
    return list(found.values())
