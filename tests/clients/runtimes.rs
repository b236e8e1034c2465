//! containerd and podman create and delete containers on our network.

use testnet::{Host, Lan, skip};

use super::{image, leftovers, missing, node, shell, write_conflist};

#[test]
fn containerd_runs_containers_on_the_network() {
    if let Some(reason) = missing(&["containerd", "ctr", "runc", "busybox", "unshare"]) {
        skip(&reason);
        return;
    }
    let lan = Lan::new();
    let node = node(&lan);
    write_conflist(&node, "1.0.0");
    let archive = image::write(&node.folder().join("images")).unwrap();
    let outside = lan.serve_tcp(8080);
    let script = image::with_containerd(&format!(
        r#"
ctr images import {archive} >/dev/null
ctr run --rm --cni --snapshotter native {image} server httpd -f -p 80 -h /www >$D/server.log 2>&1 &
server=$!
n=0; until [ -e $D/networks/viaduct-test/10.244.1.2 ]; do n=$((n+1)); [ $n -lt 200 ] || {{ cat $D/server.log; exit 1; }}; sleep 0.05; done
ctr run --rm --cni --snapshotter native {image} client sh -c '
ip -4 addr show eth0; ip -6 addr show eth0
ping -c 1 -W 2 10.244.1.1 && ping -c 1 -W 2 fd00:10:1::1
n=0; until wget -qO- http://10.244.1.2/; do n=$((n+1)); [ $n -lt 20 ] || exit 1; sleep 0.1; done
echo probe | nc -w 2 198.51.100.1 8080'
ctr task kill -s SIGKILL server; wait $server || true
"#,
        archive = archive.display(),
        image = image::NAME,
    ));
    let output = shell(&node, &script).unwrap_or_else(|error| panic!("{error}"));
    let expected =
        ["10.244.1.3/24", "fd00:10:1::3/64", "served by a container", "outside 192.168.0.1:"];
    for line in expected {
        assert!(output.contains(line), "{line:?} is not in {output}");
    }
    assert_eq!(outside.answered(), 1);
    assert_eq!(leftovers(&node), Vec::<String>::new());
}

#[test]
fn podman_runs_containers_with_published_ports() {
    if let Some(reason) = missing(&["podman", "runc", "busybox", "unshare"]) {
        skip(&reason);
        return;
    }
    let lan = Lan::new();
    let node = node(&lan);
    write_conflist(&node, "1.0.0");
    let archive = image::write(&node.folder().join("images")).unwrap();
    let script = format!(
        r#"
cat >$D/containers.conf <<EOF
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[network]
network_backend = "cni"
cni_plugin_dirs = ["/opt/cni/bin"]
network_config_dir = "/etc/cni/net.d"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
EOF
export CONTAINERS_CONF=$D/containers.conf
podman() {{ command podman --root $D/storage --runroot $D/run --tmpdir $D/tmp --storage-driver vfs "$@"; }}
id=$(podman load -q -i {archive} | sed 's/.*: //')
podman run -d --name server --network viaduct-test -p 8080:80 $id httpd -f -p 80 -h /www
podman run --rm --network viaduct-test $id sh -c 'ip addr show eth0; ping -c 1 -W 2 10.244.1.2 && wget -qO- http://10.244.1.2/'
n=0; until echo "GET / HTTP/1.0

" | busybox nc -w 2 192.168.0.1 8080; do n=$((n+1)); [ $n -lt 20 ] || exit 1; sleep 0.1; done
podman rm -f -t 0 server
"#,
        archive = archive.display(),
    );
    let output = shell(&node, &script).unwrap_or_else(|error| panic!("{error}"));
    assert!(output.contains("10.244.1.3/24"), "{output}");
    assert_eq!(output.matches("served by a container").count(), 2, "{output}");
    assert_eq!(leftovers(&node), Vec::<String>::new());
}
