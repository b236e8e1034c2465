#!/usr/bin/env python3
"""A real Kubernetes on one machine, a node per network namespace.

  scripts/cluster up [--nodes 2] [--ip-family ipv4|ipv6|dual] [--network viaduct|reference|flannel] [--manifest FILE] [--kube-proxy]
  scripts/cluster install [--manifest FILE]   build the image anew and put it onto the cluster that runs
  scripts/cluster kubectl ARGUMENTS…
  scripts/cluster exec [--node N] -- COMMAND…  where the API server is, or on a node
  scripts/cluster flanneld --node N --flannel-backend B   starts it, with another backend
  scripts/cluster down                         ends all of it, also after a crash of `up`

`reference` is the control group: the bridge plugin, static routes, and kube-proxy. `flannel` is the same with flanneld's
routes or tunnels (--flannel-backend). --kube-proxy is for a manifest that leaves Services to it.
"""
import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import build
import images

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
WORK = "/var/tmp/viaduct-cluster"
# Which processes are ours, in their environment.
MARK = "VIADUCT_CLUSTER=" + WORK
PREFIX = "vc-"
PAUSE = "localhost/pause:1"
COREDNS = "localhost/coredns:1"
AGNHOST = "localhost/agnhost:1"
# On each node, in its own network namespace.
CONTAINERD_METRICS = "127.0.0.1:1338"
PRIVATE = ["/etc/cni/net.d", "/opt/cni/bin", "/run/containerd", "/run/netns", "/run/viaduct", "/var/lib/cni", "/var/lib/containerd",
           "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"]


class Addresses:
    """What the families need: the LAN, the pods, the Services."""

    FAMILIES = {
        "ipv4": {"lan": "192.0.2.{}", "length": 24, "pods": "10.244.0.0/16", "node_bits": 24, "services": "10.96.0.0/16", "dns": "10.96.0.10"},
        "ipv6": {"lan": "2001:db8:2::{}", "length": 64, "pods": "fd00:10:244::/56", "node_bits": 64, "services": "fd00:10:96::/112",
                 "dns": "fd00:10:96::a"},
    }

    def __init__(self, family):
        self.families = [self.FAMILIES[name] for name in (["ipv4", "ipv6"] if family == "dual" else [family])]

    def host(self, number):
        """Addresses of the control plane (1) and of the nodes (11, 12, …)."""
        return [family["lan"].format(number) for family in self.families]

    def joined(self, key):
        return ",".join(family[key] for family in self.families)


def run(command, check=True, quiet=False, **options):
    if quiet:
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
    return subprocess.run(command if isinstance(command, list) else command.split(), check=check, text=True, **options)


def output(command):
    return run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL).stdout.strip()


def say(text):
    print(f"== {text}", flush=True)


def wait_for(what, probe, seconds):
    until = time.time() + seconds
    while time.time() < until:
        found = probe()
        if found:
            return found
        time.sleep(0.3)
    raise SystemExit(f"gave up waiting for {what} after {seconds} s; logs are in {WORK}")


def path(*parts):
    return os.path.join(WORK, *parts)


def write(text, *parts):
    os.makedirs(os.path.dirname(path(*parts)), exist_ok=True)
    with open(path(*parts), "w") as file:
        file.write(text)


def start(name, command):
    """A process that outlives this one; `down` knows it by its environment."""
    with open(path(name + ".log"), "w") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=WORK, start_new_session=True,
                                env={**os.environ, "VIADUCT_CLUSTER": WORK})


class Cluster:
    def __init__(self, options):
        self.nodes, self.network, self.manifest = options.nodes, options.network, options.manifest
        self.proxy_mode, self.flannel_backend = options.proxy_mode, options.flannel_backend
        self.kube_proxy = options.kube_proxy or self.network != "viaduct"
        self.addresses = Addresses(options.ip_family)
        self.bin = build.build(flannel=self.network == "flannel")
        self.api = self.addresses.host(1)[0]
        self.url = f"https://[{self.api}]:6443" if ":" in self.api else f"https://{self.api}:6443"

    def node_names(self):
        return [f"n{number}" for number in range(1, self.nodes + 1)]

    def up(self):
        began = time.time()
        if os.path.exists(WORK):
            raise SystemExit("there is a cluster already, or what one left: scripts/cluster down")
        os.makedirs(WORK)
        write(json.dumps({"nodes": self.nodes, "pods": self.addresses.joined("pods")}), "cluster.json")
        self.make_lan()
        self.make_images()
        say("control plane")
        self.start_control_plane()
        say(f"{self.nodes} nodes")
        for number in range(1, self.nodes + 1):
            self.start_node(number)
        for name in self.node_names():
            wait_for(f"node {name}", lambda: kubectl_output("get", "node", name, "-o", "jsonpath={.spec.podCIDR}"), 120)
        say(f"network: {self.network}")
        self.route_api_server()
        if self.kube_proxy:
            self.apply("kube-proxy.yaml", PROGRAM=os.path.join(self.bin, "kube-proxy"), KUBECONFIG=path("kubeconfig"), MODE=self.proxy_mode,
                       PODS=self.addresses.joined("pods"))
        if self.network == "viaduct":
            install(self.manifest, self.node_names())
        else:
            self.other_network()
        self.apply("coredns.yaml", CLUSTER_IP=self.addresses.families[0]["dns"], IMAGE=COREDNS)
        ready = lambda: kubectl_output("get", "nodes", "--no-headers").count(" Ready ") == self.nodes
        wait_for("all nodes to be Ready", ready, 120)
        wait_for("CoreDNS", lambda: kubectl_output("-n", "kube-system", "get", "deploy", "coredns", "-o", "jsonpath={.status.readyReplicas}"), 120)
        say(f"up after {time.time() - began:.0f} s: scripts/cluster kubectl get pods -A")

    def make_lan(self):
        run(f"ip netns add {PREFIX}lan")
        run(f"ip -n {PREFIX}lan link add br0 type bridge")
        run(f"ip -n {PREFIX}lan link set br0 up")
        for name, number in [("cp", 1)] + [(f"n{n}", 10 + n) for n in range(1, self.nodes + 1)]:
            ns = PREFIX + name
            run(f"ip netns add {ns}")
            run(f"ip -n {ns} link set lo up")
            run(f"ip -n {ns} link add eth0 type veth peer name {name} netns {PREFIX}lan")
            run(f"ip -n {PREFIX}lan link set {name} master br0 up")
            run(f"ip netns exec {ns} sysctl -qw net.ipv6.conf.eth0.accept_dad=0")
            run(f"ip -n {ns} link set eth0 up")
            gateways = self.addresses.host(1)
            for address, gateway, family in zip(self.addresses.host(number), gateways, self.addresses.families):
                run(f"ip -n {ns} addr add {address}/{family['length']} dev eth0")
                if name != "cp":
                    run(f"ip -n {ns} route add default via {gateway}")

    def make_images(self):
        agnhost = images.Layer()
        agnhost.userland()
        agnhost.file(os.path.join(self.bin, "agnhost"), "agnhost")
        layer = agnhost.bytes()
        images.archive(path("images"), AGNHOST, layer, {"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": images.PATH})
        images.archive(path("images"), PAUSE, layer, {"Entrypoint": ["/agnhost", "pause"], "Env": images.PATH})
        dns = images.Layer()
        dns.file(os.path.join(self.bin, "coredns"), "coredns")
        images.archive(path("images"), COREDNS, dns.bytes(), {"Entrypoint": ["/coredns"], "Env": images.PATH})

    def start_control_plane(self):
        inside = ["ip", "netns", "exec", PREFIX + "cp"]
        program = lambda name: os.path.join(self.bin, name)
        run(f"openssl genrsa -out {path('sa.key')} 2048", quiet=True)
        write('admin-token,admin,1,"system:masters"\n', "tokens.csv")
        write(f"""apiVersion: v1
kind: Config
clusters: [{{name: viaduct, cluster: {{server: "{self.url}", insecure-skip-tls-verify: true}}}}]
users: [{{name: admin, user: {{token: admin-token}}}}]
contexts: [{{name: viaduct, context: {{cluster: viaduct, user: admin}}}}]
current-context: viaduct
""", "kubeconfig")
        client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
        start("etcd", inside + [program("etcd"), f"--data-dir={path('etcd')}", "--unsafe-no-fsync", f"--listen-client-urls={client}",
                                f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
                                f"--initial-cluster=default={peer}"])
        services, key = self.addresses.joined("services"), path("sa.key")
        start("kube-apiserver", inside + [
            program("kube-apiserver"), f"--etcd-servers={client}", f"--advertise-address={self.api}", "--bind-address=::", "--secure-port=6443",
            f"--cert-dir={path('certs')}", f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}",
            "--service-account-issuer=https://kubernetes.default.svc", f"--service-cluster-ip-range={services}",
            f"--token-auth-file={path('tokens.csv')}", "--authorization-mode=Node,RBAC", "--allow-privileged=true",
            "--kubelet-preferred-address-types=InternalIP"])
        wait_for("the API server", lambda: kubectl_output("get", "--raw", "/readyz") == "ok", 120)
        kubeconfig = f"--kubeconfig={path('kubeconfig')}"
        masks = {"node-cidr-mask-size-ipv4": 24, "node-cidr-mask-size-ipv6": 64} if len(self.addresses.families) > 1 else {
            "node-cidr-mask-size": self.addresses.families[0]["node_bits"]}
        start("kube-controller-manager", inside + [
            program("kube-controller-manager"), kubeconfig, "--allocate-node-cidrs=true", f"--cluster-cidr={self.addresses.joined('pods')}",
            f"--service-cluster-ip-range={services}", f"--service-account-private-key-file={key}",
            f"--root-ca-file={path('certs', 'apiserver.crt')}", "--use-service-account-credentials=true", "--leader-elect=false",
            f"--cert-dir={path('cm-certs')}", *[f"--{name}={bits}" for name, bits in masks.items()]])
        start("kube-scheduler", inside + [program("kube-scheduler"), kubeconfig, "--leader-elect=false", f"--cert-dir={path('sched-certs')}"])

    def start_node(self, number):
        name, root = f"n{number}", path(f"n{number}")
        for folder in PRIVATE:
            os.makedirs(root + folder, exist_ok=True)
            os.makedirs(folder, exist_ok=True)
        write("\n".join(PRIVATE), name, "private")
        shutil.copy(path("kubeconfig"), root)
        write(f"nameserver {self.api}\n", name, "resolv.conf")
        write(f"""version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri"]
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "overlayfs"
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
[plugins."io.containerd.server.v1.metrics"]
  address = "{CONTAINERD_METRICS}"
""", name, "containerd.toml")
        dns = json.dumps([family["dns"] for family in self.addresses.families][:1])
        # What this machine's cgroups do not have is switched off.
        write(f"""apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {{anonymous: {{enabled: true}}, webhook: {{enabled: false}}}}
authorization: {{mode: AlwaysAllow}}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
makeIPTablesUtilChains: false
clusterDNS: {dns}
clusterDomain: cluster.local
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
resolvConf: {root}/resolv.conf
evictionHard: {{memory.available: "1Mi"}}
imageGCHighThresholdPercent: 100
maxPods: 110
""", name, "kubelet.yaml")
        for plugin in os.listdir("/usr/lib/cni"):
            shutil.copy(os.path.join("/usr/lib/cni", plugin), root + "/opt/cni/bin/")
        script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "node.sh")
        command = ["nsenter", f"--net=/run/netns/{PREFIX}{name}", "unshare", "--mount", "--pid", "--fork", "--kill-child", "/bin/sh", script,
                   root, self.bin, name, ",".join(self.addresses.host(10 + number))]
        process = start(name, command)
        write(str(process.pid), name, "pid")

    def pod_cidrs(self):
        """Of each node, with the address through which it is reached."""
        for number, name in enumerate(self.node_names(), 1):
            cidrs = kubectl_output("get", "node", name, "-o", "jsonpath={.spec.podCIDRs[*]}").split()
            yield name, list(zip(cidrs, self.addresses.host(10 + number)))

    def route_api_server(self):
        """The API server is on no node, and has to reach pods: webhooks, `kubectl proxy`."""
        for _, cidrs in self.pod_cidrs():
            for cidr, address in cidrs:
                run(f"ip -n {PREFIX}cp route replace {cidr} via {address}")

    def other_network(self):
        """Bridges, and between the nodes routes that anybody could write by hand, or flanneld."""
        for name, cidrs in list(self.pod_cidrs()):
            bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "isDefaultGateway": True, "hairpinMode": True,
                      "ipam": {"type": "host-local", "ranges": [[{"subnet": cidr}] for cidr, _ in cidrs]}}
            sysctls = ["ipv4.ip_forward", "ipv6.conf.all.forwarding", "bridge.bridge-nf-call-iptables", "bridge.bridge-nf-call-ip6tables"]
            run(["ip", "netns", "exec", PREFIX + name, "sysctl", "-qw", *[f"net.{sysctl}=1" for sysctl in sysctls]])
            if self.network == "flannel":
                # Flannel's own plugin writes this from subnet.env, and calls `bridge` with it.
                bridge["mtu"] = self.start_flanneld(name)
            else:
                for other in self.node_names():
                    for cidr, address in cidrs:
                        if other != name:
                            run(f"ip -n {PREFIX}{other} route replace {cidr} via {address}")
            ports = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
            conf = {"cniVersion": "1.0.0", "name": self.network, "plugins": [bridge, ports]}
            write(json.dumps(conf), name, f"etc/cni/net.d/10-{self.network}.conflist")

    def start_flanneld(self, name):
        """Returns the MTU of pods."""
        start_flanneld(name, self.flannel_backend)
        env = path(name, "subnet.env")
        wait_for(f"flanneld on {name}", lambda: os.path.exists(env), 60)
        return int(re.search(r"FLANNEL_MTU=(\d+)", open(env).read()).group(1))

    def apply(self, name, **words):
        """A manifest beside this file, with these words replaced."""
        text = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name)).read()
        for word, value in words.items():
            text = text.replace(word, value)
        write(text, name)
        run(kubectl("apply", "-f", path(name)), stdout=subprocess.DEVNULL)


def kubectl(*arguments):
    return ["ip", "netns", "exec", PREFIX + "cp", os.path.join(build.cache(), "bin", "kubectl"), "--kubeconfig", path("kubeconfig"), *arguments]


def kubectl_output(*arguments):
    return output(kubectl(*arguments))


def enter(node):
    """How to run a command on a node: in its network, mount and PID namespaces."""
    unshare = open(path(node, "pid")).read()
    # `unshare --fork`'s child is the first process of the node.
    first = output(["pgrep", "-P", unshare, "-x", "sh"])
    return ["nsenter", "-t", first or unshare, "-n", "-m", "-p"]


def start_flanneld(node, backend):
    """With tunnels (`vxlan`) or routes (`host-gw`)."""
    pods = json.load(open(path("cluster.json")))["pods"]
    kind = {"Type": backend, "VNI": 1, "Port": 8472} if backend == "vxlan" else {"Type": backend}
    write(json.dumps({"Network": pods, "EnableNFTables": True, "Backend": kind}), node, "net-conf.json")
    start(f"flanneld-{node}", enter(node) + ["env", f"NODE_NAME={node}", os.path.join(build.cache(), "bin", "flanneld"), path("kubeconfig"),
                                             path(node, "net-conf.json"), path(node, "subnet.env")])


def install(manifest, nodes):
    """The way the documentation tells a user to: image onto the nodes, manifest into the cluster."""
    image = path("viaduct.tar")
    text = output([os.path.join(build.cache(), "bin", "kubectl"), "kustomize", manifest]) if os.path.isdir(manifest) else open(manifest).read()
    variant = ["--iptables"] if "viaduct:dev-iptables" in text else []
    run([os.path.join(ROOT, "scripts", "image"), "--output", image, *variant], stdout=subprocess.DEVNULL)
    ctr = os.path.join(build.cache(), "bin", "ctr")
    for name in nodes:
        run(enter(name) + [ctr, "--address", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "import", "--local", image], quiet=True)
    there = kubectl_output("-n", "kube-system", "get", "daemonset", "viaduct", "-o", "name")
    text = re.sub(r"clusterCIDR: \S+", f"clusterCIDR: {json.load(open(path('cluster.json')))['pods']}", text)
    write(text, "viaduct.yaml")
    run(kubectl("apply", "-f", path("viaduct.yaml")), stdout=subprocess.DEVNULL)
    server = json.loads(kubectl_output("config", "view", "-o", "json"))["clusters"][0]["cluster"]["server"]
    host = server.removeprefix("https://").rsplit(":", 1)[0].strip("[]")
    run(kubectl("-n", "kube-system", "set", "env", "daemonset/viaduct", f"KUBERNETES_SERVICE_HOST={host}", "KUBERNETES_SERVICE_PORT=6443"),
        stdout=subprocess.DEVNULL)
    if there:
        # The image's name is the same as before.
        run(kubectl("-n", "kube-system", "rollout", "restart", "daemonset/viaduct"), stdout=subprocess.DEVNULL)
    run(kubectl("-n", "kube-system", "rollout", "status", "daemonset/viaduct", "--timeout=120s"), stdout=subprocess.DEVNULL)


def exclusions():
    """Parts of names of specs, with the reason why they cannot pass here."""
    lines = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "e2e-exclusions.txt")).read().splitlines()
    return dict(line.split("  ", 1) for line in lines if line and not line.startswith("#"))


def e2e(options, nodes):
    """Upstream's own tests; the report and what failed go to standard output."""
    bin_dir = build.build(e2e=True)
    say("images")
    ctr = os.path.join(bin_dir, "ctr")
    for archive in images.e2e(path("e2e-images"), bin_dir):
        for name in nodes:
            run(enter(name) + [ctr, "--address", "/run/containerd/containerd.sock", "-n", "k8s.io", "images", "import", "--local", archive], quiet=True)
    say(options.focus)
    excluded = exclusions()
    skip = "|".join([options.skip, *map(re.escape, excluded)])
    command = ["ip", "netns", "exec", PREFIX + "cp", os.path.join(bin_dir, "e2e.test"), f"--kubeconfig={path('kubeconfig')}", "--provider=skeleton",
               f"--ginkgo.focus={options.focus}", f"--ginkgo.skip={skip}", f"--ginkgo.timeout={options.timeout}", "--ginkgo.no-color",
               f"--ginkgo.json-report={path('e2e.json')}"]
    with open(path("e2e.log"), "w") as log:
        run(command, check=False, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=WORK)
    specs = [spec for suite in json.load(open(path("e2e.json"))) for spec in suite["SpecReports"] if spec["LeafNodeType"] == "It"]
    count = lambda state: sum(spec["State"] == state for spec in specs)
    bad = [spec for spec in specs if spec["State"] not in ("passed", "skipped", "pending")]
    for spec in bad:
        why = spec.get("Failure", {}).get("Message", "").strip().splitlines()
        print(f"{spec['State']}: {' '.join(spec['ContainerHierarchyTexts'])} {spec['LeafNodeText']}\n    {' '.join(why)[:300]}")
    skipped = [spec for spec in specs if spec["State"] == "skipped" and spec.get("Failure", {}).get("Message")]
    for spec in skipped:
        print(f"skipped by the test itself: {spec['LeafNodeText']}: {spec['Failure']['Message'][:120]}")
    titles = [" ".join(spec["ContainerHierarchyTexts"] + [spec["LeafNodeText"]]) for spec in specs if spec["State"] == "skipped"]
    for name, reason in excluded.items():
        if any(name in title and re.search(options.focus, title) for title in titles):
            print(f"excluded: {name}: {reason}")
    print(f"passed {count('passed')}, failed {len(bad)}; the log is {path('e2e.log')}")
    raise SystemExit(1 if bad or not count("passed") else 0)


def ours():
    """Processes with our mark in their environment."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environment = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
        except OSError:
            continue
        if MARK.encode() in environment and int(pid) != os.getpid():
            found.append(int(pid))
    return found


def down():
    # Nodes die with the first process of their PID namespaces.
    for _ in range(50):
        left = ours()
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.1)
    for line in output("ip netns list").splitlines():
        name = line.split()[0]
        if name.startswith(PREFIX):
            run(f"ip netns del {name}", check=False)
    for _ in range(20):
        if not os.path.exists(WORK):
            return
        run(["rm", "-rf", WORK], check=False, quiet=True)
        time.sleep(0.1)
    raise SystemExit(f"{WORK} cannot be removed")


def main():
    # What follows `kubectl` and `exec` is not ours to read.
    own, rest = sys.argv[1:], []
    if own[:1] == ["kubectl"]:
        os.execvp("ip", kubectl(*own[1:]))
    if "--" in own:
        cut = own.index("--")
        own, rest = own[:cut], own[cut + 1:]
    parser = argparse.ArgumentParser(prog="scripts/cluster", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=["up", "down", "install", "exec", "e2e", "flanneld"])
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--ip-family", choices=["ipv4", "ipv6", "dual"], default="ipv4")
    parser.add_argument("--network", choices=["viaduct", "reference", "flannel"], default="viaduct")
    parser.add_argument("--proxy-mode", choices=["nftables", "iptables"], default="nftables", help="of kube-proxy")
    parser.add_argument("--kube-proxy", action="store_true", help="beside Viaduct")
    parser.add_argument("--flannel-backend", choices=["vxlan", "host-gw"], default="host-gw")
    parser.add_argument("--manifest", default=os.path.join(ROOT, "deploy", "viaduct.yaml"))
    parser.add_argument("--node")
    parser.add_argument("--focus", default=r"\[sig-network\].*\[Conformance\]")
    parser.add_argument("--skip", default=r"\[Disruptive\]|\[Slow\]|\[Serial\]")
    parser.add_argument("--timeout", default="30m")
    options = parser.parse_args(own)
    if options.verb == "up":
        Cluster(options).up()
    elif options.verb == "down":
        down()
    elif options.verb == "flanneld":
        start_flanneld(options.node, options.flannel_backend)
    elif options.verb in ("install", "e2e"):
        nodes = [f"n{n}" for n in range(1, json.load(open(path("cluster.json")))["nodes"] + 1)]
        install(options.manifest, nodes) if options.verb == "install" else e2e(options, nodes)
    else:
        inside = enter(options.node) if options.node else ["ip", "netns", "exec", PREFIX + "cp"]
        environment = {**os.environ, "KUBECONFIG": path("kubeconfig"), "PATH": os.path.join(build.cache(), "bin") + ":" + os.environ["PATH"]}
        command = inside + rest
        os.execvpe(command[0], command, environment)


if __name__ == "__main__":
    main()
