// Command kube is every Kubernetes part of the local cluster in one program, chosen by the first argument.
// One program, because the parts share nearly all of their code and linking it once saves minutes.
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// etcd reads its own arguments and never returns, so it alone is not a cobra command.
const etcd = "etcd"

var parts = map[string]func() *cobra.Command{
	"apiserver":          apiserver.NewAPIServerCommand,
	"controller-manager": controllermanager.NewControllerManagerCommand,
	"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
	"kubelet":            func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"proxy":              proxy.NewProxyCommand,
	"kubectl":            kubectl.NewDefaultKubectlCommand,
	"volumes":            newVolumesCommand,
}

func main() {
	name := ""
	if len(os.Args) > 1 {
		name = os.Args[1]
		os.Args = append([]string{os.Args[0]}, os.Args[2:]...)
	}
	if name == etcd {
		etcdmain.Main(append([]string{etcd}, os.Args[1:]...))
	}
	command, known := parts[name]
	if !known {
		all := append(slices.Sorted(maps.Keys(parts)), etcd)
		fmt.Fprintf(os.Stderr, "kube: %q is no part of the cluster; the first argument is one of: %s\n", name, strings.Join(all, " "))
		os.Exit(64)
	}
	os.Exit(cli.Run(command()))
}
