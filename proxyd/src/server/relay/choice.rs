//! Which endpoint a connection goes to.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::rand::{GetRandomFlags, getrandom};

/// Chooses at random, or what was chosen last while affinity holds.
///
/// All clients of a loopback address have one address, so there is one last choice to remember.
#[derive(Default)]
pub(super) struct Choice {
    last: Mutex<Option<(SocketAddr, Instant)>>,
}

impl Choice {
    /// The endpoint for a connection made `now` that already failed with those in `tried`; none if
    /// no other is left. Affinity counts from here, so that each new connection renews it.
    pub(super) fn next(
        &self,
        endpoints: &[SocketAddr],
        affinity: Option<Duration>,
        tried: &[SocketAddr],
        now: Instant,
    ) -> Option<SocketAddr> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let open: Vec<_> = endpoints.iter().filter(|endpoint| !tried.contains(endpoint)).collect();
        let same = last.zip(affinity).and_then(|((endpoint, since), limit)| {
            (now.duration_since(since) < limit && open.contains(&&endpoint)).then_some(endpoint)
        });
        let chosen = same.or_else(|| random(&open).copied().copied())?;
        *last = Some((chosen, now));
        Some(chosen)
    }
}

/// The bias of the remainder is below one in 2^32 for any list that fits in memory.
fn random<T>(list: &[T]) -> Option<&T> {
    let mut bytes = [0; 8];
    // Fails only before the kernel's generator is ready; the first endpoint will do then.
    let _ = getrandom(&mut bytes, GetRandomFlags::NONBLOCK);
    let length = u64::try_from(list.len()).ok().filter(|&length| length > 0)?;
    list.get(usize::try_from(u64::from_ne_bytes(bytes) % length).ok()?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn endpoints(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| ([192, 0, 2, 1], port).into()).collect()
    }

    #[test]
    fn without_affinity_every_endpoint_gets_connections() {
        let (choice, endpoints, now) = (Choice::default(), endpoints(4), Instant::now());
        // 4 × (3/4)^400 is below 10^-49.
        let chosen: BTreeSet<_> =
            (0..400).filter_map(|_| choice.next(&endpoints, None, &[], now)).collect();
        assert_eq!(chosen.len(), 4);
    }

    #[test]
    fn affinity_is_renewed_by_each_connection_and_then_expires() {
        let (choice, endpoints, mut now) = (Choice::default(), endpoints(1000), Instant::now());
        let mut next = |after: Duration| {
            now += after;
            choice.next(&endpoints, Some(LIMIT), &[], now).unwrap()
        };
        let first = next(Duration::ZERO);
        for _ in 0..50 {
            assert_eq!(next(LIMIT - Duration::from_millis(1)), first);
        }
        // Chance repeats the first endpoint three times once in 10^9.
        let later: BTreeSet<_> = (0..3).map(|_| next(LIMIT)).collect();
        assert_ne!(later, BTreeSet::from([first]));
    }

    #[test]
    fn affinity_ends_with_its_endpoint() {
        let (choice, now) = (Choice::default(), Instant::now());
        let (old, new) = (endpoints(1), endpoints(2).split_off(1));
        assert_eq!(choice.next(&old, Some(LIMIT), &[], now), Some(old[0]));
        assert_eq!(choice.next(&new, Some(LIMIT), &[], now), Some(new[0]));
    }

    #[test]
    fn what_failed_is_not_chosen_again_and_does_not_stick() {
        let (choice, endpoints, now) = (Choice::default(), endpoints(2), Instant::now());
        let failed = choice.next(&endpoints, Some(LIMIT), &[], now).unwrap();
        let other = choice.next(&endpoints, Some(LIMIT), &[failed], now).unwrap();
        assert_ne!(other, failed);
        for _ in 0..50 {
            assert_eq!(choice.next(&endpoints, Some(LIMIT), &[], now), Some(other));
        }
        assert_eq!(choice.next(&endpoints, Some(LIMIT), &endpoints, now), None);
        assert_eq!(choice.next(&[], None, &[], now), None);
    }
}
