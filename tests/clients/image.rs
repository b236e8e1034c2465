//! A container image of one busybox layer, as an OCI archive, without a registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use testnet::programs;

/// The image's name.
pub(crate) const NAME: &str = "localhost/viaduct-test:1";

/// Writes the archive into a folder; `None` if there is no static busybox to put into it.
pub(crate) fn write(folder: &Path) -> Option<PathBuf> {
    let busybox = programs::installed("busybox")?;
    let root = folder.join("rootfs");
    for dir in ["bin", "etc", "proc", "sys", "dev", "tmp", "www"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for applet in ["sh", "ip", "ping", "nc", "wget", "httpd", "sleep", "echo", "cat"] {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    fs::write(root.join("www/index.html"), "served by a container\n").unwrap();
    let layout = folder.join("layout");
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let layer = folder.join("layer.tar");
    tar(&root, &layer, ".");
    let layer = add_file(&blobs, &layer);
    let config = json!({"architecture": architecture(), "os": "linux",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]}});
    let config = add(&blobs, &config);
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": described(config, "application/vnd.oci.image.config.v1+json"),
        "layers": [described(layer, "application/vnd.oci.image.layer.v1.tar")]});
    let manifest = add(&blobs, &manifest);
    let mut manifest = described(manifest, "application/vnd.oci.image.manifest.v1+json");
    manifest["annotations"] =
        json!({"io.containerd.image.name": NAME, "org.opencontainers.image.ref.name": "1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let archive = folder.join("image.tar");
    tar(&layout, &archive, ".");
    Some(archive)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn described(mut blob: Value, media_type: &str) -> Value {
    blob["mediaType"] = media_type.into();
    blob
}

fn tar(from: &Path, archive: &Path, what: &str) {
    let tar = Command::new("tar").arg("-cf").arg(archive).arg("-C").arg(from).arg(what).status();
    assert!(tar.unwrap().success());
}

fn add(blobs: &Path, value: &Value) -> Value {
    let file = blobs.join("new");
    fs::write(&file, value.to_string()).unwrap();
    add_file(blobs, &file)
}

/// Moves a file to where its digest says, and describes it.
fn add_file(blobs: &Path, file: &Path) -> Value {
    let output = Command::new("sha256sum").arg(file).output().unwrap();
    let digest = String::from_utf8(output.stdout).unwrap();
    let digest = digest.split_whitespace().next().unwrap();
    let size = fs::metadata(file).unwrap().len();
    fs::rename(file, blobs.join(digest)).unwrap();
    json!({"digest": format!("sha256:{digest}"), "size": size})
}

/// A shell script that runs `commands` with a containerd of its own, whose folders are below `$D`.
pub(super) fn with_containerd(commands: &str) -> String {
    const START: &str = r#"
cat >$D/config.toml <<EOF
version = 2
root = "$D/root"
state = "$D/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$D/containerd.sock"
EOF
mkdir -p /run/containerd; mount -t tmpfs tmpfs /run/containerd
containerd -c $D/config.toml >$D/containerd.log 2>&1 &
daemon=$!
trap 'for task in $(ctr task ls -q); do ctr task kill -s SIGKILL $task || true; done; kill $daemon; wait $daemon || true' EXIT
ctr() { command ctr -a $D/containerd.sock "$@"; }
n=0; until ctr version >/dev/null 2>&1; do n=$((n+1)); [ $n -lt 200 ] || { cat $D/containerd.log; exit 1; }; sleep 0.05; done
"#;
    format!("{START}{commands}")
}
