//! Settings of ipvs mode alone.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use netlink::Prefix;

use super::address::network;
use super::error::{Error, Given};
use super::settings::{IpvsSettings, is_true};

/// Settings of ipvs mode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipvs {
    /// How a virtual server chooses an endpoint.
    pub scheduler: IpvsScheduler,
    /// Virtual servers in these networks are never removed.
    pub exclude_cidrs: Vec<Prefix>,
    /// Whether `arp_ignore` becomes 1 and `arp_announce` 2.
    pub strict_arp: bool,
    /// Timeout of idle TCP connections; `None` leaves the kernel's.
    pub tcp_timeout: Option<Duration>,
    /// Timeout of TCP connections after a FIN; `None` leaves the kernel's.
    pub tcp_fin_timeout: Option<Duration>,
    /// Timeout of UDP; `None` leaves the kernel's.
    pub udp_timeout: Option<Duration>,
}

macro_rules! schedulers {
    ($($(#[$meta:meta])* $name:ident = $text:literal),+ $(,)?) => {
        /// A scheduler of the kernel's IPVS, by the name of its module.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum IpvsScheduler { $($(#[$meta])* $name),+ }

        impl IpvsScheduler {
            const ALL: &[IpvsScheduler] = &[$(IpvsScheduler::$name),+];

            /// The kernel's name: `rr`, `wrr`, …
            pub fn name(self) -> &'static str {
                match self { $(IpvsScheduler::$name => $text),+ }
            }
        }
    };
}

schedulers! {
    /// Round robin.
    #[default]
    RoundRobin = "rr",
    /// Weighted round robin.
    WeightedRoundRobin = "wrr",
    /// Least connections.
    LeastConnection = "lc",
    /// Weighted least connections.
    WeightedLeastConnection = "wlc",
    /// Locality-based least connections.
    LocalityLeastConnection = "lblc",
    /// The same with replication.
    LocalityLeastConnectionReplicated = "lblcr",
    /// Source hashing.
    SourceHashing = "sh",
    /// Destination hashing.
    DestinationHashing = "dh",
    /// Shortest expected delay.
    ShortestExpectedDelay = "sed",
    /// Never queue.
    NeverQueue = "nq",
    /// Maglev hashing.
    MaglevHashing = "mh",
    /// Weighted fail-over.
    FailOver = "fo",
    /// Weighted overflow.
    Overflow = "ovf",
    /// The less loaded one of two that are drawn.
    PowerOfTwoChoices = "twos",
}

impl fmt::Display for IpvsScheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IpvsScheduler {
    type Err = String;

    fn from_str(text: &str) -> Result<IpvsScheduler, String> {
        let all = IpvsScheduler::ALL;
        all.iter().copied().find(|scheduler| scheduler.name() == text).ok_or_else(|| {
            let names: Vec<_> = all.iter().map(|scheduler| scheduler.name()).collect();
            format!("must be one of {}", names.join(" "))
        })
    }
}

impl Ipvs {
    pub(super) fn validate(settings: &IpvsSettings) -> Result<Ipvs, Error> {
        let scheduler = settings.scheduler.as_ref();
        let exclude = settings.exclude_cidrs.as_ref();
        Ok(Ipvs {
            scheduler: scheduler
                .map(|given| given.parse(str::parse))
                .transpose()?
                .unwrap_or_default(),
            exclude_cidrs: exclude.map(networks).transpose()?.unwrap_or_default(),
            strict_arp: is_true(settings.strict_arp.as_ref()),
            tcp_timeout: unless_zero(settings.tcp_timeout.as_ref()),
            tcp_fin_timeout: unless_zero(settings.tcp_fin_timeout.as_ref()),
            udp_timeout: unless_zero(settings.udp_timeout.as_ref()),
        })
    }
}

fn networks(given: &Given<Vec<String>>) -> Result<Vec<Prefix>, Error> {
    let whole = Given { value: given.value.join(","), setting: given.setting.clone() };
    whole.parse(|_| given.value.iter().map(|text| network(text)).collect::<Result<_, String>>())
}

/// A timeout, where zero leaves things as they are.
pub(super) fn unless_zero(given: Option<&Given<Duration>>) -> Option<Duration> {
    given.map(|given| given.value).filter(|value| !value.is_zero())
}
