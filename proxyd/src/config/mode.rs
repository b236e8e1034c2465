//! The proxy mode, and the settings that kube-proxy's API repeats for each mode.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::error::{Error, Given};
use super::settings::{ModeSettings, Settings, is_true};

/// Which part of the kernel forwards Services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// nftables maps. The default.
    #[default]
    Nftables,
    /// iptables rules.
    Iptables,
    /// IPVS virtual servers.
    Ipvs,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mode::Nftables => "nftables",
            Mode::Iptables => "iptables",
            Mode::Ipvs => "ipvs",
        })
    }
}

impl FromStr for Mode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Mode, &'static str> {
        match text {
            "nftables" => Ok(Mode::Nftables),
            "iptables" => Ok(Mode::Iptables),
            "ipvs" => Ok(Mode::Ipvs),
            _ => Err("must be nftables, iptables or ipvs"),
        }
    }
}

/// [`ModeSettings`], validated.
pub(super) struct ModeValues {
    pub(super) masquerade_bit: u8,
    pub(super) masquerade_all: bool,
    pub(super) sync_period: Duration,
    pub(super) min_sync_period: Option<Duration>,
}

pub(super) const MASQUERADE_BIT: u8 = 14;
pub(super) const SYNC_PERIOD: Duration = Duration::from_secs(30);

/// The values of the section that belongs to `mode`. The other sections must be right too, and
/// what they ask for in vain is warned of.
pub(super) fn values(
    mode: Mode,
    settings: &Settings,
    warnings: &mut Vec<String>,
) -> Result<ModeValues, Error> {
    let Settings { nftables, iptables, ipvs_mode: ipvs, .. } = settings;
    let (section, others) = match mode {
        Mode::Nftables => (nftables, [iptables, ipvs]),
        Mode::Iptables => (iptables, [nftables, ipvs]),
        Mode::Ipvs => (ipvs, [nftables, iptables]),
    };
    let values = validate(section)?;
    for other in others {
        validate(other)?;
    }
    let used = effective(section);
    // Sections share settings: iptables.masqueradeBit is also that of ipvs mode.
    let unused: BTreeSet<_> = others.into_iter().flat_map(effective).collect();
    let unused = unused.into_iter().filter(|name| !used.contains(name));
    warnings.extend(unused.map(|name| format!("{name} has no effect in {mode} mode")));
    Ok(values)
}

fn validate(section: &ModeSettings) -> Result<ModeValues, Error> {
    let masquerade_bit = match &section.masquerade_bit {
        Some(given) => given.within(0..=31)?,
        None => MASQUERADE_BIT,
    };
    let sync_period = positive(section.sync_period.as_ref())?.unwrap_or(SYNC_PERIOD);
    let min = section.min_sync_period.as_ref().filter(|given| !given.value.is_zero());
    if let Some(min) = min.filter(|min| min.value > sync_period) {
        return Err(min_exceeds_period(min, section.sync_period.as_ref()));
    }
    Ok(ModeValues {
        masquerade_bit,
        masquerade_all: is_true(section.masquerade_all.as_ref()),
        sync_period,
        min_sync_period: min.map(|given| given.value),
    })
}

fn min_exceeds_period(min: &Given<Duration>, period: Option<&Given<Duration>>) -> Error {
    let reason = "the least time between two syncs is longer than the sync period";
    match period {
        Some(period) => Error::Contradiction {
            first: min.setting.clone(),
            second: period.setting.clone(),
            reason,
        },
        None => Error::Invalid {
            setting: min.setting.clone(),
            value: super::duration::format(min.value),
            reason: format!("{reason}, 30s by default"),
        },
    }
}

/// A duration that must not be zero.
pub(super) fn positive(given: Option<&Given<Duration>>) -> Result<Option<Duration>, Error> {
    match given {
        Some(given) if given.value.is_zero() => Err(Error::Invalid {
            setting: given.setting.clone(),
            value: "0s".to_owned(),
            reason: "must be greater than 0".to_owned(),
        }),
        given => Ok(given.map(|given| given.value)),
    }
}

/// The settings that ask for something else than the default.
fn effective(section: &ModeSettings) -> Vec<String> {
    let ModeSettings { masquerade_bit, masquerade_all, sync_period, min_sync_period } = section;
    let bit = masquerade_bit.as_ref().filter(|given| given.value != i64::from(MASQUERADE_BIT));
    let all = masquerade_all.as_ref().filter(|given| given.value);
    let period = sync_period.as_ref().filter(|given| given.value != SYNC_PERIOD);
    let min = min_sync_period.as_ref().filter(|given| !given.value.is_zero());
    [
        bit.map(|given| &given.setting),
        all.map(|given| &given.setting),
        period.map(|given| &given.setting),
        min.map(|given| &given.setting),
    ]
    .into_iter()
    .flatten()
    .map(ToString::to_string)
    .collect()
}
