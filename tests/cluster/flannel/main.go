// Command flanneld is flannel's daemon out of flannel's own packages: the Kubernetes subnet manager, backends vxlan and
// host-gw, masquerade in nftables. The stock one drags in clouds' SDKs. Arguments: kubeconfig, net-conf.json, subnet.env;
// the node's name is in NODE_NAME.
package main

import (
	"context"
	"log"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/hostgw"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/nftables"
)

func must(what string, err error) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func main() {
	kubeconfig, netConf, subnetFile := os.Args[1], os.Args[2], os.Args[3]
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	manager, err := kube.NewSubnetManager(ctx, "", kubeconfig, "flannel.alpha.coreos.com", netConf, false)
	must("subnet manager", err)
	config, err := manager.GetNetworkConfig(ctx)
	must("network configuration", err)
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	must("family", err)
	device, err := ipmatch.LookupExtIface("", "", "", stack, ipmatch.PublicIPOpts{})
	must("device", err)
	chosen, err := backend.NewManager(ctx, manager, device).GetBackend(config.BackendType)
	must("backend", err)
	var all sync.WaitGroup
	network, err := chosen.RegisterNetwork(ctx, &all, config)
	must("register", err)
	traffic := &nftables.NFTablesManager{}
	must("masquerade", traffic.Init(ctx))
	none, none6 := ip.IP4Net{}, ip.IP6Net{}
	must("masquerade", traffic.SetupAndEnsureMasqRules(ctx, config.Network, none, none, config.IPv6Network, none6, none6, network.Lease(), 5, false))
	lease := network.Lease()
	must("subnet file", manager.HandleSubnetFile(subnetFile, config, true, lease.Subnet, lease.IPv6Subnet, network.MTU()))
	all.Go(func() { network.Run(ctx) })
	if err := manager.CompleteLease(ctx, lease, &all); err != nil {
		log.Print("lease: ", err)
	}
	all.Wait()
}
