// Command kube-apiserver is Kubernetes' own. `go install` refuses a module that replaces others, as
// k8s.io/kubernetes does with its staging modules; this one names their published versions in its place.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

func main() {
	os.Exit(cli.Run(app.NewAPIServerCommand()))
}
