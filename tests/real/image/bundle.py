"""Makes the container of a pod from a bundle that umoci unpacked from an image.

    bundle.py UNPACKED BUNDLE SECCOMP [ARGUMENT...]

What the image says stays (program, user, environment); the rest is the chart's securityContext: read-only
root, no capabilities, no new privileges, containerd's own seccomp profile, nothing that may be written. The
network is the machine's, since the checks and the stack are on its loopback.
"""

import json
import sys
from pathlib import Path

unpacked, bundle, seccomp = map(Path, sys.argv[1:4])
arguments = sys.argv[4:]
config = json.loads((unpacked / "config.json").read_text())
process = config["process"]
process["args"] += arguments
process["terminal"] = False
process["noNewPrivileges"] = True
process["capabilities"] = {
    kind: [] for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
}
# The machine's, as a pod has its node's.
process["rlimits"] = []
config["root"] = {"path": str(unpacked / "rootfs"), "readonly": True}
config["mounts"] = [
    mount for mount in config["mounts"] if mount["destination"] not in ("/etc/resolv.conf", "/tmp")
]
linux = config["linux"]
linux["namespaces"] = [one for one in linux["namespaces"] if one["type"] not in ("network", "user")]
for mapping in ("uidMappings", "gidMappings"):
    linux.pop(mapping, None)
linux["seccomp"] = json.loads(seccomp.read_text())
(bundle / "config.json").write_text(json.dumps(config, indent=1))
