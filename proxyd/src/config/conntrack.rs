//! Limits and timeouts of connection tracking.

use std::time::Duration;

use super::error::{Error, Given};
use super::ipvs::unless_zero;
use super::settings::{ConntrackSettings, is_true};

/// What to set under `net.netfilter.nf_conntrack_*`; `None` leaves a sysctl alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conntrack {
    /// Tracked connections per core; 0 leaves the limit alone, whatever `min` is.
    pub max_per_core: u32,
    /// Tracked connections at least, however few the cores.
    pub min: u32,
    /// Idle TCP connections.
    pub tcp_established: Option<Duration>,
    /// TCP connections in CLOSE_WAIT.
    pub tcp_close_wait: Option<Duration>,
    /// Whether segments outside the TCP window are still valid.
    pub tcp_be_liberal: bool,
    /// UDP flows without an answer.
    pub udp_timeout: Option<Duration>,
    /// UDP flows with answers.
    pub udp_stream_timeout: Option<Duration>,
}

impl Default for Conntrack {
    /// kube-proxy's defaults.
    fn default() -> Conntrack {
        Conntrack {
            max_per_core: 32 * 1024,
            min: 128 * 1024,
            tcp_established: Some(Duration::from_secs(24 * 3600)),
            tcp_close_wait: Some(Duration::from_secs(3600)),
            tcp_be_liberal: false,
            udp_timeout: None,
            udp_stream_timeout: None,
        }
    }
}

impl Conntrack {
    pub(super) fn validate(settings: &ConntrackSettings) -> Result<Conntrack, Error> {
        let default = Conntrack::default();
        let count = |given: Option<&Given<i64>>, default| match given {
            Some(given) => given.within(0..=i64::from(i32::MAX)),
            None => Ok(default),
        };
        let timeout = |given: Option<&Given<Duration>>, default| match given {
            Some(_) => unless_zero(given),
            None => default,
        };
        Ok(Conntrack {
            max_per_core: count(settings.max_per_core.as_ref(), default.max_per_core)?,
            min: count(settings.min.as_ref(), default.min)?,
            tcp_established: timeout(settings.tcp_established.as_ref(), default.tcp_established),
            tcp_close_wait: timeout(settings.tcp_close_wait.as_ref(), default.tcp_close_wait),
            tcp_be_liberal: is_true(settings.tcp_be_liberal.as_ref()),
            udp_timeout: unless_zero(settings.udp_timeout.as_ref()),
            udp_stream_timeout: unless_zero(settings.udp_stream_timeout.as_ref()),
        })
    }
}
