//! The configuration shown in kube-proxy's terms.

use serde_json::{Value, json};

use super::*;

fn shown(fields: &str) -> Value {
    config(fields).to_kube_proxy_json()["kubeproxy.config.k8s.io"].clone()
}

#[test]
fn defaults_are_shown_as_kube_proxy_writes_them() {
    assert_eq!(
        shown(KUBEADM),
        json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "hostnameOverride": "",
            "bindAddress": "0.0.0.0",
            "healthzBindAddress": "0.0.0.0:10256",
            "metricsBindAddress": "127.0.0.1:10249",
            "bindAddressHardFail": false,
            "enableProfiling": false,
            "detectLocalMode": "ClusterCIDR",
            "detectLocal": {"bridgeInterface": "", "interfaceNamePrefix": ""},
            "clusterCIDR": "10.244.0.0/16,fd00:10:244::/56",
            "nodePortAddresses": [],
            "oomScoreAdj": -999,
            "configSyncPeriod": "15m0s",
            "featureGates": {},
            "clientConnection": {
                "kubeconfig": "/var/lib/kube-proxy/kubeconfig.conf", "acceptContentTypes": "",
                "contentType": "application/vnd.kubernetes.protobuf", "qps": 5.0, "burst": 10,
            },
            "logging": {"format": "text", "verbosity": 0},
            "iptables": {
                "masqueradeBit": 14, "masqueradeAll": false, "localhostNodePorts": true,
                "syncPeriod": "30s", "minSyncPeriod": "0s",
            },
            "nftables": {
                "masqueradeBit": 14, "masqueradeAll": false,
                "syncPeriod": "30s", "minSyncPeriod": "0s",
            },
            "ipvs": {
                "syncPeriod": "30s", "minSyncPeriod": "0s", "scheduler": "rr", "excludeCIDRs": [],
                "strictARP": false, "tcpTimeout": "0s", "tcpFinTimeout": "0s", "udpTimeout": "0s",
            },
            "conntrack": {
                "maxPerCore": 32768, "min": 131072, "tcpEstablishedTimeout": "24h0m0s",
                "tcpCloseWaitTimeout": "1h0m0s", "tcpBeLiberal": false, "udpTimeout": "0s",
                "udpStreamTimeout": "0s",
            },
        })
    );
}

#[test]
fn what_is_written_reads_back_the_same() {
    let section = "masqueradeBit: 5, masqueradeAll: true, syncPeriod: 9s, minSyncPeriod: 1500ms";
    let detections = [
        "clusterCIDR: 10.0.0.0/8",
        "detectLocalMode: NodeCIDR",
        "detectLocalMode: BridgeInterface\ndetectLocal: {bridgeInterface: b}",
        "detectLocalMode: InterfaceNamePrefix\ndetectLocal: {interfaceNamePrefix: p}",
        "",
    ];
    let modes = [
        format!("mode: nftables\nnftables: {{{section}}}"),
        format!("mode: iptables\niptables: {{{section}, localhostNodePorts: false}}"),
        "mode: ipvs\niptables: {masqueradeBit: 5, masqueradeAll: true}\n\
         ipvs: {syncPeriod: 9s, minSyncPeriod: 1s, scheduler: sh, strictARP: true,\n\
         \x20 excludeCIDRs: [10.0.0.0/8, fd00::/8], tcpTimeout: 1s, tcpFinTimeout: 2s,\n\
         \x20 udpTimeout: 3s}"
            .to_owned(),
    ];
    let rest = "hostnameOverride: node\nbindAddress: fd00::1\nhealthzBindAddress: 10.0.0.1:1\n\
        metricsBindAddress: '[::]:2'\nbindAddressHardFail: true\nenableProfiling: true\n\
        nodePortAddresses: [primary, localhost, 10.0.0.0/8]\noomScoreAdj: 5\n\
        configSyncPeriod: 90s\nfeatureGates: {A: true}\n\
        clientConnection: {kubeconfig: k, acceptContentTypes: a, contentType: c, qps: 0.5, burst: 1}\n\
        logging: {format: json, verbosity: 4}\n\
        conntrack: {maxPerCore: 0, min: 3, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 4s,\n\
        \x20 tcpBeLiberal: true, udpTimeout: 250ms, udpStreamTimeout: 6s}\n";
    for mode in &modes {
        for detection in detections {
            let config = config(&format!("{rest}{mode}\n{detection}\n"));
            let text = config.to_kube_proxy_file();
            let again = load_with(&Flags::default(), Some((Path::new("again"), &text))).unwrap();
            assert_eq!(again.config, config);
        }
    }
}

#[test]
fn servers_that_are_off_have_an_empty_address() {
    let loaded = by_flags(&["--healthz-bind-address=", "--metrics-port=0"]).unwrap();
    let json = loaded.config.to_kube_proxy_json();
    let json = &json["kubeproxy.config.k8s.io"];
    assert_eq!(
        (&json["healthzBindAddress"], &json["metricsBindAddress"]),
        (&json!(""), &json!(""))
    );
}
