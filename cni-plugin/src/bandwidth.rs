//! Bandwidth limits: token buckets on the node's side of the link.
//!
//! What the pod receives leaves the node by its veth, which gets a bucket. What it sends comes in by
//! that veth and is redirected to a device of its own (ifb), which has a bucket too: the pod cannot
//! reach either.

use attachment::Owner;
use attachment::limits::{Bucket, Limits};
use netlink::{IfIndex, RouteSocket, TokenBucket};

use crate::error::{CniError, Result, code};
use crate::section::Section;

/// How long a packet may wait in a bucket's queue.
const LATENCY_MILLISECONDS: u64 = 25;

/// Limits of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    /// Bits per second.
    rate: u64,
    /// Bits.
    burst: u64,
}

/// `runtimeConfig.bandwidth`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bandwidth {
    /// What the pod receives.
    pub(crate) ingress: Option<Limit>,
    /// What the pod sends.
    pub(crate) egress: Option<Limit>,
}

impl Bandwidth {
    pub(crate) fn parse(runtime: &Section<'_>) -> Result<Bandwidth> {
        let Some(section) = runtime.section("bandwidth")? else { return Ok(Bandwidth::default()) };
        Ok(Bandwidth {
            ingress: limit(&section, "ingressRate", "ingressBurst")?,
            egress: limit(&section, "egressRate", "egressBurst")?,
        })
    }

    pub(crate) fn any(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }

    /// The token buckets of a pod whose link has this MTU, and a line for each burst that had to be raised.
    pub(crate) fn limits(&self, mtu: u32) -> (Limits, Vec<String>) {
        let mut raised = Vec::new();
        let mut bucket = |key: &str, limit: Limit| {
            let fitting = limit.fitting(mtu);
            if fitting != limit {
                raised.push(format!(
                    "bandwidth.{key} {} is raised to {}: one packet of the MTU {mtu} must fit",
                    limit.burst, fitting.burst
                ));
            }
            let TokenBucket { rate, burst, limit } = fitting.bucket();
            Bucket { rate, burst, limit }
        };
        let ingress = self.ingress.map(|limit| bucket("ingressBurst", limit));
        let egress = self.egress.map(|limit| bucket("egressBurst", limit));
        (Limits { ingress, egress }, raised)
    }

    /// Whether the limits are in force.
    pub(crate) fn check(
        &self,
        socket: &mut RouteSocket,
        owner: &Owner,
        link: IfIndex,
    ) -> Result<()> {
        if let Some(limit) = self.ingress {
            limit.check(socket, link, "ingress")?;
        }
        if let Some(limit) = self.egress {
            let shaper = shaper(socket, &owner.shaping_link())?;
            limit.check(socket, shaper, "egress")?;
            if !socket.qdiscs(link)?.iter().any(|qdisc| qdisc.kind == "ingress") {
                return Err(CniError::new(
                    code::CHECK_FAILED,
                    "what the pod sends is not redirected to its egress limit",
                ));
            }
        }
        Ok(())
    }
}

fn shaper(socket: &mut RouteSocket, name: &str) -> Result<IfIndex> {
    let missing = || {
        CniError::new(
            code::CHECK_FAILED,
            format!("device {name:?}, which limits what the pod sends, is missing"),
        )
    };
    Ok(socket.link_by_name(name)?.ok_or_else(missing)?.index)
}

fn limit(section: &Section<'_>, rate_key: &str, burst_key: &str) -> Result<Option<Limit>> {
    let rate = section.number(rate_key, 0, u64::MAX)?.unwrap_or(0);
    // A bucket is counted in 32 bits of bytes.
    let burst = section.number(burst_key, 0, u64::from(u32::MAX) * 8)?.unwrap_or(0);
    match (rate, burst) {
        (0, 0) => Ok(None),
        (0, _) => Err(section.error(rate_key, format!("goes with {burst_key}"))),
        (_, 0) => Err(section.error(burst_key, format!("goes with {rate_key}"))),
        (rate, _) if rate < 8 => Err(section.error(rate_key, "is less than one byte per second")),
        (rate, burst) => Ok(Some(Limit { rate, burst })),
    }
}

/// Bytes of an Ethernet header with a VLAN tag, which count in a bucket.
const HEADER: u32 = 18;

impl Limit {
    /// The limit with a bucket that holds a packet: a smaller one passes none.
    fn fitting(self, mtu: u32) -> Limit {
        let packet = u64::from(mtu.saturating_add(HEADER)) * 8;
        Limit { burst: self.burst.max(packet), ..self }
    }

    fn bucket(self) -> TokenBucket {
        let rate = self.rate / 8;
        let burst = u32::try_from(self.burst / 8).unwrap_or(u32::MAX).max(1);
        let queued = u128::from(rate) * u128::from(LATENCY_MILLISECONDS) / 1000;
        let limit = queued + u128::from(burst);
        TokenBucket { rate, burst, limit: u32::try_from(limit).unwrap_or(u32::MAX) }
    }

    fn check(self, socket: &mut RouteSocket, link: IfIndex, direction: &str) -> Result<()> {
        let wanted = self.bucket().rate;
        let found = socket.qdiscs(link)?.into_iter().find_map(|qdisc| qdisc.token_bucket);
        match found {
            Some(bucket) if bucket.rate == wanted => Ok(()),
            Some(bucket) => Err(CniError::new(
                code::CHECK_FAILED,
                format!("the {direction} limit is {} bytes/s, not {wanted}", bucket.rate),
            )),
            None => {
                Err(CniError::new(code::CHECK_FAILED, format!("the {direction} limit is missing")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: serde_json::Value) -> Result<Bandwidth> {
        let runtime = json!({ "bandwidth": value });
        Bandwidth::parse(&Section::root(&runtime).unwrap())
    }

    #[test]
    fn rates_are_bits_and_buckets_are_bytes() {
        let bandwidth = parse(json!({"ingressRate": 8_000_000, "ingressBurst": 800_000})).unwrap();
        let bucket = bandwidth.ingress.unwrap().bucket();
        assert_eq!((bucket.rate, bucket.burst, bucket.limit), (1_000_000, 100_000, 125_000));
        assert_eq!(bandwidth.egress, None);
    }

    #[test]
    fn a_rate_without_burst_or_beyond_the_kernels_counters_is_named() {
        for (value, word) in [
            (json!({"ingressRate": 1000}), "bandwidth.ingressBurst"),
            (json!({"egressBurst": 1000}), "bandwidth.egressRate"),
            (
                json!({"egressRate": 1000, "egressBurst": 34_359_738_368u64}),
                "egressBurst 34359738368",
            ),
            (json!({"egressRate": -1, "egressBurst": 1}), "egressRate -1"),
        ] {
            let error = parse(value).unwrap_err();
            assert!(error.message.contains(word), "{error} should name {word}");
        }
    }

    #[test]
    fn a_bucket_holds_a_packet() {
        let small = json!({"ingressRate": 1_000_000, "ingressBurst": 8000,
            "egressRate": 1_000_000, "egressBurst": 800_000});
        let (limits, raised) = parse(small).unwrap().limits(1500);
        assert_eq!(limits.ingress.unwrap().burst, 1518);
        assert_eq!(limits.egress.unwrap().burst, 100_000);
        assert!(raised.len() == 1 && raised[0].contains("ingressBurst 8000"), "{raised:?}");
    }

    #[test]
    fn an_enormous_rate_does_not_overflow() {
        let limit = Limit { rate: u64::MAX, burst: u64::from(u32::MAX) * 8 };
        assert_eq!(limit.bucket().limit, u32::MAX);
    }
}
