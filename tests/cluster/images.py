"""Container images out of local files, as OCI archives: no registry, no Docker."""
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile

# What the e2e tests run inside of their pods.
TOOLS = ["curl", "wget", "dig", "nc", "getent", "ip", "ss", "conntrack", "tcpdump", "iptables", "nft"]
PATH = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]


class Layer:
    """One layer of an image."""

    def __init__(self):
        self.raw = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.raw, mode="w", dereference=True)
        self.names = set()
        for folder in ["bin", "etc", "lib", "lib64", "root", "run", "sbin", "tmp", "usr/bin", "usr/sbin", "var"]:
            self.folder(folder, 0o1777 if folder == "tmp" else 0o755)

    def folder(self, name, mode=0o755):
        if name and name not in self.names:
            self.folder(os.path.dirname(name))
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, mode
            self.tar.addfile(info)
            self.names.add(name)

    def file(self, source, name, mode=0o755):
        """A file, from a path or from bytes."""
        name = name.lstrip("/")
        if name in self.names:
            return
        self.folder(os.path.dirname(name))
        data = source if isinstance(source, bytes) else open(source, "rb").read()
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(data), mode
        self.tar.addfile(info, io.BytesIO(data))
        self.names.add(name)

    def link(self, name, target):
        if name not in self.names:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            self.tar.addfile(info)
            self.names.add(name)

    def program(self, path, name=None):
        """A program with its libraries."""
        self.file(path, name or "usr/bin/" + os.path.basename(path))
        listed = subprocess.run(["ldd", path], capture_output=True, text=True).stdout
        for library in re.findall(r"(/\S+)", listed):
            self.file(library, library)

    def userland(self):
        """A shell, the usual tools, names and users."""
        for tool in filter(None, map(shutil.which, TOOLS)):
            self.program(tool)
        for library in ["libnss_files.so.2", "libnss_dns.so.2"]:
            path = f"/lib/{os.uname().machine}-linux-gnu/{library}"
            if os.path.exists(path):
                self.file(path, path)
        # busybox's own shell would prefer its nc to the real one.
        self.program("/bin/dash", "bin/sh")
        busybox = shutil.which("busybox")
        self.file(busybox, "bin/busybox")
        for applet in subprocess.run([busybox, "--list"], capture_output=True, text=True).stdout.split():
            if not {"usr/bin/" + applet, "bin/" + applet} & self.names:
                self.link("bin/" + applet, "busybox")
        self.file(b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", "etc/passwd", 0o644)
        self.file(b"root:x:0:\nnobody:x:65534:\n", "etc/group", 0o644)
        self.file(b"hosts: files dns\n", "etc/nsswitch.conf", 0o644)

    def bytes(self):
        self.tar.close()
        return self.raw.getvalue()


def e2e(folder, bin_dir):
    """The images that upstream's tests ask for, out of what is here; returns the archives."""
    listed = subprocess.run([os.path.join(bin_dir, "e2e.test"), "--list-images"], capture_output=True, text=True).stdout.split()
    layer = Layer()
    layer.userland()
    layer.file(os.path.join(bin_dir, "agnhost"), "agnhost")
    with tempfile.TemporaryDirectory() as keys:
        # agnhost serves TLS with these, from where it is started.
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=localhost",
                        "-keyout", keys + "/key", "-out", keys + "/crt"], check=True, stderr=subprocess.DEVNULL)
        layer.file(keys + "/crt", "localhost.crt", 0o644)
        layer.file(keys + "/key", "localhost.key", 0o644)
    user = layer.bytes()
    reset = Layer()
    reset.file(os.path.join(bin_dir, "regression-issue-74839"), "regression-issue-74839")
    reset = reset.bytes()
    made = []
    for name in listed:
        image = name.rsplit("/", 1)[-1].split(":")[0]
        # Of nginx the network specs want only that a pod has an address; without an image that takes two minutes.
        if image in ("agnhost", "nginx"):
            made.append(archive(folder, name, user, {"Entrypoint": ["/agnhost"], "Cmd": ["pause"], "Env": PATH}))
        elif image in ("busybox", "glibc-dns-testing", "distroless-iptables"):
            made.append(archive(folder, name, user, {"Cmd": ["/bin/sh"], "Env": PATH}))
        elif image == "pause":
            made.append(archive(folder, name, user, {"Entrypoint": ["/agnhost", "pause"], "Env": PATH}))
        elif image == "regression-issue-74839":
            made.append(archive(folder, name, reset, {"Entrypoint": ["/regression-issue-74839"], "Env": PATH}))
    return made


def archive(folder, name, layer, config):
    """Writes an archive of one layer; returns its path."""
    blobs = {}

    def blob(data):
        digest = hashlib.sha256(data).hexdigest()
        blobs[digest] = data
        return {"digest": "sha256:" + digest, "size": len(data)}

    oci = "application/vnd.oci.image"
    packed = blob(layer)
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    image = {"architecture": machine, "os": "linux", "config": config,
             "rootfs": {"type": "layers", "diff_ids": [packed["digest"]]}}
    manifest = {"schemaVersion": 2, "mediaType": f"{oci}.manifest.v1+json",
                "config": {"mediaType": f"{oci}.config.v1+json", **blob(json.dumps(image).encode())},
                "layers": [{"mediaType": f"{oci}.layer.v1.tar", **packed}]}
    notes = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name.rsplit(":", 1)[1]}
    index = {"schemaVersion": 2, "manifests": [
        {"mediaType": manifest["mediaType"], **blob(json.dumps(manifest).encode()), "annotations": notes}]}
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, re.sub(r"[^a-z0-9.-]", "_", name) + ".tar")
    with tarfile.open(path, "w") as tar:
        def add(member, data):
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
        add("index.json", json.dumps(index).encode())
        for digest, data in blobs.items():
            add("blobs/sha256/" + digest, data)
    return path
