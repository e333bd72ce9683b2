"""Turns a bundle that umoci unpacked from an image into the container of a pod.

    bundle.py BUNDLE SECCOMP [ARGUMENT...]

What the image says stays (program, user, environment); the rest is the chart's securityContext: read-only
root, no capabilities, no new privileges, containerd's own seccomp profile, nothing that may be written. The
network is the machine's, since the checks and the stack are on its loopback.
"""

import json
import sys
from pathlib import Path

bundle, seccomp, arguments = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
path = bundle / "config.json"
config = json.loads(path.read_text())
process = config["process"]
process["args"] += arguments
process["terminal"] = False
process["noNewPrivileges"] = True
process["capabilities"] = {
    kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
}
# The machine's, as a pod has its node's.
process["rlimits"] = []
config["root"]["readonly"] = True
config["mounts"] = [
    mount for mount in config["mounts"] if mount["destination"] not in ("/etc/resolv.conf", "/tmp")
]
linux = config["linux"]
linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in ("network", "user")]
for mapping in ("uidMappings", "gidMappings"):
    linux.pop(mapping, None)
linux["seccomp"] = json.loads(seccomp.read_text())
path.write_text(json.dumps(config, indent=1))
