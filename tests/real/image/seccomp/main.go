// Prints containerd's own default seccomp profile, which is what a pod with the profile RuntimeDefault
// runs under, for a process without capabilities.
package main

import (
	"encoding/json"
	"log"
	"os"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func main() {
	process := &specs.Process{Capabilities: &specs.LinuxCapabilities{}}
	profile := seccomp.DefaultProfile(&specs.Spec{Process: process})
	if err := json.NewEncoder(os.Stdout).Encode(profile); err != nil {
		log.Fatal(err)
	}
}
