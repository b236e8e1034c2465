//! Queueing disciplines: token buckets, and the redirect that lets traffic from a link be shaped.

use super::{IfIndex, RouteSocket};
use crate::error::{Result, found};
use crate::message::{
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, Writer, attribute, attributes_after,
    read_string, read_u32,
};

// include/uapi/linux/rtnetlink.h, pkt_sched.h, pkt_cls.h
const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_GETQDISC: u16 = 38;
const RTM_NEWTFILTER: u16 = 44;
const TCMSG_LEN: usize = 20;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TC_H_ROOT: u32 = 0xffff_ffff;
const TC_H_INGRESS: u32 = 0xffff_fff1;
const INGRESS_HANDLE: u32 = 0xffff_0000;
const ROOT_HANDLE: u32 = 0x0001_0000;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
const TCA_U32_SEL: u16 = 5;
const TCA_U32_ACT: u16 = 7;
const TCA_ACT_KIND: u16 = 1;
const TCA_ACT_OPTIONS: u16 = 2;
const TCA_MIRRED_PARMS: u16 = 2;
const TCA_EGRESS_REDIR: u32 = 1;
const TC_ACT_STOLEN: u32 = 4;
const TC_U32_TERMINAL: u8 = 1;
const ETH_P_ALL: u16 = 3;
/// Nanoseconds in the scheduler's tick (`PSCHED_SHIFT` 6).
const NANOSECONDS_PER_TICK: u128 = 64;
/// What `tc` writes into a rate's cell size and alignment; the kernel has its own arithmetic.
const CELL_LOG: u8 = 3;
const CELL_ALIGN: i16 = -1;
/// `TC_LINKLAYER_ETHERNET`.
const LINK_LAYER_ETHERNET: u8 = 1;

/// A token bucket filter: what comes faster than `rate` waits up to `latency`, then is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenBucket {
    /// Bytes per second.
    pub rate: u64,
    /// Bucket size in bytes.
    pub burst: u32,
    /// Bytes that may wait in the queue.
    pub limit: u32,
}

/// A queueing discipline as the kernel describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Qdisc {
    /// Its kind: `tbf`, `ingress`, `noqueue`, …
    pub kind: String,
    /// The settings, if it is a token bucket.
    pub token_bucket: Option<TokenBucket>,
}

/// `struct tcmsg`: family, pads, index, handle, parent, info.
fn tcmsg(m: &mut Writer, link: IfIndex, handle: u32, parent: u32, info: u32) {
    let mut header = [0u8; TCMSG_LEN];
    header[4..8].copy_from_slice(&link.0.to_ne_bytes());
    header[8..12].copy_from_slice(&handle.to_ne_bytes());
    header[12..16].copy_from_slice(&parent.to_ne_bytes());
    header[16..20].copy_from_slice(&info.to_ne_bytes());
    m.raw(&header);
}

/// `struct tc_tbf_qopt`: two `tc_ratespec` (rate, peak rate), limit, buffer, mtu.
fn tbf_parameters(bucket: &TokenBucket) -> [u8; 36] {
    let ticks = u128::from(bucket.burst) * 1_000_000_000
        / u128::from(bucket.rate.max(1))
        / NANOSECONDS_PER_TICK;
    let mut bytes = [0u8; 36];
    bytes[0] = CELL_LOG;
    bytes[1] = LINK_LAYER_ETHERNET;
    bytes[4..6].copy_from_slice(&CELL_ALIGN.to_ne_bytes());
    let rate = u32::try_from(bucket.rate).unwrap_or(u32::MAX);
    bytes[8..12].copy_from_slice(&rate.to_ne_bytes());
    bytes[24..28].copy_from_slice(&bucket.limit.to_ne_bytes());
    bytes[28..32].copy_from_slice(&u32::try_from(ticks).unwrap_or(u32::MAX).to_ne_bytes());
    bytes
}

pub(crate) fn token_bucket_request(link: IfIndex, bucket: &TokenBucket) -> Writer {
    let mut request = Writer::default();
    request.message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_REPLACE, |m| {
        tcmsg(m, link, ROOT_HANDLE, TC_H_ROOT, 0);
        m.string(TCA_KIND, "tbf");
        m.nest_unflagged(TCA_OPTIONS, |m| {
            m.attr(TCA_TBF_PARMS, &tbf_parameters(bucket));
            m.u32(TCA_TBF_BURST, bucket.burst);
            if bucket.rate > u64::from(u32::MAX) {
                m.u64(TCA_TBF_RATE64, bucket.rate);
            }
        });
    });
    request
}

pub(crate) fn redirect_request(from: IfIndex, to: IfIndex) -> Writer {
    // struct tc_u32_sel with one key that matches everything.
    let mut selector = [0u8; 32];
    selector[0] = TC_U32_TERMINAL;
    selector[2] = 1;
    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
    let mut mirred = [0u8; 28];
    mirred[8..12].copy_from_slice(&TC_ACT_STOLEN.to_ne_bytes());
    mirred[20..24].copy_from_slice(&TCA_EGRESS_REDIR.to_ne_bytes());
    mirred[24..28].copy_from_slice(&to.0.to_ne_bytes());
    let info = (1 << 16) | u32::from(ETH_P_ALL.to_be()); // priority 1, all protocols
    let mut request = Writer::default();
    request.message(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, |m| {
        tcmsg(m, from, 0, INGRESS_HANDLE, info);
        m.string(TCA_KIND, "u32");
        m.nest_unflagged(TCA_OPTIONS, |m| {
            m.attr(TCA_U32_SEL, &selector);
            m.nest_unflagged(TCA_U32_ACT, |m| {
                m.nest_unflagged(1, |m| {
                    m.string(TCA_ACT_KIND, "mirred");
                    m.nest(TCA_ACT_OPTIONS, |m| m.attr(TCA_MIRRED_PARMS, &mirred));
                });
            });
        });
    });
    request
}

impl RouteSocket {
    /// Limits what leaves a link by a token bucket, in place of any other queueing discipline.
    pub fn set_token_bucket(&mut self, link: IfIndex, bucket: &TokenBucket) -> Result<()> {
        self.execute(token_bucket_request(link, bucket), || {
            format!("limit link {link} to {} bytes/s", bucket.rate)
        })
    }

    /// Sends everything that comes in by `from` out through `to`.
    pub fn redirect_ingress(&mut self, from: IfIndex, to: IfIndex) -> Result<()> {
        let mut ingress = Writer::default();
        ingress.message(RTM_NEWQDISC, NLM_F_CREATE, |m| {
            tcmsg(m, from, INGRESS_HANDLE, TC_H_INGRESS, 0);
            m.string(TCA_KIND, "ingress");
        });
        self.execute(ingress, || format!("add the ingress discipline to link {from}"))?;
        self.execute(redirect_request(from, to), || {
            format!("redirect what comes in by link {from} to link {to}")
        })
    }

    /// Removes the root queueing discipline; tells whether there was one.
    pub fn delete_root_qdisc(&mut self, link: IfIndex) -> Result<bool> {
        self.delete_qdisc(link, TC_H_ROOT)
    }

    /// Removes the ingress discipline and its redirects; tells whether there was one.
    pub fn delete_ingress_qdisc(&mut self, link: IfIndex) -> Result<bool> {
        self.delete_qdisc(link, TC_H_INGRESS)
    }

    fn delete_qdisc(&mut self, link: IfIndex, parent: u32) -> Result<bool> {
        let mut request = Writer::default();
        request.message(RTM_DELQDISC, 0, |m| tcmsg(m, link, 0, parent, 0));
        match self.execute(request, || format!("delete a queueing discipline of link {link}")) {
            // What the kernel says of the default discipline.
            Err(error) if error.errno == rustix::io::Errno::INVAL => Ok(false),
            other => Ok(found(other)?.is_some()),
        }
    }

    /// The queueing disciplines of a link.
    pub fn qdiscs(&mut self, link: IfIndex) -> Result<Vec<Qdisc>> {
        let mut request = Writer::default();
        request.message(RTM_GETQDISC, NLM_F_DUMP, |m| tcmsg(m, link, 0, 0, 0));
        let all = self
            .socket
            .dump(request, |payload| Some((read_u32(payload, 4)?, parse(payload)?)))
            .map_err(|error| error.during("list queueing disciplines"))?;
        Ok(all.into_iter().filter(|(index, _)| *index == link.0).map(|(_, qdisc)| qdisc).collect())
    }
}

fn parse(payload: &[u8]) -> Option<Qdisc> {
    let mut qdisc = Qdisc { kind: String::new(), token_bucket: None };
    let mut options = None;
    for (kind, value) in attributes_after(payload, TCMSG_LEN) {
        match kind {
            TCA_KIND => qdisc.kind = read_string(value),
            TCA_OPTIONS => options = Some(value),
            _ => {}
        }
    }
    if let (true, Some(options)) = (qdisc.kind == "tbf", options) {
        let parameters = attribute(options, TCA_TBF_PARMS)?;
        let wide = attribute(options, TCA_TBF_RATE64).and_then(|v| v.try_into().ok());
        let rate = wide.map(u64::from_ne_bytes).unwrap_or(u64::from(read_u32(parameters, 8)?));
        let ticks = u128::from(read_u32(parameters, 28)?);
        let burst = ticks * NANOSECONDS_PER_TICK * u128::from(rate) / 1_000_000_000;
        qdisc.token_bucket = Some(TokenBucket {
            rate,
            burst: u32::try_from(burst).unwrap_or(u32::MAX),
            limit: read_u32(parameters, 24)?,
        });
    }
    Some(qdisc)
}
