//! From [`Settings`] to a [`Config`]: every value parsed, ranged and checked against the others.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::address::{HEALTHZ, METRICS};
use super::conntrack::Conntrack;
use super::error::{Error, Given, Setting};
use super::flags::Flags;
use super::ipvs::Ipvs;
use super::mode::{self, Mode};
use super::node_ports::NodePortAddresses;
use super::settings::{ClientSettings, LogSettings, Settings, is_true};
use super::{Client, Config, Log, SourceConfig, local};

const CONFIG_SYNC_PERIOD: Duration = Duration::from_secs(15 * 60);
const OOM_SCORE_ADJ: i32 = -999;
const QPS: f32 = 5.0;
const BURST: u32 = 10;
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Validates; the flags are those that have no field in a file.
pub(super) fn validate(
    flags: &Flags,
    settings: &Settings,
    warnings: &mut Vec<String>,
) -> Result<Config, Error> {
    let mode = settings.mode.as_ref().map(|given| given.parse(str::parse::<Mode>)).transpose()?;
    let mode = mode.unwrap_or_default();
    let of_mode = mode::values(mode, settings, warnings)?;
    let bind_address = bind_address(settings.bind_address.as_ref())?;
    let ipv6 = bind_address.is_some_and(|address| address.is_ipv6());
    warn_of_feature_gates(settings, warnings);

    Ok(Config {
        mode,
        hostname_override: host_name(settings.hostname_override.as_ref())?,
        node_ip: bind_address.filter(|address| !address.is_unspecified()).into_iter().collect(),
        healthz_bind: HEALTHZ.address(
            settings.healthz_bind.as_ref(),
            settings.healthz_port.as_ref(),
            ipv6,
        )?,
        metrics_bind: METRICS.address(
            settings.metrics_bind.as_ref(),
            settings.metrics_port.as_ref(),
            ipv6,
        )?,
        bind_address_hard_fail: is_true(settings.bind_address_hard_fail.as_ref()),
        profiling: is_true(settings.profiling.as_ref()),
        masquerade_bit: of_mode.masquerade_bit,
        masquerade_all: of_mode.masquerade_all,
        sync_period: of_mode.sync_period,
        min_sync_period: of_mode.min_sync_period,
        iptables_localhost_nodeports: settings
            .localhost_nodeports
            .as_ref()
            .is_none_or(|given| given.value),
        cluster_cidrs: match &settings.cluster_cidr {
            Some(given) => local::cluster_cidrs(given)?,
            None => Vec::new(),
        },
        local_detection: local::detection(settings, warnings)?,
        nodeport_addresses: node_ports(settings.nodeport_addresses.as_ref())?,
        external_ips: flags.external_ips.unwrap_or(true),
        ipvs: Ipvs::validate(&settings.ipvs)?,
        conntrack: Conntrack::validate(&settings.conntrack)?,
        oom_score_adj: Some(match &settings.oom_score_adj {
            Some(given) => given.within(-1000..=1000)?,
            None => OOM_SCORE_ADJ,
        }),
        config_sync_period: mode::positive(settings.config_sync_period.as_ref())?
            .unwrap_or(CONFIG_SYNC_PERIOD),
        feature_gates: settings.feature_gates.iter().map(|given| given.value.clone()).collect(),
        log: log(&settings.log)?,
        source: source(flags, &settings.client, warnings)?,
        client: client(flags, &settings.client)?,
        network_config: flags.network_config.clone(),
        proc_sys: flags.proc_sys.clone(),
        oneshot: flags.oneshot.unwrap_or(false),
        init_only: flags.init_only.unwrap_or(false),
    })
}

fn host_name(given: Option<&Given<String>>) -> Result<Option<String>, Error> {
    let Some(given) = given else { return Ok(None) };
    // Node names are lower case; kube-proxy forgives the rest as well.
    match given.value.trim() {
        "" => Err(given.refuse("must not be blank")),
        name => Ok(Some(name.to_lowercase())),
    }
}

fn bind_address(given: Option<&Given<String>>) -> Result<Option<IpAddr>, Error> {
    given.map(|given| given.parse(|text| text.parse().map_err(|_| "not an IP address"))).transpose()
}

fn node_ports(given: Option<&Given<Vec<String>>>) -> Result<NodePortAddresses, Error> {
    let Some(given) = given else { return Ok(NodePortAddresses::default()) };
    let whole = Given { value: given.value.join(","), setting: given.setting.clone() };
    whole.parse(|_| NodePortAddresses::parse(&given.value))
}

/// No gate changes anything here, so none can be wrong; but the user should know.
fn warn_of_feature_gates(settings: &Settings, warnings: &mut Vec<String>) {
    for gate in &settings.feature_gates {
        let Given { value: (name, value), setting } = gate;
        let setting = match setting {
            Setting::Flag(flag) => format!("{flag} {name}={value}"),
            field => field.to_string(),
        };
        warnings.push(format!("{setting} has no effect: there are no feature gates"));
    }
}

fn log(settings: &LogSettings) -> Result<Log, Error> {
    let json = settings.format.as_ref().map(|given| {
        given.parse(|text| match text {
            "text" => Ok(false),
            "json" => Ok(true),
            _ => Err("must be text or json"),
        })
    });
    let verbosity = settings.verbosity.as_ref().map(|given| given.within(0..=255));
    Ok(Log {
        json: json.transpose()?.unwrap_or(false),
        verbosity: verbosity.transpose()?.unwrap_or(0),
    })
}

fn source(
    flags: &Flags,
    client: &ClientSettings,
    warnings: &mut Vec<String>,
) -> Result<SourceConfig, Error> {
    let kubeconfig = client.kubeconfig.as_ref();
    let Some(manifests) = &flags.manifests else {
        return Ok(match kubeconfig {
            Some(given) => SourceConfig::Kubeconfig(PathBuf::from(&given.value)),
            None => SourceConfig::InCluster,
        });
    };
    let flag = |given: bool, name| given.then_some(name);
    let contradicts =
        flag(flags.kubeconfig.as_ref().is_some_and(|f| !f.is_empty()), "--kubeconfig")
            .or(flag(flags.master.as_ref().is_some_and(|url| !url.is_empty()), "--master"));
    if let Some(name) = contradicts {
        return Err(Error::Contradiction {
            first: Setting::Flag("--manifests"),
            second: Setting::Flag(name),
            reason: "objects come either from files or from an API server",
        });
    }
    if let Some(given) = kubeconfig {
        warnings.push(format!("{} has no effect because of --manifests", given.setting));
    }
    Ok(SourceConfig::Manifests(manifests.clone()))
}

fn client(flags: &Flags, settings: &ClientSettings) -> Result<Client, Error> {
    let text = |given: Option<&Given<String>>| given.map(|given| given.value.clone());
    let qps = match &settings.qps {
        // Below zero means no limit, for kube-proxy as well.
        Some(given) if !given.value.is_finite() => return Err(given.refuse("must be a number")),
        Some(given) => given.value,
        None => QPS,
    };
    let burst = match &settings.burst {
        Some(given) => given.within(0..=i64::from(i32::MAX))?,
        None => BURST,
    };
    Ok(Client {
        master: flags.master.clone().filter(|url| !url.is_empty()),
        accept_content_types: text(settings.accept_content_types.as_ref()).unwrap_or_default(),
        content_type: text(settings.content_type.as_ref()).unwrap_or_else(|| PROTOBUF.to_owned()),
        qps,
        burst,
    })
}
