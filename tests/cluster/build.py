"""The programs of a Kubernetes, built from Go modules once and kept in a cache folder.

Versions are those of go.mod in the folders beside this file. A program is built again when its go.mod changes.
"""
import hashlib
import os
import re
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
KUBERNETES = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"]
CONTAINERD = ["containerd", "ctr", "containerd-shim-runc-v2"]
# What the e2e tests need besides.
E2E = ["e2e.test", "agnhost", "regression-issue-74839"]


def cache():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(home, "viaduct", "cluster")


def version_of(module, requirement):
    text = open(os.path.join(HERE, module, "go.mod")).read()
    return re.search(re.escape(requirement) + r" (v\S+)", text).group(1)


def commands(module, names):
    """What `go` builds for each program: (arguments, package)."""
    if module == "containerd":
        flags = ["-tags", "no_btrfs,no_zfs,no_devmapper", "-ldflags", "-s -w"]
        return {name: (["build", *flags], f"github.com/containerd/containerd/v2/cmd/{name}") for name in names}
    if module == "etcd":
        return {"etcd": (["build", "-ldflags", "-s -w"], "go.etcd.io/etcd/server/v3")}
    if module in ("coredns", "flannel"):
        return {name: (["build", "-ldflags", "-s -w"], ".") for name in names}
    version = version_of("kubernetes", "k8s.io/kubernetes")
    minor = version.split(".")[1]
    stamp = "k8s.io/component-base/version"
    flags = ["-ldflags", f"-s -w -X {stamp}.gitVersion={version} -X {stamp}.gitMajor=1 -X {stamp}.gitMinor={minor}"]
    made = {}
    for name in names:
        if name == "e2e.test":
            made[name] = (["test", "-c", *flags], "k8s.io/kubernetes/test/e2e")
        elif name in E2E:
            made[name] = (["build", *flags], f"k8s.io/kubernetes/test/images/{name}")
        else:
            made[name] = (["build", *flags], f"k8s.io/kubernetes/cmd/{name}")
    return made


def build(names=None, e2e=False, flannel=False):
    """Builds what is missing; returns the folder."""
    wanted = {"kubernetes": KUBERNETES + (E2E if e2e else ["agnhost"]), "containerd": CONTAINERD, "coredns": ["coredns"], "etcd": ["etcd"]}
    if flannel:
        wanted["flannel"] = ["flanneld"]
    bin_dir = os.path.join(cache(), "bin")
    os.makedirs(bin_dir, exist_ok=True)
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -trimpath -mod=mod", "GOTOOLCHAIN": "local"}
    for module, programs in wanted.items():
        folder = os.path.join(HERE, module)
        digest = hashlib.sha256(open(os.path.join(folder, "go.mod"), "rb").read()).hexdigest()[:12]
        for name, (arguments, package) in commands(module, programs).items():
            if names and name not in names:
                continue
            target, mark = os.path.join(bin_dir, name), os.path.join(bin_dir, f".{name}.version")
            if os.path.exists(target) and os.path.exists(mark) and open(mark).read() == digest:
                continue
            print(f"building {name} (once; the first takes some minutes)", end=" ", flush=True)
            started = time.time()
            made = subprocess.run(["go", *arguments, "-o", target + ".new", package], cwd=folder, env=environment, text=True,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            if made.returncode:
                raise SystemExit(f"\ngo {' '.join(arguments)} {package}:\n{made.stdout[-3000:]}")
            os.replace(target + ".new", target)
            open(mark, "w").write(digest)
            print(f"{time.time() - started:.0f} s", flush=True)
    return bin_dir


if __name__ == "__main__":
    print(build(sys.argv[1:] or None, e2e="e2e.test" in sys.argv, flannel="flanneld" in sys.argv))
