//! Bandwidth limits: a token bucket on the pod's link, and one on a device that shapes what the pod sends.

use netlink::{IfIndex, RouteSocket, TokenBucket};
use serde::{Deserialize, Serialize};

use crate::{Owner, Result};

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// Bytes per second.
    pub rate: u64,
    /// Size in bytes.
    pub burst: u32,
    /// Bytes that may wait.
    pub limit: u32,
}

impl From<Bucket> for TokenBucket {
    fn from(bucket: Bucket) -> TokenBucket {
        TokenBucket { rate: bucket.rate, burst: bucket.burst, limit: bucket.limit }
    }
}

/// Bandwidth limits of an attachment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// What the pod receives.
    pub ingress: Option<Bucket>,
    /// What the pod sends.
    pub egress: Option<Bucket>,
}

impl Limits {
    /// Whether there is a limit in either direction.
    pub fn any(&self) -> bool {
        self.ingress.is_some() || self.egress.is_some()
    }

    /// Limits a pod again whose limits were damaged.
    pub(crate) fn repair(
        &self,
        socket: &mut RouteSocket,
        owner: &Owner,
        link: IfIndex,
        mtu: u32,
    ) -> Result<()> {
        if self.egress.is_some() {
            // A redirect to a device that was deleted does nothing, and a second one is refused.
            socket.delete_ingress_qdisc(link)?;
        }
        self.apply(socket, owner, link, mtu)
    }

    /// Whether the limits of a pod are in force.
    pub(crate) fn are_in_force(
        &self,
        socket: &mut RouteSocket,
        owner: &Owner,
        link: IfIndex,
    ) -> Result<bool> {
        let has_bucket = |socket: &mut RouteSocket, link, bucket: Bucket| -> Result<bool> {
            let found = socket.qdiscs(link)?.into_iter().find_map(|qdisc| qdisc.token_bucket);
            Ok(found.is_some_and(|found| found.rate == bucket.rate))
        };
        if let Some(bucket) = self.ingress
            && !has_bucket(socket, link, bucket)?
        {
            return Ok(false);
        }
        let Some(bucket) = self.egress else { return Ok(true) };
        let Some(shaper) = socket.link_by_name(&owner.shaping_link())? else { return Ok(false) };
        let redirected = socket.qdiscs(link)?.iter().any(|qdisc| qdisc.kind == "ingress");
        Ok(shaper.up && redirected && has_bucket(socket, shaper.index, bucket)?)
    }

    /// Limits a pod whose node-side link is `link`.
    pub fn apply(
        &self,
        socket: &mut RouteSocket,
        owner: &Owner,
        link: IfIndex,
        mtu: u32,
    ) -> Result<()> {
        if let Some(bucket) = self.ingress {
            socket.set_token_bucket(link, &bucket.into())?;
        }
        if let Some(bucket) = self.egress {
            let name = owner.shaping_link();
            match socket.create_ifb(&name, mtu) {
                Err(error) if error.already_exists() => {}
                other => other?,
            }
            let missing =
                || netlink::Error::new(format!("look up {name:?}"), netlink::Errno::NODEV);
            let shaper = socket.link_by_name(&name)?.ok_or_else(missing)?.index;
            socket.set_token_bucket(shaper, &bucket.into())?;
            socket.redirect_ingress(link, shaper)?;
        }
        Ok(())
    }
}
