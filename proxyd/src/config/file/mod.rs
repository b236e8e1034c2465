//! Reads a KubeProxyConfiguration file, `kubeproxy.config.k8s.io/v1alpha1`.
//!
//! The fields are those of kube-proxy's
//! [types.go](https://github.com/kubernetes/kube-proxy/blob/master/config/v1alpha1/types.go).
//! Null, an empty text and `0s` mean "not set" where they do for kube-proxy, because kubeadm
//! writes them for every field. An unknown field is an error; kube-proxy only logs it.

mod tree;

use std::path::Path;

use self::tree::Section;
use super::error::{Error, Given, Setting};
use super::settings::{
    ClientSettings, ConntrackSettings, IpvsSettings, LogSettings, ModeSettings, Settings,
};

pub(super) const API_VERSION: &str = "kubeproxy.config.k8s.io/v1alpha1";
pub(super) const KIND: &str = "KubeProxyConfiguration";

/// Reads `text`, the contents of `file`, and warns of fields without effect.
pub(super) fn parse(
    file: &Path,
    text: &str,
    warnings: &mut Vec<String>,
) -> Result<Settings, Error> {
    let mut root = Section::parse(file, text)?;
    check_kind(file, &mut root, "apiVersion", API_VERSION)?;
    check_kind(file, &mut root, "kind", KIND)?;
    let mut settings = top_level(&mut root)?;
    modes(&mut root, &mut settings, warnings)?;
    detect_local(root.section("detectLocal")?, &mut settings)?;
    settings.conntrack = conntrack(root.section("conntrack")?)?;
    settings.client = client(root.section("clientConnection")?)?;
    settings.log = logging(root.section("logging")?, warnings)?;
    settings.feature_gates = root.section("featureGates")?.switches()?;
    without_effect(&mut root, warnings)?;
    root.finish()?;
    Ok(settings)
}

fn check_kind(
    file: &Path,
    root: &mut Section,
    field: &'static str,
    expected: &'static str,
) -> Result<(), Error> {
    let found = root.text(field)?.map(|given| given.value).unwrap_or_default();
    if found == expected {
        return Ok(());
    }
    Err(Error::Kind { file: file.to_owned(), field, found, expected })
}

fn top_level(root: &mut Section) -> Result<Settings, Error> {
    Ok(Settings {
        mode: root.text("mode")?,
        hostname_override: root.text("hostnameOverride")?,
        bind_address: root.text("bindAddress")?,
        healthz_bind: root.text("healthzBindAddress")?,
        metrics_bind: root.text("metricsBindAddress")?,
        bind_address_hard_fail: root.switch("bindAddressHardFail")?,
        profiling: root.switch("enableProfiling")?,
        detect_local_mode: root.text("detectLocalMode")?,
        cluster_cidr: root.text("clusterCIDR")?.map(split_at_commas),
        nodeport_addresses: root.texts("nodePortAddresses")?,
        oom_score_adj: root.int("oomScoreAdj")?,
        config_sync_period: root.positive_duration("configSyncPeriod")?,
        ..Settings::default()
    })
}

fn split_at_commas(given: Given<String>) -> Given<Vec<String>> {
    let value = given.value.split(',').map(str::to_owned).collect();
    Given { value, setting: given.setting }
}

fn modes(
    root: &mut Section,
    settings: &mut Settings,
    warnings: &mut Vec<String>,
) -> Result<(), Error> {
    let mut iptables = root.section("iptables")?;
    settings.localhost_nodeports = iptables.switch("localhostNodePorts")?;
    settings.iptables = mode(&mut iptables)?;
    // Of kube-proxy 1.37; kubeadm writes null.
    if let Some(given) = iptables.switch("snatNodeInternalIP")?.filter(|given| given.value) {
        warnings.push(no_effect(&given.setting, "masquerading takes the address of the way out"));
    }
    iptables.finish()?;

    let mut nftables = root.section("nftables")?;
    settings.nftables = mode(&mut nftables)?;
    nftables.finish()?;

    let mut ipvs = root.section("ipvs")?;
    // v1alpha1 has no ipvs.masqueradeBit and ipvs.masqueradeAll: ipvs mode uses those of iptables.
    settings.ipvs_mode = ModeSettings {
        masquerade_bit: settings.iptables.masquerade_bit.clone(),
        masquerade_all: settings.iptables.masquerade_all.clone(),
        ..periods(&mut ipvs)?
    };
    settings.ipvs = IpvsSettings {
        scheduler: ipvs.text("scheduler")?,
        exclude_cidrs: ipvs.texts("excludeCIDRs")?,
        strict_arp: ipvs.switch("strictARP")?,
        tcp_timeout: ipvs.duration("tcpTimeout")?,
        tcp_fin_timeout: ipvs.duration("tcpFinTimeout")?,
        udp_timeout: ipvs.duration("udpTimeout")?,
    };
    ipvs.finish()
}

fn mode(section: &mut Section) -> Result<ModeSettings, Error> {
    Ok(ModeSettings {
        masquerade_bit: section.int("masqueradeBit")?,
        masquerade_all: section.switch("masqueradeAll")?,
        ..periods(section)?
    })
}

fn periods(section: &mut Section) -> Result<ModeSettings, Error> {
    Ok(ModeSettings {
        sync_period: section.positive_duration("syncPeriod")?,
        min_sync_period: section.positive_duration("minSyncPeriod")?,
        ..ModeSettings::default()
    })
}

fn detect_local(mut section: Section, settings: &mut Settings) -> Result<(), Error> {
    settings.bridge_interface = section.text("bridgeInterface")?;
    settings.interface_name_prefix = section.text("interfaceNamePrefix")?;
    section.finish()
}

fn conntrack(mut section: Section) -> Result<ConntrackSettings, Error> {
    let conntrack = ConntrackSettings {
        max_per_core: section.int("maxPerCore")?,
        min: section.int("min")?,
        tcp_established: section.duration("tcpEstablishedTimeout")?,
        tcp_close_wait: section.duration("tcpCloseWaitTimeout")?,
        tcp_be_liberal: section.switch("tcpBeLiberal")?,
        udp_timeout: section.duration("udpTimeout")?,
        udp_stream_timeout: section.duration("udpStreamTimeout")?,
    };
    section.finish()?;
    Ok(conntrack)
}

fn client(mut section: Section) -> Result<ClientSettings, Error> {
    let client = ClientSettings {
        kubeconfig: section.text("kubeconfig")?,
        accept_content_types: section.text("acceptContentTypes")?,
        content_type: section.text("contentType")?,
        // Zero means the default, which kubeadm relies on.
        qps: section.float("qps")?.filter(|given| given.value != 0.0),
        burst: section.int("burst")?.filter(|given| given.value != 0),
    };
    section.finish()?;
    Ok(client)
}

fn logging(mut section: Section, warnings: &mut Vec<String>) -> Result<LogSettings, Error> {
    let log = LogSettings { format: section.text("format")?, verbosity: section.int("verbosity")? };
    // Buffering is the logger's own business; kubeadm writes zeros here.
    section.ignored("flushFrequency");
    section.ignored("options");
    if let Some(setting) = section.ignored("vmodule") {
        warnings.push(no_effect(&setting, "verbosity is the same for all modules"));
    }
    section.finish()?;
    Ok(log)
}

/// Fields that kube-proxy knows and that do nothing here.
fn without_effect(root: &mut Section, warnings: &mut Vec<String>) -> Result<(), Error> {
    if let Some(given) = root.text("portRange")? {
        warnings.push(no_effect(&given.setting, "it is unused since the userspace mode went"));
    }
    if let Some(given) = root.text("showHiddenMetricsForVersion")? {
        warnings.push(no_effect(&given.setting, "there are no hidden metrics"));
    }
    // Gone from the API since 1.26, but old ConfigMaps still have it.
    root.ignored("udpIdleTimeout");
    root.ignored("winkernel");
    root.ignored("windowsRunAsService");
    Ok(())
}

fn no_effect(setting: &Setting, reason: &str) -> String {
    format!("{setting} has no effect: {reason}")
}
